// The DNS cache that all shards share, and the list of questions under way ("flights"), one per question over all
// shards.
//
// Each shard thread has one Cache::Reader. A hit takes no lock and writes no shared cache line (but for an entry's
// second-chance bit and refresh claim, each only when clear). A miss, and publishing, take one mutex: they come with a
// network round trip anyhow. Memory is given back by quiescent states: an answer that find() returned stays valid until
// the same reader's next quiescent() or offline(), and no longer.
//
// Other threads (admin) do not read the cache; they ask a shard.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/hash.h>
#include <postern/base/time.h>
#include <postern/dns/answer.h>
#include <postern/dns/message.h>

namespace postern::dns {

struct CacheOptions {
  std::size_t shards = 1;                         // readers are numbered 0…shards-1; at most 4096
  std::size_t bytes_max = std::size_t{32} << 20;  // of live entries; retired ones add one loop turn's worth
  std::uint64_t seed = 0;                         // of the hash: peers choose the names, so make it a secret
  Duration ttl_min = std::chrono::seconds(5);     // TTL 0 would make every recipient a query
  Duration ttl_max = std::chrono::hours(24);
  Duration negative_ttl_max = std::chrono::hours(1);  // [RFC 2308 §5] finds one to three hours sensible
  Duration failure_ttl = std::chrono::seconds(5);     // of temporary answers [RFC 9520 §3.2: 1 s to 5 min]
  Duration stale_max = std::chrono::hours(24);        // how long after expiry records may still serve [RFC 8767 §5]
  Duration stale_ttl = std::chrono::seconds(30);      // until the servers are asked again [RFC 8767 §4]
  unsigned refresh_percent = 10;                      // a hit within the last tenth of the TTL asks anew; 0: never
};

class Cache {
 public:
  class Reader;

  explicit Cache(const CacheOptions& options);
  ~Cache();  // no reader may be online
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // What the cache holds at this moment, for metrics. Any thread; takes the mutex.
  struct Usage {
    std::size_t entries = 0;
    std::size_t bytes = 0;
    std::size_t retired = 0;  // entries that wait for every shard's next turn
    std::size_t flights = 0;
    std::uint64_t evicted = 0;
  };
  [[nodiscard]] Usage usage() const;

 private:
  struct Entry;
  struct QuestionHash {
    std::size_t operator()(const Question& question) const;
    std::uint64_t seed = 0;
  };
  struct Flight {
    std::uint16_t owner = 0;
    std::vector<std::uint16_t> waiting;  // shards, each once
  };
  // Alone on its cache line: written by its shard every turn, read when memory is to be given back.
  struct alignas(64) ReaderSlot {
    std::atomic<std::uint64_t> seen{0};  // the epoch of the last quiescent state; 0: offline
    std::atomic<bool> taken{false};
  };

  [[nodiscard]] std::uint64_t hash(const Question& question) const;
  [[nodiscard]] Entry* find_entry(std::uint64_t hash, const Question& question) const;
  [[nodiscard]] Duration bounded_ttl(const Answer& answer) const;
  // The rest with mutex_ held.
  const Answer* insert(std::uint64_t hash, const Question& question, Answer answer, Instant stale_until,
                       Instant refresh_at);
  std::vector<std::uint16_t> end_flight(const Question& question, std::uint16_t shard);
  void append_to_clock(Entry* entry);
  void remove_from_clock(Entry* entry);
  void retire(Entry* entry);
  void evict(std::size_t bytes_needed);
  void reclaim();

  const CacheOptions options_;
  std::size_t bucket_mask_;
  std::unique_ptr<std::atomic<Entry*>[]> buckets_;
  alignas(64) std::atomic<std::uint64_t> epoch_{1};
  std::unique_ptr<ReaderSlot[]> readers_;

  alignas(64) mutable std::mutex mutex_;
  Entry* oldest_ = nullptr;  // live entries in order of insertion or second chance, linked
  Entry* newest_ = nullptr;
  std::deque<Entry*> retired_;  // unlinked, oldest first
  absl::flat_hash_map<Question, Flight, QuestionHash> flights_;
  std::size_t live_bytes_ = 0;
  std::size_t live_entries_ = 0;
  std::uint64_t evicted_ = 0;
};

// One shard's door to the cache; used by that shard's thread only. Begins offline.
class Cache::Reader {
 public:
  Reader(Cache& cache, std::uint16_t shard);  // each number once at a time
  ~Reader();                                  // goes offline
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // --- the shard's loop ----------------------------------------------------------------------------------------------
  void online();     // when it wakes; before any of the calls below
  void quiescent();  // once per turn: every answer found before is forgotten. Cheap: one load, mostly no store.
  void offline();    // before it sleeps: a sleeping shard must not keep memory from being given back
  [[nodiscard]] bool is_online() const { return online_; }

  // --- asking --------------------------------------------------------------------------------------------------------
  struct Hit {
    const Answer* answer = nullptr;  // nullptr: miss
    bool refresh_due = false;        // the caller, and nobody else, should begin_refresh() this question
    explicit operator bool() const { return answer != nullptr; }
  };
  [[nodiscard]] Hit find(const Question& question, Instant now);

  enum class Ask : std::uint8_t {
    flight,  // nobody asks yet: this shard does, and must end with publish() or abandon()
    joined,  // another shard (or this one) asks: the publisher names this shard, which then looks again
    hit,     // it was published meanwhile
  };
  struct Begun {
    Ask ask = Ask::flight;
    const Answer* answer = nullptr;  // for `hit`
  };
  // After a miss. Takes the mutex.
  [[nodiscard]] Begun begin(const Question& question, Instant now);
  // After refresh_due. True: the flight is this shard's. False: somebody asks already.
  [[nodiscard]] bool begin_refresh(const Question& question);

  // --- answering -----------------------------------------------------------------------------------------------------
  struct Published {
    // What everybody sees now: `answer` with its TTL bounded, or, when that was temporary, an older good answer that
    // may still serve. Never nullptr. Valid as one from find().
    const Answer* answer = nullptr;
    // Shards that joined (never this reader's own): tell each of them the question; they find() it then.
    std::vector<std::uint16_t> waiting;
  };
  // Ends this shard's flight. Takes the mutex.
  [[nodiscard]] Published publish(const Question& question, Answer answer, Instant now);
  // Ends it without an answer (the shard stops). The shards returned ask again.
  [[nodiscard]] std::vector<std::uint16_t> abandon(const Question& question);

  // Since the start. Any thread may read them.
  [[nodiscard]] std::uint64_t hits() const { return hits_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t misses() const { return misses_.load(std::memory_order_relaxed); }

 private:
  Cache& cache_;
  std::uint16_t shard_;
  bool online_ = false;
  std::atomic<std::uint64_t> hits_{0};  // one writer
  std::atomic<std::uint64_t> misses_{0};
};

}  // namespace postern::dns
