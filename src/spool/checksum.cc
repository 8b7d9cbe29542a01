#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <postern/base/check.h>
#include <postern/spool/checksum.h>

namespace postern::spool {
namespace {

constexpr std::string_view format_secret = "postern spool segment header, format 1";

}  // namespace

Checksum::Checksum() : secret_() {
  POSTERN_CHECK(XXH3_generateSecret(secret_.data(), secret_.size(), format_secret.data(), format_secret.size()) ==
                XXH_OK);
}

Checksum::Checksum(const SegmentKey& key) : secret_() {
  static_assert(sizeof(secret_) >= XXH3_SECRET_SIZE_MIN);
  POSTERN_CHECK(XXH3_generateSecret(secret_.data(), secret_.size(), key.data(), key.size()) == XXH_OK);
}

std::uint64_t Checksum::of(Bytes bytes) const {
  return XXH3_64bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size());
}

}  // namespace postern::spool
