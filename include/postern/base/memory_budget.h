// A budget in bytes for the whole process, shared by shards through leases.
//
// It counts, it allocates nothing: whoever wants memory takes from the budget first and is told no when there is none.
// Each class of use has a reserve that no other class can take, and all share the rest, so that a flood of intake
// leaves delivery room to empty the queue, and both leave control room to say so. A shard's lease holds bytes in lots,
// so that most take() and give() are two additions on the shard's own memory.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace postern {

enum class BudgetClass : std::uint8_t {
  intake,    // content and envelopes being received
  delivery,  // content read back, egress sessions, queues
  control,   // DSNs, caches' floor, administration
};
inline constexpr std::size_t budget_classes = 3;

// Used by any thread.
class MemoryBudget {
 public:
  struct Options {
    std::uint64_t total_bytes = 0;  // below 2^62
    // Indexed by BudgetClass; their sum is at most total_bytes.
    std::array<std::uint64_t, budget_classes> reserve_bytes{};
    // What a lease takes at a time. A lease holds at most two lots per class unused, so that lot_bytes × 2 × classes ×
    // shards should be a small share of total_bytes.
    std::uint64_t lot_bytes = 256u << 10;
  };
  explicit MemoryBudget(const Options& options);
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  [[nodiscard]] std::uint64_t total_bytes() const { return options_.total_bytes; }
  [[nodiscard]] std::uint64_t lot_bytes() const { return options_.lot_bytes; }
  // Held by leases, used or not; never above total_bytes. A snapshot, for metrics and admission.
  [[nodiscard]] std::uint64_t leased_bytes() const;

  // All of `bytes` or nothing. Lock-free.
  [[nodiscard]] bool acquire(BudgetClass budget_class, std::uint64_t bytes);
  void release(BudgetClass budget_class, std::uint64_t bytes);

 private:
  // Free bytes; their sum plus what is leased is always total_bytes, but for the moment of a transfer, when it is less.
  struct alignas(64) Pool {
    std::atomic<std::uint64_t> free{0};
  };
  [[nodiscard]] static std::uint64_t take_up_to(Pool& pool, std::uint64_t bytes);

  Options options_;
  std::array<Pool, budget_classes> reserve_;
  Pool shared_;
};

// One shard's share, used by that shard's thread only. Gives back at destruction what it holds unused; what is still
// taken then is our bug and stops the process.
class BudgetLease {
 public:
  explicit BudgetLease(MemoryBudget& budget) : budget_(budget) {}
  BudgetLease(const BudgetLease&) = delete;
  BudgetLease& operator=(const BudgetLease&) = delete;
  ~BudgetLease();

  // False: the budget has not that much left for this class; nothing was taken.
  [[nodiscard]] bool take(BudgetClass budget_class, std::uint64_t bytes) {
    Holding& holding = holding_[static_cast<std::size_t>(budget_class)];
    if (holding.spare < bytes && !refill(holding, budget_class, bytes)) [[unlikely]]
      return false;
    holding.spare -= bytes;
    holding.used += bytes;
    return true;
  }
  // Of what was taken in this class.
  void give(BudgetClass budget_class, std::uint64_t bytes);

  [[nodiscard]] std::uint64_t used_bytes(BudgetClass budget_class) const {
    return holding_[static_cast<std::size_t>(budget_class)].used;
  }
  // Gives all unused lots back: when the shard idles, or another one starves.
  void trim();

 private:
  struct Holding {
    std::uint64_t used = 0;
    std::uint64_t spare = 0;  // below two lots after every give()
  };
  [[nodiscard]] bool refill(Holding& holding, BudgetClass budget_class, std::uint64_t bytes);

  MemoryBudget& budget_;
  std::array<Holding, budget_classes> holding_;
};

}  // namespace postern
