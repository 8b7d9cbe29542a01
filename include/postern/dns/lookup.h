// One question put to the configured recursive servers, without I/O: which datagram goes to which server, what comes
// back, when to try again. Not a cache, and it resolves nothing itself: the servers do.
//
// src/resolver/resolver.cc carries its messages: take_send() after every call, on_*() for what happened to it,
// on_deadline() when next_deadline() has passed, until done().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/dns/answer.h>
#include <postern/dns/message.h>

namespace postern::dns {

inline constexpr std::size_t servers_max = 8;

// Remembers which of the configured servers answer. One per shard.
class ServerHealth {
 public:
  // `rotate`: spread questions over the servers instead of preferring the first.
  ServerHealth(std::size_t servers, bool rotate);

  // The servers' indices in the order in which a new question should try them: those in good standing first.
  // A server that failed `failures_to_avoid` times in a row stands back for `avoid_for`.
  [[nodiscard]] std::vector<std::uint8_t> order(Instant now);
  void on_success(std::size_t server);
  void on_failure(std::size_t server, Instant now);

  static constexpr unsigned failures_to_avoid = 3;
  static constexpr Duration avoid_for = std::chrono::seconds(30);

 private:
  struct State {
    unsigned failures = 0;  // in a row
    Instant avoid_until = Instant::min();
  };
  std::size_t servers_;
  bool rotate_;
  std::size_t next_ = 0;
  std::array<State, servers_max> states_{};
};

struct LookupOptions {
  Duration timeout = std::chrono::seconds(2);     // of the first round; doubles with each round, also for TCP
  unsigned rounds = 3;                            // each server is asked at most this often
  Duration total_max = std::chrono::seconds(30);  // whatever happens, done() by then
  std::size_t aliases_max = 8;                    // CNAMEs, over all messages
  bool edns = true;
  bool random_case = true;
};

class Lookup {
 public:
  // `servers`: indices in the order to try, 1…servers_max of them.
  Lookup(Question question, std::span<const std::uint8_t> servers, const LookupOptions& options, Instant now,
         Random& random);

  struct Send {
    std::uint8_t server = 0;
    bool tcp = false;
    Bytes message;  // for TCP with its two octets of length in front [RFC 1035 §4.2.2]; valid until the next on_*()
  };
  // The message to send now, if one is due: on a new socket (random port), to that server only. It replaces the
  // attempt before it, whose socket is of no more use.
  [[nodiscard]] std::optional<Send> take_send();

  // A datagram on the present attempt's socket. What does not match is ignored (somebody guesses); too much of it makes
  // the lookup go on over TCP, where guessing does not help.
  void on_datagram(Bytes message, Instant now, Random& random);
  // Bytes of the present attempt's TCP connection, cut anywhere.
  void on_stream(Bytes bytes, Instant now, Random& random);
  // The present attempt's socket failed (unreachable, refused, closed early).
  void on_failure(Instant now, Random& random);
  void on_deadline(Instant now, Random& random);
  [[nodiscard]] Instant next_deadline() const { return done_ ? never : deadline_; }

  [[nodiscard]] bool done() const { return done_; }
  // When done().
  [[nodiscard]] const Answer& answer() const { return answer_; }
  [[nodiscard]] Answer take_answer() { return std::move(answer_); }
  [[nodiscard]] const Question& question() const { return question_; }

  // What the present attempt's server deserves after the last on_*() call; the driver passes it to ServerHealth.
  enum class Credit : std::uint8_t { none, success, failure };
  struct ServerCredit {
    std::uint8_t server = 0;
    Credit credit = Credit::none;
  };
  [[nodiscard]] ServerCredit take_credit();

 private:
  struct Server {
    std::uint8_t index = 0;
    bool edns = true;
    bool finished = false;  // it has said that it will not or cannot answer this
  };

  void ask(bool tcp, Instant now, Random& random);
  void ask_next_server(Answer::Failure failure, Instant now, Random& random);
  void on_message(Bytes message, bool tcp, Instant now, Random& random);
  void finish(Answer answer);

  Question question_;  // as asked at first
  Question asked_;     // behind the aliases followed so far
  LookupOptions options_;
  std::array<Server, servers_max> servers_{};
  std::size_t server_count_;
  std::size_t current_ = 0;
  unsigned round_ = 0;
  std::size_t aliases_ = 0;
  Duration alias_ttl_ = Duration::max();
  std::uint32_t mismatches_ = 0;  // on the present attempt
  bool tcp_ = false;
  bool send_due_ = false;
  bool done_ = false;
  Instant deadline_ = never;
  Instant give_up_at_;
  QueryMessage query_;
  std::array<std::byte, QueryMessage::bytes_max + 2> framed_{};
  std::vector<std::byte> stream_;
  Answer answer_;
  Answer::Failure last_failure_ = Answer::Failure::timed_out;
  ServerCredit credit_;
};

}  // namespace postern::dns
