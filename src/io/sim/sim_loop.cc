#include "io/sim/sim_loop.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/hash.h>

#include "io/errors.h"

#if defined(__SANITIZE_ADDRESS__)
#define POSTERN_SIM_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POSTERN_SIM_POISON 1
#endif
#endif
#ifdef POSTERN_SIM_POISON
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#endif

namespace postern::io::sim {
namespace {

using Kind = World::Entry::Kind;

// What a receive buffer holds once it was given back: not text, not zero, not UTF-8.
constexpr int poison = 0xDB;
// Reading the clock takes this long, so that time passes for whoever waits by looking at it.
constexpr Duration clock_cost = std::chrono::nanoseconds(100);

}  // namespace

SimLoop::SimLoop(World& world, const LoopOptions& options, std::size_t number)
    : world_(world),
      options_(options),
      number_(number),
      now_(world.now()),
      memory_(options.receive_buffers * options.receive_buffer_bytes),
      lent_(options.receive_buffers) {
  POSTERN_CHECK(options.receive_buffers < BufferId::none, "buffers are named by 16 bits");
  for (std::size_t i = options.receive_buffers; i > 0; --i) give_back(static_cast<std::uint16_t>(i - 1));
}

SimLoop::~SimLoop() {
  *alive_ = false;
  ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size());
  std::erase(world_.loops_, this);
  std::erase_if(world_.attached_, [this](const World::Attached& each) { return each.loop == this; });
  if (dead_) return;
  for (World::Entry& entry : world_.entries_) {
    if (entry.kind == Kind::stream && by_stream_.contains(entry.stream.get())) entry.stream->watch(nullptr);
    if (entry.kind == Kind::listener) entry.listener->on_change = nullptr;
    if (entry.kind == Kind::datagram) entry.datagram->on_change = nullptr;
  }
}

void SimLoop::die() {
  if (std::exchange(dead_, true)) return;
  for (auto& [id, operation] : operations_) tear(operation);
  operations_.clear();
  by_descriptor_.clear();
  unsubmitted_.clear();
  ready_.clear();
}

// --- sockets: immediate ----------------------------------------------------------------------------------------------

StatusOr<Descriptor> SimLoop::listen(const Address& address, const ListenOptions& options) {
  ++calls_;
  if (dead_ || !world_.descriptors_left()) return errno_status(EMFILE, "socket");
  auto listener =
      world_.network().listen(address, options.reuse_port, static_cast<std::size_t>(std::max(options.backlog, 1)));
  if (!listener.ok()) return listener.status();
  return world_.add({.kind = Kind::listener, .listener = *std::move(listener)});
}

StatusOr<Address> SimLoop::local_address(Descriptor descriptor) {
  ++calls_;
  const World::Entry* const entry = dead_ ? nullptr : world_.find(descriptor);
  if (entry == nullptr) return errno_status(EBADF, "getsockname");
  switch (entry->kind) {
    case Kind::listener:
      return entry->listener->address;
    case Kind::stream:
      return entry->stream->local();
    case Kind::datagram:
      return entry->datagram->local;
    default:
      return errno_status(ENOTSOCK, "getsockname");
  }
}

bool SimLoop::input_waiting(Descriptor descriptor) {
  ++calls_;
  const World::Entry* const entry = dead_ ? nullptr : world_.find(descriptor);
  return entry != nullptr && entry->kind == Kind::stream && entry->stream->available() > 0;
}

StatusOr<Descriptor> SimLoop::open_stream(const Address& remote, const Address& source) {
  ++calls_;
  if (dead_ || !world_.descriptors_left()) return errno_status(EMFILE, "socket");
  if (!source.empty() && !Network::is_own(source.ip())) {
    return errno_status(EADDRNOTAVAIL, "binding to " + source.to_string());
  }
  return world_.add({.kind = Kind::stream, .stream = world_.network().make(remote, source)});
}

