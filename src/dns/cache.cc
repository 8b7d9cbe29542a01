// The table is an array of chains of immutable entries, changed under mutex_ and read without it.
//
// Why a reader never touches freed memory: an entry is first unlinked (U), then epoch_ is raised and the entry stamped
// with the new value, and it is freed once every reader is offline or has seen that epoch.
//   A reader that saw it loaded epoch_ after U: what it finds later does not lead to the entry, and what it found
//   before is forgotten by the contract of quiescent(). A reader that was seen offline (R) stores its slot (W) only
//   after R, and reads the chains (H) after W. U, R, W, H are all sequentially consistent, so U < R < W < H: it cannot
//   find the entry. An unlinked entry's own `next` may lead to one unlinked later; whoever stands on the first was
//   online before its unlinking, and so keeps both.
// No fences: thread sanitizers do not understand them.
#include <algorithm>
#include <bit>
#include <utility>

#include <postern/base/check.h>
#include <postern/dns/cache.h>

namespace postern::dns {

struct Cache::Entry {
  std::uint64_t hash = 0;
  std::atomic<Entry*> next{nullptr};
  Question question;
  Answer answer;
  Instant refresh_at = never;
  Instant stale_until = Instant::min();
  std::atomic<bool> referenced{false};  // since it was last passed over by evict()
  std::atomic<bool> refreshing{false};  // somebody has taken it upon himself
  // Under mutex_:
  Entry* older = nullptr;
  Entry* newer = nullptr;
  std::size_t bytes = 0;
  std::uint64_t retired_epoch = 0;
};

namespace {

// How many entries in a row evict() passes over because they were used: bounds the time under the mutex.
constexpr unsigned second_chances_max = 64;
constexpr std::size_t shards_max = 4096;
// What an entry takes on average, for the number of chains: about one entry a chain when the cache is full.
constexpr std::size_t entry_bytes_typical = 512;
constexpr std::size_t allocation_overhead_bytes = 32;

}  // namespace

std::size_t Cache::QuestionHash::operator()(const Question& question) const {
  return hash_bytes(as_bytes(question.name.wire()), seed + static_cast<std::uint64_t>(question.type));
}

Cache::Cache(const CacheOptions& options)
    : options_(options),
      bucket_mask_(std::bit_ceil(std::max<std::size_t>(64, options.bytes_max / entry_bytes_typical)) - 1),
      buckets_(std::make_unique<std::atomic<Entry*>[]>(bucket_mask_ + 1)),
      readers_(std::make_unique<ReaderSlot[]>(options.shards)),
      flights_(0, QuestionHash{options.seed}) {
  POSTERN_CHECK(options.shards >= 1 && options.shards <= shards_max);
  POSTERN_CHECK(options.refresh_percent < 100);
}

Cache::~Cache() {
  for (std::size_t i = 0; i < options_.shards; ++i) POSTERN_CHECK(!readers_[i].taken, "a reader outlives the cache");
  while (oldest_ != nullptr) delete std::exchange(oldest_, oldest_->newer);
  for (Entry* entry : retired_) delete entry;
}

Cache::Usage Cache::usage() const {
  const std::lock_guard lock(mutex_);
  return {.entries = live_entries_,
          .bytes = live_bytes_,
          .retired = retired_.size(),
          .flights = flights_.size(),
          .evicted = evicted_};
}

std::uint64_t Cache::hash(const Question& question) const {
  return QuestionHash{options_.seed}(question);
}

Cache::Entry* Cache::find_entry(std::uint64_t hash, const Question& question) const {
  // Sequentially consistent loads cost nothing over acquiring ones on x86-64 and AArch64.
  for (Entry* entry = buckets_[hash & bucket_mask_].load(); entry != nullptr; entry = entry->next.load()) {
    if (entry->hash == hash && entry->question == question) return entry;
  }
  return nullptr;
}

Duration Cache::bounded_ttl(const Answer& answer) const {
  switch (answer.kind) {
    case Answer::Kind::records:
      return std::clamp(answer.ttl, options_.ttl_min, options_.ttl_max);
    case Answer::Kind::no_data:
    case Answer::Kind::no_such_name:
      return std::clamp(answer.ttl, options_.ttl_min, options_.negative_ttl_max);
    case Answer::Kind::temporary:
      break;
  }
  return options_.failure_ttl;
}

void Cache::append_to_clock(Entry* entry) {
  entry->older = newest_;
  entry->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = entry;
  newest_ = entry;
}

void Cache::remove_from_clock(Entry* entry) {
  (entry->older != nullptr ? entry->older->newer : oldest_) = entry->newer;
  (entry->newer != nullptr ? entry->newer->older : newest_) = entry->older;
}

void Cache::retire(Entry* entry) {
  std::atomic<Entry*>* link = &buckets_[entry->hash & bucket_mask_];
  while (link->load() != entry) link = &link->load()->next;
  link->store(entry->next.load());
  remove_from_clock(entry);
  live_bytes_ -= entry->bytes;
  --live_entries_;
  entry->retired_epoch = epoch_.fetch_add(1) + 1;
  retired_.push_back(entry);
}

void Cache::evict(std::size_t bytes_needed) {
  unsigned chances = second_chances_max;
  while (live_bytes_ + bytes_needed > options_.bytes_max && oldest_ != nullptr) {
    Entry* entry = oldest_;
    if (chances > 0 && entry->referenced.load(std::memory_order_relaxed)) {
      --chances;
      entry->referenced.store(false, std::memory_order_relaxed);
      remove_from_clock(entry);
      append_to_clock(entry);
      continue;
    }
    retire(entry);
    ++evicted_;
  }
}

void Cache::reclaim() {
  if (retired_.empty()) return;
  std::uint64_t seen_by_all = epoch_.load();
  for (std::size_t i = 0; i < options_.shards; ++i) {
    const std::uint64_t seen = readers_[i].seen.load();
    if (seen != 0) seen_by_all = std::min(seen_by_all, seen);
  }
  while (!retired_.empty() && retired_.front()->retired_epoch <= seen_by_all) {
    delete retired_.front();
    retired_.pop_front();
  }
}

const Answer* Cache::insert(std::uint64_t hash, const Question& question, Answer answer, Instant stale_until,
                            Instant refresh_at) {
  auto* entry = new Entry;
  entry->hash = hash;
  entry->question = question;
  entry->answer = std::move(answer);
  entry->refresh_at = refresh_at;
  entry->stale_until = stale_until;
  entry->bytes =
      sizeof(Entry) + allocation_overhead_bytes + question.name.wire().size() + 1 + entry->answer.heap_bytes();

  Entry* old = find_entry(hash, question);
  std::atomic<Entry*>& bucket = buckets_[hash & bucket_mask_];
  entry->next.store(bucket.load());
  bucket.store(entry);  // before the old one goes, so that no reader misses both
  if (old != nullptr) retire(old);
  evict(entry->bytes);
  append_to_clock(entry);
  live_bytes_ += entry->bytes;
  ++live_entries_;
  reclaim();
  return &entry->answer;
}

Cache::Reader::Reader(Cache& cache, std::uint16_t shard) : cache_(cache), shard_(shard) {
  POSTERN_CHECK(shard < cache.options_.shards);
  POSTERN_CHECK(!cache.readers_[shard].taken.exchange(true), "two readers for one shard");
}

Cache::Reader::~Reader() {
  if (online_) offline();
  cache_.readers_[shard_].taken.store(false);
}

void Cache::Reader::online() {
  // See the top: this store comes before every load of a chain, in the one order of all such operations.
  cache_.readers_[shard_].seen.store(cache_.epoch_.load());
  online_ = true;
}

void Cache::Reader::quiescent() {
  POSTERN_CHECK(online_);
  std::atomic<std::uint64_t>& seen = cache_.readers_[shard_].seen;
  const std::uint64_t epoch = cache_.epoch_.load(std::memory_order_acquire);
  if (seen.load(std::memory_order_relaxed) != epoch) seen.store(epoch, std::memory_order_release);
}

void Cache::Reader::offline() {
  cache_.readers_[shard_].seen.store(0, std::memory_order_release);
  online_ = false;
}

Cache::Reader::Hit Cache::Reader::find(const Question& question, Instant now) {
  POSTERN_CHECK(online_);
  Entry* entry = cache_.find_entry(cache_.hash(question), question);
  if (entry == nullptr || now >= entry->answer.expires_at) {
    misses_.store(misses() + 1, std::memory_order_relaxed);
    return {};
  }
  hits_.store(hits() + 1, std::memory_order_relaxed);
  if (!entry->referenced.load(std::memory_order_relaxed)) entry->referenced.store(true, std::memory_order_relaxed);
  const bool refresh = now >= entry->refresh_at && !entry->refreshing.load(std::memory_order_relaxed) &&
                       !entry->refreshing.exchange(true, std::memory_order_relaxed);
  return {.answer = &entry->answer, .refresh_due = refresh};
}

Cache::Reader::Begun Cache::Reader::begin(const Question& question, Instant now) {
  POSTERN_CHECK(online_);
  const std::lock_guard lock(cache_.mutex_);
  const Entry* entry = cache_.find_entry(cache_.hash(question), question);
  if (entry != nullptr && now < entry->answer.expires_at) return {.ask = Ask::hit, .answer = &entry->answer};
  const auto [flight, began] = cache_.flights_.try_emplace(question);
  if (began) {
    flight->second.owner = shard_;
    return {.ask = Ask::flight};
  }
  std::vector<std::uint16_t>& waiting = flight->second.waiting;
  if (flight->second.owner != shard_ && std::find(waiting.begin(), waiting.end(), shard_) == waiting.end()) {
    waiting.push_back(shard_);
  }
  return {.ask = Ask::joined};
}

bool Cache::Reader::begin_refresh(const Question& question) {
  const std::lock_guard lock(cache_.mutex_);
  const auto [flight, began] = cache_.flights_.try_emplace(question);
  if (began) flight->second.owner = shard_;
  return began;
}

Cache::Reader::Published Cache::Reader::publish(const Question& question, Answer answer, Instant now) {
  POSTERN_CHECK(online_);
  const CacheOptions& options = cache_.options_;
  const std::uint64_t hash = cache_.hash(question);
  Published result;
  const std::lock_guard lock(cache_.mutex_);
  result.waiting = cache_.end_flight(question, shard_);

  if (answer.kind == Answer::Kind::temporary) {
    Entry* old = cache_.find_entry(hash, question);
    if (old != nullptr && old->answer.kind != Answer::Kind::temporary && now < old->answer.expires_at) {
      result.answer = &old->answer;  // a refresh failed: what we have still holds
      return result;
    }
    if (old != nullptr && now < old->stale_until) {
      Answer stale = old->answer;
      stale.stale = true;
      stale.expires_at = std::min(now + options.stale_ttl, old->stale_until);
      result.answer = cache_.insert(hash, question, std::move(stale), old->stale_until, never);
      return result;
    }
  }
  answer.ttl = cache_.bounded_ttl(answer);
  answer.expires_at = now + answer.ttl;
  // Only records serve on when stale: an old "no such name" would return mail for good.
  const bool records = answer.kind == Answer::Kind::records;
  const Instant stale_until = records ? answer.expires_at + options.stale_max : Instant::min();
  const bool refresh = records && options.refresh_percent > 0;
  const Instant refresh_at = refresh ? answer.expires_at - answer.ttl * options.refresh_percent / 100 : never;
  result.answer = cache_.insert(hash, question, std::move(answer), stale_until, refresh_at);
  return result;
}

std::vector<std::uint16_t> Cache::Reader::abandon(const Question& question) {
  const std::lock_guard lock(cache_.mutex_);
  return cache_.end_flight(question, shard_);
}

std::vector<std::uint16_t> Cache::end_flight(const Question& question, std::uint16_t shard) {
  const auto flight = flights_.find(question);
  POSTERN_CHECK(flight != flights_.end() && flight->second.owner == shard, "not this shard's flight");
  std::vector<std::uint16_t> waiting = std::move(flight->second.waiting);
  flights_.erase(flight);
  return waiting;
}

}  // namespace postern::dns
