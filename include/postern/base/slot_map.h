// A table of objects with stable addresses, named by slot and generation.
//
// Made for completions of operations that may outlive their object: the name of an object that was erased finds
// nothing, also after the slot has a new tenant. 32 bits of slot and 24 of generation fit io::Token. A slot's
// generation comes round after 16 million tenants; an operation in flight for that long does not exist.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <postern/base/check.h>

namespace postern {

struct SlotId {
  static constexpr std::uint32_t generation_max = (1u << 24) - 1;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  // 1…generation_max; 0 names nothing

  [[nodiscard]] constexpr bool empty() const { return generation == 0; }
  // The slot's next tenant.
  [[nodiscard]] constexpr SlotId successor() const { return {slot, generation == generation_max ? 1 : generation + 1}; }
  friend constexpr auto operator<=>(const SlotId&, const SlotId&) = default;
};

template <class T>
class SlotMap {
 public:
  // At most `capacity` objects at a time. Memory comes in blocks of `block_slots` slots as it is first needed and is
  // kept.
  explicit SlotMap(std::uint32_t capacity) : capacity_(capacity) {}
  SlotMap(const SlotMap&) = delete;
  SlotMap& operator=(const SlotMap&) = delete;
  ~SlotMap() {
    for_each([this](SlotId id, T&) { erase(id); });
  }

  [[nodiscard]] std::uint32_t size() const { return size_; }
  [[nodiscard]] std::uint32_t capacity() const { return capacity_; }
  [[nodiscard]] bool full() const { return size_ == capacity_; }
  [[nodiscard]] std::size_t memory_bytes() const {
    return blocks_.size() * block_slots * sizeof(Cell) + blocks_.capacity() * sizeof(blocks_[0]);
  }

  // The name that the next emplace() will give; empty when the table is full.
  [[nodiscard]] SlotId next_id() const {
    if (full()) return {};
    if (free_ == no_slot) return {used_, 1};
    return {free_, cell(free_).generation};
  }

  // Constructs T(args...) in a free slot; nullptr when the table is full. id_of() gives its name; a constructor that
  // needs it asks next_id() before.
  template <class... Args>
  T* emplace(Args&&... args) {
    if (full()) return nullptr;
    std::uint32_t slot = free_;
    if (slot == no_slot) {
      if (used_ == blocks_.size() * block_slots) blocks_.push_back(std::make_unique<Cell[]>(block_slots));
      slot = used_++;
    } else {
      free_ = cell(slot).next_free;
    }
    Cell& place = cell(slot);
    place.slot = slot;
    T* const object = ::new (static_cast<void*>(place.storage)) T(std::forward<Args>(args)...);
    place.live = 1;
    ++size_;
    return object;
  }

  // nullptr when that object is gone.
  [[nodiscard]] T* find(SlotId id) {
    if (id.slot >= used_) return nullptr;
    Cell& place = cell(id.slot);
    return place.live != 0 && place.generation == id.generation ? place.object() : nullptr;
  }

  // `object` must live in this table.
  [[nodiscard]] SlotId id_of(const T& object) const {
    const auto* place = reinterpret_cast<const Cell*>(&object);
    return {place->slot, place->generation};
  }

  // Destroys the object; its name finds nothing from before its destructor runs. The object must exist.
  void erase(SlotId id) {
    T* const object = find(id);
    POSTERN_CHECK(object != nullptr, "no such slot");
    Cell& place = cell(id.slot);
    place.live = 0;
    place.generation = id.successor().generation & SlotId::generation_max;
    object->~T();
    place.next_free = free_;
    free_ = id.slot;
    --size_;
  }

  // Calls visit(SlotId, T&) for each object in the order of slots. The visitor may erase any object, also its own.
  template <class Visitor>
  void for_each(Visitor&& visit) {
    for (std::uint32_t slot = 0; slot < used_; ++slot) {
      Cell& place = cell(slot);
      if (place.live != 0) visit(SlotId{slot, place.generation}, *place.object());
    }
  }

 private:
  static constexpr std::uint32_t block_slots = 64;
  static constexpr std::uint32_t no_slot = UINT32_MAX;

  // `storage` comes first, so that an object's address is its cell's.
  struct Cell {
    alignas(T) std::byte storage[sizeof(T)];
    std::uint32_t generation : 24 = 1;
    std::uint32_t live : 8 = 0;
    union {
      std::uint32_t slot;       // while live
      std::uint32_t next_free;  // while free
    };
    Cell() : slot(0) {}
    [[nodiscard]] T* object() { return std::launder(reinterpret_cast<T*>(storage)); }
  };

  [[nodiscard]] Cell& cell(std::uint32_t slot) { return blocks_[slot / block_slots][slot % block_slots]; }
  [[nodiscard]] const Cell& cell(std::uint32_t slot) const { return blocks_[slot / block_slots][slot % block_slots]; }

  std::uint32_t capacity_;
  std::uint32_t size_ = 0;
  std::uint32_t used_ = 0;  // slots that have had a tenant
  std::uint32_t free_ = no_slot;
  std::vector<std::unique_ptr<Cell[]>> blocks_;
};

}  // namespace postern
