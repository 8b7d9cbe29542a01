#include "io/record/recording_loop.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_set.h>

#include <postern/base/check.h>

namespace postern::io::record {
namespace {

using What = Entry::What;

class RecordingLoop final : public Loop, private Sink {
 public:
  RecordingLoop(std::unique_ptr<Loop> within, TraceWriter& trace) : within_(std::move(within)), trace_(trace) {}
  RecordingLoop(const RecordingLoop&) = delete;
  RecordingLoop& operator=(const RecordingLoop&) = delete;

  // --- what passes through
  StatusOr<Descriptor> listen(const Address& address, const ListenOptions& options) override {
    return within_->listen(address, options);
  }
  StatusOr<Address> local_address(Descriptor descriptor) override { return within_->local_address(descriptor); }
  StatusOr<Descriptor> open_datagram(const Address& remote, const Address& source) override {
    return within_->open_datagram(remote, source);
  }
  bool input_waiting(Descriptor descriptor) override { return within_->input_waiting(descriptor); }
  void shutdown(Descriptor descriptor) override { within_->shutdown(descriptor); }
  void shutdown_send(Descriptor descriptor) override { within_->shutdown_send(descriptor); }
  bool accept_and_refuse(Descriptor listener, std::string_view farewell) override {
    return within_->accept_and_refuse(listener, farewell);
  }
  void connect(Descriptor descriptor, const Address& remote, Token token) override {
    within_->connect(descriptor, remote, begin({.token = token}));
  }
  void send_datagram(Descriptor descriptor, Bytes data, Token token) override {
    within_->send_datagram(descriptor, data, begin({.token = token}));
  }
  void recv_datagram(Descriptor descriptor, Token token) override {
    within_->recv_datagram(descriptor, begin({.token = token}));
  }
  std::size_t receive_buffer_bytes() const override { return within_->receive_buffer_bytes(); }
  std::size_t buffers_free() const override { return within_->buffers_free(); }
  void release(BufferId buffer) override { within_->release(buffer); }
  void log_read(const LogFile& file, MutableBytes target, std::uint64_t offset, Token token) override {
    within_->log_read(file, target, offset, begin({.token = token}));
  }
  void run_task(Task& task, Token token) override { within_->run_task(task, begin({.token = token})); }
  Waker& waker() override { return within_->waker(); }
  Instant now() const override { return within_->now(); }
  ClockPair clocks() override { return within_->clocks(); }
  void random(MutableBytes target) override { within_->random(target); }
  std::uint64_t system_calls() const override { return within_->system_calls(); }

