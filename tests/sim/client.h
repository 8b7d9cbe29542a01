// A simulated SMTP client: one connection, some messages, with manners good and bad.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/sim/peer.h"
#include "tests/sim/oracle.h"

namespace postern::sim {

class Client final : public io::sim::Peer {
 public:
  enum class Tls : std::uint8_t { none, starttls, at_once };
  struct Manners {
    bool pipelining = true;    // else one command at a time
    bool chunking = false;     // BDAT
    bool ahead = false;        // with both: all transactions are sent before the first reply
    std::size_t chunk = 4096;  // bytes of a BDAT
    std::size_t trickle = 0;   // bytes per piece; 0: all at once
    Duration trickle_every = std::chrono::milliseconds(1);
    int hang_up_after = -1;  // commands sent; -1: never
    bool reset = false;      // how it hangs up
    // Without secrets, as tests/net/transparent_tls.h has it. Contents hold none of its control bytes.
    Tls tls = Tls::none;
    bool close_notify = true;       // before it hangs up or is done
    bool leaves_handshake = false;  // in the middle of its hello
    bool resets = false;            // RSET before each MAIL but the first: where all recipients may be refused
  };
  // `done` is called once, when the connection is over.
  Client(io::sim::World& world, Oracle& oracle, const Manners& manners, std::vector<Mail*> mails,
         std::function<void()> done)
      : Peer(world), oracle_(oracle), manners_(manners), mails_(std::move(mails)), done_(std::move(done)) {}

  // Gives up after this long without a reply.
  static constexpr Duration patience = std::chrono::minutes(6);

 private:
  enum class Channel : std::uint8_t { clear, shaking, secured };
  enum class Kind : std::uint8_t { greeting, ehlo, starttls, rset, mail, rcpt, data, chunk, content, quit };
  struct Command {
    Kind kind;
    std::string bytes;
    std::size_t mail = 0;
    std::size_t recipient = 0;
    bool alone = false;  // waits until all replies are there
  };

  void on_bytes(std::string_view bytes) override;
  void on_open() override;
  void on_end() override { end(); }
  void on_lost(int /*error*/) override { end(); }
  void on_reply(int code, std::string_view text);
  void shake_hands();
  [[nodiscard]] bool take_hello();
  void plan(std::size_t mail);
  void pump();
  void put(std::string_view bytes);
  void drip();
  void end();
  void watch();

  Oracle& oracle_;
  const Manners manners_;
  std::vector<Mail*> mails_;
  std::function<void()> done_;
  std::deque<Command> queue_;                                           // to be sent
  std::deque<Command> waiting_{{.kind = Kind::greeting, .bytes = {}}};  // sent; replies due, in order
  Channel channel_ = Channel::clear;
  std::string input_;
  std::string output_;  // trickling
  bool dripping_ = false;
  bool offers_starttls_ = false;
  int sent_ = 0;
  std::size_t replies_ = 0;
  bool ended_ = false;
};

// Dot-stuffed, with the final dot [RFC 5321 §4.5.2].
[[nodiscard]] std::string stuffed(std::string_view content);

}  // namespace postern::sim
