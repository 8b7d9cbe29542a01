#include "io/sockets.h"

#include <cerrno>
#include <cstddef>
#include <fcntl.h>
#include <string>
#include <unistd.h>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "io/errors.h"

namespace postern::io {
namespace {

// A socket that closes itself unless it is handed on.
class Socket {
 public:
  Socket(int family, int type, std::uint64_t& system_calls) : system_calls_(system_calls) {
    ++system_calls_;
    descriptor_ = ::socket(family, type | SOCK_CLOEXEC, 0);
  }
  ~Socket() {
    if (descriptor_ < 0) return;
    ++system_calls_;
    ::close(descriptor_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  [[nodiscard]] bool open() const { return descriptor_ >= 0; }
  [[nodiscard]] Descriptor hand_on() { return std::exchange(descriptor_, -1); }
  // These return 0 or errno.
  [[nodiscard]] int set(int level, int option, int value) {
    ++system_calls_;
    return ::setsockopt(descriptor_, level, option, &value, sizeof value) == 0 ? 0 : errno;
  }
  [[nodiscard]] int bind(const Address& address) {
    ++system_calls_;
    return ::bind(descriptor_, address.kernel(), address.kernel_size()) == 0 ? 0 : errno;
  }
  [[nodiscard]] int connect(const Address& address) {
    ++system_calls_;
    return ::connect(descriptor_, address.kernel(), address.kernel_size()) == 0 ? 0 : errno;
  }
  [[nodiscard]] int listen(int backlog) {
    ++system_calls_;
    return ::listen(descriptor_, backlog) == 0 ? 0 : errno;
  }

 private:
  Descriptor descriptor_;
  std::uint64_t& system_calls_;
};

std::string doing(std::string_view what, const Address& address) {
  return std::string(what).append(" ").append(address.to_string());
}

// A unix socket file outlives the process that listened on it. It is stale when nobody answers there.
bool remove_if_stale(const Address& address, std::uint64_t& system_calls) {
  const std::string path(address.path());
  struct stat about{};
  ++system_calls;
  if (::lstat(path.c_str(), &about) != 0 || !S_ISSOCK(about.st_mode)) return false;
  // Non-blocking: a full backlog (EAGAIN) means that somebody lives there.
  Socket caller(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, system_calls);
  if (!caller.open() || caller.connect(address) != ECONNREFUSED) return false;
  ++system_calls;
  return ::unlink(path.c_str()) == 0;
}

int listening(Socket& socket, const Address& address, const ListenOptions& options, std::uint64_t& system_calls) {
  int code = 0;
  if (address.is_unix()) {
    code = socket.bind(address);
    if (code == EADDRINUSE && remove_if_stale(address, system_calls)) code = socket.bind(address);
    // Before listen(): until then whoever connects is refused, so that nobody comes in by what the umask would allow.
    if (code == 0 && options.socket_mode != 0) {
      ++system_calls;
      const std::string path(address.path());
      if (::chmod(path.c_str(), options.socket_mode) != 0) code = errno;
    }
  } else {
    code = socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (code == 0 && options.reuse_port) code = socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    if (code == 0 && address.kernel()->sa_family == AF_INET6) code = socket.set(IPPROTO_IPV6, IPV6_V6ONLY, 1);
    // Accepted sockets inherit it: no call per connection.
    if (code == 0) code = socket.set(IPPROTO_TCP, TCP_NODELAY, 1);
    if (code == 0) code = socket.bind(address);
  }
  return code == 0 ? socket.listen(options.backlog) : code;
}

}  // namespace

StatusOr<Descriptor> listen_on(const Address& address, const ListenOptions& options, std::uint64_t& system_calls) {
  Socket socket(address.kernel()->sa_family, SOCK_STREAM, system_calls);
  if (!socket.open()) return errno_status(errno, doing("opening a listener for", address));
  if (const int code = listening(socket, address, options, system_calls); code != 0) {
    return errno_status(code, doing("listening on", address));
  }
  return socket.hand_on();
}

SocketFile::SocketFile(const Address& address) : path_(address.path()) {
  struct stat about{};
  if (::lstat(path_.c_str(), &about) != 0 || !S_ISSOCK(about.st_mode)) return;
  device_ = about.st_dev;
  inode_ = about.st_ino;
}

void SocketFile::remove() {
  struct stat about{};
  if (inode_ == 0 || ::lstat(path_.c_str(), &about) != 0) return;
  if (about.st_dev == device_ && about.st_ino == inode_) ::unlink(path_.c_str());
  inode_ = 0;
}

StatusOr<Address> local_address_of(Descriptor descriptor, std::uint64_t& system_calls) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ++system_calls;
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return errno_status(errno, "asking a socket's address");
  }
  return Address::from_kernel(reinterpret_cast<const sockaddr*>(&storage), size);
}

StatusOr<Descriptor> open_stream_socket(const Address& remote, const Address& source, std::uint64_t& system_calls) {
  Socket socket(remote.kernel()->sa_family, SOCK_STREAM, system_calls);
  if (!socket.open()) return errno_status(errno, doing("opening a socket to", remote));
  int code = remote.is_ip() ? socket.set(IPPROTO_TCP, TCP_NODELAY, 1) : 0;
  if (code == 0 && !source.empty()) {
    // Without it bind() takes a port that no other connection may share, whatever its remote end: 28,000 in all.
    if (source.is_ip() && source.port() == 0) code = socket.set(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    if (code == 0) code = socket.bind(source);
  }
  if (code != 0) return errno_status(code, doing("using the source address", source));
  return socket.hand_on();
}

StatusOr<Descriptor> open_datagram_socket(const Address& remote, const Address& source, std::uint64_t& system_calls) {
  Socket socket(remote.kernel()->sa_family, SOCK_DGRAM, system_calls);
  if (!socket.open()) return errno_status(errno, doing("opening a datagram socket to", remote));
  if (!source.empty()) {
    if (const int code = socket.bind(source); code != 0) {
      return errno_status(code, doing("using the source address", source));
    }
  }
  // Connecting a datagram socket sends nothing: it makes the kernel drop what comes from elsewhere, report ICMP errors,
  // and choose a random port if there is none yet.
  if (const int code = socket.connect(remote); code != 0) return errno_status(code, doing("talking to", remote));
  return socket.hand_on();
}

bool input_waits_in(Descriptor descriptor, std::uint64_t& system_calls) {
  ++system_calls;
  int bytes = 0;
  return ::ioctl(descriptor, FIONREAD, &bytes) == 0 && bytes > 0;
}

void ReserveDescriptor::take() {
  descriptor_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

ReserveDescriptor::~ReserveDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool ReserveDescriptor::accept_and_refuse(Descriptor listener, std::string_view farewell, std::uint64_t& system_calls) {
  // The listener is blocking for the ring's sake; for this one call it must not be.
  const int flags = ::fcntl(listener, F_GETFL);
  if (flags < 0) return false;
  ::fcntl(listener, F_SETFL, flags | O_NONBLOCK);
  if (descriptor_ >= 0) ::close(descriptor_);
  const Descriptor client = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (client >= 0) {
    // As far as it goes: the client is told or not, but never waited for.
    (void)::send(client, farewell.data(), farewell.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    ::close(client);
  }
  take();
  ::fcntl(listener, F_SETFL, flags);
  system_calls += client >= 0 ? 8 : 6;
  return client >= 0;
}

}  // namespace postern::io
