// A simulated next hop: an SMTP or LMTP server at one address, with moods. Its TLS is tests/net/transparent_tls.h's.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/sim/peer.h"
#include "tests/sim/oracle.h"

namespace postern::sim {

class NextHop {
 public:
  struct Mood {
    // In hundred steps of a dialogue: what goes wrong there.
    unsigned temporary = 0;   // 4xx
    unsigned permanent = 0;   // 5xx (to a recipient, a sender, a content)
    unsigned hang_up = 0;     // closes, half of the time by a reset
    unsigned silence = 0;     // never answers again
    unsigned slow = 0;        // answers seconds later
    unsigned garbage = 0;     // answers what is no reply
    unsigned lost_reply = 0;  // takes the content, and hangs up instead of saying so
    bool down = false;        // nobody listens
    bool slow_reader = false;
    unsigned tls_trouble = 0;  // STARTTLS refused or hung up on, a handshake left, answered with garbage or not at all
  };
  struct Features {
    bool pipelining = true;
    bool chunking = true;
    bool lmtp = false;        // and one reply for each recipient behind the content
    bool tls = false;         // offers STARTTLS
    bool tls_needed = false;  // no mail may come in the clear: the relay was told so
  };

  NextHop(io::sim::World& world, Oracle& oracle, io::Address address, const Features& features);
  ~NextHop();
  NextHop(const NextHop&) = delete;
  NextHop& operator=(const NextHop&) = delete;

  void set_mood(const Mood& mood);
  [[nodiscard]] const Mood& mood() const { return mood_; }
  [[nodiscard]] const io::Address& address() const { return address_; }
  // Ends sessions that hang since a bad mood.
  void end_sessions();

 private:
  class Session;

  io::sim::World& world_;
  Oracle& oracle_;
  io::Address address_;
  Features features_;
  Mood mood_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

}  // namespace postern::sim
