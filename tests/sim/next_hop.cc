#include "tests/sim/next_hop.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

namespace postern::sim {

class NextHop::Session final : public io::sim::Peer {
 public:
  explicit Session(NextHop& of) : Peer(of.world_), hop_(of) {
    if (hop_.mood_.slow_reader) read_slowly(1024, std::chrono::milliseconds(20));
  }
  [[nodiscard]] bool over() const { return over_; }
  void end(bool reset = false) {
    over_ = true;
    close(reset);
  }

 private:
  enum class Trouble : std::uint8_t { none, temporary, permanent, gone };
  enum class Channel : std::uint8_t { clear, shaking, secured };

  void on_open() override { reply("220 hop.test ESMTP\r\n", mishap("greeting")); }
  void on_bytes(std::string_view bytes) override {
    input_.append(bytes);
    if (channel_ == Channel::shaking && !shake_hands()) return;
    // The relay's close_notify: its last byte, as no content holds it.
    if (channel_ == Channel::secured && input_.ends_with('\x04')) return end();
    while (!over_ && advance()) {
    }
  }
  void on_end() override { end(); }
  void on_lost(int /*error*/) override { over_ = true; }

  // What goes wrong in this step; nothing if the session is gone by it.
  Trouble mishap(std::string_view step) {
    const Mood& mood = hop_.mood_;
    if (world().chance(mood.hang_up)) {
      world().say("hop: hangs up at", step);
      end(world().random().below(2) == 0);
      return Trouble::gone;
    }
    if (world().chance(mood.silence)) {
      world().say("hop: falls silent at", step);
      silent_ = true;
      return Trouble::gone;
    }
    if (world().chance(mood.garbage)) {
      world().say("hop: talks garbage at", step);
      send("hello?\r\n");
      return Trouble::gone;
    }
    if (world().chance(mood.temporary)) return Trouble::temporary;
    if (world().chance(mood.permanent)) return Trouble::permanent;
    return Trouble::none;
  }

  void reply(std::string text, Trouble trouble) {
    if (trouble == Trouble::gone || over_ || silent_) return;
    Instant when = std::max(world().now(), last_reply_);
    if (world().chance(hop_.mood_.slow))
      when += world().between(std::chrono::milliseconds(1), std::chrono::seconds(20));
    last_reply_ = when;
    if (when <= world().now()) return send(text);
    world().at(when, [this, alive = alive(), text = std::move(text)] {
      if (*alive && !over_) send(text);
    });
  }

  void on_starttls() {
    if (!hop_.features_.tls || channel_ != Channel::clear) {
      hop_.oracle_.violation("next hop: STARTTLS where it is not offered");
      return reply("502 5.5.1 no\r\n", Trouble::none);
    }
    tls_trouble_ = TlsTrouble::none;
    if (world().chance(hop_.mood_.tls_trouble)) {
      tls_trouble_ = static_cast<TlsTrouble>(1 + world().random().below(5));
      world().say("hop: TLS comes to nothing", std::to_string(static_cast<int>(tls_trouble_)));
    }
    if (tls_trouble_ == TlsTrouble::refused) return reply("454 4.7.0 not now\r\n", Trouble::none);
    if (tls_trouble_ == TlsTrouble::hung_up) return end(world().random().below(2) == 0);
    envelope_.reset();
    channel_ = Channel::shaking;
    if (!input_.empty()) hop_.oracle_.violation("next hop: bytes behind STARTTLS before its reply");
    send("220 2.0.0 go on\r\n");
  }

  // False: it goes on when more bytes come, or not at all.
  bool shake_hands() {
    constexpr std::string_view hello = "hello\n";
    if (!std::string_view(input_).starts_with(hello.substr(0, input_.size()))) {
      hop_.oracle_.violation("next hop: something else than TLS behind 220: " + input_.substr(0, 40));
      end();
      return false;
    }
    if (input_.size() < hello.size() || tls_trouble_ == TlsTrouble::silent) return false;
    input_.erase(0, hello.size());
    if (tls_trouble_ == TlsTrouble::garbage || tls_trouble_ == TlsTrouble::left) {
      send(tls_trouble_ == TlsTrouble::garbage ? "hellO\n" : "HEL");
      if (tls_trouble_ == TlsTrouble::left) end(world().random().below(2) == 0);
      return false;
    }
    channel_ = Channel::secured;
    send("HELLO\n");
    return true;
  }

