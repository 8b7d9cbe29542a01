// One connection to a next hop of a site, with its client session: delivers one message after the other.
//
// It tries the route's addresses in order until one talks, within the bounds of EgressOptions, and reports each
// delivery's outcomes once. Driven by Egress and by its own connection and timer.
//
// The kernel reads a message's memory where it lies, so a delivery is given back only when no send is under way any
// more, however early its result is known.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/intrusive_list.h>
#include <postern/base/timer_wheel.h>
#include <postern/mail/site.h>
#include <postern/route/route.h>
#include <postern/sasl/client_exchange.h>
#include <postern/smtp/client_session.h>

#include "egress/content_reader.h"
#include "egress/delivery.h"
#include "egress/salted_passwords.h"
#include "net/connection.h"
#include "net/tls_stream.h"

namespace postern::egress {

class Egress;
struct IdleTag;
struct AgeTag;

class ClientConnection final : public net::ConnectionUser,
                               private ContentReaderUser,
                               private TimerHandler,
                               private SaltedPasswordUser,
                               public ListHook<IdleTag>,
                               public ListHook<AgeTag> {
 public:
  ClientConnection(Egress& egress, mail::SiteId site, Instant now);
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  // On a fresh object, an idle connection, or one that was idle and is going.
  void deliver(Delivery& delivery);
  // An idle connection says QUIT and goes; on_idle_closed() when it is gone.
  void quit();
  // The same for one that is idle or going, without waiting for 221: others wait for its place.
  void quit_at_once();
  // The same, counted in Egress::leaving_ until the place is free or another delivery of the site claims it.
  void make_room();
  [[nodiscard]] bool makes_room() const { return makes_room_; }
  void abort();
  // If it carries a question, that is given up at once, and the connection with it.
  void give_up_question();

  [[nodiscard]] mail::SiteId site() const { return site_; }
  [[nodiscard]] bool is_idle() const { return counted_idle_; }
  // It was made as `route` asks for TLS now, and is authenticated by the credentials that `route` names now, or not at
  // all if it names none.
  [[nodiscard]] bool fits(const route::Route& route) const;

  // --- net::ConnectionUser
  void on_connected() override;
  void on_secured(const net::TlsFacts& facts) override;
  std::size_t on_received(MutableBytes bytes) override;
  void on_end_of_stream() override;
  void on_sent() override;
  void on_lost(const Status& status) override;
  void on_closed() override;

 private:
  enum class State : std::uint8_t {
    idle_unconnected,  // between two hosts, or new
    connecting,
    open,     // the session decides
    closing,  // waits for on_closed()
  };

  // From Egress's lists.
  void leave_lists() {
    ListHook<IdleTag>::unlink();
    ListHook<AgeTag>::unlink();
  }
  void on_content_ready() override;
  void on_timer(Timer& timer, Instant now) override;

  void connect_next();
  [[nodiscard]] bool question_expired() const;
  void begin(Instant now);
  [[nodiscard]] bool tls_suffices() const;
  void pump();
  void note_unbegun();
  // TLS, in client_tls.cc.
  [[nodiscard]] smtp::StartTls start_tls(Instant now);
  void secure();
  void note_tls_failed();
  void keep_tls_session();
  [[nodiscard]] std::string tls_target() const;
  // AUTH, in client_auth.cc.
  [[nodiscard]] bool find_credentials();
  [[nodiscard]] bool go_on_with_auth(Instant now);
  void on_salted_password(const sasl::Digest* salted) override;
  void note_authenticated();
  void note_auth_failed();
  void gather_content(Instant now);
  void flush();
  void take_result(Instant now);
  void give_back(PathState path);
  void out_of_hosts();
  void close_connection();
  void go();
  void end_of_connection();

  Egress& egress_;
  mail::SiteId site_;
  smtp::ClientSession session_;
  ContentReader reader_;
  Timer timer_;
  net::Connection* connection_ = nullptr;
  Delivery* delivery_ = nullptr;
  queue::ShardIndex slot_owner_ = 0;  // of the delivery whose slot this connection holds
  State state_ = State::idle_unconnected;
  bool holds_slot_ = false;        // a delivery's slot, until slot_free()
  bool counted_idle_ = false;      // counts as an idle connection with the slots' keeper
  bool makes_room_ = false;        // by make_room(), and not claimed since
  bool tell_idle_closed_ = false;  // was idle, is going, and still counts as idle
  bool begun_ = false;             // the session has the delivery
  bool content_started_ = false;
  bool send_in_flight_ = false;
  bool pumping_ = false;
  bool aborted_ = false;
  bool lost_ = false;                 // nothing can be sent any more; on_closed() follows
  bool reconnect_ = false;            // the delivery goes on on a fresh connection once this one is gone
  std::size_t hop_ = 0;               // the next address to try, index into the route
  std::uint32_t attempts_ = 0;        // addresses tried for this delivery
  route::TlsPolicy tls_policy_;       // what this connection was made under
  std::uint64_t tls_generation_ = 0;  // the same, of the context
  net::TlsFacts tls_facts_;           // version empty: not secured
  bool securing_ = false;             // the connection has been told to
  bool without_tls_ = false;          // TLS just came to nothing at the address that is tried next
  std::shared_ptr<const sasl::Credentials> credentials_;  // by which this connection is authenticated; null: it is not
  bool authenticated_ = false;                            // and that was told
  bool salting_ = false;                                  // the salted password is being computed
  bool commands_secret_ = false;                          // commands_ are to be overwritten
  mail::Reply last_failure_;
  mail::Reply unreadable_;         // text: our spool failed in the middle of this delivery's content
  std::string hop_text_;           // "mx.example.net[192.0.2.1]:25", "unix:/run/store/lmtp"
  std::string commands_;           // in the kernel's hands
  std::vector<io::Slice> slices_;  // the same
  std::vector<std::string_view> paths_;
  std::vector<smtp::DsnRequest> dsn_requests_;
};

}  // namespace postern::egress
