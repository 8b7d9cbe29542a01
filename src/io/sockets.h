// The immediate socket calls of io::Loop, for every backend that works on kernel sockets.
//
// Sockets are blocking descriptors in the kernel's eyes (a ring waits on those, and answers -EAGAIN on others); a
// backend that needs O_NONBLOCK sets it. Each function adds the system calls it made to `system_calls`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/status.h>

#include "io/address.h"
#include "io/loop.h"

namespace postern::io {

// As Loop's functions of the same names. IPv6 listeners take IPv6 only, so that 0.0.0.0:25 and [::]:25 can both be
// listened to.
[[nodiscard]] StatusOr<Descriptor> listen_on(const Address& address, const ListenOptions& options,
                                             std::uint64_t& system_calls);
[[nodiscard]] StatusOr<Address> local_address_of(Descriptor descriptor, std::uint64_t& system_calls);
[[nodiscard]] StatusOr<Descriptor> open_stream_socket(const Address& remote, const Address& source,
                                                      std::uint64_t& system_calls);
[[nodiscard]] StatusOr<Descriptor> open_datagram_socket(const Address& remote, const Address& source,
                                                        std::uint64_t& system_calls);
[[nodiscard]] bool input_waits_in(Descriptor descriptor, std::uint64_t& system_calls);

// The name in the file system of a unix socket that this process listens on, to be taken away behind it.
class SocketFile {
 public:
  // Just bound.
  explicit SocketFile(const Address& address);
  // Unless another file has taken its place meanwhile, which is somebody else's. Once; then nothing.
  void remove();

 private:
  std::string path_;
  std::uint64_t device_ = 0;
  std::uint64_t inode_ = 0;  // 0: there is nothing to remove
};

// Holds one descriptor back, so that at exhaustion a waiting client can still be told and let go.
class ReserveDescriptor {
 public:
  ReserveDescriptor() { take(); }
  ~ReserveDescriptor();
  ReserveDescriptor(const ReserveDescriptor&) = delete;
  ReserveDescriptor& operator=(const ReserveDescriptor&) = delete;

  // Loop::accept_and_refuse().
  [[nodiscard]] bool accept_and_refuse(Descriptor listener, std::string_view farewell, std::uint64_t& system_calls);
  // After any descriptor was closed: takes the reserve back if it was lost to someone else.
  void on_closed() {
    if (descriptor_ < 0) [[unlikely]]
      take();
  }

 private:
  void take();
  Descriptor descriptor_ = -1;
};

}  // namespace postern::io
