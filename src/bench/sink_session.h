// One connection to a sink: a server session whose verdicts come from the sink's behaviour.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <postern/base/timer_wheel.h>
#include <postern/mail/envelope.h>
#include <postern/smtp/server_session.h>

#include "bench/behaviour.h"
#include "bench/content.h"
#include "bench/numbering.h"
#include "net/connection.h"

namespace postern::bench {

class Sink;

class SinkSession final : public net::ConnectionUser, private TimerHandler {
 public:
  SinkSession(Sink& sink, const io::Address& peer, Instant now);
  SinkSession(const SinkSession&) = delete;
  SinkSession& operator=(const SinkSession&) = delete;

  // Once, behind the constructor.
  void start(net::Connection& connection);

  // 421 at the next command boundary.
  void shut_down();

  // --- net::ConnectionUser
  std::size_t on_received(MutableBytes bytes) override;
  void on_end_of_stream() override;
  void on_sent() override;
  void on_lost(const Status& status) override;
  void on_closed() override;

 private:
  void on_timer(Timer& timer, Instant now) override;

  [[nodiscard]] std::size_t feed(Bytes bytes);
  // False: not now; a delay runs, or the session waits for something that is not ours to give.
  [[nodiscard]] bool give_verdict(Instant now);
  [[nodiscard]] bool carry_out(Stage stage, const Act& act, Instant now);
  void judge(Stage stage, const smtp::Verdict& verdict, Instant now);
  void finish_message(const mail::Reply* refusal, Instant now);
  void hang_up();
  void after_progress();

  Sink& sink_;
  net::Connection* connection_ = nullptr;
  smtp::ServerSession session_;
  Timer delay_timer_;
  Act delayed_;                    // what is to be done when the delay is over
  std::optional<Stage> delaying_;  // a delay runs
  bool feeding_ = false;
  bool closing_ = false;
  bool half_closed_ = false;
  bool send_in_flight_ = false;
  std::string sending_;  // replies in the kernel's hands
  std::uint32_t messages_ = 0;

  ContentCheck check_;
  std::uint64_t content_bytes_ = 0;
  mail::Envelope envelope_;
};

}  // namespace postern::bench