  // --- what is recorded
  StatusOr<Descriptor> open_stream(const Address& remote, const Address& source) override {
    StatusOr<Descriptor> opened = within_->open_stream(remote, source);
    if (opened.ok()) {
      incoming_.erase(*opened);
      trace_.add({.what = What::stream_out, .descriptor = *opened});
    }
    return opened;
  }
  void close(Descriptor descriptor) override {
    incoming_.erase(descriptor);
    trace_.add({.what = What::closed, .descriptor = descriptor});
    within_->close(descriptor);
  }
  void accept(Descriptor listener, Token token) override {
    within_->accept(listener, begin({.token = token, .accepts = true}));
  }
  void recv(Descriptor descriptor, bool poll_first, Token token) override {
    within_->recv(descriptor, poll_first, begin({.token = token, .hears = heard_from(descriptor)}));
  }
  void recv_into(Descriptor descriptor, MutableBytes target, bool poll_first, Token token) override {
    within_->recv_into(descriptor, target, poll_first, begin({.token = token, .hears = heard_from(descriptor)}));
  }
  void send(Descriptor descriptor, std::span<const Slice> slices, Token token) override {
    if (incoming_.contains(descriptor)) {
      std::vector<std::byte> said;
      for (const Slice& slice : slices) said.insert(said.end(), slice.data, slice.data + slice.size);
      trace_.add({.what = What::said, .descriptor = descriptor}, said);
    }
    within_->send(descriptor, slices, begin({.token = token}));
  }
  StatusOr<LogFile> open_log(const char* path, bool synced) override {
    StatusOr<LogFile> opened = within_->open_log(path, synced);
    if (opened.ok()) {
      trace_.add({.what = What::log_opened, .synced = synced, .descriptor = opened->descriptor, .path = path});
    }
    return opened;
  }
  void durable_write(const LogFile& file, Bytes data, std::uint64_t offset, Token token) override {
    const std::uint64_t operation = trace_.next_operation();
    trace_.add({.what = What::write,
                .synced = file.synced,
                .operation = operation,
                .descriptor = file.descriptor,
                .offset = offset},
               data);
    within_->durable_write(file, data, offset, begin({.token = token, .operation = operation}));
  }
  void file(const FileRequest& request, Token token) override {
    const std::uint64_t operation = trace_.next_operation();
    trace_.add({.what = What::file,
                .kind = request.kind,
                .operation = operation,
                .descriptor = request.descriptor,
                .open_flags = request.open_flags,
                .offset = request.offset,
                .length = request.length,
                .path = request.path == nullptr ? "" : request.path,
                .other_path = request.other_path == nullptr ? "" : request.other_path},
               request.data);
    within_->file(request, begin({.token = token, .operation = operation}));
  }
  void cancel(Token token) override {
    // In order, so that the loop within is asked the same in every run.
    for (std::size_t slot = 0; slot < pending_.size(); ++slot) {
      if (pending_[slot].used && pending_[slot].token == token) within_->cancel(name_of(slot));
    }
  }
  std::size_t run_once(Sink& sink, Instant deadline) override {
    sink_ = &sink;
    return within_->run_once(*this, deadline);
  }

 private:
  // An operation under way. The loop within knows it by its place in pending_, so that two with the caller's same token
  // are told apart.
  struct Pending {
    Token token;
    std::uint64_t operation = 0;  // of the trace; 0: not in it
    Descriptor hears = -1;
    bool accepts = false;
    bool used = false;
    std::uint32_t generation = 0;
  };

  [[nodiscard]] Descriptor heard_from(Descriptor descriptor) const {
    return incoming_.contains(descriptor) ? -1 : descriptor;
  }

  [[nodiscard]] Token name_of(std::size_t slot) const {
    return {.slot = static_cast<std::uint32_t>(slot), .generation = pending_[slot].generation & 0xFFFFFF, .kind = 1};
  }

  [[nodiscard]] Token begin(Pending pending) {
    if (free_.empty()) {
      free_.push_back(pending_.size());
      pending_.emplace_back();
    }
    const std::size_t slot = free_.back();
    free_.pop_back();
    pending.used = true;
    pending.generation = pending_[slot].generation + 1;
    pending_[slot] = pending;
    return name_of(slot);
  }

  void on_completion(const Completion& completion) override {
    const std::size_t slot = completion.token.slot;
    POSTERN_CHECK(slot < pending_.size() && pending_[slot].used && name_of(slot) == completion.token);
    const Pending pending = pending_[slot];
    if (!completion.more) {
      pending_[slot].used = false;
      free_.push_back(slot);
    }
    if (pending.operation != 0) {
      trace_.add({.what = What::end, .operation = pending.operation, .result = completion.result});
    }
    if (pending.accepts && completion.result >= 0) {
      incoming_.insert(completion.result);
      trace_.add({.what = What::stream_in, .descriptor = completion.result});
    }
    if (pending.hears >= 0 && completion.result > 0) {
      trace_.add({.what = What::heard, .descriptor = pending.hears}, completion.bytes);
    }
    Completion handed = completion;
    handed.token = pending.token;
    sink_->on_completion(handed);
  }

  const std::unique_ptr<Loop> within_;
  TraceWriter& trace_;
  Sink* sink_ = nullptr;
  std::vector<Pending> pending_;
  std::vector<std::size_t> free_;
  absl::flat_hash_set<Descriptor> incoming_;  // connections of this loop that were accepted
};

}  // namespace

std::unique_ptr<Loop> make_recording_loop(std::unique_ptr<Loop> within, TraceWriter& trace) {
  return std::make_unique<RecordingLoop>(std::move(within), trace);
}

}  // namespace postern::io::record
