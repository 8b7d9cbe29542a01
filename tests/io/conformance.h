// What every backend of io::Loop must do, as one suite of scripts. A backend joins by instantiating it:
//
//   INSTANTIATE_TEST_SUITE_P(uring, Conformance, testing::Values(Backend{...}), name_of_backend);
//
// The scripts use a loop through loop.h only, both ends of every connection included, so that a simulated kernel can
// run them too. What needs the surroundings (an exhausted table of descriptors) is the backend's to arrange.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/status.h>
#include <postern/base/time.h>

#include "io/loop.h"

namespace postern::io::testing {

// What a script needs of the loop it runs on.
struct Needs {
  unsigned receive_buffers = 64;  // a power of two
  unsigned receive_buffer_bytes = 4096;
  std::size_t task_threads = 2;
  std::size_t tasks_queued = 64;
  bool refuse_direct = false;  // the file system has no O_DIRECT
};

struct Backend {
  std::string name;
  std::function<StatusOr<std::unique_ptr<Loop>>(const Needs&)> make;
  // Between the two calls no descriptor is free. (Two functions, not an object with a virtual destructor: to check a
  // virtual call, the undefined-behaviour sanitizer itself needs a descriptor.) nullptr: cannot happen here.
  void (*exhaust_descriptors)() = nullptr;
  void (*restore_descriptors)() = nullptr;
  // A directory of the backend's own for files; empty: a new one of the real file system for each test.
  std::string directory{};
  // Whether tasks run in threads, so that one may wait for the test.
  bool task_threads = true;
  // Whether descriptors are the kernel's, to be asked about by its calls.
  bool kernel_descriptors = true;
  // Called when a test's loop is gone.
  void (*finish)() = nullptr;
};

// A completion, copied.
struct Event {
  std::int32_t result = 0;
  bool more = false;
  bool more_in_socket = false;
  BufferId buffer{};  // only when the sink keeps buffers
  std::string bytes{};
  Address peer{};
};

// Keeps what came, by token, in order.
class Recorder final : public Sink {
 public:
  explicit Recorder(Loop& loop) : loop_(loop) {}
  void on_completion(const Completion& completion) override;

  // Whether buffers are kept (and stand in Event::buffer) instead of being released at once.
  bool keep_buffers = false;
  // Called at the end of each on_completion(), when set.
  std::function<void(Token)> then;

  [[nodiscard]] std::vector<Event>& of(Token token);
  [[nodiscard]] std::size_t total() const { return total_; }

 private:
  Loop& loop_;
  std::map<std::uint64_t, std::vector<Event>> events_;
  std::size_t total_ = 0;
};

class Conformance : public ::testing::TestWithParam<Backend> {
 protected:
  struct Pair {
    Descriptor client = -1;
    Descriptor server = -1;
  };

  void TearDown() override;

  // Makes the loop of the script; to be called first.
  void start(const Needs& needs = {});
  [[nodiscard]] Loop& loop() { return *loop_; }
  [[nodiscard]] Recorder& seen() { return *seen_; }
  [[nodiscard]] Token token();

  // Runs until `token` has `count` completions, for 10 s at most; fails the test otherwise. Returns the last of them.
  Event await(Token token, std::size_t count = 1);
  // Runs until the loop has been silent for `quiet`.
  void settle(Duration quiet);
  [[nodiscard]] bool has_come(Token token) { return !seen().of(token).empty(); }

  [[nodiscard]] Descriptor listen_anywhere(int backlog = 64);  // on 127.0.0.1
  [[nodiscard]] Address address_of(Descriptor descriptor);
  [[nodiscard]] Descriptor open_to(const Address& remote);
  [[nodiscard]] Pair connected();  // over 127.0.0.1
  // Sends all of `text` and waits for the completion.
  void send_all(Descriptor descriptor, std::string_view text);
  // Receives until the end of the stream or `size` bytes.
  [[nodiscard]] std::string receive(Descriptor descriptor, std::size_t size);
  // Shuts down, and closes; nothing may be pending on it.
  void close(Descriptor descriptor) { loop().close(descriptor); }
  void close(Pair pair) {
    close(pair.client);
    close(pair.server);
  }

  // A file operation, awaited.
  std::int32_t file(const FileRequest& request);
  // A new, empty directory of this test.
  [[nodiscard]] const std::string& directory();
  // A file of `size` zero bytes, written.
  [[nodiscard]] std::string make_file(std::string_view name, std::size_t size);

 private:
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Recorder> seen_;
  std::uint32_t tokens_ = 0;
  std::string directory_;
};

[[nodiscard]] std::string name_of_backend(const ::testing::TestParamInfo<Backend>& info);

}  // namespace postern::io::testing
