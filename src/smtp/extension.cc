#include <array>
#include <utility>

#include <postern/base/text.h>
#include <postern/smtp/extension.h>
#include <postern/smtp/server_options.h>

namespace postern::smtp {
namespace {

struct Named {
  Extension extension;
  std::string_view keyword;
  bool ServerOptions::* offer;
};

constexpr auto extensions = std::to_array<Named>({
    {Extension::pipelining, "PIPELINING", &ServerOptions::offer_pipelining},
    {Extension::size, "SIZE", &ServerOptions::offer_size},
    {Extension::eight_bit_mime, "8BITMIME", &ServerOptions::offer_eight_bit_mime},
    {Extension::chunking, "CHUNKING", &ServerOptions::offer_chunking},
    {Extension::smtp_utf8, "SMTPUTF8", &ServerOptions::offer_smtp_utf8},
    {Extension::enhanced_status_codes, "ENHANCEDSTATUSCODES", &ServerOptions::offer_enhanced_status_codes},
    {Extension::binary_mime, "BINARYMIME", &ServerOptions::offer_binary_mime},
    {Extension::dsn, "DSN", &ServerOptions::offer_dsn},
    {Extension::limits, "LIMITS", &ServerOptions::offer_limits},
    {Extension::mt_priority, "MT-PRIORITY", &ServerOptions::offer_mt_priority},
    {Extension::future_release, "FUTURERELEASE", &ServerOptions::offer_future_release},
    {Extension::etrn, "ETRN", &ServerOptions::offer_etrn},
    {Extension::deliver_by, "DELIVERBY", &ServerOptions::offer_deliver_by},
    {Extension::require_tls, "REQUIRETLS", &ServerOptions::offer_require_tls},
});
static_assert(extensions.size() <= 32, "ExtensionSet has a bit for each");

}  // namespace

std::optional<Extension> extension_named(std::string_view keyword) {
  for (const Named& known : extensions) {
    if (equal_ignoring_case(known.keyword, keyword)) return known.extension;
  }
  return std::nullopt;
}

std::string extension_names() {
  std::string names;
  for (const Named& known : extensions) names.append(names.empty() ? "" : ", ").append(known.keyword);
  return names;
}

void set_offers(ServerOptions& options, ExtensionSet off) {
  for (const Named& known : extensions) options.*known.offer = !off.has(known.extension);
  // Binary content comes by BDAT alone, and is eight-bit content too [RFC 3030 §3].
  options.offer_binary_mime = options.offer_binary_mime && options.offer_chunking && options.offer_eight_bit_mime;
}

}  // namespace postern::smtp
