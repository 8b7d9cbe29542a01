// Asking the next hop whether it takes a recipient, before we do: what its answer means for our client, and the answers
// kept for a while. Nobody is asked from here (shard/callouts.h does that).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/container/flat_hash_map.h>

#include <postern/base/hash.h>
#include <postern/base/intrusive_list.h>
#include <postern/base/time.h>
#include <postern/mail/reply.h>

namespace postern::policy {

struct CalloutAnswer {
  enum class Kind : std::uint8_t {
    taken,
    refused,  // for good: `reply` is what our client hears, 550
    put_off,  // `reply`, 450
    unknown,  // what was said is not about the recipient
  };
  Kind kind = Kind::unknown;
  mail::Reply reply{};  // of refused and put_off
};

// `said`: the next hop's reply to RCPT. A refusal becomes 550 with its own enhanced status, or 5.1.1 when it has none,
// and the first line of its text, cut and in printable ASCII; a temporary one 450 in the same way. Replies that say
// something of us or of the command (500 … 504, 530 … 538, but with a status about addresses, 5.1.x) are no answer, nor
// are 421 and what is no refusal and no 2xx.
[[nodiscard]] CalloutAnswer judge_callout(const mail::Reply& said);
inline constexpr std::size_t callout_text_max = 200;

// Bounded in entries, half of them for each kind, so that who asks for thousands of made-up addresses does not drive
// out those that exist. The oldest of a kind goes first. An entry is its address (at most 320 bytes), its reply (at
// most callout_text_max) and some 150 bytes.
class CalloutCache {
 public:
  struct Options {
    std::size_t entries_max = 20'000;               // at least 2
    Duration taken_life = std::chrono::hours(24);   // of positive answers
    Duration refused_life = std::chrono::hours(1);  // of negative ones
    friend bool operator==(const Options&, const Options&) = default;
  };
  explicit CalloutCache(const Options& options);

  // Null: not known, or not any more. Valid until the next call. `kind` is taken or refused.
  [[nodiscard]] const CalloutAnswer* find(std::string_view address, Instant now);
  // Replaces what was known. Answers of the other two kinds are not kept, and what was known stays.
  void keep(std::string_view address, const CalloutAnswer& answer, Instant now);
  // Forgets everything.
  void reset(const Options& options);
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

 private:
  struct Entry : ListHook<> {
    std::string address;
    CalloutAnswer answer;
    Instant until{};
  };
  struct Kept {  // of one kind, oldest first: all live equally long
    IntrusiveList<Entry> by_age;
    std::size_t size = 0;
  };

  [[nodiscard]] Kept& kept(const Entry& entry) {
    return entry.answer.kind == CalloutAnswer::Kind::taken ? taken_ : refused_;
  }
  void remove(Entry& entry);

  Options options_;
  absl::flat_hash_map<std::string_view, std::unique_ptr<Entry>, TextHash, TextEqual> entries_;  // by their address
  Kept taken_;
  Kept refused_;
};

}  // namespace postern::policy
