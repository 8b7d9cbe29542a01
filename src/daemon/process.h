// What a daemon does to its process before it serves: its folder and the lock on it, its addresses, its user.
// Each function is one step of the start and says in its status what is wrong and what to do about it.
#pragma once

#include <string>
#include <utility>

#include <postern/base/status.h>

#include "shard/options.h"

namespace postern::daemon {

// A descriptor that is closed at the end.
class OwnedDescriptor {
 public:
  explicit OwnedDescriptor(int value = -1) : value_(value) {}
  ~OwnedDescriptor();
  OwnedDescriptor(OwnedDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  OwnedDescriptor& operator=(OwnedDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  [[nodiscard]] int get() const { return value_; }

 private:
  int value_;
};

// Who the process is to become. Both 0: stay.
struct User {
  unsigned uid = 0;
  unsigned gid = 0;
  [[nodiscard]] bool stay() const { return uid == 0 && gid == 0; }
};

// "" stays; so does a name that we already are. kNotFound: no such user. kPermissionDenied: we are not root.
[[nodiscard]] StatusOr<User> find_user(const std::string& name);

// Makes `path` (0700, owned by `user`; folders above it 0755) unless it is there, and takes the lock on it for as long
// as the result lives. kPermissionDenied: it is another user's, or others may write to it. kUnavailable: it cannot be
// used (no folder, read-only). kAlreadyExists: another process holds it. A killed process's lock can linger, so
// it is tried for five seconds.
[[nodiscard]] StatusOr<OwnedDescriptor> open_data_dir(const std::string& path, const User& user);

// Binds every listener's address once without SO_REUSEPORT, to learn whether another process has it: with it the
// kernel would share the port between both. Tried for five seconds, as the lock. kAlreadyExists names the address.
[[nodiscard]] Status check_addresses_free(const shard::Options& options);

// For good. Of root's capabilities only CAP_NET_BIND_SERVICE stays, and only if a listener needs it: shards bind their
// own sockets, each with its own ring. Before any thread is started.
[[nodiscard]] Status become(const User& user, bool binds_low_ports);

}  // namespace postern::daemon