StatusOr<Descriptor> SimLoop::open_datagram(const Address& remote, const Address& source) {
  ++calls_;
  if (dead_ || !world_.descriptors_left()) return errno_status(EMFILE, "socket");
  auto socket = world_.network().open_datagram(remote, source);
  if (!socket.ok()) return socket.status();
  return world_.add({.kind = Kind::datagram, .datagram = *std::move(socket)});
}

void SimLoop::shutdown(Descriptor descriptor) {
  ++calls_;
  if (!world_.tick() || dead_) return;
  const World::Entry* const entry = world_.find(descriptor);
  if (entry == nullptr) return;
  if (entry->kind == Kind::stream) {
    const StreamPtr stream = entry->stream;
    if (stream->state() == Stream::State::connecting) stream->close();
    stream->send_end();
    stream->shut_receive();
  } else if (entry->kind == Kind::datagram) {
    entry->datagram->error = ESHUTDOWN;
  } else if (entry->kind == Kind::listener) {
    entry->listener->closed = true;
  }
  poke(descriptor);
}

void SimLoop::shutdown_send(Descriptor descriptor) {
  ++calls_;
  if (!world_.tick() || dead_) return;
  const World::Entry* const entry = world_.find(descriptor);
  if (entry == nullptr || entry->kind != Kind::stream) return;
  const StreamPtr stream = entry->stream;
  stream->send_end();
  poke(descriptor);
}

void SimLoop::close(Descriptor descriptor) {
  ++calls_;
  if (!world_.tick() || dead_) return;
  const World::Entry* const entry = world_.find(descriptor);
  if (entry == nullptr) {
    world_.breach("close of a descriptor that is not open");
    return;
  }
  if (const auto pending = by_descriptor_.find(descriptor);
      pending != by_descriptor_.end() && !pending->second.empty()) {
    world_.breach("close while an operation is pending");
  }
  if (entry->kind == Kind::stream) by_stream_.erase(entry->stream.get());
  world_.note("close", static_cast<std::uint64_t>(descriptor));
  world_.remove(descriptor);
}

bool SimLoop::accept_and_refuse(Descriptor listener, std::string_view farewell) {
  ++calls_;
  if (!world_.tick() || dead_) return false;
  const World::Entry* const entry = world_.find(listener);
  if (entry == nullptr || entry->kind != Kind::listener || entry->listener->waiting.empty()) return false;
  const StreamPtr stream = entry->listener->waiting.front();
  entry->listener->waiting.pop_front();
  world_.network().on_accepted(*entry->listener);
  (void)stream->send(farewell);
  stream->close();
  return true;
}

// --- starting --------------------------------------------------------------------------------------------------------

SimLoop::OperationId SimLoop::start(Operation operation) {
  if (dead_) return 0;
  ++calls_;
  const OperationId id = ++last_id_;
  operation.hash = hash_of(operation);
  if (operation.descriptor >= 0) by_descriptor_[operation.descriptor].push_back(id);
  operations_.emplace(id, operation);
  unsubmitted_.push_back({.operation = id});
  return id;
}

void SimLoop::accept(Descriptor listener, Token token) {
  start({.what = Operation::What::accept, .token = token, .descriptor = listener});
}

void SimLoop::connect(Descriptor descriptor, const Address& remote, Token token) {
  start({.what = Operation::What::connect, .token = token, .descriptor = descriptor, .remote = remote});
}

void SimLoop::recv(Descriptor descriptor, bool /*poll_first*/, Token token) {
  start({.what = Operation::What::receive, .token = token, .descriptor = descriptor});
}

void SimLoop::recv_into(Descriptor descriptor, MutableBytes target, bool /*poll_first*/, Token token) {
  POSTERN_CHECK(!target.empty(), "a receive into nothing cannot tell the end of the stream");
  start({.what = Operation::What::receive_into, .token = token, .descriptor = descriptor, .target = target});
}

