#include <postern/base/bytes.h>
#include <postern/base/hash.h>
#include <postern/route/route.h>

namespace postern::route {

mail::SiteId site_id(std::string_view site_key, std::uint64_t seed) {
  return {hash_bytes(as_bytes(site_key), seed)};
}

}  // namespace postern::route
