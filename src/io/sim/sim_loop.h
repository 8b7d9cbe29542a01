// io::Loop on a simulated world. Made by World::make_loop().
//
// It is as unhelpful as the contract in io/loop.h allows: completions come in other orders than operations were
// started, receives take less than is there, accepts end with a good result, a receive buffer that was given back is
// overwritten (and poisoned under the address sanitizer), memory of an operation is read as late as can be. What the
// contract forbids a caller is noticed and told to World::breach().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "io/loop.h"
#include "io/sim/world.h"

namespace postern::io::sim {

class SimLoop final : public Loop, private Stream::Watcher, private Waker {
 public:
  SimLoop(World& world, const LoopOptions& options, std::size_t number);
  ~SimLoop() override;
  SimLoop(const SimLoop&) = delete;
  SimLoop& operator=(const SimLoop&) = delete;

  // --- for the world
  [[nodiscard]] bool ready() const { return !ready_.empty() || !unsubmitted_.empty() || woken_.load(); }
  [[nodiscard]] std::size_t number() const { return number_; }
  // The process dies. Writes under way land in part; from now on nothing has any effect.
  void die();

  // --- Loop
  StatusOr<Descriptor> listen(const Address& address, const ListenOptions& options) override;
  StatusOr<Address> local_address(Descriptor descriptor) override;
  StatusOr<Descriptor> open_stream(const Address& remote, const Address& source) override;
  StatusOr<Descriptor> open_datagram(const Address& remote, const Address& source) override;
  bool input_waiting(Descriptor descriptor) override;
  void shutdown(Descriptor descriptor) override;
  void shutdown_send(Descriptor descriptor) override;
  void close(Descriptor descriptor) override;
  void accept(Descriptor listener, Token token) override;
  bool accept_and_refuse(Descriptor listener, std::string_view farewell) override;
  void connect(Descriptor descriptor, const Address& remote, Token token) override;
  void recv(Descriptor descriptor, bool poll_first, Token token) override;
  void recv_into(Descriptor descriptor, MutableBytes target, bool poll_first, Token token) override;
  void send(Descriptor descriptor, std::span<const Slice> slices, Token token) override;
  void send_datagram(Descriptor descriptor, Bytes data, Token token) override;
  void recv_datagram(Descriptor descriptor, Token token) override;
  std::size_t receive_buffer_bytes() const override { return options_.receive_buffer_bytes; }
  std::size_t buffers_free() const override { return free_.size(); }
  void release(BufferId buffer) override;
  StatusOr<LogFile> open_log(const char* path, bool synced) override;
  void durable_write(const LogFile& file, Bytes data, std::uint64_t offset, Token token) override;
  void log_read(const LogFile& file, MutableBytes target, std::uint64_t offset, Token token) override;
  void file(const FileRequest& request, Token token) override;
  void run_task(Task& task, Token token) override;
  void cancel(Token token) override;
  Waker& waker() override { return *this; }
  Instant now() const override { return now_; }
  ClockPair clocks() override;
  void random(MutableBytes target) override;
  std::size_t run_once(Sink& sink, Instant deadline) override;
  std::uint64_t system_calls() const override { return calls_; }

 private:
  struct Operation {
    enum class What : std::uint8_t {
      accept,
      connect,
      receive,
      receive_into,
      send,
      send_datagram,
      receive_datagram,
      durable_write,
      log_read,
      file,
      task,
    };
    What what = What::accept;
    Token token;
    Descriptor descriptor = -1;
    Address remote{};
    MutableBytes target{};
    Bytes data{};
    std::span<const Slice> slices{};
    std::size_t done = 0;  // send: bytes taken
    std::uint64_t offset = 0;
    std::uint64_t hash = 0;  // of the memory lent to us, as it was at the start
    bool synced = true;      // durable_write
    FileRequest request{};
    Task* task = nullptr;
  };
  using OperationId = std::uint64_t;

  // What was started in this turn, in order; the kernel hears of it in the next run_once().
  struct Submission {
    OperationId operation = 0;  // 0: a cancel
    std::vector<OperationId> to_cancel{};
  };
  struct Ready {
    OperationId operation;
    Completion completion;
    Address peer{};
  };

  void wake() override { woken_.store(true); }
  void on_change(Stream& stream) override;

  OperationId start(Operation operation);
  void submit();
  void begin(OperationId id);
  void begin_slow(OperationId id);
  void cancel_now(OperationId id);
  // Lets the operations on a descriptor go on as far as they can.
  void poke(Descriptor descriptor);
  void advance(OperationId id, Operation& operation);
  void advance_accept(OperationId id, Operation& operation);
  void advance_receive(OperationId id, Operation& operation);
  void advance_send(OperationId id, Operation& operation);
  void advance_receive_datagram(OperationId id, Operation& operation);
  [[nodiscard]] std::int32_t perform(Operation& operation);
  [[nodiscard]] std::int32_t perform_file(const FileRequest& request);
  void tear(const Operation& operation);
  void end(OperationId id, std::int32_t result);
  void end(OperationId id, Completion completion, const Address& peer);
  void hand_out(Sink& sink, std::size_t place);
  [[nodiscard]] bool borrow(BufferId& id, MutableBytes& bytes);
  void give_back(std::uint16_t id);
  [[nodiscard]] static std::uint64_t hash_of(const Operation& operation);
  [[nodiscard]] std::byte* buffer(std::uint16_t id) { return memory_.data() + id * options_.receive_buffer_bytes; }

  World& world_;
  const LoopOptions options_;
  const std::size_t number_;
  Instant now_;
  std::map<OperationId, Operation> operations_;
  OperationId last_id_ = 0;
  std::map<Descriptor, std::vector<OperationId>> by_descriptor_;
  absl::flat_hash_map<const Stream*, Descriptor> by_stream_;  // never iterated: its order differs per process
  std::vector<Submission> unsubmitted_;
  std::vector<Ready> ready_;
  std::size_t tasks_ = 0;
  std::vector<std::byte> memory_;
  std::vector<std::uint16_t> free_;
  std::vector<bool> lent_;
  std::atomic<bool> woken_{false};
  std::uint64_t calls_ = 0;
  bool dead_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // events that outlive the loop look here
};

}  // namespace postern::io::sim