void SimLoop::send(Descriptor descriptor, std::span<const Slice> slices, Token token) {
  POSTERN_CHECK(!slices.empty() && slices.size() <= slices_max, "a send has 1 to slices_max slices");
  start({.what = Operation::What::send, .token = token, .descriptor = descriptor, .slices = slices});
}

void SimLoop::send_datagram(Descriptor descriptor, Bytes data, Token token) {
  start({.what = Operation::What::send_datagram, .token = token, .descriptor = descriptor, .data = data});
}

void SimLoop::recv_datagram(Descriptor descriptor, Token token) {
  start({.what = Operation::What::receive_datagram, .token = token, .descriptor = descriptor});
}

StatusOr<Loop::LogFile> SimLoop::open_log(const char* path, bool synced) {
  ++calls_;
  if (!world_.tick() || dead_ || !world_.descriptors_left()) {
    return errno_status(EMFILE, std::string("opening ").append(path));
  }
  FilePtr file;
  if (const std::int32_t result = world_.disk().open(path, 0, file); result < 0) {
    return errno_status(-result, std::string("opening ").append(path));
  }
  const Descriptor descriptor = world_.add({.kind = Kind::file, .file = std::move(file)});
  return LogFile{.descriptor = descriptor, .direct = synced && !options_.refuse_direct, .synced = synced};
}

void SimLoop::durable_write(const LogFile& file, Bytes data, std::uint64_t offset, Token token) {
  start({.what = Operation::What::durable_write,
         .token = token,
         .descriptor = file.descriptor,
         .data = data,
         .offset = offset,
         .synced = file.synced});
}

void SimLoop::log_read(const LogFile& file, MutableBytes target, std::uint64_t offset, Token token) {
  start({.what = Operation::What::log_read,
         .token = token,
         .descriptor = file.descriptor,
         .target = target,
         .offset = offset});
}

void SimLoop::file(const FileRequest& request, Token token) {
  start({.what = Operation::What::file,
         .token = token,
         .descriptor = request.descriptor,
         .data = request.data,
         .request = request});
}

void SimLoop::run_task(Task& task, Token token) {
  start({.what = Operation::What::task, .token = token, .task = &task});
}

void SimLoop::cancel(Token token) {
  if (dead_) return;
  ++calls_;
  Submission submission;
  for (const auto& [id, operation] : operations_) {
    if (operation.token == token) submission.to_cancel.push_back(id);
  }
  if (!submission.to_cancel.empty()) unsubmitted_.push_back(std::move(submission));
}

// --- the kernel's side -----------------------------------------------------------------------------------------------

void SimLoop::submit() {
  const std::vector<Submission> submissions = std::exchange(unsubmitted_, {});
  for (const Submission& submission : submissions) {
    if (!world_.tick()) return;
    if (submission.operation != 0) {
      begin(submission.operation);
    } else {
      for (const OperationId id : submission.to_cancel) cancel_now(id);
    }
    if (dead_) return;
  }
}

void SimLoop::begin(OperationId id) {
  Operation& operation = operations_.at(id);
  world_.note("start", static_cast<std::uint64_t>(operation.what), operation.token.slot,
              static_cast<std::uint64_t>(operation.descriptor));
  using What = Operation::What;
  if (operation.what == What::task || operation.what == What::file || operation.what == What::durable_write ||
      operation.what == What::log_read) {
    return begin_slow(id);
  }
  World::Entry* const entry = world_.find(operation.descriptor);
  if (entry == nullptr) return end(id, -EBADF);
  switch (entry->kind) {
    case Kind::listener:
      if (operation.what != What::accept) return end(id, -EOPNOTSUPP);
      entry->listener->on_change = [this, descriptor = operation.descriptor] { poke(descriptor); };
      break;
    case Kind::stream: {
      const StreamPtr stream = entry->stream;
      by_stream_[stream.get()] = operation.descriptor;
      stream->watch(this);
      if (operation.what == What::connect) {
        world_.network().connect(stream, operation.remote);
        world_.network().count_outgoing(*stream);
        return;
      }
      break;
    }
    case Kind::datagram:
      entry->datagram->on_change = [this, descriptor = operation.descriptor] { poke(descriptor); };
      break;
    default:
      return end(id, -ENOTSOCK);
  }
  advance(id, operation);
}

