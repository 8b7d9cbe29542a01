// Conformance: disk, tasks, wakes, and the turn itself.
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <future>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/io/conformance.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;
using Kind = FileRequest::Kind;

// Memory as log operations need it.
class Aligned {
 public:
  Aligned(std::size_t size, unsigned char fill)
      : bytes_(static_cast<std::byte*>(std::aligned_alloc(Loop::log_alignment, size))), size_(size) {
    std::memset(bytes_.get(), fill, size);
  }
  [[nodiscard]] MutableBytes bytes() const { return {bytes_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  std::size_t size_;
};

// --- disk ------------------------------------------------------------------------------------------------------------

TEST_P(Conformance, DurableWriteIsReadBack) {
  for (const bool refuse_direct : {false, true}) {
    for (const bool synced : {true, false}) {
      SCOPED_TRACE(std::string(refuse_direct ? "O_DIRECT refused" : "O_DIRECT") + (synced ? ", synced" : ""));
      start({.refuse_direct = refuse_direct});
      const std::string path =
          make_file(std::string("log") + (refuse_direct ? "r" : "d") + (synced ? "s" : "u"), 256u << 10);
      const auto log = loop().open_log(path.c_str(), synced);
      ASSERT_TRUE(log.ok()) << log.status().message();
      EXPECT_EQ(log->synced, synced);
      if (refuse_direct || !synced) {
        EXPECT_FALSE(log->direct);
      }
      const Aligned first(4096, 0xA1);
      const Aligned second(64u << 10, 0xB2);
      const Token writing = token();
      loop().durable_write(*log, first.bytes(), 8192, writing);
      EXPECT_EQ(await(writing).result, 4096);
      const Token writing_more = token();
      loop().durable_write(*log, second.bytes(), 64u << 10, writing_more);
      EXPECT_EQ(await(writing_more).result, 64 << 10);
      settle(10ms);
      EXPECT_EQ(seen().of(writing).size(), 1u) << "a write and its sync are one operation";

      const Aligned back(256u << 10, 0xFF);
      const Token reading = token();
      loop().log_read(*log, back.bytes(), 0, reading);
      EXPECT_EQ(await(reading).result, 256 << 10);
      EXPECT_EQ(std::memcmp(back.bytes().data() + 8192, first.bytes().data(), 4096), 0);
      EXPECT_EQ(std::memcmp(back.bytes().data() + (64u << 10), second.bytes().data(), 64u << 10), 0);
      EXPECT_EQ(back.bytes()[8191], std::byte{0});
      EXPECT_EQ(back.bytes()[8192 + 4096], std::byte{0});
      close(log->descriptor);
    }
  }
}

TEST_P(Conformance, LogReadEndsAtTheEndOfTheFile) {
  for (const bool refuse_direct : {false, true}) {
    start({.refuse_direct = refuse_direct});
    const std::string path = make_file(refuse_direct ? "short-r" : "short-d", 4096 + 100);
    const auto log = loop().open_log(path.c_str(), true);
    ASSERT_TRUE(log.ok()) << log.status().message();
    const Aligned back(16384, 0xFF);
    const Token reading = token();
    loop().log_read(*log, back.bytes(), 0, reading);
    EXPECT_EQ(await(reading).result, 4096 + 100);
    const Token behind = token();
    loop().log_read(*log, back.bytes(), 8192, behind);
    EXPECT_EQ(await(behind).result, 0);
    close(log->descriptor);
  }
}

TEST_P(Conformance, FailedDurableWriteIsOneCompletionWithItsError) {
  for (const bool refuse_direct : {false, true}) {
    start({.refuse_direct = refuse_direct});
    const Aligned data(4096, 1);
    const Token writing = token();
    loop().durable_write({.descriptor = 1 << 20, .direct = !refuse_direct, .synced = true}, data.bytes(), 0, writing);
    EXPECT_EQ(await(writing).result, -EBADF);
    settle(10ms);
    EXPECT_EQ(seen().of(writing).size(), 1u);
  }
}

TEST_P(Conformance, LogThatIsNotThereIsNotFound) {
  start();
  const auto log = loop().open_log((directory() + "/none").c_str(), true);
  ASSERT_FALSE(log.ok());
  EXPECT_EQ(log.status().code(), StatusCode::kNotFound);
}

TEST_P(Conformance, FileOperationsWriteReadAndName) {
  start();
  const std::string folder = directory() + "/new";
  const std::string path = folder + "/file";
  const std::string other = folder + "/other";
  EXPECT_EQ(file({.kind = Kind::make_directory, .path = folder.c_str(), .mode = 0700}), 0);
  EXPECT_EQ(file({.kind = Kind::make_directory, .path = folder.c_str(), .mode = 0700}), -EEXIST);

  const Descriptor descriptor =
      file({.kind = Kind::open, .path = path.c_str(), .open_flags = O_CREAT | O_EXCL | O_RDWR, .mode = 0600});
  ASSERT_GE(descriptor, 0);
  if (GetParam().kernel_descriptors) {
    EXPECT_NE(fcntl(descriptor, F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_EQ(file({.kind = Kind::write, .descriptor = descriptor, .data = as_bytes("hello, world"), .offset = 0}), 12);
  EXPECT_EQ(file({.kind = Kind::write, .descriptor = descriptor, .data = as_bytes("W"), .offset = 7}), 1);
  EXPECT_EQ(file({.kind = Kind::write, .descriptor = descriptor, .data = {}, .offset = 0}), 0);
  EXPECT_EQ(file({.kind = Kind::sync, .descriptor = descriptor}), 0);
  EXPECT_EQ(file({.kind = Kind::sync_data, .descriptor = descriptor}), 0);
  std::string text(100, '\0');
  const MutableBytes target{reinterpret_cast<std::byte*>(text.data()), text.size()};
  EXPECT_EQ(file({.kind = Kind::read, .descriptor = descriptor, .target = target, .offset = 5}), 7);
  EXPECT_EQ(text.substr(0, 7), ", World");

  std::uint64_t size = 0;
  EXPECT_EQ(file({.kind = Kind::file_size, .path = path.c_str(), .size_out = &size}), 0);
  EXPECT_EQ(size, 12u);
  EXPECT_EQ(file({.kind = Kind::allocate, .descriptor = descriptor, .offset = 0, .length = 10'000}), 0);
  EXPECT_EQ(file({.kind = Kind::file_size, .path = path.c_str(), .size_out = &size}), 0);
  EXPECT_EQ(size, 10'000u);
  EXPECT_EQ(file({.kind = Kind::close, .descriptor = descriptor}), 0);
  EXPECT_EQ(file({.kind = Kind::sync, .descriptor = descriptor}), -EBADF);

  EXPECT_EQ(file({.kind = Kind::rename, .path = path.c_str(), .other_path = other.c_str()}), 0);
  EXPECT_EQ(file({.kind = Kind::open, .path = path.c_str(), .open_flags = O_RDONLY}), -ENOENT);
  const Descriptor again =
      file({.kind = Kind::open, .path = path.c_str(), .open_flags = O_CREAT | O_WRONLY, .mode = 0600});
  ASSERT_GE(again, 0);
  EXPECT_EQ(file({.kind = Kind::close, .descriptor = again}), 0);
  EXPECT_EQ(file({.kind = Kind::rename_new, .path = path.c_str(), .other_path = other.c_str()}), -EEXIST);
  EXPECT_EQ(file({.kind = Kind::rename, .path = path.c_str(), .other_path = other.c_str()}), 0) << "it replaces";
  EXPECT_EQ(file({.kind = Kind::rename_new, .path = other.c_str(), .other_path = path.c_str()}), 0);

  const Descriptor folder_descriptor =
      file({.kind = Kind::open, .path = folder.c_str(), .open_flags = O_RDONLY | O_DIRECTORY});
  ASSERT_GE(folder_descriptor, 0);
  EXPECT_EQ(file({.kind = Kind::sync, .descriptor = folder_descriptor}), 0);
  EXPECT_EQ(file({.kind = Kind::close, .descriptor = folder_descriptor}), 0);
  EXPECT_EQ(file({.kind = Kind::unlink, .path = path.c_str()}), 0);
  EXPECT_EQ(file({.kind = Kind::unlink, .path = path.c_str()}), -ENOENT);
}

TEST_P(Conformance, DirectoriesAreListedInOrderWithoutDots) {
  start();
  for (const char* const name : {"b", "c", "a", ".hidden"}) (void)make_file(name, 0);
  std::vector<std::string> names{"left over"};
  EXPECT_EQ(file({.kind = Kind::list_directory, .path = directory().c_str(), .names_out = &names}), 0);
  EXPECT_EQ(names, (std::vector<std::string>{".hidden", "a", "b", "c"}));
  const std::string none = directory() + "/none";
  EXPECT_EQ(file({.kind = Kind::list_directory, .path = none.c_str(), .names_out = &names}), -ENOENT);
  std::uint64_t size = 0;
  EXPECT_EQ(file({.kind = Kind::file_size, .path = none.c_str(), .size_out = &size}), -ENOENT);
}

TEST_P(Conformance, SpaceOfAFileSystemIsToldInBytes) {
  start();
  FileRequest::Space space;
  EXPECT_EQ(file({.kind = Kind::space, .path = directory().c_str(), .space_out = &space}), 0);
  EXPECT_GT(space.total_bytes, 0u);
  EXPECT_LE(space.free_bytes, space.total_bytes);
}

TEST_P(Conformance, AFileIsKnownAgainByItsIdentity) {
  start();
  const std::string a = make_file("a", 0);
  const std::string b = make_file("b", 0);
  const std::string c = directory() + "/c";
  const auto identity = [&](const std::string& path) {
    FileRequest::Identity found;
    EXPECT_EQ(file({.kind = Kind::identity, .path = path.c_str(), .identity_out = &found}), 0) << path;
    return found;
  };
  const FileRequest::Identity of_a = identity(a);
  EXPECT_EQ(identity(a), of_a);
  EXPECT_NE(identity(b), of_a);
  EXPECT_NE(identity(directory()), of_a);
  EXPECT_EQ(file({.kind = Kind::rename, .path = a.c_str(), .other_path = c.c_str()}), 0);
  EXPECT_EQ(identity(c), of_a);
  FileRequest::Identity none;
  EXPECT_EQ(file({.kind = Kind::identity, .path = a.c_str(), .identity_out = &none}), -ENOENT);
}

// --- tasks -----------------------------------------------------------------------------------------------------------

class Blocking final : public Task {
 public:
  void run() override {
    began.count_down();
    may_end.wait();
    thread = std::this_thread::get_id();
  }
  std::latch began{1};
  std::latch may_end{1};
  std::thread::id thread;
};

class Counting final : public Task {
 public:
  void run() override { ++runs; }
  int runs = 0;
};

TEST_P(Conformance, TaskRunsOffTheThreadAndWakesTheLoop) {
  if (!GetParam().task_threads) GTEST_SKIP() << "the task waits for the test, so it needs a thread of its own";
  start();
  Blocking task;
  const Token running = token();
  loop().run_task(task, running);
  task.began.wait();
  (void)loop().run_once(seen(), Instant::min());
  EXPECT_FALSE(has_come(running)) << "the loop goes on meanwhile";
  std::thread releasing([&] {
    std::this_thread::sleep_for(20ms);
    task.may_end.count_down();
  });
  EXPECT_EQ(await(running).result, 0);
  releasing.join();
  EXPECT_NE(task.thread, std::this_thread::get_id());
}

TEST_P(Conformance, ManyTasksAllRunOnce) {
  start({.tasks_queued = 200});
  std::vector<Counting> tasks(200);
  const Token running = token();
  for (Counting& task : tasks) loop().run_task(task, running);
  (void)await(running, tasks.size());
  for (const Event& event : seen().of(running)) EXPECT_EQ(event.result, 0);
  for (const Counting& task : tasks) EXPECT_EQ(task.runs, 1);
}

TEST_P(Conformance, QueuedTasksAreBoundedAndCancelled) {
  if (!GetParam().task_threads) GTEST_SKIP() << "the task waits for the test, so it needs a thread of its own";
  start({.task_threads = 1, .tasks_queued = 2});
  Blocking first;
  std::vector<Counting> others(3);
  const Token running = token();
  const Token queued = token();
  const Token refused = token();
  loop().run_task(first, running);
  first.began.wait();
  loop().run_task(others[0], queued);
  loop().run_task(others[1], queued);
  loop().run_task(others[2], refused);
  EXPECT_EQ(await(refused).result, -EAGAIN);
  loop().cancel(queued);
  loop().cancel(running);  // too late: it runs to its end
  EXPECT_EQ(await(queued, 2).result, -ECANCELED);
  EXPECT_FALSE(has_come(running));
  first.may_end.count_down();
  EXPECT_EQ(await(running).result, 0);
  settle(10ms);
  EXPECT_EQ(seen().of(queued).size(), 2u);
  for (const Counting& task : others) EXPECT_EQ(task.runs, 0);
}

TEST_P(Conformance, DestroyingALoopEndsWhatIsPending) {
  start();
  const Pair pair = connected();
  std::vector<std::byte> memory(4096);
  loop().recv(pair.client, true, token());
  loop().recv_into(pair.server, memory, true, token());
  Counting task;
  loop().run_task(task, token());
  (void)loop().run_once(seen(), Instant::min());
  loop().recv_into(pair.server, memory, true, token());  // not even submitted
  start();                                               // destroys the first loop
  loop().close(pair.client);
  loop().close(pair.server);
}

// --- the turn --------------------------------------------------------------------------------------------------------

TEST_P(Conformance, TurnEndsAtItsDeadline) {
  start();
  const Instant before = loop().clocks().monotonic;
  EXPECT_EQ(loop().run_once(seen(), before + 30ms), 0u);
  const Instant after = loop().clocks().monotonic;
  EXPECT_GE(after, before + 30ms);
  EXPECT_LT(after, before + 5s);
  EXPECT_GE(loop().now(), before + 30ms);
}

TEST_P(Conformance, TurnWithoutDeadlineDoesNotWait) {
  start();
  const Instant before = loop().clocks().monotonic;
  EXPECT_EQ(loop().run_once(seen(), Instant::min()), 0u);
  EXPECT_EQ(loop().run_once(seen(), before - 1h), 0u);
  EXPECT_LT(loop().clocks().monotonic, before + 1s);
}

TEST_P(Conformance, NowStandsStillBetweenTurns) {
  start();
  (void)loop().run_once(seen(), Instant::min());
  const Instant before = loop().now();
  // Time passes for whoever reads the clock afresh.
  while (loop().clocks().monotonic < before + 2ms) {
  }
  EXPECT_EQ(loop().now(), before);
  (void)loop().run_once(seen(), Instant::min());
  EXPECT_GE(loop().now(), before + 2ms);
}

TEST_P(Conformance, WakeBeforeTheSleepPreventsIt) {
  start();
  loop().waker().wake();
  EXPECT_EQ(loop().run_once(seen(), never), 0u);
  loop().waker().wake();
  loop().waker().wake();
  EXPECT_EQ(loop().run_once(seen(), never), 0u);
}

TEST_P(Conformance, WakeEndsTheSleep) {
  start();
  for (int i = 0; i < 20; ++i) {
    std::atomic<bool> rung{false};
    std::thread other([&] {
      std::this_thread::sleep_for(2ms);
      rung = true;
      loop().waker().wake();
    });
    while (!rung) (void)loop().run_once(seen(), never);
    other.join();
  }
}

TEST_P(Conformance, LoopsInTwoThreadsWakeEachOtherAndLoseNoWake) {
  start();
  constexpr int rounds = 2'000;
  std::atomic<int> ball{0};  // even: ours to return
  std::promise<Waker*> their_waker;
  std::latch last_wake{1};  // a waker lives as long as its loop: theirs waits for our last wake()
  std::thread other([&] {
    auto made = GetParam().make({});
    ASSERT_TRUE(made.ok());
    Recorder sink(**made);
    their_waker.set_value(&(*made)->waker());
    while (ball.load() < rounds) {
      (void)(*made)->run_once(sink, never);
      if (ball.load() % 2 == 0) continue;
      ball.fetch_add(1);
      loop().waker().wake();
    }
    last_wake.wait();
  });
  Waker* const theirs = their_waker.get_future().get();
  while (true) {
    if (ball.load() % 2 == 0) {
      const bool last = ball.fetch_add(1) + 1 >= rounds;
      theirs->wake();
      if (last) break;
    }
    (void)loop().run_once(seen(), never);
  }
  last_wake.count_down();
  other.join();
  EXPECT_GE(ball.load(), rounds);
}

TEST_P(Conformance, RandomBytesDiffer) {
  start();
  std::vector<std::byte> one(64);
  std::vector<std::byte> two(64);
  loop().random(one);
  loop().random(two);
  EXPECT_NE(one, two);
}

}  // namespace
}  // namespace postern::io::testing
