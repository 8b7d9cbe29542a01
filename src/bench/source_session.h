// One session of a source: a connection, and the next one when that is used up or lost.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <postern/base/timer_wheel.h>
#include <postern/smtp/client_session.h>

#include "bench/source.h"
#include "net/connection.h"

namespace postern::bench {

class SourceSession final : public net::ConnectionUser, private TimerHandler {
 public:
  SourceSession(Source& source, Instant now);
  SourceSession(const SourceSession&) = delete;
  SourceSession& operator=(const SourceSession&) = delete;

  void connect();
  // A message is due, or none will come any more: only for one that waits in Source::idle_.
  void wake();
  // Ends a connection that has not been greeted and has no message to wait for.
  void leave_unused(Instant now);

  // --- net::ConnectionUser
  void on_connected() override;
  std::size_t on_received(MutableBytes bytes) override;
  void on_end_of_stream() override;
  void on_sent() override;
  void on_lost(const Status& status) override;
  void on_closed() override;

 private:
  void on_timer(Timer& timer, Instant now) override;

  void pump();
  [[nodiscard]] bool begin_next(Instant now);
  void begin(Instant now);
  void flush(Instant now);
  void take_result(Instant now);
  void end();

  Source& source_;
  smtp::ClientSession session_;
  Timer timer_;
  net::Connection* connection_ = nullptr;
  std::optional<Source::Job> job_;  // under way, or to be sent again over a fresh connection
  bool begun_ = false;              // the session has it
  bool connected_ = false;
  bool lost_ = false;
  bool closing_ = false;
  bool quitting_ = false;
  bool pumping_ = false;
  bool ended_ = false;
  bool send_in_flight_ = false;
  std::uint32_t messages_ = 0;  // on this connection
  Instant begun_at_{};
  std::size_t size_index_ = 0;

  std::string commands_;  // these three are in the kernel's hands while send_in_flight_
  std::string header_;
  std::vector<io::Slice> slices_;
  std::string paths_text_;
  std::vector<std::string_view> paths_;
};

}  // namespace postern::bench