void SimLoop::begin_slow(OperationId id) {
  const Operation& operation = operations_.at(id);
  if (operation.task != nullptr && ++tasks_ > options_.tasks_queued) {
    --tasks_;
    return end(id, -EAGAIN);
  }
  const Duration takes = operation.task != nullptr ? std::chrono::microseconds(100) : world_.disk().latency();
  if (operation.what == Operation::What::durable_write) world_.on_write_begun(takes);
  world_.at(world_.now() + takes, [this, id, alive = alive_] {
    if (!*alive || dead_) return;
    const auto found = operations_.find(id);
    if (found == operations_.end() || !world_.tick()) return;  // cancelled, or the crash came
    const std::int32_t result = perform(found->second);
    end(id, result);
  });
}

void SimLoop::cancel_now(OperationId id) {
  const auto found = operations_.find(id);
  if (found == operations_.end()) return;  // its completion is there already
  const Operation& operation = found->second;
  if (operation.task != nullptr) --tasks_;
  // A file operation that has begun goes on: half of them have.
  const bool on_disk = operation.what == Operation::What::file || operation.what == Operation::What::durable_write ||
                       operation.what == Operation::What::log_read;
  if (on_disk && world_.random().below(2) == 0) return;
  // What a send had taken is on its way.
  end(id, operation.what == Operation::What::send && operation.done > 0 ? static_cast<std::int32_t>(operation.done)
                                                                        : -ECANCELED);
}

void SimLoop::on_change(Stream& stream) {
  const auto found = by_stream_.find(&stream);
  if (found != by_stream_.end() && !dead_) poke(found->second);
}

void SimLoop::poke(Descriptor descriptor) {
  const auto found = by_descriptor_.find(descriptor);
  if (found == by_descriptor_.end()) return;
  const std::vector<OperationId> pending = found->second;  // a copy: operations end meanwhile
  for (const OperationId id : pending) {
    const auto operation = operations_.find(id);
    if (operation == operations_.end()) continue;
    const bool unsubmitted = std::any_of(unsubmitted_.begin(), unsubmitted_.end(),
                                         [id](const Submission& each) { return each.operation == id; });
    if (!unsubmitted) advance(id, operation->second);
  }
}

void SimLoop::advance(OperationId id, Operation& operation) {
  using What = Operation::What;
  const World::Entry* const entry = world_.find(operation.descriptor);
  if (entry == nullptr) return end(id, -EBADF);
  switch (operation.what) {
    case What::accept:
      return advance_accept(id, operation);
    case What::connect:
      if (entry->stream->state() == Stream::State::open) return end(id, 0);
      if (entry->stream->state() == Stream::State::closed) {
        return end(id, entry->stream->error() != 0 ? -entry->stream->error() : -ECONNRESET);
      }
      return;
    case What::receive:
    case What::receive_into:
      return entry->kind == Kind::stream ? advance_receive(id, operation) : end(id, -ENOTCONN);
    case What::send:
      return entry->kind == Kind::stream ? advance_send(id, operation) : end(id, -ENOTCONN);
    case What::send_datagram:
      world_.network().send_datagram(entry->datagram->local, entry->datagram->remote, as_text(operation.data));
      return end(id, static_cast<std::int32_t>(operation.data.size()));
    case What::receive_datagram:
      return advance_receive_datagram(id, operation);
    default:
      return;
  }
}

