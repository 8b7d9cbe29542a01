// A TlsStream without secrets: what a Connection does around one can be tested byte by byte, without a library.
//
// The other side says "hello\n" and is answered "HELLO\n"; then bytes pass as they are. "\x04" is a close_notify,
// "\x15" breaks the stream, which then has "ALERT" to say. With a task, it is asked for between the two hellos.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "net/tls_stream.h"

namespace postern::net {

class TransparentTls final : public TlsStream {
 public:
  struct Task final : io::Task {
    void run() override { ran = true; }
    bool ran = false;
  };

  explicit TransparentTls(bool with_task = false) : task_wanted_(with_task) {}

  void set_input(Bytes cipher_text) override { input_ = as_text(cipher_text); }
  std::size_t input_left() const override { return input_.size(); }

  Wait handshake() override {
    constexpr std::string_view hello = "hello\n";
    while (hello_read_ < hello.size()) {
      if (input_.empty()) return Wait::input;
      if (input_.front() != hello[hello_read_]) return break_off("TLS handshake: no hello");
      input_.remove_prefix(1);
      ++hello_read_;
    }
    if (task_wanted_ && !task_.ran) return Wait::task;
    filling_ += "HELLO\n";
    facts_ = {.version = "TLSv0", .cipher = "NONE", .resumed = false, .peer_verified = false, .peer_fingerprint = {}};
    return Wait::none;
  }
  const TlsFacts& facts() const override { return facts_; }

  Read read(MutableBytes plain) override {
    if (input_.empty()) return {0, Wait::input};
    if (input_.front() == '\x04') {
      input_.remove_prefix(1);
      return {0, Wait::ended};
    }
    if (input_.front() == '\x15') return {0, break_off("TLS: broken")};
    // Small records, so that one receive holds many.
    const std::size_t size =
        std::min({input_.find_first_of("\x04\x15"), input_.size(), plain.size(), std::size_t{1000}});
    std::memcpy(plain.data(), input_.data(), size);
    input_.remove_prefix(size);
    return {size, Wait::none};
  }
  std::size_t write(Bytes plain) override {
    const std::size_t size = std::min(plain.size(), output_bytes_max - std::min(output_bytes_max, filling_.size()));
    filling_ += as_text(plain.first(size));
    return size;
  }
  void close() override { filling_ += '\x04'; }

  bool output_waiting() const override { return !filling_.empty(); }
  Bytes take_output() override {
    sending_ = std::move(filling_);
    filling_.clear();
    return as_bytes(sending_);
  }
  void on_output_sent() override { sending_.assign(sending_.size(), '?'); }

  io::Task& take_task() override { return task_; }
  void on_task_done() override {}
  const Status& status() const override { return status_; }

 private:
  Wait break_off(std::string_view why) {
    if (status_.ok()) filling_ += "ALERT";
    status_ = error(StatusCode::kUnavailable, why);
    return Wait::failed;
  }

  std::string_view input_;
  std::string filling_, sending_;
  std::size_t hello_read_ = 0;
  bool task_wanted_;
  Task task_;
  TlsFacts facts_;
  Status status_;
};

}  // namespace postern::net
