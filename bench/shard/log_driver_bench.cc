// Is the spool as fast as its disk? Batches of mail become durable through LogDriver, Log and io_uring, with the
// settlements of the batch before, on a log whose segments have been written over many times; in turn with them, as
// many plain pwrite() calls of the same size to a file that is O_DIRECT|O_DSYNC and written before, one at a time.
//
//   commit/N    N messages of 1 KiB in one batch, which is made while the one before is being written, as a shard does.
//               commits and raw writes a second, `of_raw` the one by the other; (Time is that of 50 of them.) `cpu_us`
//               and `raw_cpu_us`: CPU of the process for each; `bytes` of one.
//   alone/N     the same, but each batch is made when the one before is durable: what a commit costs a disk at rest.
//
// Expected: of_raw at least 0.9 for commit; 5 to 20 µs of CPU above the raw write, growing with N by 0.5 µs each.
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
#include <utility>
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
    while (!ready_ || !driver_->log().intake_open()) turn(driver_->next_deadline());
  }

  // One batch: messages, and the end of those of a batch that is durable. Returns when all before it is durable and it
  // is on its way to the disk.
  void commit(int messages) {
    const std::uint64_t before = tickets_;
    append(messages);
    while (durable_ < before) turn(driver_->next_deadline());
    turn(Instant::min());
  }
  // Returns when all is durable.
  void finish() {
    while (durable_ < tickets_) turn(driver_->next_deadline());
  }

  [[nodiscard]] const spool::Log::Figures& figures() { return driver_->log().figures(); }

 private:
  struct Sent {
    mail::QueueId id;
    mail::Location location;
  };

  void append(int messages) {
    spool::Log& log = driver_->log();
    std::vector<Sent> sent;
    sent.reserve(static_cast<std::size_t>(messages));
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
        turn(driver_->next_deadline());
      }
    }
    for (const Sent& one : older_) {
      POSTERN_CHECK(log.append_settlement(one.location, one.id, 0, mail::Outcome::relayed, {}).ok(), "room is left");
    }
    older_ = std::exchange(before_, std::move(sent));
  }

  void turn(Instant deadline) {
    driver_->turn(loop_->now(), false);
    (void)loop_->run_once(*this, deadline);
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
  std::vector<Sent> before_;  // of the batch that may still be under way
  std::vector<Sent> older_;   // durable
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

// `alone`: nothing is made while the disk works.
void measure(benchmark::State& state, bool alone) {
  constexpr int rounds = 50;  // of commits, then of raw writes
  const Folder folder;
  const auto messages = static_cast<int>(state.range(0));
  Spool spool(folder.path());
  RawFile raw(folder.path() + "/raw");
  while (spool.figures().segments_recycled < 4) spool.commit(64);  // aged
  spool.commit(messages);
  spool.finish();

  double raw_seconds = 0, raw_cpu = 0, cpu = 0, time = 0;
  std::uint64_t commits = 0, bytes = 0;
  for (auto _ : state) {
    const std::uint64_t written = spool.figures().bytes_written;
    const std::uint64_t batches = spool.figures().batches;
    const double began = seconds(CLOCK_MONOTONIC), cpu_began = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < rounds; ++i) {
      spool.commit(messages);
      if (alone) spool.finish();
    }
    spool.finish();
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

void commit(benchmark::State& state) {
  measure(state, false);
}
BENCHMARK(commit)->Arg(1)->Arg(10)->Arg(64)->Arg(200)->UseManualTime()->Unit(benchmark::kMicrosecond);

void alone(benchmark::State& state) {
  measure(state, true);
}
BENCHMARK(alone)->Arg(1)->Arg(10)->Arg(64)->Arg(200)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace postern::shard

BENCHMARK_MAIN();
