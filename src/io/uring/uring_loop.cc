#include "io/uring/uring_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <liburing.h>
#include <memory>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/random.h>
#include <sys/socket.h>

#include <postern/base/check.h>

#include "io/blocking_file.h"
#include "io/errors.h"
#include "io/event_waker.h"
#include "io/sockets.h"
#include "io/task_pool.h"
#include "io/uring/buffer_ring.h"
#include "io/uring/operations.h"
#include "io/uring/ring.h"

namespace postern::io {
namespace {

using uring::BufferRing;
using uring::Entry;
using uring::Message;
using uring::Operation;
using uring::Operations;
using uring::Ring;
using uring::Transfer;
using uring::UserData;
using uring::Work;
using What = Operation::What;

// One entry of a transfer: below the kernel's limit of 2 GiB less a page, and a multiple of log_alignment.
constexpr std::size_t transfer_entry_max = std::size_t{1} << 30;
static_assert(transfer_entry_max % Loop::log_alignment == 0);

static_assert(sizeof(Slice) == sizeof(iovec) && offsetof(Slice, data) == offsetof(iovec, iov_base) &&
              offsetof(Slice, size) == offsetof(iovec, iov_len));

template <class Clock>
typename Clock::time_point read_clock(clockid_t id) {
  timespec time{};
  clock_gettime(id, &time);
  return typename Clock::time_point(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

Instant monotonic_now() {
  return read_clock<MonotonicClock>(CLOCK_MONOTONIC);
}

void run_work(TaskPool::Job& job) {
  Work& work = static_cast<Work&>(job);
  if (work.task != nullptr) {
    work.task->run();
    work.result = 0;
  } else {
    work.result = perform_blocking(work.request);
  }
}

class UringLoop final : public Loop {
 public:
  UringLoop(const UringOptions& options, std::unique_ptr<Ring> ring, std::unique_ptr<BufferRing> buffers,
            std::unique_ptr<EventWaker> waker)
      : options_(options),
        waker_(std::move(waker)),
        ring_(std::move(ring)),
        buffers_(std::move(buffers)),
        pool_(std::in_place, options.task_threads, options.tasks_queued, *waker_),
        now_(monotonic_now()) {
    settled_.reserve(64);
  }
  ~UringLoop() override;
  UringLoop(const UringLoop&) = delete;
  UringLoop& operator=(const UringLoop&) = delete;

  StatusOr<Descriptor> listen(const Address& address, const ListenOptions& options) override {
    return listen_on(address, options, direct_calls_);
  }
  StatusOr<Address> local_address(Descriptor descriptor) override {
    return local_address_of(descriptor, direct_calls_);
  }
  StatusOr<Descriptor> open_stream(const Address& remote, const Address& source) override {
    return open_stream_socket(remote, source, direct_calls_);
  }
  StatusOr<Descriptor> open_datagram(const Address& remote, const Address& source) override {
    return open_datagram_socket(remote, source, direct_calls_);
  }
  bool input_waiting(Descriptor descriptor) override { return input_waits_in(descriptor, direct_calls_); }
  // Directly: as ring operations these always take a worker thread.
  void shutdown(Descriptor descriptor) override {
    ++direct_calls_;
    ::shutdown(descriptor, SHUT_RDWR);
  }
  void shutdown_send(Descriptor descriptor) override {
    ++direct_calls_;
    ::shutdown(descriptor, SHUT_WR);
  }
  void close(Descriptor descriptor) override {
    ++direct_calls_;
    ::close(descriptor);
    reserve_.on_closed();
  }

  void accept(Descriptor listener, Token token) override {
    io_uring_sqe& sqe = ring_->sqe();
    // No address: with multishot the kernel writes it to one place for all that come in a turn.
    io_uring_prep_multishot_accept(&sqe, listener, nullptr, nullptr, SOCK_CLOEXEC);
    start(sqe, token, What::accept);
  }
  bool accept_and_refuse(Descriptor listener, std::string_view farewell) override {
    return reserve_.accept_and_refuse(listener, farewell, direct_calls_);
  }
  void connect(Descriptor descriptor, const Address& remote, Token token) override {
    io_uring_sqe& sqe = ring_->sqe();
    Operation& operation = operations_.begin(token, What::plain);
    const Address& kept = *std::construct_at(&operation.state.remote, remote);
    io_uring_prep_connect(&sqe, descriptor, kept.kernel(), kept.kernel_size());
    name(sqe, operation);
  }
  void recv(Descriptor descriptor, bool poll_first, Token token) override {
    io_uring_sqe& sqe = ring_->sqe();
    io_uring_prep_recv(&sqe, descriptor, nullptr, buffers_->buffer_bytes(), 0);
    sqe.flags = IOSQE_BUFFER_SELECT;
    sqe.buf_group = BufferRing::group;
    if (poll_first) sqe.ioprio = IORING_RECVSEND_POLL_FIRST;
    start(sqe, token, What::receive);
  }
  void recv_into(Descriptor descriptor, MutableBytes target, bool poll_first, Token token) override {
    POSTERN_CHECK(!target.empty(), "a receive into nothing cannot tell the end of the stream");
    io_uring_sqe& sqe = ring_->sqe();
    io_uring_prep_recv(&sqe, descriptor, target.data(), std::min<std::size_t>(target.size(), INT_MAX), 0);
    if (poll_first) sqe.ioprio = IORING_RECVSEND_POLL_FIRST;
    Operation& operation = operations_.begin(token, What::receive_into);
    operation.state.target = target.data();
    name(sqe, operation);
  }
  void send(Descriptor descriptor, std::span<const Slice> slices, Token token) override;
  void send_datagram(Descriptor descriptor, Bytes data, Token token) override {
    io_uring_sqe& sqe = ring_->sqe();
    io_uring_prep_send(&sqe, descriptor, data.data(), data.size(), MSG_NOSIGNAL);
    start(sqe, token, What::plain);
  }
  void recv_datagram(Descriptor descriptor, Token token) override;

  std::size_t receive_buffer_bytes() const override { return buffers_->buffer_bytes(); }
  std::size_t buffers_free() const override { return buffers_->free(); }
  void release(BufferId buffer) override { buffers_->take_back(buffer.value); }

  StatusOr<LogFile> open_log(const char* path, bool synced) override;
  void durable_write(const LogFile& file, Bytes data, std::uint64_t offset, Token token) override {
    transfer(What::transfer_out,
             {.descriptor = file.descriptor,
              .direct = file.direct,
              .then_sync = file.synced && !file.direct,
              .data = const_cast<std::byte*>(data.data()),  // only read: What::transfer_out
              .size = data.size(),
              .done = 0,
              .offset = offset,
              .write_result = 0},
             token);
  }
  void log_read(const LogFile& file, MutableBytes target, std::uint64_t offset, Token token) override {
    transfer(What::transfer_in,
             {.descriptor = file.descriptor,
              .direct = file.direct,
              .then_sync = false,
              .data = target.data(),
              .size = target.size(),
              .done = 0,
              .offset = offset,
              .write_result = 0},
             token);
  }
  void file(const FileRequest& request, Token token) override;

  void run_task(Task& task, Token token) override {
    Operation& operation = operations_.begin(token, What::work);
    std::construct_at(&operation.state.work)->task = &task;
    submit_work(operation);
  }
  void cancel(Token token) override;
  Waker& waker() override { return *waker_; }

  Instant now() const override { return now_; }
  ClockPair clocks() override { return {.monotonic = monotonic_now(), .wall = read_clock<WallClock>(CLOCK_REALTIME)}; }
  void random(MutableBytes target) override;

  std::size_t run_once(Sink& sink, Instant deadline) override;
  std::uint64_t system_calls() const override { return ring_->system_calls() + direct_calls_; }

 private:
  // An operation that ended without the ring; handed out by the next run_once().
  struct Settled {
    std::uint32_t slot;
    std::int32_t result;
  };

  static void name(io_uring_sqe& sqe, const Operation& operation, std::uint8_t part = UserData::part_main) {
    sqe.user_data = UserData{.slot = operation.slot, .generation = operation.generation, .part = part}.packed();
  }
  void start(io_uring_sqe& sqe, Token token, What what) { name(sqe, operations_.begin(token, what)); }

  void transfer(What what, const Transfer& transfer, Token token);
  void submit_transfer(Operation& operation);
  // What a transfer's completion entry leads to: its result, or nothing while it goes on.
  [[nodiscard]] std::optional<std::int32_t> advance_transfer(Operation& operation, UserData data, std::int32_t result);
  void submit_work(Operation& operation);
  void cancel_entry(const Operation& operation, std::uint8_t part);
  void settle(Operation& operation, std::int32_t result) {
    operation.entries_due = 0;
    settled_.push_back({.slot = operation.slot, .result = result});
  }

  void begin_run();
  void arm_wake_read();
  void enter(Instant deadline);
  // Each returns how many completions were handed out.
  std::size_t hand_out(const Entry& entry, Sink& sink);
  std::size_t hand_out_accept(Operation& operation, const Entry& entry, Sink& sink);
  std::size_t hand_out_receive(Operation& operation, const Entry& entry, Sink& sink);
  std::size_t hand_out_settled(Sink& sink);
  std::size_t hand_out_work(Sink& sink, std::size_t count_max);
  std::size_t finish(Operation& operation, std::int32_t result, Sink& sink) {
    const Completion completion{.token = operation.token, .result = result};
    operations_.end(operation);
    sink.on_completion(completion);
    return 1;
  }
  void drain();

  const UringOptions options_;
  // In this order: the task threads use the waker, the buffers are registered with the ring.
  std::unique_ptr<EventWaker> waker_;
  std::uint64_t wake_count_ = 0;  // where the ring reads the eventfd to
  Operations operations_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<BufferRing> buffers_;
  std::optional<TaskPool> pool_;
  ReserveDescriptor reserve_;
  std::vector<Settled> settled_;
  Instant now_;
  std::uint64_t direct_calls_ = 0;
  bool running_ = false;  // run_once() was called, and its thread owns the ring
  bool wake_armed_ = false;
};

// --- starting
// ----------------------------------------------------------------------------------------------------------

void UringLoop::send(Descriptor descriptor, std::span<const Slice> slices, Token token) {
  POSTERN_CHECK(!slices.empty() && slices.size() <= slices_max, "a send has 1 to slices_max slices");
  io_uring_sqe& sqe = ring_->sqe();
  // MSG_WAITALL: the kernel goes on after a partial send, so that one completion says all.
  constexpr int flags = MSG_WAITALL | MSG_NOSIGNAL;
  if (slices.size() == 1) {
    // No header to import: cheaper.
    io_uring_prep_send(&sqe, descriptor, slices.front().data, slices.front().size, flags);
    start(sqe, token, What::plain);
    return;
  }
  Operation& operation = operations_.begin(token, What::plain);
  Message& message = *std::construct_at(&operation.state.message);
  message.header.msg_iov = reinterpret_cast<iovec*>(const_cast<Slice*>(slices.data()));
  message.header.msg_iovlen = slices.size();
  io_uring_prep_sendmsg(&sqe, descriptor, &message.header, flags);
  name(sqe, operation);
}

void UringLoop::recv_datagram(Descriptor descriptor, Token token) {
  io_uring_sqe& sqe = ring_->sqe();
  Operation& operation = operations_.begin(token, What::receive_datagram);
  Message& message = *std::construct_at(&operation.state.message);
  message.buffer = {.iov_base = nullptr, .iov_len = buffers_->buffer_bytes()};
  message.header.msg_name = &message.name;
  message.header.msg_namelen = sizeof message.name;
  message.header.msg_iov = &message.buffer;
  message.header.msg_iovlen = 1;
  io_uring_prep_recvmsg(&sqe, descriptor, &message.header, 0);
  sqe.flags = IOSQE_BUFFER_SELECT;
  sqe.buf_group = BufferRing::group;
  sqe.ioprio = IORING_RECVSEND_POLL_FIRST;
  name(sqe, operation);
}

StatusOr<Loop::LogFile> UringLoop::open_log(const char* path, bool synced) {
  constexpr int flags = O_RDWR | O_CLOEXEC;
  LogFile file{.descriptor = -1, .direct = false, .synced = synced};
  if (synced && !options_.refuse_direct) {
    ++direct_calls_;
    file.descriptor = ::open(path, flags | O_DIRECT | O_DSYNC);
    file.direct = file.descriptor >= 0;
  }
  // EINVAL: a file system without O_DIRECT. Anything else fails once more, and says so.
  if (!file.direct) {
    ++direct_calls_;
    file.descriptor = ::open(path, flags);
  }
  if (file.descriptor < 0) return errno_status(errno, std::string("opening ").append(path));
  return file;
}

void UringLoop::transfer(What what, const Transfer& transfer, Token token) {
  POSTERN_CHECK(transfer.size <= INT_MAX, "a transfer is below 2 GiB");
  Operation& operation = operations_.begin(token, what);
  std::construct_at(&operation.state.transfer, transfer);
  submit_transfer(operation);
}

void UringLoop::submit_transfer(Operation& operation) {
  const Transfer& transfer = operation.state.transfer;
  const auto size = static_cast<unsigned>(std::min(transfer.size - transfer.done, transfer_entry_max));
  std::byte* const data = transfer.data + transfer.done;
  const std::uint64_t offset = transfer.offset + transfer.done;
  if (operation.what == What::transfer_in) {
    io_uring_sqe& sqe = ring_->sqe();
    io_uring_prep_read(&sqe, transfer.descriptor, data, size, offset);
    name(sqe, operation);
    operation.entries_due = 1;
    return;
  }
  ring_->reserve(2);  // a link does not reach from one submission into the next
  io_uring_sqe& sqe = ring_->sqe();
  io_uring_prep_write(&sqe, transfer.descriptor, data, size, offset);
  name(sqe, operation);
  operation.entries_due = 1;
  if (!transfer.then_sync) return;
  sqe.flags = IOSQE_IO_LINK;
  io_uring_sqe& sync = ring_->sqe();
  io_uring_prep_fsync(&sync, transfer.descriptor, IORING_FSYNC_DATASYNC);
  name(sync, operation, UserData::part_sync);
  operation.entries_due = 2;
}

void UringLoop::file(const FileRequest& request, Token token) {
  const auto transfer_of = [&](std::byte* data, std::size_t size) {
    return Transfer{.descriptor = request.descriptor,
                    .direct = false,
                    .then_sync = false,
                    .data = data,
                    .size = size,
                    .done = 0,
                    .offset = request.offset,
                    .write_result = 0};
  };
  switch (request.kind) {
    case FileRequest::Kind::read:
      return transfer(What::transfer_in, transfer_of(request.target.data(), request.target.size()), token);
    case FileRequest::Kind::write:
      return transfer(What::transfer_out, transfer_of(const_cast<std::byte*>(request.data.data()), request.data.size()),
                      token);
    case FileRequest::Kind::file_size:
    case FileRequest::Kind::list_directory:
    case FileRequest::Kind::space:
    case FileRequest::Kind::identity: {
      Operation& operation = operations_.begin(token, What::work);
      std::construct_at(&operation.state.work)->request = request;
      return submit_work(operation);
    }
    case FileRequest::Kind::allocate: {
      io_uring_sqe& sqe = ring_->sqe();
      io_uring_prep_fallocate(&sqe, request.descriptor, 0, static_cast<off_t>(request.offset),
                              static_cast<off_t>(request.length));
      Operation& operation = operations_.begin(token, What::allocate);
      std::construct_at(&operation.state.work)->request = request;
      return name(sqe, operation);
    }
    default:
      break;
  }
  io_uring_sqe& sqe = ring_->sqe();
  switch (request.kind) {
    case FileRequest::Kind::open:
      io_uring_prep_openat(&sqe, AT_FDCWD, request.path, request.open_flags | O_CLOEXEC, request.mode);
      break;
    case FileRequest::Kind::sync:
      io_uring_prep_fsync(&sqe, request.descriptor, 0);
      break;
    case FileRequest::Kind::sync_data:
      io_uring_prep_fsync(&sqe, request.descriptor, IORING_FSYNC_DATASYNC);
      break;
    case FileRequest::Kind::rename:
      io_uring_prep_renameat(&sqe, AT_FDCWD, request.path, AT_FDCWD, request.other_path, 0);
      break;
    case FileRequest::Kind::rename_new:
      io_uring_prep_renameat(&sqe, AT_FDCWD, request.path, AT_FDCWD, request.other_path, RENAME_NOREPLACE);
      break;
    case FileRequest::Kind::unlink:
      io_uring_prep_unlinkat(&sqe, AT_FDCWD, request.path, 0);
      break;
    case FileRequest::Kind::make_directory:
      io_uring_prep_mkdirat(&sqe, AT_FDCWD, request.path, request.mode);
      break;
    default:
      io_uring_prep_close(&sqe, request.descriptor);
      break;
  }
  start(sqe, token, What::plain);
}

void UringLoop::submit_work(Operation& operation) {
  Work& work = operation.state.work;
  operation.what = What::work;
  work.slot = operation.slot;
  work.run = run_work;
  if (!pool_->submit(work)) settle(operation, -EAGAIN);
}

void UringLoop::cancel_entry(const Operation& operation, std::uint8_t part) {
  io_uring_sqe& sqe = ring_->sqe();
  io_uring_prep_cancel64(
      &sqe, UserData{.slot = operation.slot, .generation = operation.generation, .part = part}.packed(), 0);
  sqe.flags = IOSQE_CQE_SKIP_SUCCESS;
  sqe.user_data = UserData{.part = UserData::part_ignored}.packed();
}

void UringLoop::cancel(Token token) {
  operations_.for_each(token, [this](Operation& operation) {
    if (operation.what == What::work) {
      // entries_due is 0 when it has settled already.
      if (operation.entries_due != 0 && pool_->withdraw(operation.state.work)) settle(operation, -ECANCELED);
      return;
    }
    cancel_entry(operation, UserData::part_main);
    if (operation.what == What::transfer_out && operation.state.transfer.then_sync) {
      cancel_entry(operation, UserData::part_sync);
    }
  });
}

void UringLoop::random(MutableBytes target) {
  while (!target.empty()) {
    ++direct_calls_;
    const ssize_t size = getrandom(target.data(), target.size(), 0);
    POSTERN_CHECK(size > 0 || errno == EINTR, "getrandom answers");
    if (size > 0) target = target.subspan(static_cast<std::size_t>(size));
  }
}

// --- a turn
// ------------------------------------------------------------------------------------------------------------

void UringLoop::begin_run() {
  POSTERN_CHECK(ring_->own(), "a loop runs in the thread that ran it first");
  running_ = true;
  arm_wake_read();
}

void UringLoop::arm_wake_read() {
  io_uring_sqe& sqe = ring_->sqe();
  io_uring_prep_read(&sqe, waker_->descriptor(), &wake_count_, sizeof wake_count_, 0);
  sqe.user_data = UserData{.part = UserData::part_wake}.packed();
  wake_armed_ = true;
}

void UringLoop::enter(Instant deadline) {
  const bool nothing_yet = settled_.empty() && !pool_->any_done() && !ring_->completions_ready();
  if (nothing_yet && deadline != Instant::min()) {
    __kernel_timespec timeout{};
    bool wait = true;
    if (deadline != never) {
      const Instant start_of_wait = monotonic_now();
      wait = deadline > start_of_wait;
      const Duration left = wait ? deadline - start_of_wait : Duration::zero();
      const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
      timeout = {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    }
    if (wait) {
      // From begin_sleep() on a wake() writes the eventfd, which the ring waits for; before it, it prevents the sleep.
      if (waker_->begin_sleep()) {
        ring_->enter(true, deadline != never ? &timeout : nullptr);
      } else if (ring_->needs_enter()) {
        ring_->enter(false, nullptr);
      }
      waker_->end_sleep();
      return;
    }
  }
  if (ring_->needs_enter()) ring_->enter(false, nullptr);
}

std::size_t UringLoop::run_once(Sink& sink, Instant deadline) {
  if (!running_) [[unlikely]]
    begin_run();
  enter(deadline);
  now_ = monotonic_now();
  std::size_t count = 0;
  if (!settled_.empty()) [[unlikely]]
    count += hand_out_settled(sink);
  if (pool_->any_done()) [[unlikely]]
    count += hand_out_work(sink, options_.completions_per_turn);
  Entry entry;
  while (count < options_.completions_per_turn && ring_->next(entry)) count += hand_out(entry, sink);
  return count;
}

std::size_t UringLoop::hand_out(const Entry& entry, Sink& sink) {
  const UserData data = UserData::unpack(entry.user_data);
  if (data.part >= UserData::part_ignored) [[unlikely]] {
    if (data.part == UserData::part_wake) arm_wake_read();
    return 0;
  }
  Operation& operation = operations_.find(data);
  switch (operation.what) {
    case What::accept:
      return hand_out_accept(operation, entry, sink);
    case What::receive:
    case What::receive_into:
    case What::receive_datagram:
      return hand_out_receive(operation, entry, sink);
    case What::transfer_in:
    case What::transfer_out: {
      const std::optional<std::int32_t> result = advance_transfer(operation, data, entry.result);
      return result ? finish(operation, *result, sink) : 0;
    }
    case What::allocate:
      if (entry.result == -EOPNOTSUPP) {
        submit_work(operation);  // posix_fallocate() writes zeroes where the file system cannot reserve
        return 0;
      }
      return finish(operation, entry.result, sink);
    default:
      return finish(operation, entry.result, sink);
  }
}

std::size_t UringLoop::hand_out_accept(Operation& operation, const Entry& entry, Sink& sink) {
  Completion completion{.token = operation.token, .result = entry.result};
  completion.more = (entry.flags & IORING_CQE_F_MORE) != 0;
  if (!completion.more) operations_.end(operation);
  Address peer;
  if (entry.result >= 0) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    ++direct_calls_;
    if (::getpeername(entry.result, reinterpret_cast<sockaddr*>(&storage), &size) == 0) {
      peer = Address::from_kernel(reinterpret_cast<const sockaddr*>(&storage), size);
      completion.peer = &peer;
    } else {
      // Gone before we looked. Nobody misses it.
      ++direct_calls_;
      ::close(entry.result);
      if (completion.more) return 0;
      completion.result = -ECONNABORTED;
    }
  }
  sink.on_completion(completion);
  return 1;
}

std::size_t UringLoop::hand_out_receive(Operation& operation, const Entry& entry, Sink& sink) {
  Completion completion{.token = operation.token, .result = entry.result};
  Address peer;
  if ((entry.flags & IORING_CQE_F_BUFFER) != 0) {
    const auto id = static_cast<std::uint16_t>(entry.flags >> IORING_CQE_BUFFER_SHIFT);
    const MutableBytes bytes = buffers_->lend(id, entry.result > 0 ? static_cast<std::size_t>(entry.result) : 0);
    if (bytes.empty()) {
      // Some kernels take a buffer also for an end of stream or an error: nothing in it is of use to anybody.
      buffers_->take_back(id);
    } else {
      completion.buffer = {id};
      completion.bytes = bytes;
    }
  }
  if (entry.result >= 0) {
    completion.more_in_socket = entry.result > 0 && (entry.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
    if (operation.what == What::receive_into) {
      completion.bytes = {operation.state.target, static_cast<std::size_t>(entry.result)};
    } else if (operation.what == What::receive_datagram) {
      const msghdr& header = operation.state.message.header;
      peer = Address::from_kernel(static_cast<const sockaddr*>(header.msg_name), header.msg_namelen);
      completion.peer = &peer;
    }
  }
  operations_.end(operation);
  sink.on_completion(completion);
  return 1;
}

std::optional<std::int32_t> UringLoop::advance_transfer(Operation& operation, UserData data, std::int32_t result) {
  Transfer& transfer = operation.state.transfer;
  --operation.entries_due;
  if (transfer.then_sync) {
    std::int32_t sync_result = 0;
    if (data.part == UserData::part_sync) {
      sync_result = result;
    } else {
      transfer.write_result = result;
    }
    if (operation.entries_due > 0) return std::nullopt;
    result = transfer.write_result;
    // A short or failed write cancels its sync; then the write's result counts.
    const bool complete = result >= 0 && transfer.done + static_cast<std::size_t>(result) == transfer.size;
    if (complete && sync_result < 0) return sync_result;
  }
  if (result < 0) return result;
  transfer.done += static_cast<std::size_t>(result);
  const auto done = static_cast<std::int32_t>(transfer.done);
  if (transfer.done == transfer.size) return done;
  if (operation.what == What::transfer_in) {
    // At the end of the file; an O_DIRECT read stops there at any byte.
    if (result == 0 || (transfer.direct && transfer.done % log_alignment != 0)) return done;
  } else if (result == 0 || (transfer.direct && transfer.done % log_alignment != 0)) {
    return -EIO;  // no progress, and no way to go on
  }
  submit_transfer(operation);
  return std::nullopt;
}

std::size_t UringLoop::hand_out_settled(Sink& sink) {
  // What the sink settles in turn waits for the next turn.
  const std::size_t count = settled_.size();
  for (std::size_t i = 0; i < count; ++i) {
    const Settled settled = settled_[i];
    finish(operations_.at(settled.slot), settled.result, sink);
  }
  settled_.erase(settled_.begin(), settled_.begin() + static_cast<std::ptrdiff_t>(count));
  return count;
}

std::size_t UringLoop::hand_out_work(Sink& sink, std::size_t count_max) {
  std::size_t count = 0;
  while (count < count_max) {
    TaskPool::Job* const job = pool_->take_done();
    if (job == nullptr) break;
    const Work& work = static_cast<const Work&>(*job);
    count += finish(operations_.at(work.slot), work.result, sink);
  }
  return count;
}

// --- the end
// -----------------------------------------------------------------------------------------------------------

UringLoop::~UringLoop() {
  pool_.reset();
  // In another thread the owner has ended, and the kernel cancelled its operations with it.
  if (running_ && ring_->own()) drain();
}

void UringLoop::drain() {
  io_uring_sqe& sqe = ring_->sqe();
  io_uring_prep_cancel64(&sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
  sqe.user_data = UserData{.part = UserData::part_ignored}.packed();
  // 5 s, for a disk that answers slowly. One that does not answer at all must not hold up the end of the process.
  constexpr int waits_max = 50;
  constexpr __kernel_timespec wait{.tv_sec = 0, .tv_nsec = 100'000'000};
  for (int i = 0; i < waits_max && (wake_armed_ || operations_.pending_in_ring() > 0); ++i) {
    ring_->enter(true, &wait);
    Entry entry;
    while (ring_->next(entry)) {
      const UserData data = UserData::unpack(entry.user_data);
      if (data.part == UserData::part_wake) wake_armed_ = false;
      if (data.part >= UserData::part_ignored) continue;
      Operation& operation = operations_.find(data);
      if (operation.what == What::accept && entry.result >= 0) ::close(entry.result);
      if ((entry.flags & IORING_CQE_F_MORE) == 0 && --operation.entries_due == 0) operations_.end(operation);
    }
  }
}

}  // namespace

StatusOr<std::unique_ptr<Loop>> make_uring_loop(const UringOptions& options) {
  auto ring = Ring::create({.submission_entries = options.submission_entries,
                            .completion_entries = options.completion_entries,
                            .kernel_workers_max = options.kernel_workers});
  if (!ring.ok()) return ring.status();
  auto buffers =
      BufferRing::create((*ring)->raw(), {.count = options.receive_buffers, .bytes = options.receive_buffer_bytes});
  if (!buffers.ok()) return buffers.status();
  auto waker = EventWaker::create();
  if (!waker.ok()) return waker.status();
  return std::make_unique<UringLoop>(options, *std::move(ring), *std::move(buffers), *std::move(waker));
}

}  // namespace postern::io
