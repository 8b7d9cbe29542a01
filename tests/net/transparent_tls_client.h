// The other end of TransparentTls: a TlsStream without secrets for connections to servers, and a context of such.
//
// It says "hello\n" and waits for "HELLO\n"; then bytes pass as they are. "\x04" is a close_notify. A server that
// answers with anything else has broken the handshake.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/tls_stream.h"

namespace postern::net {

class TransparentTlsClient final : public TlsStream {
 public:
  struct Session final : TlsSession {};

  TransparentTlsClient(TlsTarget target, bool certificate_is_good)
      : target_(std::move(target)), certificate_is_good_(certificate_is_good) {}

  void set_input(Bytes cipher_text) override { input_ = as_text(cipher_text); }
  std::size_t input_left() const override { return input_.size(); }

  Wait handshake() override {
    if (!std::exchange(said_hello_, true)) filling_ += "hello\n";
    constexpr std::string_view hello = "HELLO\n";
    while (hello_read_ < hello.size()) {
      if (input_.empty()) return Wait::input;
      if (input_.front() != hello[hello_read_]) return break_off("TLS handshake: no hello");
      input_.remove_prefix(1);
      ++hello_read_;
    }
    if (target_.verify && !certificate_is_good_) return break_off("TLS handshake: the certificate is no good");
    facts_ = {.version = "TLSv0",
              .cipher = "NONE",
              .resumed = target_.session != nullptr,
              .peer_verified = certificate_is_good_,
              .peer_fingerprint = {}};
    session_ = std::make_shared<const Session>();
    return Wait::none;
  }
  const TlsFacts& facts() const override { return facts_; }

  Read read(MutableBytes plain) override {
    if (input_.empty()) return {0, Wait::input};
    if (input_.front() == '\x04') {
      input_.remove_prefix(1);
      return {0, Wait::ended};
    }
    const std::size_t size = std::min({input_.find('\x04'), input_.size(), plain.size()});
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
    sending_ = std::exchange(filling_, {});
    return as_bytes(sending_);
  }
  void on_output_sent() override { sending_.assign(sending_.size(), '?'); }

  io::Task& take_task() override { return no_task_; }
  void on_task_done() override {}
  const Status& status() const override { return status_; }
  std::shared_ptr<const TlsSession> take_session() override { return std::exchange(session_, nullptr); }

 private:
  struct NoTask final : io::Task {
    void run() override {}
  };

  Wait break_off(std::string_view why) {
    status_ = error(StatusCode::kUnavailable, why);
    return Wait::failed;
  }

  TlsTarget target_;
  bool certificate_is_good_;
  std::string_view input_;
  std::string filling_, sending_;
  bool said_hello_ = false;
  std::size_t hello_read_ = 0;
  NoTask no_task_;
  TlsFacts facts_;
  Status status_;
  std::shared_ptr<const TlsSession> session_;
};

class TransparentTlsClients final : public TlsClientContext {
 public:
  explicit TransparentTlsClients(bool certificate_is_good = true) : certificate_is_good_(certificate_is_good) {}

  std::unique_ptr<TlsStream> make_stream(TlsTarget target) const override {
    targets.push_back(target);
    return std::make_unique<TransparentTlsClient>(std::move(target), certificate_is_good_);
  }

  mutable std::vector<TlsTarget> targets;  // all that were asked for

 private:
  bool certificate_is_good_;
};

}  // namespace postern::net
