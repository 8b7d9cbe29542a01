// What a message costs in the spool, without the disk.
//   append: one 1 KiB message into the batch, with its share of closing batches of ten; expected below 1 µs.
//   checksum: XXH3 under a secret; expected above 10 GB/s for content that was just copied.
//   recover: summaries and a scan of the tail; expected to be bound by memory speed.
// Surroundings (kernel, CPU, file system) do not matter beyond the CPU that Google Benchmark prints.
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/base/check.h>
#include <postern/spool/checksum.h>
#include <postern/spool/log.h>
#include <postern/spool/recovery.h>

namespace postern::spool {
namespace {

using Disk = std::map<std::uint32_t, std::vector<std::byte>>;

std::unique_ptr<Log> start(const Options& options, Disk* disk) {
  std::vector<SlotFile> files;
  if (disk != nullptr) {
    for (const auto& [slot, bytes] : *disk) files.push_back({Slot{slot}, bytes.size()});
  }
  Recovery recovery(1, options, std::move(files));
  while (!recovery.done()) {
    const auto read = recovery.take_read();
    std::memcpy(read->target.data(), disk->at(read->slot.value).data() + read->offset, read->target.size());
    recovery.on_read(OkStatus());
  }
  return std::make_unique<Log>(options, recovery.take_result());
}

// Everything that is not the append itself; writes go to `disk`, or nowhere.
void turn(Log& log, Disk* disk) {
  while (log.wants_key()) log.add_key(SegmentKey{std::byte{1}});
  while (const auto request = log.take_slot_request()) {
    if (disk != nullptr) {
      if (request->kind == SlotRequest::Kind::create) {
        (*disk)[request->slot.value].resize(request->bytes);
      } else {
        disk->erase(request->slot.value);
      }
    }
    log.on_slot_done(request->slot, OkStatus());
  }
  while (const auto write = log.take_write(Instant{} + std::chrono::hours(1))) {
    if (disk != nullptr) {
      std::memcpy((*disk)[write->slot.value].data() + write->offset, write->data.data(), write->data.size());
    }
    log.on_written(OkStatus(), Instant{});
    benchmark::DoNotOptimize(log.take_durable().data());
  }
}

void append_settle(benchmark::State& state) {
  const auto batch = static_cast<int>(state.range(0));
  const std::string content(static_cast<std::size_t>(state.range(1)), 'x');
  const std::string envelope(160, 'e');
  const auto log = start({}, nullptr);
  log->stop_waiting();
  turn(*log, nullptr);
  const Bytes piece = as_bytes(content);
  std::vector<std::pair<mail::QueueId, mail::Location>> last;
  for (auto _ : state) {
    for (int i = 0; i < batch; ++i) {
      MessageRecord record;
      record.id = log->next_queue_id();
      record.envelope = as_bytes(envelope);
      record.added_fields = as_bytes(envelope);
      record.content = {&piece, 1};
      record.facts.size = content.size();
      const auto location = log->append_message(record, Ticket{1});
      POSTERN_CHECK(location.ok());
      last.emplace_back(record.id, *location);
    }
    turn(*log, nullptr);
    for (const auto& [id, location] : last) {
      POSTERN_CHECK(log->append_settlement(location, id, 0, mail::Outcome::relayed, {}).ok());
    }
    last.clear();
  }
  turn(*log, nullptr);
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(append_settle)->ArgNames({"batch", "bytes"})->Args({1, 1024})->Args({10, 1024})->Args({5, 100 << 10});

void checksum(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)), std::byte{'x'});
  const Checksum keyed(SegmentKey{std::byte{7}});
  for (auto _ : state) benchmark::DoNotOptimize(keyed.of(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(checksum)->Arg(256)->Arg(1024)->Arg(100 << 10);

// `living` of 100 messages of 1 KiB live, of 60,000.
void recover(benchmark::State& state) {
  Disk disk;
  const std::string content(1024, 'x');
  const Bytes piece = as_bytes(content);
  std::uint64_t bytes = 0;
  {
    const auto log = start({}, &disk);
    log->stop_waiting();
    turn(*log, &disk);
    for (int i = 0; i < 60'000; ++i) {
      MessageRecord record;
      record.id = log->next_queue_id();
      record.envelope = as_bytes("envelope");
      record.content = {&piece, 1};
      record.facts.size = content.size();
      const auto location = log->append_message(record, {});
      POSTERN_CHECK(location.ok());
      if (i % 100 >= state.range(0)) {
        POSTERN_CHECK(log->append_settlement(*location, record.id, 0, mail::Outcome::relayed, {}).ok());
      }
      if (i % 50 == 49) turn(*log, &disk);
    }
    turn(*log, &disk);
  }
  for (auto _ : state) {
    const auto log = start({}, &disk);
    bytes += log->recovery_report().bytes_read;
    benchmark::DoNotOptimize(log->index().live_messages());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
  state.SetItemsProcessed(state.iterations() * 60'000);
}
BENCHMARK(recover)->ArgName("living")->Arg(1)->Arg(100)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace postern::spool

BENCHMARK_MAIN();
