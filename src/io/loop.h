// The seam between Postern and the kernel: one io::Loop per shard, used from that shard's thread only
// (Waker excepted). Backends: io/uring (the product); io/sim and io/epoll may follow. One conformance suite,
// tests/io/conformance.h, runs on all of them.
//
// Operations are started by a call and end with exactly one Completion (multishot ones: with exactly one that has
// more == false) handed to the Sink from within run_once(); never from within the call that started them. An operation
// that cannot even be queued completes in the next run_once() with its error. Completions of different operations come
// in any order. Memory passed to an operation stays untouched by the caller until its last completion.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>

#include "io/address.h"

namespace postern::io {

// A descriptor of the backend. Plain values: whoever opened it closes it. -1: none.
using Descriptor = int;

// The caller's name for an operation. The loop gives it back and attaches no meaning to it, except that cancel() ends
// all operations with the same token. `kind` is the caller's switch label; the generation tells a reused slot's new
// tenant from its old one.
struct Token {
  std::uint32_t slot = 0;
  std::uint32_t generation : 24 = 0;
  std::uint32_t kind : 8 = 0;

  friend bool operator==(const Token&, const Token&) = default;
};
static_assert(sizeof(Token) == 8);

// A receive buffer lent to the caller by a completion; to be given back by release().
struct BufferId {
  static constexpr std::uint16_t none = 0xFFFF;
  std::uint16_t value = none;
  [[nodiscard]] bool held() const { return value != none; }
};

struct Completion {
  Token token;
  std::int32_t result = 0;        // ≥ 0: bytes, descriptor or 0, as the operation says; < 0: -errno
  bool more = false;              // a multishot operation goes on
  bool more_in_socket = false;    // recv: the socket held more than was taken
  BufferId buffer{};              // recv, datagrams: lent to you when held(), whatever the result: release() it
  MutableBytes bytes{};           // what was received: inside `buffer`, or (recv_into) the filled part of the target
  const Address* peer = nullptr;  // accept, recv_datagram: valid during the call
};

class Sink {
 public:
  virtual void on_completion(const Completion& completion) = 0;

 protected:
  ~Sink() = default;
};

// One piece of a gathering send. Layout of struct iovec.
struct Slice {
  const std::byte* data = nullptr;
  std::size_t size = 0;
};

// A file operation that may be slow; paths and data stay valid until the completion.
struct FileRequest {
  enum class Kind : std::uint8_t {
    open,            // path, open_flags, mode → descriptor
    close,           // descriptor
    read,            // descriptor, target, offset → bytes read (short only at the end of the file)
    write,           // descriptor, data, offset → bytes written (all of them, or an error)
    sync,            // descriptor: fsync
    sync_data,       // descriptor: fdatasync
    allocate,        // descriptor, offset, length: posix_fallocate without KEEP_SIZE
    rename,          // path → other_path, replacing
    rename_new,      // path → other_path, -EEXIST if that exists
    unlink,          // path
    make_directory,  // path, mode
    file_size,       // path → size in *size_out, result 0
    list_directory,  // path → names (without . and ..), sorted, in *names_out
    space,           // path → free and total bytes of its file system in *space_out
    identity,        // path → which file stands there in *identity_out, result 0
  };
  struct Space {
    std::uint64_t free_bytes = 0;  // for an unprivileged writer
    std::uint64_t total_bytes = 0;
  };
  // Equal for two paths, or for one at two times: the same file or folder, as long as that exists.
  struct Identity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
  };
  Kind kind = Kind::close;
  Descriptor descriptor = -1;
  const char* path = nullptr;
  const char* other_path = nullptr;
  int open_flags = 0;  // O_*
  unsigned mode = 0;
  MutableBytes target{};
  Bytes data{};
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t* size_out = nullptr;
  std::vector<std::string>* names_out = nullptr;
  Space* space_out = nullptr;
  Identity* identity_out = nullptr;
};

// Work for a thread that is not the shard's (password hashes, RSA, reading a configuration). run() must touch nothing
// that the shard touches until the completion.
class Task {
 public:
  virtual ~Task() = default;
  virtual void run() = 0;
};

// Wakes a loop from any thread. Cheap when the loop is awake; never lost: a wake() that happens before the loop goes
// to sleep, or while it sleeps, makes run_once() return. Lives as long as the loop.
class Waker {
 public:
  virtual void wake() = 0;

 protected:
  ~Waker() = default;
};

struct ListenOptions {
  bool reuse_port = true;  // false: find out whether the port is taken by another process
  int backlog = 4096;
  // Permissions of a unix socket's file, whatever the umask: who may write to it may connect. 0: as the umask leaves
  // it.
  unsigned socket_mode = 0;
};

class Loop {
 public:
  virtual ~Loop() = default;

