// Writes DNS responses for tests: right ones by its methods, wrong ones by raw bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/dns/message.h>

namespace postern::dns::testing {

struct ResponseOptions {
  ResponseCode code = ResponseCode::no_error;
  bool truncated = false;
  bool recursion_available = true;
};

class MessageBuilder {
 public:
  // A response to `query`: its id and its question as they stand, no records yet.
  explicit MessageBuilder(Bytes query, const ResponseOptions& options = {}) {
    std::size_t end = header_bytes;
    while (std::to_integer<std::uint8_t>(query[end]) != 0) end += 1u + std::to_integer<std::uint8_t>(query[end]);
    bytes_ = as_text(query.first(end + 5));
    const unsigned flags = 0x8100u | (options.truncated ? 0x0200u : 0u) | (options.recursion_available ? 0x0080u : 0u) |
                           (static_cast<unsigned>(options.code) & 0xFu);
    set16(2, flags);
    set16(4, 1);
    for (const std::size_t at : {6, 8, 10}) set16(at, 0);
  }

  MessageBuilder& a(std::string_view owner, std::uint32_t ttl, std::string_view address) {
    const auto bytes = IpAddress::parse(address)->v4_bytes();
    return record(Section::answer, owner, RecordType::a, ttl, {reinterpret_cast<const char*>(bytes.data()), 4});
  }
  MessageBuilder& aaaa(std::string_view owner, std::uint32_t ttl, std::string_view address) {
    const auto bytes = IpAddress::parse(address)->bytes();
    return record(Section::answer, owner, RecordType::aaaa, ttl, {reinterpret_cast<const char*>(bytes.data()), 16});
  }
  MessageBuilder& mx(std::string_view owner, std::uint32_t ttl, std::uint16_t preference, std::string_view exchange) {
    return record(Section::answer, owner, RecordType::mx, ttl, u16(preference) + wire(exchange));
  }
  MessageBuilder& cname(std::string_view owner, std::uint32_t ttl, std::string_view target) {
    return record(Section::answer, owner, RecordType::cname, ttl, wire(target));
  }
  MessageBuilder& ns(Section section, std::string_view owner, std::uint32_t ttl, std::string_view target) {
    return record(section, owner, RecordType::ns, ttl, wire(target));
  }
  MessageBuilder& soa(std::string_view zone, std::uint32_t ttl, std::uint32_t minimum) {
    return record(Section::authority, zone, RecordType::soa, ttl,
                  wire("ns.test") + wire("hostmaster.test") + std::string(16, '\0') + u32(minimum));
  }
  MessageBuilder& record(Section section, std::string_view owner, RecordType type, std::uint32_t ttl,
                         std::string_view rdata, std::uint16_t klass = 1) {
    bytes_ += wire(owner) + u16(static_cast<unsigned>(type)) + u16(klass) + u32(ttl) +
              u16(static_cast<unsigned>(rdata.size()));
    bytes_ += rdata;
    const std::size_t at = 6 + 2 * static_cast<std::size_t>(section);
    set16(at, get16(at) + 1);
    return *this;
  }

  [[nodiscard]] Bytes bytes() const { return as_bytes(bytes_); }
  [[nodiscard]] std::string& text() { return bytes_; }

  static std::string wire(std::string_view name) { return std::string(Name::parse(name)->wire()); }
  static std::string u16(unsigned value) { return {static_cast<char>(value >> 8), static_cast<char>(value)}; }
  static std::string u32(std::uint32_t value) { return u16(value >> 16) + u16(value & 0xFFFF); }

 private:
  void set16(std::size_t at, unsigned value) { bytes_.replace(at, 2, u16(value)); }
  [[nodiscard]] unsigned get16(std::size_t at) const {
    return static_cast<unsigned>(static_cast<unsigned char>(bytes_[at])) << 8 |
           static_cast<unsigned char>(bytes_[at + 1]);
  }

  std::string bytes_;
};

}  // namespace postern::dns::testing