  // One command or piece of content; false: more bytes are wanted.
  bool advance() {
    if (silent_) return false;
    if (in_data_) return advance_data();
    if (chunk_left_ > 0) {
      const std::size_t size = std::min(chunk_left_, input_.size());
      if (size == 0) return false;
      if (envelope_) content_.append(input_, 0, size);
      input_.erase(0, size);
      chunk_left_ -= size;
      if (chunk_left_ == 0) on_chunk();
      return true;
    }
    const std::size_t end_of_line = input_.find("\r\n");
    if (end_of_line == std::string::npos) return false;
    const std::string line = input_.substr(0, end_of_line);
    input_.erase(0, end_of_line + 2);
    // It goes on after our 250: so it has read it.
    for (const Oracle::Ticket ticket : std::exchange(unconfirmed_, {})) hop_.oracle_.confirm(ticket);
    on_line(line);
    return true;
  }

  static std::string path_in(const std::string& line) {
    const std::size_t open = line.find('<');
    const std::size_t close = line.find('>', open);
    return open == std::string::npos || close == std::string::npos ? std::string()
                                                                   : line.substr(open + 1, close - open - 1);
  }

  void on_line(const std::string& line) {
    world().say("hop: command", line);
    if (line.starts_with("STARTTLS")) return on_starttls();
    if (line.starts_with(hop_.features_.lmtp ? "LHLO" : "EHLO")) {
      const Trouble trouble = mishap("EHLO");
      if (trouble == Trouble::temporary) return reply("451 4.3.0 not now\r\n", trouble);
      std::string text = "250-hop.test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n";
      if (hop_.features_.pipelining) text += "250-PIPELINING\r\n";
      if (hop_.features_.chunking) text += "250-CHUNKING\r\n";
      if (hop_.features_.tls && channel_ == Channel::clear) text += "250-STARTTLS\r\n";
      return reply(text + "250 ENHANCEDSTATUSCODES\r\n", trouble);
    }
    if (line.starts_with("HELO") && !hop_.features_.lmtp) return reply("250 hop.test\r\n", Trouble::none);
    if (line.starts_with("MAIL")) {
      envelope_.reset();
      content_.clear();
      if (hop_.features_.tls_needed && channel_ == Channel::clear) {
        hop_.oracle_.violation("next hop: mail in the clear where TLS is required");
      }
      const Trouble trouble = mishap("MAIL");
      if (trouble == Trouble::temporary) return reply("451 4.3.0 not now\r\n", trouble);
      if (trouble == Trouble::permanent && !path_in(line).empty()) {
        hop_.oracle_.on_sender_refused(path_in(line));
        return reply("550 5.7.1 not from you\r\n", trouble);
      }
      envelope_.emplace();
      envelope_->first = path_in(line);
      return reply("250 2.1.0 Ok\r\n", trouble);
    }
    if (line.starts_with("RCPT")) {
      const std::string address = path_in(line);
      if (!envelope_) return reply("503 5.5.1 MAIL first\r\n", Trouble::none);
      const Trouble trouble = mishap("RCPT");
      if (trouble == Trouble::temporary) return reply("450 4.2.0 busy\r\n", trouble);
      if (trouble == Trouble::permanent || address.starts_with("bad")) {
        if (trouble != Trouble::gone) hop_.oracle_.on_refused(address);
        return reply("550 5.1.1 no such user\r\n", trouble == Trouble::gone ? trouble : Trouble::permanent);
      }
      envelope_->second.push_back(address);
      return reply("250 2.1.5 Ok\r\n", trouble);
    }
    if (line.starts_with("DATA")) {
      if (!envelope_ || envelope_->second.empty()) return reply("503 5.5.1 no recipient\r\n", Trouble::none);
      const Trouble trouble = mishap("DATA");
      if (trouble == Trouble::temporary) return reply("451 4.3.0 not now\r\n", trouble);
      if (trouble == Trouble::gone) return;
      in_data_ = true;
      return reply("354 go on\r\n", Trouble::none);
    }
    if (line.starts_with("BDAT")) {
      last_chunk_ = line.find("LAST") != std::string::npos;
      chunk_left_ = static_cast<std::size_t>(std::strtoul(line.c_str() + 5, nullptr, 10));
      if (chunk_left_ == 0) on_chunk();
      return;
    }
    if (line.starts_with("RSET")) {
      envelope_.reset();
      content_.clear();
      return reply("250 2.0.0 Ok\r\n", Trouble::none);
    }
    if (line.starts_with("NOOP")) return reply("250 2.0.0 Ok\r\n", Trouble::none);
    if (line.starts_with("QUIT")) {
      reply("221 2.0.0 Bye\r\n", Trouble::none);
      finish();
      return;
    }
    hop_.oracle_.violation("next hop: a line that is no command: " + line.substr(0, 80));
    reply("500 5.5.2 what?\r\n", Trouble::none);
  }