  // --- sockets: immediate ------------------------------------------------------------------------------------------
  // A listening socket (TCP or unix stream; a stale unix socket file is replaced). kAlreadyExists: address taken.
  [[nodiscard]] virtual StatusOr<Descriptor> listen(const Address& address, const ListenOptions& options) = 0;
  // The address a socket is bound to (port 0 asked for: which one it became).
  [[nodiscard]] virtual StatusOr<Address> local_address(Descriptor descriptor) = 0;
  // A stream or datagram socket for the family of `remote`, bound to `source` unless that is empty (port 0: any).
  // Streams get TCP_NODELAY. kResourceExhausted: no descriptor free.
  [[nodiscard]] virtual StatusOr<Descriptor> open_stream(const Address& remote, const Address& source) = 0;
  // A datagram socket bound to `source` (a random port unless it names one) that talks only to `remote`.
  [[nodiscard]] virtual StatusOr<Descriptor> open_datagram(const Address& remote, const Address& source) = 0;
  // Whether received bytes wait to be read, as far as the kernel knows at this moment. For a connected stream.
  [[nodiscard]] virtual bool input_waiting(Descriptor descriptor) = 0;
  // Ends both directions: pending operations complete, the peer sees FIN. Never blocks.
  virtual void shutdown(Descriptor descriptor) = 0;
  // Ends the sending direction only.
  virtual void shutdown_send(Descriptor descriptor) = 0;
  // Only when no operation on it is pending, else the FIN is lost and a reused number receives old completions.
  virtual void close(Descriptor descriptor) = 0;

  // --- sockets: operations -----------------------------------------------------------------------------------------
  // Multishot: one completion per connection, result = descriptor (close-on-exec, TCP_NODELAY as the listener has it),
  // peer set. It may end at any time, also with a good result: start it again whenever more == false, except that at
  // -EMFILE/-ENFILE/-ENOBUFS you wait until a descriptor was closed. accept_and_refuse() serves the meantime.
  virtual void accept(Descriptor listener, Token token) = 0;
  // At descriptor exhaustion: uses a reserve descriptor to accept one waiting connection, sends `farewell` as far as
  // it goes without waiting, closes it. True when there was one. Immediate.
  virtual bool accept_and_refuse(Descriptor listener, std::string_view farewell) = 0;
  virtual void connect(Descriptor descriptor, const Address& remote, Token token) = 0;
  // Receives into a buffer of the loop (receive_buffer_bytes() large). `poll_first`: nothing is expected yet
  // (pass !more_in_socket of the last completion). result 0: end of stream. -ENOBUFS: all buffers are lent; start it
  // again once some came back (on_buffers_free is not called for you: see buffers_free()).
  virtual void recv(Descriptor descriptor, bool poll_first, Token token) = 0;
  // Receives into the caller's memory: content straight to its place.
  virtual void recv_into(Descriptor descriptor, MutableBytes target, bool poll_first, Token token) = 0;
  // Sends all slices (at most slices_max), or fails: result = their sum, or -errno, or fewer when the connection was
  // lost in between. One send in flight per socket. The slice array too stays valid until the completion.
  static constexpr std::size_t slices_max = 64;
  virtual void send(Descriptor descriptor, std::span<const Slice> slices, Token token) = 0;
  // One datagram on a socket of open_datagram(). Receiving uses a buffer of the loop, as recv().
  virtual void send_datagram(Descriptor descriptor, Bytes data, Token token) = 0;
  virtual void recv_datagram(Descriptor descriptor, Token token) = 0;

  [[nodiscard]] virtual std::size_t receive_buffer_bytes() const = 0;
  [[nodiscard]] virtual std::size_t buffers_free() const = 0;
  virtual void release(BufferId buffer) = 0;

  // --- disk --------------------------------------------------------------------------------------------------------
  // A log segment opened for durable writes. `direct` says whether O_DIRECT was granted; when not, durable_write()
  // is a buffered write followed by fdatasync, at several times the cost.
  struct LogFile {
    Descriptor descriptor = -1;
    bool direct = false;
    bool synced = true;  // as open_log() was told
  };
  static constexpr std::size_t log_alignment = 4096;  // of memory, offset and length
  // Immediate (the file exists already; preparing it is slow file operations). `synced` false: durability "page_cache".
  [[nodiscard]] virtual StatusOr<LogFile> open_log(const char* path, bool synced) = 0;
  // Durable when it completes with result == data.size() (unless opened with synced == false). Any error is final: do
  // not retry.
  virtual void durable_write(const LogFile& file, Bytes data, std::uint64_t offset, Token token) = 0;
  // Reads from a log; target, offset and length aligned to log_alignment.
  virtual void log_read(const LogFile& file, MutableBytes target, std::uint64_t offset, Token token) = 0;
  virtual void file(const FileRequest& request, Token token) = 0;

  // --- the rest ----------------------------------------------------------------------------------------------------
  // result 0 when it ran; -EAGAIN: as many wait already as the backend queues; -ECANCELED: cancelled before it began.
  virtual void run_task(Task& task, Token token) = 0;
  // Asks all pending operations with this token to end; each still completes (mostly -ECANCELED). Succeeds silently
  // when there is none.
  virtual void cancel(Token token) = 0;
  [[nodiscard]] virtual Waker& waker() = 0;

  // The time as of the start of the current turn (updated by run_once()), and read afresh.
  [[nodiscard]] virtual Instant now() const = 0;
  [[nodiscard]] virtual ClockPair clocks() = 0;
  // Unpredictable bytes (getrandom); for keys and seeds.
  virtual void random(MutableBytes target) = 0;

  // One turn: submits what was started, waits for completions until `deadline` at the latest (Instant::min(): does not
  // wait), hands out a bounded number of them. Returns how many were handed out; 0 after a deadline or a wake(), and at
  // times for the loop's own reasons: look at the clock, not at the count.
  virtual std::size_t run_once(Sink& sink, Instant deadline) = 0;
  // System calls made so far by this loop: for benchmarks and metrics.
  [[nodiscard]] virtual std::uint64_t system_calls() const = 0;
};

}  // namespace postern::io
