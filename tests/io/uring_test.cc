// The uring backend: the conformance suite, and what only it promises.
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "io/record/recording_loop.h"
#include "io/record/trace.h"
#include "io/uring/probe.h"
#include "io/uring/uring_loop.h"
#include "tests/io/conformance.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;

rlimit limit_before{};
std::vector<int> taken_descriptors;

// Lowers the limit, and takes what is left.
void exhaust_descriptors() {
  getrlimit(RLIMIT_NOFILE, &limit_before);
  const rlimit lowered{.rlim_cur = 256, .rlim_max = limit_before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &lowered);
  for (int taken = 0; (taken = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) taken_descriptors.push_back(taken);
}

void restore_descriptors() {
  for (const int taken : taken_descriptors) ::close(taken);
  taken_descriptors.clear();
  setrlimit(RLIMIT_NOFILE, &limit_before);
}

Backend backend(std::string name, unsigned submission_entries, unsigned completion_entries,
                std::size_t completions_per_turn) {
  return {.name = std::move(name),
          .make =
              [=](const Needs& needs) {
                return make_uring_loop({.submission_entries = submission_entries,
                                        .completion_entries = completion_entries,
                                        .receive_buffers = needs.receive_buffers,
                                        .receive_buffer_bytes = needs.receive_buffer_bytes,
                                        .completions_per_turn = completions_per_turn,
                                        .task_threads = needs.task_threads,
                                        .tasks_queued = needs.tasks_queued,
                                        .refuse_direct = needs.refuse_direct});
              },
          .exhaust_descriptors = exhaust_descriptors,
          .restore_descriptors = restore_descriptors};
}

// `tiny`: every queue overflows all the time.
INSTANTIATE_TEST_SUITE_P(uring, Conformance,
                         ::testing::Values(backend("usual", 512, 8192, 256), backend("tiny", 2, 4, 1)),
                         name_of_backend);

// The same, written down by io/record: it must change nothing.
Backend recorded(Backend within) {
  static const std::unique_ptr<record::TraceWriter> nowhere = *record::TraceWriter::create("/dev/null");
  Backend made = within;
  made.make = [within](const Needs& needs) -> StatusOr<std::unique_ptr<Loop>> {
    StatusOr<std::unique_ptr<Loop>> loop = within.make(needs);
    if (!loop.ok()) return loop.status();
    return record::make_recording_loop(*std::move(loop), *nowhere);
  };
  return made;
}

INSTANTIATE_TEST_SUITE_P(recording, Conformance, ::testing::Values(recorded(backend("usual", 512, 8192, 256))),
                         name_of_backend);

class Ignore final : public Sink {
 public:
  void on_completion(const Completion& completion) override {
    ++count;
    last_result = completion.result;
  }
  std::size_t count = 0;
  std::int32_t last_result = 0;
};

TEST(UringProbe, FindsWhatTheBackendNeedsHere) {
  const Status status = probe_uring();
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(UringProbe, RefusalsNameCauseAndCure) {
  for (const int code : {EPERM, ENOSYS, EINVAL, ENOMEM, EMFILE, EIO}) {
    const Status status = uring::refusal(code);
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    EXPECT_NE(message_of(status).find("io_uring"), std::string_view::npos);
    EXPECT_EQ(message_of(status).find('\n'), std::string_view::npos);
  }
  EXPECT_NE(message_of(uring::refusal(EPERM)).find("seccomp"), std::string_view::npos);
  EXPECT_NE(message_of(uring::refusal(EINVAL)).find("6.1"), std::string_view::npos);
  EXPECT_FALSE(uring::check_features(0).ok());
}

// Forbids io_uring_setup to this process for good, as a container's profile does.
void forbid_uring() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::fputs("no seccomp here\n", stderr);
    std::_Exit(1);
  }
}

TEST(UringProbe, ForbiddenIoUringIsSaidWithItsCure) {
  EXPECT_EXIT(
      {
        forbid_uring();
        const Status probed = probe_uring();
        const auto made = make_uring_loop();
        std::fprintf(stderr, "%s\n", std::string(message_of(probed)).c_str());
        std::_Exit(probed.code() == StatusCode::kFailedPrecondition && made.status() == probed ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "io_uring is forbidden to this process.*seccomp");
}

TEST(UringLoop, AcceptedConnectionsHaveNoDelayAndCloseOnExec) {
  const auto made = make_uring_loop();
  ASSERT_TRUE(made.ok()) << made.status().message();
  Loop& loop = **made;
  Ignore sink;
  const auto listener = loop.listen(*Address::parse("127.0.0.1:0"), {});
  ASSERT_TRUE(listener.ok());
  const Address address = *loop.local_address(*listener);
  const Descriptor client = *loop.open_stream(address, Address());
  loop.connect(client, address, {});
  while (sink.count == 0) (void)loop.run_once(sink, never);
  loop.accept(*listener, {});
  while (sink.count == 1) (void)loop.run_once(sink, never);
  for (const Descriptor end : {client, sink.last_result}) {
    int no_delay = 0;
    socklen_t size = sizeof no_delay;
    EXPECT_EQ(getsockopt(end, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size), 0);
    EXPECT_EQ(no_delay, 1);
    EXPECT_NE(fcntl(end, F_GETFD) & FD_CLOEXEC, 0);
    loop.close(end);
  }
  loop.close(*listener);
}

TEST(UringLoop, OneSystemCallPerTurn) {
  const auto made = make_uring_loop();
  ASSERT_TRUE(made.ok()) << made.status().message();
  Loop& loop = **made;
  Ignore sink;
  (void)loop.run_once(sink, Instant::min());
  const std::uint64_t before = loop.system_calls();
  constexpr int turns = 10;
  for (int i = 0; i < turns; ++i) (void)loop.run_once(sink, loop.clocks().monotonic + 1ms);
  EXPECT_EQ(loop.system_calls() - before, turns);
  for (int i = 0; i < turns; ++i) (void)loop.run_once(sink, Instant::min());
  EXPECT_EQ(loop.system_calls() - before, turns) << "nothing to submit or to wait for: none";
}

TEST(UringLoop, MayBeMadeInOneThreadRunInAnotherAndDestroyedInTheFirst) {
  auto made = make_uring_loop();
  ASSERT_TRUE(made.ok()) << made.status().message();
  const auto listener = (*made)->listen(*Address::parse("127.0.0.1:0"), {});
  ASSERT_TRUE(listener.ok());
  (*made)->accept(*listener, {});
  std::vector<std::byte> memory(4096);
  std::thread([&] {
    Ignore sink;
    for (int i = 0; i < 3; ++i) (void)(*made)->run_once(sink, (*made)->clocks().monotonic + 1ms);
  }).join();
  made->reset();
  ::close(*listener);
}

TEST(UringLoop, BuffersAreGivenBackOnce) {
  const auto made = make_uring_loop({.receive_buffers = 8});
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_DEATH((*made)->release({3}), "given back once");
}

}  // namespace
}  // namespace postern::io::testing
