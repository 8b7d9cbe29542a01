// One client: a server session on a connection. Carries bytes in, replies out, verdicts and content in between.
//
// It judges nothing itself: verdicts come from Ingress, memory and durability from the Door. It keeps no received bytes
// but those of the content being collected: what the session cannot take yet stays in the connection's lent buffer, and
// the client is not read from meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <postern/base/intrusive_list.h>
#include <postern/base/timer_wheel.h>
#include <postern/mail/message.h>
#include <postern/smtp/server_session.h>

#include "ingress/authenticator.h"
#include "ingress/door.h"
#include "net/connection.h"

namespace postern::ingress {

class Ingress;
struct ListenerContext;
struct WaitingTag;

class ServerConnection final : public net::ConnectionUser, private TimerHandler, public ListHook<WaitingTag> {
 public:
  ServerConnection(Ingress& ingress, std::shared_ptr<const ListenerContext> listener, const io::Address& peer,
                   Instant now);
  ~ServerConnection();
  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;

  // Once, behind the constructor: the greeting, unless input has come before it: that is waited for and gets its answer
  // [on_received()]. The connection tells this object from now on.
  // `proxied`: a PROXY header comes first, and names the client.
  void start(net::Connection& connection, bool proxied, Instant now);

  // --- from the door -----------------------------------------------------------------------------------------------
  void on_accepted(smtp::ReplySlot slot, mail::QueueId id, Instant now);
  void on_refused(smtp::ReplySlot slot, const mail::Reply& reply, Instant now);
  // Memory or room in the spool came back: goes on where it stopped.
  void on_resources();
  void on_password_checked(PasswordCheck result, Instant now);
  void on_recipient_answered(const mail::Reply* refusal, Instant now);
  // It waited for that longer than Ingress has patience: 452, and the rest of the content is swallowed.
  void on_stalled_too_long(Instant now);
  // Since when nothing of its content could be kept, however often it was tried.
  [[nodiscard]] Instant stalled_since() const { return stalled_since_; }
  // No wait for the client is longer, from now on; nullopt: as usual.
  void set_idle_max(std::optional<Duration> most);
  void on_shutdown();
  // The grace is over: 421 and an end whatever is under way.
  void abort();

  // The client, as far as it is known: behind a balancer, the one that the balancer or XCLIENT named.
  [[nodiscard]] const io::Address& peer() const { return peer_; }
  // Whose connections this one counts among.
  void set_counted(const IpAddress& counted) { counted_ = counted; }
  [[nodiscard]] const std::optional<IpAddress>& counted() const { return counted_; }
  // The observer was told of it.
  [[nodiscard]] bool announced() const { return announced_; }
  [[nodiscard]] std::uint32_t messages() const { return messages_; }  // taken so far
  // A message was begun and not yet answered: what an orderly stop waits for.
  [[nodiscard]] bool busy() const { return message_ != nullptr || session_.open_slots() > 0; }

  // --- net::ConnectionUser -----------------------------------------------------------------------------------------
  void on_secured(const net::TlsFacts& facts) override;
  std::size_t on_received(MutableBytes bytes) override;
  void on_end_of_stream() override;
  void on_sent() override;
  void on_lost(const Status& status) override;
  void on_closed() override;

 private:
  void on_timer(Timer& timer, Instant now) override;

  // The PROXY header's bytes; returns how many were the header's.
  [[nodiscard]] std::size_t take_proxy_header(Bytes bytes, Instant now);
  void begin_session(bool input_waits, Instant now);
  void turn_away(std::string_view why, Instant now);
  void drop_silently();
  void set_peer(const io::Address& peer, bool authenticated);
  void on_identity_asserted(Instant now);
  void wake(Instant now);

