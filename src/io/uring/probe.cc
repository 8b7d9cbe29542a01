#include "io/uring/probe.h"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <liburing.h>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/utsname.h>

#include "io/uring/buffer_ring.h"
#include "io/uring/ring.h"

namespace postern::io {
namespace {

struct NeededOperation {
  int code;
  std::string_view name;
};
constexpr std::array needed_operations = {
    NeededOperation{IORING_OP_ACCEPT, "accept"},     NeededOperation{IORING_OP_CONNECT, "connect"},
    NeededOperation{IORING_OP_RECV, "recv"},         NeededOperation{IORING_OP_SEND, "send"},
    NeededOperation{IORING_OP_RECVMSG, "recvmsg"},   NeededOperation{IORING_OP_SENDMSG, "sendmsg"},
    NeededOperation{IORING_OP_READ, "read"},         NeededOperation{IORING_OP_WRITE, "write"},
    NeededOperation{IORING_OP_FSYNC, "fsync"},       NeededOperation{IORING_OP_FALLOCATE, "fallocate"},
    NeededOperation{IORING_OP_OPENAT, "openat"},     NeededOperation{IORING_OP_CLOSE, "close"},
    NeededOperation{IORING_OP_RENAMEAT, "renameat"}, NeededOperation{IORING_OP_UNLINKAT, "unlinkat"},
    NeededOperation{IORING_OP_MKDIRAT, "mkdirat"},   NeededOperation{IORING_OP_ASYNC_CANCEL, "async_cancel"},
};
constexpr std::uint32_t needed_features =
    IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP;

constexpr std::string_view needs_kernel = "Postern needs Linux 6.1 or later (6.12 recommended)";

Status cannot(std::string_view why) {
  return error(StatusCode::kFailedPrecondition, why);
}

std::string kernel_release() {
  utsname name{};
  return uname(&name) == 0 ? std::string(name.release) : std::string("of unknown version");
}

// The value of kernel.io_uring_disabled, or -1: kernels before 6.6 have none.
int disabled_by_sysctl() {
  std::FILE* const file = std::fopen("/proc/sys/kernel/io_uring_disabled", "re");
  if (file == nullptr) return -1;
  std::array<char, 16> text{};
  const std::size_t size = std::fread(text.data(), 1, text.size() - 1, file);
  std::fclose(file);
  return size > 0 && text[0] >= '0' && text[0] <= '9' ? text[0] - '0' : -1;
}

Status check_operations(uring::Ring& ring) {
  const std::unique_ptr<io_uring_probe, void (*)(io_uring_probe*)> probe(io_uring_get_probe_ring(&ring.raw()),
                                                                         io_uring_free_probe);
  if (probe == nullptr) return cannot("io_uring does not tell its operations (a sandbox filters io_uring_register?)");
  for (const NeededOperation& needed : needed_operations) {
    if (io_uring_opcode_supported(probe.get(), needed.code) != 0) continue;
    return cannot(std::string("io_uring lacks the operation ")
                      .append(needed.name)
                      .append(" on kernel ")
                      .append(kernel_release())
                      .append("; ")
                      .append(needs_kernel));
  }
  return OkStatus();
}

struct SocketPair {
  std::array<int, 2> ends{-1, -1};
  SocketPair() {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) ends = {-1, -1};
  }
  ~SocketPair() {
    for (const int end : ends) {
      if (end >= 0) close(end);
    }
  }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
};

// One receive of one byte as the backend does it, after a wait that must time out first.
Status try_receive(uring::Ring& ring, uring::BufferRing& buffers) {
  const SocketPair pair;
  if (pair.ends[0] < 0) return cannot("no descriptor is free for a trial of io_uring");
  io_uring_sqe& sqe = ring.sqe();
  io_uring_prep_recv(&sqe, pair.ends[0], nullptr, buffers.buffer_bytes(), 0);
  sqe.flags |= IOSQE_BUFFER_SELECT;
  sqe.buf_group = uring::BufferRing::group;
  sqe.ioprio |= IORING_RECVSEND_POLL_FIRST;
  sqe.user_data = 1;
  uring::Entry entry;
  const __kernel_timespec short_wait{.tv_sec = 0, .tv_nsec = 1'000'000};
  ring.enter(true, &short_wait);
  bool right = !ring.next(entry) && write(pair.ends[1], "x", 1) == 1;
  const __kernel_timespec long_wait{.tv_sec = 5, .tv_nsec = 0};
  if (right) ring.enter(true, &long_wait);
  right = right && ring.next(entry) && entry.user_data == 1 && entry.result == 1 &&
          (entry.flags & IORING_CQE_F_BUFFER) != 0;
  return right ? OkStatus()
               : cannot(std::string("a trial receive through io_uring went wrong on kernel ")
                            .append(kernel_release())
                            .append("; ")
                            .append(needs_kernel));
}

}  // namespace

namespace uring {

Status refusal(int code) {
  switch (code) {
    case EPERM:
    case EACCES:
      switch (disabled_by_sysctl()) {
        case 2:
          return cannot(
              "io_uring is disabled by sysctl (kernel.io_uring_disabled=2); to enable: "
              "sysctl -w kernel.io_uring_disabled=0");
        case 1:
          return cannot(
              "io_uring is reserved by sysctl (kernel.io_uring_disabled=1) for processes with CAP_SYS_ADMIN or in the "
              "group kernel.io_uring_group; join that group, or: sysctl -w kernel.io_uring_disabled=0");
        default:
          return cannot(
              "io_uring is forbidden to this process, probably by a container's seccomp profile (Docker 25, containerd "
              "2.0 and later forbid it); run it with a profile that allows io_uring_setup, io_uring_enter and "
              "io_uring_register, e.g. --security-opt seccomp=PROFILE.json");
      }
    case ENOSYS:
      return cannot(std::string("io_uring is not there: kernel ")
                        .append(kernel_release())
                        .append(" was built without it or a seccomp profile hides it; ")
                        .append(needs_kernel));
    case EINVAL:
      return cannot(std::string("io_uring of kernel ")
                        .append(kernel_release())
                        .append(" refuses the ring's flags (DEFER_TASKRUN came with 6.1); ")
                        .append(needs_kernel));
    case ENOMEM:
      return cannot("io_uring has no memory for its queues; raise the memory limit of the service or its cgroup");
    case EMFILE:
    case ENFILE:
      return cannot("no descriptor is free for io_uring; raise the limit on open files (ulimit -n, LimitNOFILE=)");
    default:
      return cannot(std::string("io_uring cannot be set up: ").append(std::generic_category().message(code)));
  }
}

Status check_features(std::uint32_t features) {
  if ((features & needed_features) == needed_features) return OkStatus();
  return cannot(
      std::string("io_uring of kernel ").append(kernel_release()).append(" is too old; ").append(needs_kernel));
}

}  // namespace uring

Status probe_uring() {
  auto ring = uring::Ring::create({.submission_entries = 8, .completion_entries = 16});
  if (!ring.ok()) return ring.status();
  if (!(*ring)->own()) return cannot("the trial ring belongs to another thread");
  POSTERN_RETURN_IF_ERROR(check_operations(**ring));
  auto buffers = uring::BufferRing::create((*ring)->raw(), {.count = 8, .bytes = 4096});
  if (!buffers.ok()) return buffers.status();
  return try_receive(**ring, **buffers);
}

}  // namespace postern::io