void SimLoop::advance_accept(OperationId id, Operation& operation) {
  const World::Entry* const found = world_.find(operation.descriptor);
  const ListenerPtr listener = found->listener;
  if (listener->closed) return end(id, -EINVAL);
  while (!listener->waiting.empty()) {
    if (!world_.descriptors_left()) return end(id, -EMFILE);
    const StreamPtr stream = listener->waiting.front();
    listener->waiting.pop_front();
    const Descriptor descriptor = world_.add({.kind = Kind::stream, .stream = stream});
    world_.note("accepted", static_cast<std::uint64_t>(descriptor));
    const bool more = !world_.chance(options_.accepts_that_end);
    end(id, {.token = operation.token, .result = descriptor, .more = more}, stream->remote());
    world_.network().on_accepted(*listener);
    if (!more) return;
  }
}

void SimLoop::advance_receive(OperationId id, Operation& operation) {
  const StreamPtr stream = world_.find(operation.descriptor)->stream;
  const std::size_t available = stream->available();
  if (available == 0) {
    if (stream->error() != 0) return end(id, -stream->error());
    if (stream->ended() || stream->state() == Stream::State::closed) return end(id, 0);
    if (stream->state() != Stream::State::open) return end(id, -ENOTCONN);
    return;
  }
  Completion completion{.token = operation.token};
  MutableBytes target = operation.target;
  if (operation.what == Operation::What::receive && !borrow(completion.buffer, target)) return end(id, -ENOBUFS);
  std::size_t size = std::min(available, target.size());
  if (size > 1 && world_.chance(options_.short_receives)) size = 1 + world_.random().below(size - 1);
  std::memcpy(target.data(), stream->front(size).data(), size);
  stream->pop(size);
  completion.result = static_cast<std::int32_t>(size);
  completion.bytes = target.first(size);
  completion.more_in_socket = stream->available() > 0;
  end(id, completion, {});
}

void SimLoop::advance_send(OperationId id, Operation& operation) {
  const StreamPtr stream = world_.find(operation.descriptor)->stream;
  std::size_t begin = 0;  // of the slice, within all
  for (const Slice& slice : operation.slices) {
    while (operation.done < begin + slice.size) {
      if (stream->state() != Stream::State::open || stream->end_sent()) {
        const int error = stream->error() != 0 ? stream->error() : EPIPE;
        return end(id, operation.done > 0 ? static_cast<std::int32_t>(operation.done) : -error);
      }
      const std::string_view rest(reinterpret_cast<const char*>(slice.data) + (operation.done - begin),
                                  slice.size - (operation.done - begin));
      const std::size_t taken = stream->send(rest);
      if (taken == 0) return;  // goes on when the other end has read
      operation.done += taken;
    }
    begin += slice.size;
  }
  if (hash_of(operation) != operation.hash) world_.breach("memory of a send changed before its completion");
  end(id, static_cast<std::int32_t>(operation.done));
}

void SimLoop::advance_receive_datagram(OperationId id, Operation& operation) {
  DatagramSocket& socket = *world_.find(operation.descriptor)->datagram;
  if (socket.error != 0) return end(id, socket.error == ESHUTDOWN ? 0 : -std::exchange(socket.error, 0));
  if (socket.received.empty()) return;
  Completion completion{.token = operation.token};
  MutableBytes target;
  if (!borrow(completion.buffer, target)) return end(id, -ENOBUFS);
  const DatagramSocket::Datagram datagram = std::move(socket.received.front());
  socket.received.pop_front();
  const std::size_t size = std::min(datagram.bytes.size(), target.size());
  std::memcpy(target.data(), datagram.bytes.data(), size);
  completion.result = static_cast<std::int32_t>(size);
  completion.bytes = target.first(size);
  end(id, completion, datagram.from);
}

// --- disk and tasks --------------------------------------------------------------------------------------------------

