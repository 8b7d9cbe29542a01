// One question: do the texts that people and peers write as routes, domains and recipients come out safe and stable?
// Normalising twice changes nothing, a route reads what it writes, and no recipient leaves its Maildir.
// Input: lines; the first is a match, the second a via, the third a recipient.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/dns/name.h>
#include <postern/route/domain.h>
#include <postern/route/maildir.h>
#include <postern/route/route_table.h>

namespace {

using namespace postern;         // NOLINT(google-build-using-namespace)
using namespace postern::route;  // NOLINT(google-build-using-namespace)

std::string_view take_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(line.size() == text.size() ? line.size() : line.size() + 1);
  return line;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 4096) return 0;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view match_text = take_line(text);
  const std::string_view via_text = take_line(text);
  const std::string_view recipient = take_line(text);
  const std::size_t at = recipient.rfind('@');
  const mail::PathView path{recipient,
                            static_cast<std::uint16_t>(at == std::string_view::npos ? recipient.size() : at + 1)};

  if (const StatusOr<std::string> domain = normalise_domain(path.domain()); domain.ok()) {
    POSTERN_CHECK(normalise_domain(*domain).value() == *domain);
    POSTERN_CHECK(domain->starts_with('[') || dns::Name::parse(*domain)->is_host_name());
  }
  const StatusOr<Match> match = parse_match(match_text);
  const StatusOr<Via> via = parse_via(via_text);
  if (via.ok()) {
    const StatusOr<Via> again = parse_via(via->to_text());
    POSTERN_CHECK(again.ok() && again->to_text() == via->to_text());
  }
  if (match.ok() && via.ok()) {
    const RouteTable table({{*match, *via}}, "local.test");
    [[maybe_unused]] const Via& found = table.find(path);
  }
  const StatusOr<std::string> folder = expand_maildir("/srv/{domain}/{local}/x", path);
  if (folder.ok()) {
    POSTERN_CHECK(std::count(folder->begin(), folder->end(), '/') == 4);
    POSTERN_CHECK(folder->find("..") == std::string::npos && folder->find("/.") == std::string::npos);
  }
  return 0;
}
