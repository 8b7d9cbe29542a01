#include <algorithm>
#include <charconv>
#include <chrono>

#include <postern/dns/resolv_conf.h>

namespace postern::dns {
namespace {

// The next word of `line`, removed from it; empty at its end.
std::string_view take_word(std::string_view& line) {
  const std::size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) {
    line = {};
    return {};
  }
  line.remove_prefix(begin);
  const std::string_view word = line.substr(0, line.find_first_of(" \t\r"));
  line.remove_prefix(word.size());
  return word;
}

bool parse_number(std::string_view text, unsigned& value) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size();
}

}  // namespace

StatusOr<ServerAddress> parse_server(std::string_view text) {
  const std::string quoted = "\"" + std::string(text) + "\"";
  if (const std::optional<IpAddress> address = IpAddress::parse(text))
    return ServerAddress{.address = *address, .port = 53};
  std::string_view host;
  std::string_view port = "53";
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) {
      return error(StatusCode::kInvalidArgument, quoted + ": ']' is missing");
    }
    host = text.substr(1, close - 1);
    const std::string_view rest = text.substr(close + 1);
    if (rest.starts_with(':')) {
      port = rest.substr(1);
    } else if (!rest.empty()) {
      return error(StatusCode::kInvalidArgument, quoted + ": expected \":PORT\" behind ']'");
    }
  } else {
    const std::size_t colon = text.rfind(':');
    host = text.substr(0, colon);
    if (colon != std::string_view::npos) port = text.substr(colon + 1);
  }
  const std::optional<IpAddress> address = IpAddress::parse(host);
  if (!address) {
    return error(StatusCode::kInvalidArgument,
                 quoted + ": not an IP address; write \"192.0.2.1:53\" or \"[2001:db8::1]:53\"");
  }
  unsigned number = 0;
  if (!parse_number(port, number) || number == 0 || number > 65'535) {
    return error(StatusCode::kInvalidArgument, quoted + ": the port must be 1 to 65535");
  }
  return ServerAddress{.address = *address, .port = static_cast<std::uint16_t>(number)};
}

ResolvConf parse_resolv_conf(std::string_view text) {
  // The bounds of resolv.conf(5): a wild value must not make deliveries hang.
  constexpr unsigned timeout_seconds_max = 30;
  constexpr unsigned attempts_max = 5;

  ResolvConf result;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.starts_with('#') || line.starts_with(';')) continue;
    const std::string_view keyword = take_word(line);
    if (keyword == "nameserver") {
      const std::optional<IpAddress> address = IpAddress::parse(take_word(line));
      if (!address || result.servers.size() == servers_max) continue;
      const ServerAddress server{.address = *address, .port = 53};
      if (std::find(result.servers.begin(), result.servers.end(), server) == result.servers.end()) {
        result.servers.push_back(server);
      }
    } else if (keyword == "options") {
      for (std::string_view option = take_word(line); !option.empty(); option = take_word(line)) {
        unsigned value = 0;
        if (option.starts_with("timeout:") && parse_number(option.substr(8), value) && value > 0) {
          result.lookup.timeout = std::chrono::seconds(std::min(value, timeout_seconds_max));
        } else if (option.starts_with("attempts:") && parse_number(option.substr(9), value) && value > 0) {
          result.lookup.rounds = std::min(value, attempts_max);
        } else if (option == "rotate") {
          result.rotate = true;
        } else if (option == "no-edns0") {
          result.lookup.edns = false;
        }
      }
    }
  }
  if (result.servers.empty()) {
    result.servers.push_back({.address = IpAddress::v4({127, 0, 0, 1}), .port = 53});
  }
  return result;
}

}  // namespace postern::dns
