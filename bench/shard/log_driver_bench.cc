// Is the spool as fast as its disk? Batches of mail become durable through LogDriver, Log and io_uring, with the
// settlements of the batch before, on a log whose segments have been written over many times; in turn with them, as
// many plain pwrite() calls of the same size to a file that is O_DIRECT|O_DSYNC and written before, one at a time.
//
//   commit/N    N messages of 1 KiB in one batch. commits and raw writes a second, `of_raw` the one by the other;
//               (Time is that of 50 of them.) `cpu_us` and `raw_cpu_us`: CPU of the process for each; `bytes` of one.
//
// Expected: of_raw at least 0.9; 5 to 20 µs of CPU above the raw write, growing with N by 0.5 µs each.
// The folder is that of TMPDIR, or /var/tmp: it must be on the disk that is asked about. State file system and disk.
//
//   TMPDIR=/var/lib build/release/bench/shard_bench
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/base/check.h>
#include <postern/spool/aligned_buffer.h>

#include "io/uring/uring_loop.h"
#include "shard/log_driver.h"

namespace postern::shard {
namespace {

double seconds(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

class Folder {
 public:
  Folder() {
    const char* const base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/var/tmp") + "/postern-shard-bench-XXXXXX";
    POSTERN_CHECK(mkdtemp(path_.data()) != nullptr, "TMPDIR must be a folder that can be written to");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One log with its loop.
class Spool final : private LogUser, private io::Sink {
 public:
  explicit Spool(const std::string& data_dir) {
    std::filesystem::create_directory(data_dir + "/logs");
    auto loop = io::make_uring_loop({});
    POSTERN_CHECK(loop.ok(), "io_uring is needed");
    loop_ = std::move(*loop);
    spool::Options options;
    options.segment_bytes = 16u << 20;
    options.min_free_bytes = 0;
    driver_ = std::make_unique<LogDriver>(LogDriver::Setup{.loop = *loop_,
                                                           .user = *this,
                                                           .metrics = metrics_,
                                                           .said_buffered = said_buffered_,
                                                           .data_dir = data_dir,
                                                           .log = 0,
                                                           .synced = true,
                                                           .options = options,
                                                           .kind = 0,
                                                           .index = 0});
    driver_->start();
    while (!ready_ || !driver_->log().intake_open()) turn();
  }

  // One batch: messages, and the end of those of the batch before. Returns when it is durable.
  void commit(int messages) {
    spool::Log& log = driver_->log();
    std::vector<Sent> sent;
    for (int i = 0; i < messages; ++i) {
      spool::MessageRecord record;
      record.id = log.next_queue_id();
      record.envelope = Bytes(content_).first(150);
      record.added_fields = Bytes(content_).first(200);
      const Bytes piece(content_);
      record.content = {&piece, 1};
      record.facts.size = piece.size();
      for (;;) {
        const StatusOr<mail::Location> location = log.append_message(record, spool::Ticket{++tickets_});
        if (location.ok()) {
          sent.push_back({record.id, *location});
          break;
        }
        turn();
      }
    }
    for (const Sent& one : before_) {
      POSTERN_CHECK(log.append_settlement(one.location, one.id, 0, mail::Outcome::relayed, {}).ok(), "room is left");
    }
    before_ = std::move(sent);
    while (durable_ < tickets_) turn();
  }

  [[nodiscard]] const spool::Log::Figures& figures() { return driver_->log().figures(); }

 private:
  struct Sent {
    mail::QueueId id;
    mail::Location location;
  };

  void turn() {
    driver_->turn(loop_->now(), false);
    (void)loop_->run_once(*this, driver_->next_deadline());
  }

  void on_log_ready(LogDriver& /*driver*/) override { ready_ = true; }
  void on_log_unusable(LogDriver& /*driver*/, const Status& status) override { POSTERN_CHECK(status.ok(), "no spool"); }
  void on_durable(LogDriver& /*driver*/, spool::Ticket ticket) override { durable_ = ticket.value; }
  void on_undone(LogDriver& /*driver*/, spool::Ticket /*ticket*/) override {}
  void on_moved(LogDriver& /*driver*/, const spool::Moved& /*moved*/) override {}
  void on_replayed(LogDriver& /*driver*/, const spool::ReplayedMessage& /*message*/) override {}
  void on_replay_done(LogDriver& /*driver*/) override {}
  void on_log_failed(LogDriver& /*driver*/, const Status& status) override { POSTERN_CHECK(status.ok(), "the disk"); }
  void on_log_alarm(LogDriver& /*driver*/, std::string_view text) override {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
  }
  void on_log_room(LogDriver& /*driver*/) override {}
  void on_completion(const io::Completion& completion) override { driver_->on_completion(completion); }

  std::unique_ptr<io::Loop> loop_;
  Metrics metrics_;
  std::atomic<bool> said_buffered_{false};
  std::unique_ptr<LogDriver> driver_;
  bool ready_ = false;
  std::uint64_t tickets_ = 0;
  std::uint64_t durable_ = 0;
  std::vector<Sent> before_;
  std::vector<std::byte> content_ = std::vector<std::byte>(1024, std::byte{'x'});
};

class RawFile {
 public:
  static constexpr std::size_t file_bytes = 64u << 20;

  explicit RawFile(const std::string& path) : buffer_(1u << 20) {
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_DSYNC | O_CLOEXEC, 0600);
    POSTERN_CHECK(descriptor_ >= 0, "O_DIRECT is needed");
    for (std::size_t at = 0; at < file_bytes; at += buffer_.size()) write(at, buffer_.size());
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  ~RawFile() { close(descriptor_); }

  void write_next(std::size_t bytes) {
    if (next_ + bytes > file_bytes) next_ = 0;
    write(next_, bytes);
    next_ += bytes;
  }

 private:
  void write(std::size_t at, std::size_t bytes) {
    POSTERN_CHECK(pwrite(descriptor_, buffer_.data(), bytes, static_cast<off_t>(at)) == static_cast<ssize_t>(bytes),
                  "the disk");
  }

  spool::AlignedBuffer buffer_;
  int descriptor_ = -1;
  std::size_t next_ = 0;
};

void commit(benchmark::State& state) {
  constexpr int rounds = 50;  // of commits, then of raw writes
  const Folder folder;
  const auto messages = static_cast<int>(state.range(0));
  Spool spool(folder.path());
  RawFile raw(folder.path() + "/raw");
  while (spool.figures().segments_recycled < 4) spool.commit(64);  // aged
  spool.commit(messages);

  double raw_seconds = 0, raw_cpu = 0, cpu = 0, time = 0;
  std::uint64_t commits = 0, bytes = 0;
  for (auto _ : state) {
    const std::uint64_t written = spool.figures().bytes_written;
    const std::uint64_t batches = spool.figures().batches;
    const double began = seconds(CLOCK_MONOTONIC), cpu_began = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < rounds; ++i) spool.commit(messages);
    const double ended = seconds(CLOCK_MONOTONIC), cpu_ended = seconds(CLOCK_PROCESS_CPUTIME_ID);
    const std::uint64_t mean = (spool.figures().bytes_written - written) / (spool.figures().batches - batches);
    const std::size_t size = spool::round_up(mean, spool::block_bytes);
    for (int i = 0; i < rounds; ++i) raw.write_next(size);
    raw_seconds += seconds(CLOCK_MONOTONIC) - ended;
    raw_cpu += seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_ended;
    time += ended - began;
    cpu += cpu_ended - cpu_began;
    commits += rounds;
    bytes += spool.figures().bytes_written - written;
    state.SetIterationTime(ended - began);
  }
  const auto count = static_cast<double>(commits);
  state.counters["commits"] = count / time;
  state.counters["raw"] = count / raw_seconds;
  state.counters["of_raw"] = raw_seconds / time;
  state.counters["cpu_us"] = cpu / count * 1e6;
  state.counters["raw_cpu_us"] = raw_cpu / count * 1e6;
  state.counters["bytes"] = static_cast<double>(bytes) / count;
}
BENCHMARK(commit)->Arg(1)->Arg(10)->Arg(64)->Arg(200)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace postern::shard

BENCHMARK_MAIN();
