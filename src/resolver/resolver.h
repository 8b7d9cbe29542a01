// Carries the pure resolver's datagrams and streams over one shard's loop, and shares its answers with the other shards
// through the cache. One per shard; driven by the shard's dispatcher: on_completion() for its kinds, on_deadline() when
// next_deadline() has passed, on_notice() for other shards' notices. Reads no file and no clock but the loop's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/dns/answer.h>
#include <postern/dns/cache.h>
#include <postern/dns/lookup.h>

#include "io/address.h"
#include "io/loop.h"

namespace postern::resolver {

// Whoever asks. on_answer() is never called from within lookup().
class Waiter {
 public:
  // `answer` is valid during the turn (until the cache reader's next quiescent state). May call lookup() again.
  virtual void on_answer(const dns::Question& question, const dns::Answer& answer, std::uint64_t cookie) = 0;

 protected:
  ~Waiter() = default;
};

// The way to other shards. The message must reach that shard's Resolver::on_notice() with the same question.
class Notifier {
 public:
  virtual void notify(std::uint16_t shard, const dns::Question& question) = 0;

 protected:
  ~Notifier() = default;
};

struct ResolverOptions {
  std::vector<io::Address> servers{};  // 1…dns::servers_max
  dns::LookupOptions lookup{};
  bool rotate = false;
  std::uint8_t first_kind = 0;       // io::Token::kind values first_kind…first_kind + Resolver::kinds - 1 are ours
  std::size_t flights_max = 256;     // questions of this shard under way at once, one socket each; more wait their turn
  std::size_t waiters_max = 16'384;  // lookups not yet answered; beyond: temporary answer "overloaded"
  // How long to wait for another shard's flight before taking its silence as a time-out: its bound, and some.
  Duration notice_timeout = std::chrono::seconds(40);
};

class Resolver {
 public:
  static constexpr std::uint8_t kinds = 5;

  // All references outlive the resolver. `seed` is secret: ids and case of queries come from it (ports from the
  // kernel).
  Resolver(io::Loop& loop, dns::Cache::Reader& cache, Notifier& notifier, const ResolverOptions& options, Random seed);
  // Best when idle(), some turns after stop(). Otherwise sockets and their memory are left to the end of the process.
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // A hit is answered at once: non-null, valid until the reader's next quiescent state or the next lookup(), whichever
  // is first, and `waiter` is not called. So is a lookup that cannot be taken on (waiters_max; after stop()):
  // temporary. Otherwise nullptr, and `waiter` gets on_answer(question, …, cookie) exactly once, unless forgotten.
  [[nodiscard]] const dns::Answer* lookup(const dns::Question& question, Waiter& waiter, std::uint64_t cookie);
  // `waiter` will not be called again for any question. Costs one pass over all that wait.
  void forget(const Waiter& waiter);

  void on_completion(const io::Completion& completion);  // token.kind in our range
  void on_notice(const dns::Question& question);         // another shard published, or abandoned, this question
  // Time-outs; also due at once (next_deadline() in the past) when a flight ended within lookup().
  void on_deadline(Instant now);
  [[nodiscard]] Instant next_deadline() const;

  // Orderly stop: no more questions; waiters get temporary answers, flights are abandoned, sockets end.
  void stop();
  [[nodiscard]] bool idle() const;  // no socket open: the loop holds nothing of ours

  struct Counters {
    std::uint64_t lookups = 0;
    std::uint64_t hits = 0;
    std::uint64_t queries = 0;      // messages sent
    std::uint64_t tcp_queries = 0;  // of these
    std::uint64_t temporary = 0;    // flights of ours that ended so
    std::uint64_t overloaded = 0;
    std::uint64_t refreshes = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  static constexpr std::uint32_t none = UINT32_MAX;

  struct QuestionHash {
    std::size_t operator()(const dns::Question& question) const;
    std::uint64_t seed = 0;
  };
  struct Waiting {
    Waiter* waiter = nullptr;
    std::uint64_t cookie = 0;
  };
  // One question that somebody here waits for, or that this shard refreshes.
  struct Pending {
    dns::Question question;
    std::vector<Waiting> waiting;
    bool own = false;                   // this shard's flight; otherwise another's, of which a notice will come
    std::optional<dns::Lookup> lookup;  // own: running; nullopt while it waits its turn
    std::uint32_t socket = none;        // of the present attempt
    Instant deadline = never;           // as it stands in deadlines_
  };
  struct Socket;
  enum class Operation : std::uint8_t { send_datagram, recv_datagram, connect, send, recv };
  static_assert(static_cast<std::uint8_t>(Operation::recv) + 1 == kinds);

  std::uint32_t add_pending(const dns::Question& question);
  void remove_pending(std::uint32_t index);
  void set_deadline(std::uint32_t index, Instant deadline);
  void start_flight(std::uint32_t index);
  void run_flight(std::uint32_t index);
  void drive(std::uint32_t index);
  bool open_socket(std::uint32_t index, const dns::Lookup::Send& send);
  void leave_socket(Pending& pending);
  void close_if_done(std::uint32_t index);
  void begin_operation(std::uint32_t socket, Operation operation);
  void on_received(std::uint32_t socket_index, const io::Completion& completion, bool tcp);
  void feed_starved();
  void finish_flights();
  void deliver(std::uint32_t index, const dns::Answer& answer);
  void on_joined_deadline(std::uint32_t index);
  [[nodiscard]] io::Token token(std::uint32_t socket, Operation operation) const;
  [[nodiscard]] const dns::Answer* refusal();

  io::Loop& loop_;
  dns::Cache::Reader& cache_;
  Notifier& notifier_;
  const ResolverOptions options_;
  Random random_;
  dns::ServerHealth health_;
  Counters counters_;
  bool stopping_ = false;

  std::vector<std::unique_ptr<Pending>> pending_;  // slots; nullptr: free
  std::vector<std::uint32_t> pending_free_;
  absl::flat_hash_map<dns::Question, std::uint32_t, QuestionHash> by_question_;
  std::set<std::pair<Instant, std::uint32_t>> deadlines_;
  std::deque<std::uint32_t> queue_;      // own flights that wait for their turn
  std::vector<std::uint32_t> finished_;  // flights to publish, not from within lookup()
  std::size_t running_ = 0;
  std::size_t waiters_ = 0;

  std::vector<std::unique_ptr<Socket>> sockets_;
  std::vector<std::uint32_t> sockets_free_;
  std::vector<std::uint32_t> starved_;  // sockets whose receive found no buffer
  std::size_t sockets_open_ = 0;

  std::vector<Waiting> delivering_;  // those being told just now; forget() reaches them here
  dns::Answer refusal_;
};

}  // namespace postern::resolver
