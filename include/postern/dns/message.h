// The DNS message codec: writes queries, reads answers [RFC 1035 §4, RFC 6891].
//
// Reads what anyone may have sent: every length, count and compression pointer is checked, and work is bounded by the
// message's size. Says nothing about whether an answer answers the question asked: that is dns/answer.h and
// dns/lookup.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/ip.h>
#include <postern/base/random.h>
#include <postern/dns/name.h>

namespace postern::dns {

enum class RecordType : std::uint16_t {
  a = 1,
  ns = 2,
  cname = 5,
  soa = 6,
  ptr = 12,
  mx = 15,
  txt = 16,
  aaaa = 28,
  opt = 41,
  tlsa = 52
};

// Always of class IN.
struct Question {
  Name name;
  RecordType type = RecordType::a;

  friend bool operator==(const Question&, const Question&) = default;
  friend auto operator<=>(const Question&, const Question&) = default;
};

enum class ResponseCode : std::uint16_t {  // with the upper bits of EDNS; others are possible
  no_error = 0,
  format_error = 1,
  server_failure = 2,
  no_such_name = 3,  // NXDOMAIN
  not_implemented = 4,
  refused = 5,
  bad_version = 16,
};

inline constexpr std::size_t header_bytes = 12;
inline constexpr std::size_t edns_udp_bytes = 1232;  // what passes unfragmented through IPv6's minimum MTU
inline constexpr std::size_t message_bytes_max = 65'535;

// A query as it goes out: header, one question, and the OPT record of EDNS0.
struct QueryMessage {
  static constexpr std::size_t bytes_max = header_bytes + Name::wire_bytes_max + 4 + 11;
  std::array<std::byte, bytes_max> buffer{};
  std::size_t size = 0;

  [[nodiscard]] Bytes bytes() const { return Bytes(buffer).first(size); }
};

// Recursion desired. `case_bits`: the letters of the name get random case (the "0x20" defence: a forger must guess it),
// one bit each; nullptr leaves them lower.
[[nodiscard]] QueryMessage encode_query(const Question& question, std::uint16_t id, bool edns, Random* case_bits);

// How a received message relates to a query that was sent.
enum class Match : std::uint8_t {
  yes,
  other_case,  // id and question fit but for the case of the name's letters
  no,          // another id or question, not a response, or too short
};
// `query` as encode_query() wrote it. A FORMERR that repeats no question matches by its id alone.
[[nodiscard]] Match match_response(Bytes query, Bytes response);

enum class Section : std::uint8_t { answer, authority, additional };

// One record of class IN. Which fields hold something depends on the type.
struct Record {
  Section section = Section::answer;
  RecordType type = RecordType::a;  // may be one that has no enumerator
  std::uint16_t preference = 0;     // MX
  std::uint32_t ttl_seconds = 0;    // 0 when the top bit was set [RFC 2181 §8]
  std::uint32_t soa_minimum = 0;    // SOA, seconds [RFC 2308 §4]
  Name owner;
  Name target;        // CNAME, NS, PTR: the name; MX: the exchange; SOA: the primary
  IpAddress address;  // A, AAAA
  Bytes rdata;        // all types: as it stands in the message, valid as long as that
};

struct Message {
  std::uint16_t id = 0;
  bool response = false;
  bool truncated = false;
  bool recursion_available = false;
  bool authenticated_data = false;
  bool edns = false;  // an OPT record was there
  ResponseCode code = ResponseCode::no_error;
  std::optional<Question> question;  // nullopt when there was none, or of another class than IN
  std::vector<Record> records;       // in order, of class IN, OPT excepted
};

// nullopt: malformed (bounds, pointers, RDATA that its type does not allow). A truncated message (TC) is read up to its
// question only. Bytes behind the last record are ignored.
[[nodiscard]] std::optional<Message> decode(Bytes message);

}  // namespace postern::dns
