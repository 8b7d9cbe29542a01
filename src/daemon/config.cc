#include "daemon/config.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <netdb.h>
#include <optional>
#include <set>
#include <utility>

// Header-only and without exceptions: Debian's shared library is built to throw.
#undef TOML_HEADER_ONLY
#undef TOML_SHARED_LIB
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
// It asserts that a table's name begins as one, and right behind that says in words when it does not: "[#" in a file is
// the operator's slip and must not end the process. The fuzzer runs without these assertions too, under sanitizers.
#define TOML_ASSERT(expression) static_assert(true)
#include <toml++/toml.h>

#include <postern/base/text.h>
#include <postern/base/units.h>
#include <postern/route/domain.h>
#include <postern/route/route_table.h>

#include "daemon/config_keys.h"
#include "daemon/config_text.h"
#include "io/sockets.h"

namespace postern::daemon {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr std::size_t file_bytes_max = 4u << 20;
constexpr std::size_t listeners_max = 64;
constexpr std::size_t routes_max = 10'000;
constexpr std::size_t domains_max = 100'000;
constexpr std::size_t networks_max = 1'000;
constexpr std::size_t extensions_off_max = 32;
constexpr std::size_t retry_steps_max = 32;
constexpr std::uint32_t shards_max = 256;
constexpr std::uint64_t memory_min = 32u << 20;

// One table of the file while it is read. `name` as in messages: "limits"; empty for the root.
struct Section {
  std::string name;
  const toml::table* table = nullptr;  // null: the file has none, all defaults
  unsigned line = 1;
};

struct Text {
  std::string text;
  unsigned line = 1;
};

template <class Value>
struct Choice {
  std::string_view word;
  Value value;
};

unsigned line_of(const toml::node& node) {
  return std::max(1u, static_cast<unsigned>(node.source().begin.line));
}

std::string in_quotes(std::string_view text) {
  return "\"" + log_escaped(text, 200) + "\"";
}

class Reader {
 public:
  Reader(const std::string& path, const System& system) : path_(path), system_(system) {}

  LoadedConfig read(const toml::table& root);
  void fail(unsigned line, std::string_view key, std::string_view what, std::string_view cure);
  [[nodiscard]] LoadedConfig result();

 private:
  // Keys, tables.
  [[nodiscard]] static std::string key_path(const Section& section, std::string_view key);
  [[nodiscard]] const toml::node* find(const Section& section, std::string_view key) const;
  [[nodiscard]] unsigned line_of_key(const Section& section, std::string_view key) const;
  [[nodiscard]] Section table(const toml::table& root, std::string_view name);
  [[nodiscard]] std::vector<Section> tables(const toml::table& root, std::string_view name, std::size_t max);
  void refuse_unknown(const Section& section);
  void refuse_unknown_tables(const toml::table& root);
  void wrong_type(const Section& section, std::string_view key, const toml::node& node, std::string_view wanted);
  void warn(unsigned line, std::string_view key, std::string_view what);

  // Values. Each leaves `out` alone when the key is absent or wrong; wrong ones are reported.
  bool read_text(const Section& section, std::string_view key, std::string& out);
  [[nodiscard]] std::optional<std::vector<Text>> read_texts(const Section& section, std::string_view key,
                                                            std::size_t max);
  template <class Unsigned>
  void read_number(const Section& section, std::string_view key, Unsigned min, Unsigned max, Unsigned& out);
  void read_duration(const Section& section, std::string_view key, Duration min, Duration max, Duration& out);
  [[nodiscard]] std::optional<Duration> to_duration(unsigned line, std::string_view key, std::string_view text,
                                                    Duration min, Duration max);
  void read_bytes(const Section& section, std::string_view key, std::uint64_t min, std::uint64_t max,
                  std::uint64_t& out);
  template <class Value, std::size_t n>
  void read_choice(const Section& section, std::string_view key, const std::array<Choice<Value>, n>& choices,
                   Value& out);
  void read_networks(const Section& section, std::string_view key, std::vector<IpNetwork>& out);
  // The only word that a key takes until what else it may say is there.
  void read_only_word(const Section& section, std::string_view key, std::string_view word);

  // Parts.
  void read_root(const toml::table& root);
  void read_memory(const Section& root);
  void read_listeners(const toml::table& root);
  void read_listener_address(const Section& section, shard::ListenerOptions& listener);
  void read_socket_mode(const Section& section, shard::ListenerOptions& listener);
  void read_extensions_off(const Section& section, smtp::ExtensionSet& off);
  void read_domains(const toml::table& root);
  void read_recipients(const toml::table& root);
  void read_limits(const toml::table& root);
  void read_spool(const toml::table& root);
  void read_routes(const toml::table& root);
  void read_smtp_client(const toml::table& root);
  void read_retry(const toml::table& root);
  void read_dns(const toml::table& root);
  void read_event_log(const toml::table& root);
  void read_admin(const toml::table& root);

