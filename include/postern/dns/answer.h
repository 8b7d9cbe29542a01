// The answer to one question, as the rest of Postern sees it: aliases followed, negative answers told apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/time.h>
#include <postern/dns/message.h>
#include <postern/dns/name.h>

namespace postern::dns {

struct MxRecord {
  std::uint16_t preference = 0;
  Name exchange;  // the root: null MX [RFC 7505]

  friend bool operator==(const MxRecord&, const MxRecord&) = default;
  friend auto operator<=>(const MxRecord&, const MxRecord&) = default;
};

struct Answer {
  enum class Kind : std::uint8_t {
    records,       // at least one record of the type asked for
    no_data,       // the name exists, the type does not [RFC 2308 §2.2]
    no_such_name,  // NXDOMAIN: nothing of any type under this name
    temporary,     // not to be known now: SERVFAIL, time-outs, refusals, nonsense
  };
  enum class Failure : std::uint8_t { none, timed_out, server_failure, refused, malformed, alias_loop, overloaded };

  static constexpr std::size_t records_max = 64;  // of those beyond, MX with the highest preferences go first

  Kind kind = Kind::temporary;
  Failure failure = Failure::none;       // why `temporary`
  bool stale = false;                    // its time had passed, but the servers fail [RFC 8767]
  Duration ttl{};                        // as heard, least of the alias chain; the cache applies its bounds to it
  Instant expires_at{};                  // set by the cache
  std::vector<MxRecord> mx;              // by preference, then name
  std::vector<IpAddress> addresses;      // A or AAAA, as asked
  std::vector<std::string> raw_records;  // RDATA of other types (TXT, TLSA), undecoded

  [[nodiscard]] static Answer temporary(Failure failure) {
    Answer answer;
    answer.failure = failure;
    return answer;
  }
  // Heap bytes behind the vectors, for the cache's budget.
  [[nodiscard]] std::size_t heap_bytes() const;
};

[[nodiscard]] std::string_view to_text(Answer::Kind kind);
[[nodiscard]] std::string_view to_text(Answer::Failure failure);  // "timed out", for replies and logs

// What a message says about a question.
struct Interpretation {
  Answer answer;
  // The alias chain ended at a name of which the message says nothing: ask for that one next.
  std::optional<Name> ask_next;
  std::size_t aliases = 0;  // followed here
};

// `message` answers `question` (match_response() was yes) and is not truncated. Follows at most `aliases_max` CNAMEs,
// only those of the answer section and only in chain; everything else in the message is ignored, so nothing unasked
// enters the cache. no_data and no_such_name take their TTL from the authority section's SOA [RFC 2308 §5], 0 without
// one.
[[nodiscard]] Interpretation interpret(const Question& question, const Message& message, std::size_t aliases_max);

}  // namespace postern::dns