  // Feeds the session; returns what it consumed. Stops where the session or a resource says so.
  std::size_t feed(Bytes bytes);
  [[nodiscard]] bool may_relay() const { return may_relay_ || !session_.user().empty(); }
  [[nodiscard]] bool give_verdict(Instant now);
  [[nodiscard]] const mail::Reply* admit_handshake();
  void end_handshake();
  void begin_tls();
  void greet(Instant now);
  void greet_at(Instant at);
  [[nodiscard]] Duration greeting_delay() const;
  // False: the next hop is asked.
  [[nodiscard]] bool give_recipient_verdict(Instant now);
  [[nodiscard]] bool ask_next_hops(Instant now);
  void refuse_recipient(const mail::Reply& reply, Instant now);
  void give_credentials(Instant now);
  [[nodiscard]] bool judge_authentication(Instant now);
  void accept_authentication(Instant now);
  void put_off_authentication(const mail::Reply& reply, Instant now);
  bool fail_authentication(Instant now);
  bool reply_to_failure(Instant now);
  [[nodiscard]] const mail::Reply* refuse_sender() const;
  void begin_content();
  [[nodiscard]] bool make_room(std::size_t bytes, Instant now);
  bool stream_out(std::size_t keep_bytes, Instant now);
  void stall(Instant now);
  void drop_content();
  void finish_transaction(Instant now);
  void refuse_content(const mail::Reply& reply, Instant now);
  void after_progress();
  void arm_timer();
  [[nodiscard]] bool holds_replies(Instant now);
  [[nodiscard]] bool gathers_replies(Instant now);
  void send_output();

  Ingress& ingress_;
  std::shared_ptr<const ListenerContext> listener_;
  net::Connection* connection_ = nullptr;
  io::Address peer_;
  std::string peer_text_;
  smtp::ServerSession session_;
  Timer timer_;
  std::string sending_;  // replies in the kernel's hands
  io::Slice slice_;      // the same, for send()
  bool send_in_flight_ = false;
  bool may_relay_ = false;
  bool closing_ = false;
  bool half_closed_ = false;  // the client has sent its FIN
  bool stalled_ = false;      // for memory or room in the spool; in Ingress's list of the waiting
  bool feeding_ = false;
  bool handshaking_ = false;        // TLS is due or begun, and neither on_secured() nor on_lost() has come
  bool tls_due_ = false;            // it begins when timer_ says so
  bool handshake_counted_ = false;  // among those that Ingress has under way
  bool greeting_due_ = false;       // said when timer_ says so, at greeting_at_, unless input comes before
  bool greeting_put_off_ = false;   // once, because something waited in the socket
  Instant greeting_at_{};
  Instant replies_held_until_{};     // a negative reply waits until then, and nothing is read; past: none does
  std::uint32_t negative_seen_ = 0;  // of session_.negative_replies()
  Instant gathers_until_ = never;    // `never`: no output waits for a content's reply
  bool announced_ = false;
  bool checking_password_ = false;
  bool authenticated_here_ = false;  // session_.user() is one of our users, and not one of who said XCLIENT
  // The recipient that waits for its verdict, while next hops are asked for those who get its mail.
  struct RecipientCheck {
    std::vector<std::string> paths;  // itself, or an alias's targets: at most RecipientTable's 100
    std::size_t next = 0;            // the first one not known to be taken
    bool expanded = false;           // they are targets
    Instant since{};
  };
  std::unique_ptr<RecipientCheck> recipient_check_;
  std::uint32_t auth_failures_ = 0;
  Instant auth_reply_at_ = never;  // auth_reply_ waits until then
  smtp::Verdict auth_reply_;
  bool awaits_proxy_header_ = false;
  std::string proxy_header_;  // as far as it has come; at most proxy_header_bytes_max
  std::optional<IpAddress> counted_;
  Instant stalled_since_ = never;  // `never`: what came last was kept
  std::uint32_t messages_ = 0;

  // The transaction whose content is coming in.
  std::unique_ptr<mail::Message> message_;
  spool::ContentId streamed_{};
};

}  // namespace postern::ingress