std::int32_t SimLoop::perform(Operation& operation) {
  using What = Operation::What;
  if (operation.task != nullptr) {
    --tasks_;
    operation.task->run();
    return 0;
  }
  if (operation.what == What::file) return perform_file(operation.request);
  const World::Entry* const entry = world_.find(operation.descriptor);
  if (entry == nullptr || entry->kind != Kind::file) return -EBADF;
  if (operation.what == What::log_read) {
    if (const int error = world_.disk().read_error(); error != 0) return -error;
    return world_.disk().read(*entry->file, operation.target, operation.offset);
  }
  if (hash_of(operation) != operation.hash) world_.breach("memory of a write changed before its completion");
  if (const int error = world_.disk().write_error(); error != 0) {
    tear(operation);
    return -error;
  }
  world_.note("disk: durable write", operation.offset, operation.data.size(), hash_bytes(operation.data));
  return world_.disk().write(*entry->file, operation.data, operation.offset, operation.synced);
}

std::int32_t SimLoop::perform_file(const FileRequest& request) {
  using FileKind = FileRequest::Kind;
  Disk& disk = world_.disk();
  world_.note("disk: file operation", static_cast<std::uint64_t>(request.kind), request.offset, request.data.size());
  switch (request.kind) {
    case FileKind::open: {
      if (!world_.descriptors_left()) return -EMFILE;
      FilePtr file;
      const std::int32_t result = disk.open(request.path, request.open_flags, file);
      return result < 0 ? result : world_.add({.kind = Kind::file, .file = std::move(file)});
    }
    case FileKind::rename:
    case FileKind::rename_new:
      return disk.rename(request.path, request.other_path, request.kind == FileKind::rename);
    case FileKind::unlink:
      return disk.unlink(request.path);
    case FileKind::make_directory:
      return disk.make_directory(request.path);
    case FileKind::file_size:
      return disk.file_size(request.path, *request.size_out);
    case FileKind::list_directory:
      return disk.list(request.path, *request.names_out);
    case FileKind::space:
      if (disk.find(request.path) == nullptr) return -ENOENT;
      *request.space_out = disk.space();
      return 0;
    case FileKind::identity: {
      const File* const found = disk.find(request.path);
      if (found == nullptr) return -ENOENT;
      *request.identity_out = {.device = 1, .inode = found->inode};
      return 0;
    }
    default:
      break;
  }
  const World::Entry* const entry = world_.find(request.descriptor);
  if (entry == nullptr || entry->kind != Kind::file) return -EBADF;
  const FilePtr file = entry->file;
  switch (request.kind) {
    case FileKind::close:
      world_.remove(request.descriptor);
      return 0;
    case FileKind::read:
      if (const int error = disk.read_error(); error != 0) return -error;
      return disk.read(*file, request.target, request.offset);
    case FileKind::write:
      if (const int error = disk.write_error(); error != 0) return -error;
      return disk.write(*file, request.data, request.offset, false);
    case FileKind::allocate:
      return disk.allocate(*file, request.offset, request.length);
    default:
      if (const int error = disk.write_error(); error != 0) return -error;
      return disk.sync(*file);
  }
}

void SimLoop::tear(const Operation& operation) {
  using What = Operation::What;
  const bool slow = operation.what == What::durable_write || operation.what == What::file;
  if (!slow) return;
  if (operation.what == What::file && operation.request.kind != FileRequest::Kind::write) {
    // Names and syncs happen or do not.
    using FileKind = FileRequest::Kind;
    const FileKind kind = operation.request.kind;
    const bool changes = kind == FileKind::sync || kind == FileKind::sync_data || kind == FileKind::allocate ||
                         kind == FileKind::rename || kind == FileKind::rename_new || kind == FileKind::unlink ||
                         kind == FileKind::make_directory;
    if (changes && world_.random().below(2) == 0) (void)perform_file(operation.request);
    return;
  }
  const World::Entry* const entry = world_.find(operation.descriptor);
  if (entry == nullptr || entry->kind != Kind::file) return;
  const bool durable = operation.what == What::durable_write && operation.synced;
  world_.disk().tear(*entry->file, operation.data,
                     operation.what == What::file ? operation.request.offset : operation.offset, durable);
}

// --- ends ------------------------------------------------------------------------------------------------------------