  [[nodiscard]] std::string absolute(std::string_view path) const;

  const std::string& path_;
  const System& system_;
  shard::Options options_;
  std::vector<std::pair<unsigned, std::string>> errors_;
  std::vector<std::string> warnings_;
};

// --- messages --------------------------------------------------------------------------------------------------------

void Reader::fail(unsigned line, std::string_view key, std::string_view what, std::string_view cure) {
  std::string text = path_ + ":" + std::to_string(line) + ": ";
  if (!key.empty()) text.append(key).append(": ");
  text.append(what);
  if (!cure.empty()) text.append("; ").append(cure);
  // By line, and in the order found within one.
  const auto behind = std::upper_bound(errors_.begin(), errors_.end(), line,
                                       [](unsigned at, const auto& error) { return at < error.first; });
  errors_.emplace(behind, line, std::move(text));
}

void Reader::warn(unsigned line, std::string_view key, std::string_view what) {
  warnings_.push_back(path_ + ":" + std::to_string(line) + ": " + std::string(key) + ": " + std::string(what));
}

// The endpoints under which the world reaches these listeners.
std::vector<route::Endpoint> own_endpoints(const std::vector<shard::ListenerOptions>& listeners, const System& system) {
  std::vector<route::Endpoint> endpoints;
  for (const shard::ListenerOptions& listener : listeners) {
    io::Address address = listener.address;
    if (listener.is_inherited()) {
      std::uint64_t system_calls = 0;
      auto bound = io::local_address_of(listener.inherited, system_calls);
      if (bound.ok()) address = *std::move(bound);
    }
    if (!address.is_ip()) continue;
    endpoints.push_back({address.ip(), address.port()});
    const bool any_v4 = address.ip() == IpAddress::v4({0, 0, 0, 0});
    if (!any_v4 && address.ip() != IpAddress()) continue;
    for (const IpAddress& own : system.addresses) {
      if (own.is_v4() == any_v4) endpoints.push_back({own, address.port()});
    }
  }
  return endpoints;
}

LoadedConfig Reader::result() {
  LoadedConfig loaded;
  for (auto& [line, text] : errors_) loaded.errors.push_back(std::move(text));
  loaded.warnings = std::move(warnings_);
  options_.own_endpoints = own_endpoints(options_.listeners, system_);
  if (loaded.errors.empty()) loaded.options = std::make_shared<const shard::Options>(std::move(options_));
  return loaded;
}

// --- keys and tables -------------------------------------------------------------------------------------------------

std::string Reader::key_path(const Section& section, std::string_view key) {
  return section.name.empty() ? std::string(key) : section.name + "." + std::string(key);
}

const toml::node* Reader::find(const Section& section, std::string_view key) const {
  return section.table == nullptr ? nullptr : section.table->get(key);
}

unsigned Reader::line_of_key(const Section& section, std::string_view key) const {
  const toml::node* node = find(section, key);
  return node == nullptr ? section.line : line_of(*node);
}

Section Reader::table(const toml::table& root, std::string_view name) {
  Section section{.name = std::string(name)};
  const toml::node* node = root.get(name);
  if (node == nullptr) return section;
  section.line = line_of(*node);
  section.table = node->as_table();
  if (section.table == nullptr) {
    fail(section.line, name, "is a table", "write [" + section.name + "] and its keys on lines of their own");
    return section;
  }
  refuse_unknown(section);
  return section;
}

std::vector<Section> Reader::tables(const toml::table& root, std::string_view name, std::size_t max) {
  std::vector<Section> sections;
  const toml::node* node = root.get(name);
  if (node == nullptr) return sections;
  const std::string cure = "write [[" + std::string(name) + "]] before each";
  const toml::array* array = node->as_array();
  if (array == nullptr) {
    fail(line_of(*node), name, "there may be several", cure);
    return sections;
  }
  if (array->size() > max) {
    fail(line_of(*node), name, "more than " + std::to_string(max), "leave some out");
    return sections;
  }
  for (const toml::node& element : *array) {
    const toml::table* table = element.as_table();
    if (table == nullptr) {
      fail(line_of(element), name, "is a list of tables", cure);
      continue;
    }
    sections.push_back({.name = std::string(name), .table = table, .line = line_of(element)});
    refuse_unknown(sections.back());
  }
  return sections;
}

void Reader::refuse_unknown(const Section& section) {
  for (const auto& [key, node] : *section.table) {
    const std::string_view name = key.str();
    const auto known = [&](const auto& k) { return k.table == section.name && k.name == name; };
    if (std::ranges::any_of(config_keys(), known)) continue;
    if (section.name.empty() && std::ranges::any_of(config_keys(), [&](const KeyInfo& k) { return k.table == name; }))
      continue;
    const auto line = static_cast<unsigned>(key.source().begin.line);
    const std::string path = key_path(section, log_escaped(name, 100));
    if (std::ranges::any_of(later_keys(), known)) {
      fail(line, path, "not implemented in Postern " POSTERN_VERSION, "remove it");
      continue;
    }
    const std::string nearest = nearest_key(section.name, name);
    fail(line, path, "unknown key",
         nearest.empty() ? "posternd --print-config lists all" : "did you mean " + nearest + "?");
  }
}

void Reader::wrong_type(const Section& section, std::string_view key, const toml::node& node, std::string_view wanted) {
  fail(line_of(node), key_path(section, key), "wrong type", "write " + std::string(wanted));
}

// --- values ----------------------------------------------------------------------------------------------------------

bool Reader::read_text(const Section& section, std::string_view key, std::string& out) {
  const toml::node* node = find(section, key);
  if (node == nullptr) return false;
  const auto* text = node->as_string();
  if (text == nullptr) {
    wrong_type(section, key, *node, "a text in quotes");
    return false;
  }
  if (text->get().find('\0') != std::string::npos || text->get().size() > 4096) {
    fail(line_of(*node), key_path(section, key), "holds a NUL or is longer than 4096 bytes", "shorten it");
    return false;
  }
  out = text->get();
  return true;
}

std::optional<std::vector<Text>> Reader::read_texts(const Section& section, std::string_view key, std::size_t max) {
  const toml::node* node = find(section, key);
  if (node == nullptr) return std::nullopt;
  const toml::array* array = node->as_array();
  if (array == nullptr) {
    wrong_type(section, key, *node, R"(a list of texts, like ["a", "b"])");
    return std::nullopt;
  }
  if (array->size() > max) {
    fail(line_of(*node), key_path(section, key), "more than " + std::to_string(max), "leave some out");
    return std::nullopt;
  }
  std::vector<Text> texts;
  for (const toml::node& element : *array) {
    if (const auto* text = element.as_string()) {
      texts.push_back({.text = text->get(), .line = line_of(element)});
    } else {
      wrong_type(section, key, element, R"(a list of texts, like ["a", "b"])");
    }
  }
  return texts;
}

template <class Unsigned>
void Reader::read_number(const Section& section, std::string_view key, Unsigned min, Unsigned max, Unsigned& out) {
  const toml::node* node = find(section, key);
  if (node == nullptr) return;
  const auto* number = node->as_integer();
  const std::string range = std::to_string(min) + " … " + std::to_string(max);
  if (number == nullptr) {
    wrong_type(section, key, *node, "a whole number, " + range);
    return;
  }
  const std::int64_t value = number->get();
  if (value < 0 || static_cast<std::uint64_t>(value) < min || static_cast<std::uint64_t>(value) > max) {
    fail(line_of(*node), key_path(section, key), std::to_string(value) + " is out of range", "write " + range);
    return;
  }
  out = static_cast<Unsigned>(value);
}

std::optional<Duration> Reader::to_duration(unsigned line, std::string_view key, std::string_view text, Duration min,
                                            Duration max) {
  const auto duration = parse_duration(text);
  if (!duration.ok()) {
    fail(line, key, in_quotes(text) + ": " + std::string(message_of(duration.status())),
         R"(write like "30s", "5m", "1h", "4d")");
    return std::nullopt;
  }
  if (*duration < min || *duration > max) {
    fail(line, key, in_quotes(text) + " is out of range",
         "write " + format_duration(min) + " … " + format_duration(max));
    return std::nullopt;
  }
  return *duration;
}

void Reader::read_duration(const Section& section, std::string_view key, Duration min, Duration max, Duration& out) {
  std::string text;
  if (!read_text(section, key, text)) return;
  const auto duration = to_duration(line_of_key(section, key), key_path(section, key), text, min, max);
  if (duration) out = *duration;
}

void Reader::read_bytes(const Section& section, std::string_view key, std::uint64_t min, std::uint64_t max,
                        std::uint64_t& out) {
  const toml::node* node = find(section, key);
  if (node == nullptr) return;
  StatusOr<std::uint64_t> value = error(StatusCode::kInvalidArgument, "wrong type");
  std::string shown;
  if (const auto* number = node->as_integer(); number != nullptr && number->get() >= 0) {
    shown = std::to_string(number->get());
    value = static_cast<std::uint64_t>(number->get());
  } else if (const auto* text = node->as_string()) {
    shown = in_quotes(text->get());
    value = parse_size(text->get());
  }
  if (!value.ok()) {
    fail(line_of(*node), key_path(section, key),
         shown.empty() ? "wrong type" : shown + ": " + std::string(message_of(value.status())),
         R"(write like "512KiB", "50MiB", "1GiB")");
  } else if (*value < min || *value > max) {
    fail(line_of(*node), key_path(section, key), shown + " is out of range",
         "write " + format_size(min) + " … " + format_size(max));
  } else {
    out = *value;
  }
}

template <class Value, std::size_t n>
void Reader::read_choice(const Section& section, std::string_view key, const std::array<Choice<Value>, n>& choices,
                         Value& out) {
  std::string text;
  if (!read_text(section, key, text)) return;
  std::string words;
  for (const Choice<Value>& choice : choices) {
    if (choice.word == text) {
      out = choice.value;
      return;
    }
    words.append(words.empty() ? "" : " or ").append(in_quotes(choice.word));
  }
  fail(line_of_key(section, key), key_path(section, key), in_quotes(text) + " is unknown or not implemented",
       "write " + words);
}

void Reader::read_only_word(const Section& section, std::string_view key, std::string_view word) {
  int ignored = 0;
  read_choice(section, key, std::array{Choice<int>{.word = word, .value = 0}}, ignored);
}

void Reader::read_networks(const Section& section, std::string_view key, std::vector<IpNetwork>& out) {
  const auto texts = read_texts(section, key, networks_max);
  if (!texts) return;
  out.clear();
  for (const Text& text : *texts) {
    auto network = IpNetwork::parse(text.text);
    if (network.ok()) {
      out.push_back(*network);
    } else {
      fail(text.line, key_path(section, key), in_quotes(text.text) + ": " + std::string(message_of(network.status())),
           R"(write like "192.0.2.0/24" or "2001:db8::/32")");
    }
  }
}

std::string Reader::absolute(std::string_view path) const {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path folder = fs::absolute(fs::path(path_), ignored).parent_path();
  return (folder / fs::path(path)).lexically_normal().string();
}

// --- parts -----------------------------------------------------------------------------------------------------------

std::vector<IpNetwork> networks(std::initializer_list<std::string_view> texts) {
  std::vector<IpNetwork> result;
  for (const std::string_view text : texts) {
    if (auto network = IpNetwork::parse(text); network.ok()) result.push_back(*network);
  }
  return result;
}

LoadedConfig Reader::read(const toml::table& root) {
  read_root(root);
  read_listeners(root);
  read_domains(root);
  read_recipients(root);
  read_limits(root);
  read_spool(root);
  read_routes(root);
  read_smtp_client(root);
  read_retry(root);
  read_dns(root);
  read_event_log(root);
  read_admin(root);
  return result();
}

void Reader::read_root(const toml::table& root) {
  const Section section{.name = "", .table = &root};
  refuse_unknown(section);
  const Section io = table(root, "io");
  static constexpr std::array backends{Choice<int>{"auto", 0}, Choice<int>{"uring", 0}};
  int ignored = 0;
  read_choice(io, "backend", backends, ignored);

  options_.hostname = system_.hostname;
  read_text(section, "hostname", options_.hostname);
  const auto domain = route::normalise_domain(options_.hostname);
  if (!domain.ok() || options_.hostname.starts_with('[')) {
    fail(line_of_key(section, "hostname"), "hostname", in_quotes(options_.hostname) + " is no host name",
         R"(write the name that DNS has for this machine, like "mx1.example.net")");
  } else {
    options_.hostname = *domain;
    if (find(section, "hostname") == nullptr && options_.hostname.find('.') == std::string::npos) {
      warn(1, "hostname",
           "absent, and the machine's own name " + in_quotes(options_.hostname) +
               R"( is no full one; write hostname = "mx1.example.net")");
    }
  }

  options_.data_dir = "/var/lib/postern";
  read_text(section, "data_dir", options_.data_dir);
  if (options_.data_dir.empty()) {
    fail(line_of_key(section, "data_dir"), "data_dir", "empty", R"(write a folder, like "/var/lib/postern")");
  } else {
    options_.data_dir = absolute(options_.data_dir);
    if (options_.data_dir.size() > 1 && options_.data_dir.ends_with('/')) options_.data_dir.pop_back();
  }

  std::uint32_t shards = 0;
  read_number<std::uint32_t>(section, "shards", 0, shards_max, shards);
  options_.shards = shards != 0 ? shards : std::clamp(system_.cpus, 1u, shards_max);
  read_text(section, "user", options_.user);
  read_memory(section);
  read_duration(section, "shutdown_grace", seconds(0), hours(1), options_.shutdown_grace);
}

void Reader::read_memory(const Section& root) {
  options_.memory_bytes = std::max(memory_min, system_.memory_bytes / 2);
  const toml::node* node = find(root, "memory");
  const auto* text = node == nullptr ? nullptr : node->as_string();
  if (text == nullptr || !text->get().ends_with('%')) {
    read_bytes(root, "memory", memory_min, std::uint64_t{1} << 44, options_.memory_bytes);
    return;
  }
  const auto share = parse_size_or_share(text->get());
  if (!share.ok()) {
    fail(line_of(*node), "memory", in_quotes(text->get()) + ": " + std::string(message_of(share.status())),
         R"(write "1%" … "100%", or a size like "4GiB")");
    return;
  }
  const std::uint64_t bytes = share->of(system_.memory_bytes);
  if (bytes < memory_min) {
    fail(line_of(*node), "memory",
         in_quotes(text->get()) + " of " + format_size(system_.memory_bytes) + " is too little",
         "at least " + format_size(memory_min) + " are needed");
    return;
  }
  options_.memory_bytes = bytes;
}

// HOST:PORT where HOST is a name: the first address that the machine knows for it.
std::optional<io::Address> resolve_listener(const std::string& text, const System& system) {
  if (!system.look_up_hosts) return std::nullopt;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  const auto port = parse_uint<std::uint16_t>(std::string_view(text).substr(colon + 1));
  if (!port) return std::nullopt;
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (getaddrinfo(text.substr(0, colon).c_str(), nullptr, &hints, &found) != 0 || found == nullptr) return std::nullopt;
  const io::Address any_port = io::Address::from_kernel(found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return io::Address::ip(any_port.ip(), *port);
}

void Reader::read_listener_address(const Section& section, shard::ListenerOptions& listener) {
  const unsigned line = line_of_key(section, "address");
  if (!read_text(section, "address", listener.text)) {
    if (find(section, "address") == nullptr)
      fail(line, "listener.address", "missing", R"(write address = "0.0.0.0:25")");
    return;
  }
  constexpr std::string_view systemd = "systemd:";
  if (listener.text.starts_with(systemd)) {
    const std::string_view name = std::string_view(listener.text).substr(systemd.size());
    for (const auto& [passed, descriptor] : system_.inherited) {
      if (passed == name) listener.inherited = descriptor;
    }
    if (!listener.is_inherited()) {
      fail(line, "listener.address", "systemd passed no socket of the name " + in_quotes(name),
           "write FileDescriptorName= into the socket unit, or an address here");
    }
    return;
  }
  auto address = io::Address::parse(listener.text);
  if (address.ok()) {
    listener.address = *address;
  } else if (auto resolved = resolve_listener(listener.text, system_)) {
    listener.address = *resolved;
  } else {
    fail(line, "listener.address",
         in_quotes(listener.text) + " is no address: " + std::string(message_of(address.status())),
         R"(write "0.0.0.0:25", "[::]:25", "unix:/run/postern/smtp.sock" or "systemd:NAME")");
  }
}

void Reader::read_socket_mode(const Section& section, shard::ListenerOptions& listener) {
  std::string text;
  if (!read_text(section, "mode", text)) return;
  const unsigned line = line_of_key(section, "mode");
  const bool octal = text.size() >= 3 && text.size() <= 4 && text.find_first_not_of("01234567") == std::string::npos;
  const unsigned mode = octal ? static_cast<unsigned>(std::stoul(text, nullptr, 8)) : 0;
  if (mode == 0 || mode > 0777) {
    fail(line, "listener.mode", in_quotes(text) + " is no mode of a file", R"(write like "0660")");
  } else if (mode != listener.socket_mode && !listener.text.starts_with("unix:")) {
    fail(line, "listener.mode", "is for unix sockets only", "remove it");
  }
  listener.socket_mode = mode;
}

void Reader::read_listeners(const toml::table& root) {
  std::map<std::string, unsigned> seen;
  for (const Section& section : tables(root, "listener", listeners_max)) {
    shard::ListenerOptions listener;
    listener.line = section.line;
    listener.relay_from = networks({"127.0.0.0/8", "::1/128"});
    read_listener_address(section, listener);
    static constexpr std::array services{Choice<shard::Service>{"mx", shard::Service::mx},
                                         Choice<shard::Service>{"lmtp", shard::Service::lmtp}};
    read_choice(section, "service", services, listener.service);
    read_socket_mode(section, listener);
    read_only_word(section, "tls", "none");
    read_networks(section, "relay_from", listener.relay_from);
    read_networks(section, "proxy_protocol_from", listener.proxy_protocol_from);
    read_networks(section, "xclient_from", listener.xclient_from);
    read_networks(section, "xforward_from", listener.xforward_from);
    read_extensions_off(section, listener.extensions_off);
    const bool fixed = listener.is_inherited() || listener.address.is_unix() ||
                       (listener.address.is_ip() && listener.address.port() != 0);
    if (const auto [first, fresh] = seen.emplace(listener.text, section.line); fixed && !fresh) {
      fail(line_of_key(section, "address"), "listener.address",
           in_quotes(listener.text) + " is taken by the listener of line " + std::to_string(first->second),
           "remove one");
    }
    options_.listeners.push_back(std::move(listener));
  }
  if (root.get("listener") == nullptr) {
    fail(1, "listener", "there is none, so no mail could come in", R"(write [[listener]] and address = "0.0.0.0:25")");
  }
}

void Reader::read_extensions_off(const Section& section, smtp::ExtensionSet& off) {
  const auto texts = read_texts(section, "extensions_off", extensions_off_max);
  if (!texts) return;
  for (const Text& text : *texts) {
    if (const std::optional<smtp::Extension> extension = smtp::extension_named(text.text)) {
      off.add(*extension);
    } else {
      fail(text.line, "listener.extensions_off", in_quotes(text.text) + " is no extension of ours",
           "write some of " + smtp::extension_names());
    }
  }
}

void Reader::read_domains(const toml::table& root) {
  const Section section = table(root, "domains");
  const auto texts = read_texts(section, "accept", domains_max);
  if (!texts) return;
  for (const Text& text : *texts) {
    const bool subdomains = text.text.starts_with('.');
    const auto domain = route::normalise_domain(std::string_view(text.text).substr(subdomains ? 1 : 0));
    if (!domain.ok() || (subdomains && domain->starts_with('['))) {
      fail(text.line, "domains.accept", in_quotes(text.text) + " is no domain",
           R"(write like "example.test", or ".example.test" for it and its subdomains)");
      continue;
    }
    options_.accept_domains.push_back((subdomains ? "." : "") + *domain);
  }
}

void Reader::read_recipients(const toml::table& root) {
  const Section section = table(root, "recipients");
  shard::RecipientOptions& recipients = options_.recipients;
  if (const auto texts = read_texts(section, "known", domains_max)) {
    for (const Text& text : *texts) recipients.known.push_back({text.text, text.line});
  }
  read_text(section, "file", recipients.file);
  if (!recipients.file.empty()) recipients.file = absolute(recipients.file);
  std::string separator;
  read_text(section, "separator", separator);
  if (separator.size() > 1 || separator.find_first_not_of("+-_=!#%&/*~^|") != std::string::npos) {
    fail(line_of_key(section, "separator"), "recipients.separator",
         in_quotes(separator) + " cannot stand between user and tag",
         R"(write "+" or another one character; "": none)");
  } else if (!separator.empty()) {
    recipients.separator = separator.front();
  }
  read_duration(section, "check_interval", std::chrono::milliseconds(100), hours(1), recipients.check_interval);
}

void Reader::read_limits(const toml::table& root) {
  const Section section = table(root, "limits");
  shard::LimitOptions& limits = options_.limits;
  read_bytes(section, "message_bytes", 1u << 10, (std::uint64_t{4} << 30) - 1, limits.message_bytes);
  read_number<std::uint32_t>(section, "recipients", 1, 65'535, limits.recipients);
  read_number<std::uint32_t>(section, "connections", 1, 1'000'000, limits.connections);
  read_number<std::uint32_t>(section, "connections_per_peer", 1, 1'000'000, limits.connections_per_peer);
  read_number<std::uint32_t>(section, "errors", 1, 10'000, limits.errors);
  read_duration(section, "idle_timeout", seconds(1), hours(1), limits.idle);
  read_duration(section, "session_timeout", seconds(1), hours(24), limits.session);
  read_duration(section, "hold", minutes(1), hours(24 * 30), limits.hold);
  read_number<std::uint32_t>(section, "received_hops", 10, 1'000, limits.received_hops);
  if (limits.recipients < 100) {
    warn(line_of_key(section, "recipients"), "limits.recipients", "RFC 5321 §4.5.3.1.8 asks for at least 100");
  }
}

void Reader::read_spool(const toml::table& root) {
  const Section section = table(root, "spool");
  static constexpr std::array durabilities{
      Choice<shard::Durability>{"synced", shard::Durability::synced},
      Choice<shard::Durability>{"page_cache", shard::Durability::page_cache},
  };
  read_choice(section, "durability", durabilities, options_.spool.durability);
  read_bytes(section, "min_free", 0, std::uint64_t{1} << 50, options_.spool.min_free_bytes);
  constexpr std::uint64_t mebibyte = 1u << 20;
  read_bytes(section, "segment", 2 * mebibyte, 1024 * mebibyte, options_.spool.segment_bytes);
  if (options_.spool.segment_bytes % mebibyte != 0) {
    fail(line_of_key(section, "segment"), "spool.segment", "is no multiple of 1MiB", R"(write like "64MiB")");
  }
}

void Reader::read_routes(const toml::table& root) {
  for (const Section& section : tables(root, "route", routes_max)) {
    shard::RouteOptions rule{.match = "", .via = "", .line = section.line};
    for (const std::string_view key : {"match", "via"}) {
      const unsigned line = line_of_key(section, key);
      std::string text;
      if (!read_text(section, key, text)) {
        if (find(section, key) == nullptr) {
          fail(line, key_path(section, key), "missing",
               key == "match" ? R"(write match = "*" for all mail)" : R"(write via = "mx" for the usual way)");
        }
        continue;
      }
      Status status;
      if (key == "match") {
        status = route::parse_match(text).status();
        rule.match = text;
      } else {
        const auto via = route::parse_via(text);
        status = via.status();
        rule.via = text;
        const auto ours = [&](const auto& listener) {
          return listener.address.is_unix() && via->unix_path == listener.address.path();
        };
        if (via.ok() && std::ranges::any_of(options_.listeners, ours)) {
          status = error(
              StatusCode::kInvalidArgument,
              in_quotes(text) + " is a listener of this daemon, so that mail would go round; name another's socket");
        }
      }
      if (!status.ok()) fail(line, key_path(section, key), message_of(status), "");
    }
    options_.routes.push_back(std::move(rule));
  }
}

void Reader::read_smtp_client(const toml::table& root) {
  const Section section = table(root, "smtp_client");
  shard::SmtpClientOptions& client = options_.smtp_client;
  read_number<std::uint16_t>(section, "port", 1, 65'535, client.port);
  read_only_word(section, "tls", "none");
  read_number<std::uint32_t>(section, "connections_per_path", 1, 10'000, client.connections_per_path);
  std::uint32_t idle = 5;
  read_number<std::uint32_t>(section, "idle_seconds", 0, 300, idle);
  client.idle = seconds(idle);
  read_number<std::uint32_t>(section, "recipients", 1, 1'000, client.recipients);
  read_number<std::uint32_t>(section, "messages_per_connection", 1, 1'000'000, client.messages_per_connection);
  read_duration(section, "connect_timeout", seconds(1), minutes(5), client.connect_timeout);
  read_duration(section, "reply_timeout", seconds(1), hours(1), client.reply_timeout);
  read_duration(section, "content_timeout", seconds(1), hours(1), client.content_timeout);
  client.refuse_networks = networks({"0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128"});
  read_networks(section, "refuse_networks", client.refuse_networks);
}

void Reader::read_retry(const toml::table& root) {
  const Section section = table(root, "retry");
  shard::RetryOptions& retry = options_.retry;
  if (const auto texts = read_texts(section, "schedule", retry_steps_max)) {
    retry.schedule.clear();
    for (const Text& text : *texts) {
      const auto step =
          to_duration(text.line, "retry.schedule", text.text, std::chrono::milliseconds(100), hours(24 * 7));
      if (step) retry.schedule.push_back(*step);
    }
    if (texts->empty()) {
      fail(line_of_key(section, "schedule"), "retry.schedule", "empty", R"(write like ["1m", "5m", "1h"])");
    }
  }
  read_duration(section, "give_up_after", seconds(1), hours(24 * 30), retry.give_up_after);
  read_only_word(section, "warn_after", "never");
}

void Reader::read_dns(const toml::table& root) {
  const Section section = table(root, "dns");
  const dns::ResolvConf machine = dns::parse_resolv_conf(system_.resolv_conf);
  options_.dns = {.servers = machine.servers, .lookup = machine.lookup, .rotate = machine.rotate};
  const auto texts = read_texts(section, "servers", dns::servers_max);
  if (!texts || texts->empty()) return;
  options_.dns.servers.clear();
  for (const Text& text : *texts) {
    const auto server = dns::parse_server(text.text);
    if (server.ok()) {
      options_.dns.servers.push_back(*server);
    } else {
      fail(text.line, "dns.servers", in_quotes(text.text) + ": " + std::string(message_of(server.status())),
           R"(write like "192.0.2.53" or "127.0.0.1:5300")");
    }
  }
}

void Reader::read_event_log(const toml::table& root) {
  const Section section = table(root, "event_log");
  std::string path = "events.jsonl";
  read_text(section, "path", path);
  if (path.empty() || path == "-") {
    options_.event_log.path = path;
  } else {
    options_.event_log.path = (std::filesystem::path(options_.data_dir) / path).lexically_normal().string();
  }
}

void Reader::read_admin(const toml::table& root) {
  const Section section = table(root, "admin");
  shard::AdminOptions& admin = options_.admin;
  if (!read_text(section, "listen", admin.text) || admin.text.empty()) return;
  auto address = io::Address::parse(admin.text);
  if (address.ok()) {
    admin.address = *address;
  } else if (auto resolved = resolve_listener(admin.text, system_)) {
    admin.address = *resolved;
  } else {
    fail(line_of_key(section, "listen"), "admin.listen",
         in_quotes(admin.text) + " is no address: " + std::string(message_of(address.status())),
         R"(write "127.0.0.1:8025" or "unix:/run/postern/admin.sock")");
  }
}

}  // namespace

LoadedConfig parse_config(std::string_view text, const std::string& path, const System& system) {
  Reader reader(path, system);
  if (text.size() > file_bytes_max) {
    reader.fail(1, "", "larger than " + format_size(file_bytes_max), "is this a configuration?");
    return reader.result();
  }
  if (const std::optional<unsigned> line = line_of_stray_character(text)) {
    reader.fail(*line, "", "a character outside ASCII that is neither in a string nor in a comment",
                "put names into quotes, and write domains as A-labels");
    return reader.result();
  }
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) {
    const toml::parse_error& trouble = parsed.error();
    reader.fail(std::max(1u, static_cast<unsigned>(trouble.source().begin.line)), "",
                log_escaped(trouble.description(), 300), "the file must be TOML, see https://toml.io");
    return reader.result();
  }
  return reader.read(parsed.table());
}

LoadedConfig load_config(const std::string& path, const System& system) {
  std::ifstream stream(path, std::ios::binary);
  std::string text;
  if (stream) text.assign(std::istreambuf_iterator<char>(stream), {});
  if (!stream.good() && !stream.eof()) {
    LoadedConfig loaded;
    loaded.errors.push_back(path + ":1: cannot be read: " + std::strerror(errno) + "; name another file with --config");
    return loaded;
  }
  return parse_config(text, path, system);
}

namespace {

bool same_places(const shard::Options& a, const shard::Options& b) {
  return std::ranges::equal(a.listeners, b.listeners, {}, &shard::ListenerOptions::text, &shard::ListenerOptions::text);
}

}  // namespace

std::vector<std::string> needs_restart(const shard::Options& before, const shard::Options& after) {
  std::vector<std::string> keys;
  const auto differs = [&](bool different, std::string_view key) {
    if (different) keys.emplace_back(key);
  };
  differs(before.data_dir != after.data_dir, "data_dir");
  differs(before.shards != after.shards, "shards");
  differs(before.user != after.user, "user");
  differs(before.memory_bytes != after.memory_bytes, "memory");
  differs(!same_places(before, after), "listener.address");
  differs(same_places(before, after) &&
              !std::ranges::equal(before.listeners, after.listeners, {}, &shard::ListenerOptions::socket_mode,
                                  &shard::ListenerOptions::socket_mode),
          "listener.mode");
  // limits.connections may have been clamped at the start, so that a difference says nothing.
  differs(before.limits.connections_per_peer != after.limits.connections_per_peer, "limits.connections_per_peer");
  differs(before.spool.durability != after.spool.durability, "spool.durability");
  differs(before.spool.segment_bytes != after.spool.segment_bytes, "spool.segment");
  differs(before.spool.min_free_bytes != after.spool.min_free_bytes, "spool.min_free");
  const shard::SmtpClientOptions& was = before.smtp_client;
  const shard::SmtpClientOptions& is = after.smtp_client;
  differs(was.connections_per_path != is.connections_per_path, "smtp_client.connections_per_path");
  differs(was.idle != is.idle, "smtp_client.idle_seconds");
  differs(was.recipients != is.recipients, "smtp_client.recipients");
  differs(was.messages_per_connection != is.messages_per_connection, "smtp_client.messages_per_connection");
  differs(was.connect_timeout != is.connect_timeout, "smtp_client.connect_timeout");
  differs(was.reply_timeout != is.reply_timeout, "smtp_client.reply_timeout");
  differs(was.content_timeout != is.content_timeout, "smtp_client.content_timeout");
  differs(before.retry.schedule != after.retry.schedule, "retry.schedule");
  differs(before.dns.servers != after.dns.servers, "dns.servers");
  differs(before.event_log.path != after.event_log.path, "event_log.path");
  differs(before.admin.text != after.admin.text, "admin.listen");
  return keys;
}

shard::OptionsSnapshot merge_for_reload(const shard::Options& before, const shard::Options& after) {
  auto merged = std::make_shared<shard::Options>(after);
  merged->data_dir = before.data_dir;
  merged->shards = before.shards;
  merged->user = before.user;
  merged->memory_bytes = before.memory_bytes;
  if (!same_places(before, after)) {
    merged->listeners = before.listeners;
    merged->own_endpoints = before.own_endpoints;
  }
  merged->limits.connections = before.limits.connections;
  merged->limits.connections_per_peer = before.limits.connections_per_peer;
  merged->spool.durability = before.spool.durability;
  merged->spool.segment_bytes = before.spool.segment_bytes;
  merged->spool.min_free_bytes = before.spool.min_free_bytes;
  // Of the client, what resolution looks at is new; the rest is the connections' and the slots', which live on.
  merged->smtp_client = before.smtp_client;
  merged->smtp_client.port = after.smtp_client.port;
  merged->smtp_client.refuse_networks = after.smtp_client.refuse_networks;
  merged->retry.schedule = before.retry.schedule;
  merged->dns = before.dns;
  merged->event_log = before.event_log;
  merged->admin = before.admin;
  return merged;
}

}  // namespace postern::daemon
