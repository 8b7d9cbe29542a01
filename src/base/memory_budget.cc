#include <algorithm>

#include <postern/base/check.h>
#include <postern/base/memory_budget.h>

namespace postern {

MemoryBudget::MemoryBudget(const Options& options) : options_(options) {
  std::uint64_t reserved = 0;
  for (std::size_t i = 0; i < budget_classes; ++i) {
    POSTERN_CHECK(options.reserve_bytes[i] <= options.total_bytes - reserved, "reserves exceed the total");
    reserved += options.reserve_bytes[i];
    reserve_[i].free.store(options.reserve_bytes[i], std::memory_order_relaxed);
  }
  shared_.free.store(options.total_bytes - reserved, std::memory_order_relaxed);
}

std::uint64_t MemoryBudget::leased_bytes() const {
  std::uint64_t free = shared_.free.load(std::memory_order_relaxed);
  for (const Pool& pool : reserve_) free += pool.free.load(std::memory_order_relaxed);
  return free < options_.total_bytes ? options_.total_bytes - free : 0;  // the loads are no snapshot
}

// Relaxed everywhere: the numbers guard no other memory.
std::uint64_t MemoryBudget::take_up_to(Pool& pool, std::uint64_t bytes) {
  std::uint64_t free = pool.free.load(std::memory_order_relaxed);
  std::uint64_t taken = 0;
  do {
    taken = std::min(free, bytes);
    if (taken == 0) return 0;
  } while (!pool.free.compare_exchange_weak(free, free - taken, std::memory_order_relaxed));
  return taken;
}

bool MemoryBudget::acquire(BudgetClass budget_class, std::uint64_t bytes) {
  Pool& own = reserve_[static_cast<std::size_t>(budget_class)];
  const std::uint64_t from_own = take_up_to(own, bytes);
  const std::uint64_t from_shared = take_up_to(shared_, bytes - from_own);
  if (from_own + from_shared == bytes) return true;
  own.free.fetch_add(from_own, std::memory_order_relaxed);
  shared_.free.fetch_add(from_shared, std::memory_order_relaxed);
  return false;
}

// Fills the reserve first: it is there for the moment when the shared part is gone.
void MemoryBudget::release(BudgetClass budget_class, std::uint64_t bytes) {
  const auto index = static_cast<std::size_t>(budget_class);
  Pool& own = reserve_[index];
  std::uint64_t free = own.free.load(std::memory_order_relaxed);
  std::uint64_t filled = 0;
  do {
    filled = std::min(bytes, options_.reserve_bytes[index] - free);
    if (filled == 0) break;
  } while (!own.free.compare_exchange_weak(free, free + filled, std::memory_order_relaxed));
  if (bytes > filled) shared_.free.fetch_add(bytes - filled, std::memory_order_relaxed);
}

BudgetLease::~BudgetLease() {
  for (const Holding& holding : holding_)
    POSTERN_CHECK(holding.used == 0, "memory taken from the budget not given back");
  trim();
}

bool BudgetLease::refill(Holding& holding, BudgetClass budget_class, std::uint64_t bytes) {
  const std::uint64_t missing = bytes - holding.spare;
  std::uint64_t wanted = std::max(missing, budget_.lot_bytes());
  if (!budget_.acquire(budget_class, wanted)) {
    if (wanted == missing || !budget_.acquire(budget_class, missing)) return false;  // near the end, exactly that
    wanted = missing;
  }
  holding.spare += wanted;
  return true;
}

void BudgetLease::give(BudgetClass budget_class, std::uint64_t bytes) {
  Holding& holding = holding_[static_cast<std::size_t>(budget_class)];
  POSTERN_CHECK(bytes <= holding.used, "more given than taken");
  holding.used -= bytes;
  holding.spare += bytes;
  // One lot stays, so that a use that comes and goes around a lot's border does not reach for the shared numbers.
  if (const std::uint64_t lot = budget_.lot_bytes(); holding.spare >= 2 * lot) {
    budget_.release(budget_class, holding.spare - lot);
    holding.spare = lot;
  }
}

void BudgetLease::trim() {
  for (std::size_t i = 0; i < budget_classes; ++i) {
    if (holding_[i].spare > 0) budget_.release(static_cast<BudgetClass>(i), holding_[i].spare);
    holding_[i].spare = 0;
  }
}

}  // namespace postern
