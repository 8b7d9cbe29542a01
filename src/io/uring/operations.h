// The states of one loop's pending operations: a slab of fixed-size slots, and an index from tokens to slots for
// cancel.
//
// A completion entry names a slot and its generation, so a slot's state is found without a search. Slots grow by
// chunks that are kept, and never move (the kernel reads some of their content): in steady state starting and ending
// an operation allocates nothing and touches a few cache lines.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>

#include <postern/base/check.h>

#include "io/loop.h"
#include "io/task_pool.h"

namespace postern::io::uring {

// What user_data says: `part` distinguishes entries that belong to one operation; the rest names the slot.
struct UserData {
  static constexpr std::uint8_t part_main = 0;
  static constexpr std::uint8_t part_sync = 1;        // the fdatasync linked to a write
  static constexpr std::uint8_t part_ignored = 0xFE;  // cancel requests: their targets' completions tell
  static constexpr std::uint8_t part_wake = 0xFF;     // the eventfd's read

  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  // 24 bits
  std::uint8_t part = part_main;

  [[nodiscard]] std::uint64_t packed() const {
    return std::uint64_t{part} << 56 | std::uint64_t{generation} << 32 | slot;
  }
  [[nodiscard]] static UserData unpack(std::uint64_t value) {
    return {.slot = static_cast<std::uint32_t>(value),
            .generation = static_cast<std::uint32_t>(value >> 32) & 0xFF'FFFF,
            .part = static_cast<std::uint8_t>(value >> 56)};
  }
};

// A file transfer: repeated until all of it is done, as the kernel may do less at a time.
struct Transfer {
  Descriptor descriptor;
  bool direct;     // offsets stay multiples of log_alignment
  bool then_sync;  // each write is followed by a linked fdatasync
  std::byte* data;
  std::size_t size;
  std::size_t done;
  std::uint64_t offset;
  std::int32_t write_result;  // while its fdatasync is outstanding
};

// A datagram's or a gathering send's header, which the kernel reads when the entry is submitted (and writes,
// receiving).
struct Message {
  msghdr header;
  iovec buffer;
  sockaddr_storage name;
};

// What runs in the task pool.
struct Work : TaskPool::Job {
  std::uint32_t slot = 0;
  std::int32_t result = 0;
  Task* task = nullptr;  // or else `request`
  FileRequest request;
};

struct Operation {
  enum class What : std::uint8_t {
    idle,
    accept,
    receive,       // result bytes in a lent buffer
    receive_into,  // result bytes in `target`
    receive_datagram,
    plain,  // the result says it all
    transfer_in,
    transfer_out,
    allocate,  // in the ring; as Work where the file system cannot
    work,
  };

  Token token;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  // 24 bits
  std::uint32_t next = 0;        // in the bucket's chain, or of the free slots
  std::uint32_t previous = 0;
  What what = What::idle;
  std::uint8_t entries_due = 0;  // completion entries still to come
  union State {
    State() : target(nullptr) {}
    std::byte* target;
    Address remote;
    Transfer transfer;
    Message message;
    Work work;
  } state;
};

class Operations {
 public:
  static constexpr std::uint32_t none = 0xFFFF'FFFF;
  // Far more than descriptors allow; reaching it is a leak of ours.
  static constexpr std::size_t operations_max = std::size_t{1} << 22;

  Operations() { buckets_.fill(none); }

  [[nodiscard]] std::size_t pending() const { return pending_; }

  [[nodiscard]] Operation& begin(Token token, Operation::What what) {
    if (free_ == none) [[unlikely]]
      grow();
    Operation& operation = at(free_);
    free_ = operation.next;
    operation.token = token;
    operation.what = what;
    operation.entries_due = 1;
    std::uint32_t& head = buckets_[bucket_of(token)];
    operation.next = head;
    operation.previous = none;
    if (head != none) at(head).previous = operation.slot;
    head = operation.slot;
    ++pending_;
    return operation;
  }

  void end(Operation& operation) {
    if (operation.next != none) at(operation.next).previous = operation.previous;
    (operation.previous != none ? at(operation.previous).next : buckets_[bucket_of(operation.token)]) = operation.next;
    operation.what = Operation::What::idle;
    operation.generation = (operation.generation + 1) & 0xFF'FFFF;
    operation.next = free_;
    free_ = operation.slot;
    --pending_;
  }

  [[nodiscard]] Operation& at(std::uint32_t slot) { return chunks_[slot / chunk_size][slot % chunk_size]; }

  // The operation that a completion entry is about.
  [[nodiscard]] Operation& find(UserData data) {
    POSTERN_CHECK(data.slot < chunks_.size() * chunk_size, "a completion names an operation");
    Operation& operation = at(data.slot);
    POSTERN_CHECK(operation.generation == data.generation && operation.what != Operation::What::idle,
                  "a completion belongs to a pending operation");
    return operation;
  }

  // Operations that the ring still owes completion entries: all but what runs in, or waits for, the task pool.
  [[nodiscard]] std::size_t pending_in_ring() const;

  // Calls visit(Operation&) for each pending operation with this token. `visit` may end the one it is given, no other.
  template <class Visit>
  void for_each(Token token, Visit visit) {
    for (std::uint32_t slot = buckets_[bucket_of(token)]; slot != none;) {
      Operation& operation = at(slot);
      slot = operation.next;
      if (operation.token == token) visit(operation);
    }
  }

 private:
  static constexpr std::size_t chunk_size = 256;
  static constexpr std::size_t bucket_bits = 14;

  [[nodiscard]] static std::size_t bucket_of(Token token) {
    const std::uint64_t key =
        std::uint64_t{token.kind} << 56 | std::uint64_t{token.generation} << 32 | std::uint64_t{token.slot};
    return static_cast<std::size_t>((key * 0x9E37'79B9'7F4A'7C15u) >> (64 - bucket_bits));
  }

  void grow();

  std::vector<std::unique_ptr<Operation[]>> chunks_;
  std::array<std::uint32_t, std::size_t{1} << bucket_bits> buckets_;
  std::uint32_t free_ = none;
  std::size_t pending_ = 0;
};

}  // namespace postern::io::uring
