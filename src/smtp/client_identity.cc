#include <algorithm>
#include <cstddef>

#include <postern/base/text.h>
#include <postern/mail/xtext.h>
#include <postern/smtp/client_identity.h>
#include <postern/smtp/command.h>

namespace postern::smtp {
namespace {

constexpr std::size_t value_bytes_max = 255;  // decoded; Postfix's own bound

bool is_text(std::string_view value) {
  return value.size() <= value_bytes_max && std::ranges::all_of(value, [](char c) { return c >= 0x20 && c < 0x7F; });
}

bool read_address(std::string_view value, std::optional<IpAddress>& address) {
  if (starts_with_ignoring_case(value, "IPV6:")) value.remove_prefix(5);
  address = IpAddress::parse(value);
  return address.has_value();
}

bool read_port(std::string_view value, std::optional<std::uint16_t>& port) {
  const std::optional<std::uint32_t> number = value.size() <= 5 ? parse_uint<std::uint32_t>(value) : std::nullopt;
  if (!number || *number > 65'535) return false;
  port = static_cast<std::uint16_t>(*number);
  return true;
}

bool read_attribute(IdentityCommand command, std::string_view name, std::string_view value, ClientIdentity& identity) {
  const auto is = [name](std::string_view keyword) { return equal_ignoring_case(name, keyword); };
  const bool unavailable = equal_ignoring_case(value, "[UNAVAILABLE]") || equal_ignoring_case(value, "[TEMPUNAVAIL]");
  const bool xclient = command == IdentityCommand::xclient;
  if (is("ADDR")) {
    identity.address_given = true;
    identity.address.reset();
    return unavailable || read_address(value, identity.address);
  }
  if (is("PORT")) {
    identity.port = 0;
    return unavailable || read_port(value, identity.port);
  }
  if (is("PROTO")) {
    const bool esmtp = equal_ignoring_case(value, "ESMTP");
    identity.esmtp = esmtp;
    return esmtp || equal_ignoring_case(value, "SMTP") || (unavailable && !xclient);
  }
  if (is("HELO")) {
    identity.hello_name = unavailable ? std::string_view() : value;
    return unavailable || is_hello_name(value);
  }
  if (xclient && is("LOGIN")) {
    identity.login = unavailable ? std::string_view() : value;
    return is_text(value);
  }
  if (xclient && is("DESTADDR")) {
    std::optional<IpAddress> ignored;
    return unavailable || read_address(value, ignored);
  }
  if (xclient && is("DESTPORT")) {
    std::optional<std::uint16_t> ignored;
    return unavailable || read_port(value, ignored);
  }
  if (!xclient && is("SOURCE"))
    return unavailable || equal_ignoring_case(value, "LOCAL") || equal_ignoring_case(value, "REMOTE");
  return (is("NAME") || (!xclient && is("IDENT"))) && is_text(value);
}

}  // namespace

std::string_view attributes_of(IdentityCommand command) {
  return command == IdentityCommand::xclient ? "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
                                             : "NAME ADDR PORT PROTO HELO IDENT SOURCE";
}

bool read_client_identity(IdentityCommand command, std::string_view arguments, ClientIdentity& identity) {
  bool any = false;
  while (!arguments.empty()) {
    const std::size_t size = std::min(arguments.find_first_of(" \t"), arguments.size());
    const std::string_view word = arguments.substr(0, size);
    arguments.remove_prefix(size);
    arguments.remove_prefix(std::min(arguments.find_first_not_of(" \t"), arguments.size()));
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || equals + 1 == word.size()) return false;
    const std::optional<std::string> value = mail::decode_xtext(word.substr(equals + 1));
    if (!value || !read_attribute(command, word.substr(0, equals), *value, identity)) return false;
    any = true;
  }
  return any;
}

}  // namespace postern::smtp
