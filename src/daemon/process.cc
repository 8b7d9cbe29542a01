#include "daemon/process.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <grp.h>
#include <pwd.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include <linux/capability.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "io/blocking_file.h"

namespace postern::daemon {
namespace {

// The kernel closes a killed process's sockets and files behind its back, on a busy machine seconds later.
constexpr auto patience = std::chrono::seconds(5);
constexpr auto retry_every = std::chrono::milliseconds(50);

Status failed(StatusCode code, std::string_view what, int reason, std::string_view cure) {
  std::string text(what);
  text.append(": ").append(std::strerror(reason));
  if (!cure.empty()) text.append("; ").append(cure);
  return error(code, text);
}

Status check_address_free(const shard::ListenerOptions& listener) {
  const io::Address& address = listener.address;
  const OwnedDescriptor probe(socket(address.kernel()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (probe.get() < 0) return failed(StatusCode::kUnavailable, "listener " + listener.text, errno, "");
  const int on = 1;
  // Connections of a former process in TIME_WAIT are no reason to refuse.
  setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.kernel()->sa_family == AF_INET6) setsockopt(probe.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (bind(probe.get(), address.kernel(), address.kernel_size()) == 0) return OkStatus();
  switch (errno) {
    case EADDRINUSE:
      return error(StatusCode::kAlreadyExists, "listener " + listener.text +
                                                   ": another process listens there; stop it (ss -ltnp shows it) or "
                                                   "choose another address");
    case EACCES:
      return failed(StatusCode::kPermissionDenied, "listener " + listener.text, EACCES,
                    "start as root with user = \"…\", or give CAP_NET_BIND_SERVICE");
    default:
      return failed(StatusCode::kUnavailable, "listener " + listener.text, errno, "is it an address of this machine?");
  }
}

// A socket somebody listens on answers; the file alone may be a dead process's.
Status check_unix_path_free(const shard::ListenerOptions& listener) {
  const OwnedDescriptor probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe.get() < 0) return failed(StatusCode::kUnavailable, "listener " + listener.text, errno, "");
  if (connect(probe.get(), listener.address.kernel(), listener.address.kernel_size()) == 0 || errno == EAGAIN) {
    return error(StatusCode::kAlreadyExists, "listener " + listener.text + ": another process listens there; stop it");
  }
  return OkStatus();
}

// Whoever could write there could forge mail that we then deliver; and what we cannot write fails later and in odd
// places.
Status check_data_dir(const std::string& path, const User& user) {
  const std::string name = "data_dir " + path;
  struct stat facts{};
  if (stat(path.c_str(), &facts) < 0) {
    return failed(StatusCode::kUnavailable, name, errno, "make it, or mount what it should lie on");
  }
  if (!S_ISDIR(facts.st_mode)) return failed(StatusCode::kUnavailable, name, ENOTDIR, "choose another folder");
  const uid_t owner = user.stay() ? geteuid() : user.uid;
  if (owner != 0 && facts.st_uid != owner) {
    return error(StatusCode::kPermissionDenied, name + ": belongs to user " + std::to_string(facts.st_uid) +
                                                    ", and posternd runs as " + std::to_string(owner) +
                                                    "; chown it with all that is in it, or name a folder inside it");
  }
  if ((facts.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return error(StatusCode::kPermissionDenied,
                 name + ": others may write to it; chmod 700 " + path + " or name a folder inside it");
  }
  if ((facts.st_mode & S_IRWXU) != S_IRWXU && owner != 0) {
    return error(StatusCode::kPermissionDenied, name + ": its owner may not write to it; chmod 700 " + path);
  }
  return OkStatus();
}

}  // namespace

OwnedDescriptor::~OwnedDescriptor() {
  if (value_ >= 0) close(value_);
}

StatusOr<User> find_user(const std::string& name) {
  if (name.empty()) return User{};
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) {
    return error(StatusCode::kNotFound, "user: no user \"" + name + "\"; make one: useradd --system " + name);
  }
  if (geteuid() == entry.pw_uid) return User{};
  if (geteuid() != 0) {
    return error(StatusCode::kPermissionDenied,
                 "user: only root can become \"" + name + "\"; start as root or as " + name);
  }
  return User{.uid = entry.pw_uid, .gid = entry.pw_gid};
}

StatusOr<OwnedDescriptor> open_data_dir(const std::string& path, const User& user) {
  const std::string name = "data_dir " + path;
  std::error_code trouble;
  const std::filesystem::path above = std::filesystem::path(path).parent_path();
  std::filesystem::create_directories(above, trouble);
  if (trouble) return failed(StatusCode::kUnavailable, name, trouble.value(), "make the folder above it");
  if (mkdir(path.c_str(), 0700) == 0) {
    if (!user.stay() && chown(path.c_str(), user.uid, user.gid) < 0) {
      return failed(StatusCode::kPermissionDenied, name, errno, "");
    }
    // What is accepted into it is durable only with its own name.
    if (const Status synced = io::sync_directory(above.string()); !synced.ok()) {
      return error(synced.code(), name + ": " + std::string(message_of(synced)));
    }
  } else if (errno != EEXIST) {
    return failed(StatusCode::kUnavailable, name, errno, "make it, owned by the user that runs posternd");
  }
  POSTERN_RETURN_IF_ERROR(check_data_dir(path, user));
  const std::string lock_path = path + "/lock";
  OwnedDescriptor lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.get() < 0) {
    return failed(StatusCode::kPermissionDenied, name, errno,
                  errno == EROFS ? "remount its file system for writing" : "posternd must be able to write to it");
  }
  if (!user.stay() && fchown(lock.get(), user.uid, user.gid) < 0) {
    return failed(StatusCode::kPermissionDenied, lock_path, errno, "");
  }
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  while (flock(lock.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return failed(StatusCode::kUnavailable, lock_path, errno, "");
    if (std::chrono::steady_clock::now() >= give_up_at) {
      std::string text = name;
      text.append(": another posternd uses it; stop that one (fuser ").append(lock_path);
      text.append(" shows it) or choose another folder");
      return error(StatusCode::kAlreadyExists, text);
    }
    std::this_thread::sleep_for(retry_every);
  }
  return lock;
}

Status check_addresses_free(const shard::Options& options) {
  for (const shard::ListenerOptions& listener : options.listeners) {
    if (listener.is_inherited()) continue;
    if (listener.address.is_unix()) {
      POSTERN_RETURN_IF_ERROR(check_unix_path_free(listener));
      continue;
    }
    const auto give_up_at = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const Status status = check_address_free(listener);
      if (status.ok()) break;
      if (!absl::IsAlreadyExists(status) || std::chrono::steady_clock::now() >= give_up_at) return status;
      std::this_thread::sleep_for(retry_every);
    }
  }
  return OkStatus();
}

Status become(const User& user, bool binds_low_ports) {
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (user.stay()) return OkStatus();
  if (binds_low_ports) prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
  if (setgroups(0, nullptr) < 0 || setresgid(user.gid, user.gid, user.gid) < 0 ||
      setresuid(user.uid, user.uid, user.uid) < 0) {
    return failed(StatusCode::kPermissionDenied, "user: cannot become it", errno, "");
  }
  // What KEEPCAPS kept is cut down to the one capability; without KEEPCAPS this clears nothing that is left.
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (binds_low_ports) data[0].effective = data[0].permitted = 1u << CAP_NET_BIND_SERVICE;
  if (syscall(SYS_capset, &header, data.data()) < 0) {
    return failed(StatusCode::kPermissionDenied, "user: cannot drop capabilities", errno, "");
  }
  prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  return OkStatus();
}

}  // namespace postern::daemon