  bool advance_data() {
    // Whole lines, so that a dot at their start can be taken off.
    const std::size_t end_of_line = input_.find("\r\n");
    if (end_of_line == std::string::npos) return false;
    std::string_view line(input_.data(), end_of_line + 2);
    if (line == ".\r\n") {
      input_.erase(0, 3);
      in_data_ = false;
      on_content();
      return true;
    }
    if (line.starts_with('.')) line.remove_prefix(1);
    content_.append(line);
    input_.erase(0, end_of_line + 2);
    return true;
  }

  void on_chunk() {
    if (!envelope_ || envelope_->second.empty()) return reply("503 5.5.1 no recipient\r\n", Trouble::none);
    if (last_chunk_) return on_content();
    reply("250 2.0.0 go on\r\n", mishap("BDAT"));
  }

  void on_content() {
    const std::string reverse_path = envelope_->first;
    const std::vector<std::string> recipients = std::move(envelope_->second);
    const std::string content = std::exchange(content_, {});
    envelope_.reset();
    if (world().chance(hop_.mood_.lost_reply)) {
      world().say("hop: takes the content and hangs up", {});
      (void)hop_.oracle_.on_delivered(reverse_path, recipients, content, world().now());
      return end(true);
    }
    if (hop_.features_.lmtp) return answer_each(reverse_path, recipients, content);
    const Trouble trouble = mishap("content");
    if (trouble == Trouble::temporary) return reply("451 4.3.0 not now\r\n", trouble);
    if (trouble == Trouble::permanent) {
      for (const std::string& address : recipients) hop_.oracle_.on_refused(address);
      return reply("554 5.6.0 not this\r\n", trouble);
    }
    if (trouble == Trouble::gone) return;
    unconfirmed_.push_back(hop_.oracle_.on_delivered(reverse_path, recipients, content, world().now()));
    reply("250 2.0.0 taken\r\n", trouble);
  }

  void answer_each(const std::string& reverse_path, const std::vector<std::string>& recipients,
                   const std::string& content) {
    for (const std::string& address : recipients) {
      const Trouble trouble = mishap("a recipient's content");
      if (trouble == Trouble::gone) return;
      if (trouble == Trouble::temporary) {
        reply("452 4.2.2 full\r\n", trouble);
      } else if (trouble == Trouble::permanent) {
        hop_.oracle_.on_refused(address);
        reply("550 5.2.1 not here\r\n", trouble);
      } else {
        unconfirmed_.push_back(hop_.oracle_.on_delivered(reverse_path, {address}, content, world().now()));
        reply("250 2.1.5 taken\r\n", trouble);
      }
    }
  }

  enum class TlsTrouble : std::uint8_t { none, refused, hung_up, left, garbage, silent };

  NextHop& hop_;
  Channel channel_ = Channel::clear;
  TlsTrouble tls_trouble_ = TlsTrouble::none;
  std::string input_;
  std::optional<std::pair<std::string, std::vector<std::string>>> envelope_;
  std::string content_;
  std::size_t chunk_left_ = 0;
  bool last_chunk_ = false;
  bool in_data_ = false;
  bool silent_ = false;
  bool over_ = false;
  Instant last_reply_{};
  std::vector<Oracle::Ticket> unconfirmed_;
};

NextHop::NextHop(io::sim::World& world, Oracle& oracle, io::Address address, const Features& features)
    : world_(world), oracle_(oracle), address_(std::move(address)), features_(features) {
  set_mood({});
}

NextHop::~NextHop() {
  world_.network().serve(address_, nullptr);
}

void NextHop::set_mood(const Mood& mood) {
  mood_ = mood;
  if (mood.down) return world_.network().serve(address_, nullptr);
  world_.network().serve(address_, [this](io::sim::StreamPtr stream) {
    std::erase_if(sessions_, [](const auto& session) { return session->over(); });
    sessions_.push_back(std::make_unique<Session>(*this));
    sessions_.back()->take(std::move(stream));
  });
}

void NextHop::end_sessions() {
  for (const auto& session : sessions_) {
    if (!session->over()) session->end(true);
  }
}

}  // namespace postern::sim