void SimLoop::end(OperationId id, std::int32_t result) {
  end(id, {.token = operations_.at(id).token, .result = result}, {});
}

void SimLoop::end(OperationId id, Completion completion, const Address& peer) {
  ready_.push_back({.operation = id, .completion = completion, .peer = peer});
  if (completion.more) return;
  const auto found = operations_.find(id);
  if (found->second.descriptor >= 0) {
    auto& pending = by_descriptor_[found->second.descriptor];
    std::erase(pending, id);
    if (pending.empty()) by_descriptor_.erase(found->second.descriptor);
  }
  operations_.erase(found);
}

std::size_t SimLoop::run_once(Sink& sink, Instant deadline) {
  if (dead_) return 0;
  submit();
  if (!world_.stepped()) {
    world_.pass(std::chrono::microseconds(1));
    world_.run_events(std::max(deadline, world_.now()), [&] {
      return woken_.load() || (!ready_.empty() && deadline != Instant::min()) ||
             (deadline == Instant::min() && (world_.events_.empty() || world_.events_.top().when > world_.now()));
    });
  }
  if (dead_) return 0;
  woken_.store(false);
  now_ = world_.now();
  std::size_t count = std::min(ready_.size(), options_.completions_per_turn);
  if (count > 1 && world_.chance(options_.disorder)) count = 1 + world_.random().below(count);
  for (std::size_t i = 0; i < count && !dead_; ++i) {
    std::size_t place = world_.chance(options_.disorder) ? world_.random().below(ready_.size()) : 0;
    // One operation's completions keep their order.
    const OperationId id = ready_[place].operation;
    for (std::size_t earlier = 0; earlier < place; ++earlier) {
      if (ready_[earlier].operation == id) place = earlier;
    }
    hand_out(sink, place);
  }
  return count;
}

void SimLoop::hand_out(Sink& sink, std::size_t place) {
  Ready ready = ready_[place];
  ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(place));
  Completion& completion = ready.completion;
  if (!ready.peer.empty()) completion.peer = &ready.peer;
  world_.note("completion", completion.token.kind, completion.token.slot,
              static_cast<std::uint64_t>(std::int64_t{completion.result}));
  sink.on_completion(completion);
}

// --- receive buffers -------------------------------------------------------------------------------------------------

bool SimLoop::borrow(BufferId& id, MutableBytes& bytes) {
  if (free_.empty()) return false;
  const std::size_t place = world_.chance(options_.disorder) ? world_.random().below(free_.size()) : free_.size() - 1;
  std::swap(free_[place], free_.back());
  id = {free_.back()};
  free_.pop_back();
  lent_[id.value] = true;
  bytes = {buffer(id.value), options_.receive_buffer_bytes};
  ASAN_UNPOISON_MEMORY_REGION(bytes.data(), bytes.size());
  return true;
}

void SimLoop::release(BufferId id) {
  if (id.value >= lent_.size() || !lent_[id.value]) {
    world_.breach("release of a buffer that is not lent");
    return;
  }
  lent_[id.value] = false;
  give_back(id.value);
}

void SimLoop::give_back(std::uint16_t id) {
  std::memset(buffer(id), poison, options_.receive_buffer_bytes);
  ASAN_POISON_MEMORY_REGION(buffer(id), options_.receive_buffer_bytes);
  free_.push_back(id);
}

std::uint64_t SimLoop::hash_of(const Operation& operation) {
  std::uint64_t hash = hash_bytes(operation.data);
  for (const Slice& slice : operation.slices) hash = hash_bytes({slice.data, slice.size}, hash);
  return hash;
}

// --- the rest --------------------------------------------------------------------------------------------------------

ClockPair SimLoop::clocks() {
  world_.pass(clock_cost);
  return {.monotonic = world_.now(), .wall = world_.wall()};
}

void SimLoop::random(MutableBytes target) {
  for (std::byte& each : target) each = static_cast<std::byte>(world_.random()());
}

}  // namespace postern::io::sim
