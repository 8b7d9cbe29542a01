// Ingress and its connections on a real loop, with a door of the test's own instead of spool and queue.
#include "ingress/ingress.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/net/harness.h"

namespace postern::ingress {
namespace {

using net::Peer;
using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// Keeps what comes through it, and says what the test tells it to say.
class FakeDoor final : public Door {
 public:
  struct Taken {
    std::unique_ptr<mail::Message> message;
    std::string streamed;  // the part of the content that went ahead of it
    Submission submission;
  };

  ~FakeDoor() { EXPECT_EQ(messages_out, 0) << "every message was submitted or given back"; }

  const mail::Reply* refuse_mail(const mail::Envelope& envelope) override {
    calls.push_back("mail " + std::string(envelope.reverse_path().text));
    return mail_refusal ? &*mail_refusal : nullptr;
  }
  const mail::Reply* refuse_recipient(const mail::PathView& forward_path) override {
    calls.push_back("recipient " + std::string(forward_path.text));
    return recipient_refusal ? &*recipient_refusal : nullptr;
  }
  bool asks_next_hops() const override { return hop_answer.has_value(); }
  HopAnswer ask_next_hop(const mail::PathView& forward_path, const Asker& asker, Instant /*since*/) override {
    calls.push_back("ask " + std::string(forward_path.text));
    askers.push_back(asker);
    return *hop_answer;
  }
  Woken wake(std::string_view domain) override {
    calls.push_back("wake " + std::string(domain));
    return Woken::waiting;
  }
  std::unique_ptr<mail::Message> new_message() override {
    ++messages_out;
    return std::make_unique<mail::Message>();
  }
  bool take_memory(mail::Message& message, std::uint64_t bytes) override {
    ++memory_asked;
    if (memory_bytes < bytes) return false;
    memory_bytes -= bytes;
    message.budget_bytes += bytes;
    return true;
  }
  void give_memory(mail::Message& message, std::uint64_t bytes) override {
    ASSERT_LE(bytes, message.budget_bytes);
    message.budget_bytes -= bytes;
    memory_bytes += bytes;
  }
  void discard_message(std::unique_ptr<mail::Message> message) override {
    give_memory(*message, message->budget_bytes);
    --messages_out;
    ++discarded;
  }
  spool::ContentId begin_content() override {
    streams.emplace_back();
    return spool::ContentId{static_cast<std::uint32_t>(streams.size())};
  }
  Status append_chunk(spool::ContentId content, Bytes bytes) override {
    if (spool.ok()) streams.at(content.value - 1).append(as_text(bytes));
    return spool;
  }
  void abandon_content(spool::ContentId content) override { abandoned.push_back(content.value); }
  void submit(std::unique_ptr<mail::Message> message, spool::ContentId streamed,
              const Submission& submission) override {
    calls.emplace_back("submit");
    give_memory(*message, message->budget_bytes);
    --messages_out;
    taken.push_back({std::move(message), streamed.value == 0 ? "" : streams.at(streamed.value - 1), submission});
  }

  static std::string content_of(const Taken& one) {
    std::string content = one.streamed;
    for (std::size_t i = 0; i < one.message->content.chunk_count(); ++i)
      content += as_text(one.message->content.chunk(i));
    return content;
  }

  std::optional<mail::Reply> mail_refusal, recipient_refusal;
  std::optional<HopAnswer> hop_answer;  // nullopt: next hops are not asked
  std::vector<Asker> askers;
  std::uint64_t memory_bytes = 64u << 20;
  Status spool;
  std::vector<std::string> calls;
  std::vector<std::string> streams;
  std::vector<std::uint64_t> abandoned;
  std::vector<Taken> taken;
  int messages_out = 0;
  int memory_asked = 0;
  int discarded = 0;
};

class Notes final : public Observer {
 public:
  void on_connected(const io::Address&) override { ++connected; }
  void on_disconnected(const io::Address&, std::uint32_t messages) override { disconnected.push_back(messages); }
  void on_turned_away(const io::Address&, std::string_view line) override { turned_away.emplace_back(line); }
  void on_stress(bool begins, std::uint32_t) override { stress.push_back(begins); }
  void on_secured(const io::Address&, const net::TlsFacts& facts) override { secured.emplace_back(facts.version); }
  void on_tls_failed(const io::Address&, const Status& status) override { tls_failed.emplace_back(message_of(status)); }
  void on_tls_refused(const io::Address&, std::string_view line) override { tls_failed.emplace_back(line); }
  void on_authenticated(const io::Address&, std::string_view user, std::string_view mechanism) override {
    authenticated.push_back(std::string(user) + " " + std::string(mechanism));
  }
  void on_auth_failed(const io::Address&, std::string_view user, std::string_view mechanism,
                      const mail::Reply& reply) override {
    auth_failed.push_back(std::string(user) + " " + std::string(mechanism) + " " + reply.to_log_text());
  }
  void on_rejected(const io::Address&, const mail::Envelope*, std::string_view recipient,
                   const mail::Reply& reply) override {
    rejected.push_back(std::string(recipient) + " " + reply.to_log_text());
  }

  int connected = 0;
  std::vector<bool> stress;
  std::vector<std::uint32_t> disconnected;
  std::vector<std::string> turned_away, rejected, secured, tls_failed, authenticated, auth_failed;
};

constexpr std::uint32_t connections_limit = 6;
constexpr std::uint32_t per_peer_limit = 4;

struct IngressTest : testing::Test {
  ~IngressTest() override {
    if (!ingress) return;
    ingress->stop_accepting();
    ingress->abort_all();
    EXPECT_TRUE(net.run_until([&] { return ingress->stopped(); })) << "every session ends";
    EXPECT_EQ(count.value(), 0u);
    EXPECT_EQ(peers.count(IpAddress::v4({127, 0, 0, 1})), 0u);
    EXPECT_EQ(static_cast<std::size_t>(notes.connected), notes.disconnected.size());
  }

  void start(IngressOptions options = {}, ListenerContext context = {}, smtp::ServerOptions of_sessions = {}) {
    auto session = std::make_shared<smtp::ServerOptions>(std::move(of_sessions));
    session->hostname = "mx.test";
    context.session = std::move(session);
    const std::vector<std::string> accept{"here.test"};
    ingress.emplace(Ingress::Setup{
        .connections = net.table,
        .dispatcher = net.dispatcher,
        .timers = net.wheel,
        .loop = *net.loop,
        .door = door,
        .observer = notes,
        .connection_count = count,
        .peer_counts = peers,
        .handshake_rates = handshake_rates,
        .connection_rates = connection_rates,
        .message_rates = message_rates,
        .auth_failures = failures,
        .relay_policy = std::make_shared<const policy::RelayPolicy>(*policy::RelayPolicy::make(accept, "mx.test")),
        .options = options});
    const Status status = ingress->listen(net.dispatcher, io::Address::ip(IpAddress::v4({127, 0, 0, 1}), 0), -1,
                                          std::make_shared<const ListenerContext>(std::move(context)));
    ASSERT_TRUE(status.ok()) << status.ToString();
    address = ingress->addresses().front();
  }

  template <class Condition>
  void wait_for(Condition condition) {
    ASSERT_TRUE(net.run_until(condition));
  }
  // The next whole reply, or what came before the end.
  std::string reply(Peer& peer) {
    std::size_t end = std::string::npos;
    const auto complete = [&] {
      peer.receive();
      std::size_t line = 0;
      for (;;) {
        const std::size_t lf = peer.received.find('\n', line);
        if (lf == std::string::npos) return peer.end || peer.error != 0;
        if (peer.received[line + 3] != '-') {
          end = lf + 1;
          return true;
        }
        line = lf + 1;
      }
    };
    EXPECT_TRUE(net.run_until(complete));
    const std::string text = peer.received.substr(0, end);
    peer.received.erase(0, end);
    return text;
  }
  std::string ask(Peer& peer, std::string_view text) {
    send(peer, text);
    return reply(peer);
  }
  void send(Peer& peer, std::string_view text) {
    wait_for([&] {
      text.remove_prefix(peer.send(text));
      return text.empty() || peer.error != 0;
    });
  }
  // Connected, greeted and behind RCPT.
  std::unique_ptr<Peer> behind_rcpt(int recipients = 1) {
    auto peer = std::make_unique<Peer>(address);
    EXPECT_THAT(reply(*peer), StartsWith("220 mx.test "));
    EXPECT_THAT(ask(*peer, "EHLO client.test\r\n"), StartsWith("250-mx.test"));
    EXPECT_THAT(ask(*peer, "MAIL FROM:<a@client.test>\r\n"), StartsWith("250 "));
    for (int i = 0; i < recipients; ++i) {
      EXPECT_THAT(ask(*peer, "RCPT TO:<u" + std::to_string(i) + "@here.test>\r\n"), StartsWith("250 "));
    }
    return peer;
  }
  std::unique_ptr<Peer> behind_data() {
    auto peer = behind_rcpt();
    EXPECT_THAT(ask(*peer, "DATA\r\n"), StartsWith("354 "));
    return peer;
  }
  void accept(std::size_t index, std::uint32_t id = 1) {
    ingress->on_accepted(door.taken.at(index).submission, mail::QueueId::from_parts(1, 1, id), net.loop->now());
  }
  [[nodiscard]] bool ended(Peer& peer) {
    return net.run_until([&] {
      peer.receive();
      return peer.end || peer.error != 0;
    });
  }

  net::Net net;
  FakeDoor door;
  Notes notes;
  ConnectionCount count{connections_limit};
  policy::PeerCounts peers{per_peer_limit, 42};
  policy::PeerRates handshake_rates{7};
  policy::PeerRates connection_rates{8};
  policy::PeerRates message_rates{9};
  policy::FailureLimit failures{42};
  std::optional<Ingress> ingress;
  io::Address address;
};

const std::string small_content = "Subject: x\r\n\r\nhello\r\n";

// Lines of 64 bytes.
std::string content_of_size(std::size_t bytes) {
  std::string content;
  for (std::size_t i = 0; content.size() + 64 <= bytes; ++i) {
    std::string line = std::to_string(i);
    line.resize(62, 'x');
    content += line + "\r\n";
  }
  return content;
}

TEST_F(IngressTest, AnswersTheEndOfDataWhenTheDoorHasTheMessageAndNotBefore) {
  start();
  const auto peer = behind_data();
  send(*peer, small_content + ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  net.run_for(milliseconds(20));
  peer->receive();
  EXPECT_EQ(peer->received, "");
  EXPECT_EQ(FakeDoor::content_of(door.taken[0]), small_content);
  EXPECT_EQ(door.taken[0].message->envelope.helo_name(), "client.test");
  EXPECT_THAT(door.taken[0].message->envelope.client_address(), StartsWith("127.0.0.1:"));
  accept(0, 7);
  EXPECT_EQ(reply(*peer), "250 2.0.0 Ok: queued as " + mail::QueueId::from_parts(1, 1, 7).to_string() + "\r\n");
  EXPECT_THAT(door.calls, ElementsAre("mail a@client.test", "recipient u0@here.test", "submit"));
}

TEST_F(IngressTest, PolicyAndDoorAreAskedInTurn) {
  start();
  door.mail_refusal = mail::Reply{452, {4, 3, 1}, "full"};
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  EXPECT_EQ(ask(peer, "MAIL FROM:<a@client.test>\r\n"), "452 4.3.1 full\r\n");
  door.mail_refusal.reset();
  EXPECT_THAT(ask(peer, "MAIL FROM:<a@client.test>\r\n"), StartsWith("250 "));
  EXPECT_THAT(ask(peer, "RCPT TO:<u@elsewhere.test>\r\n"), StartsWith("550 5.7.1 "));
  door.recipient_refusal = mail::Reply{550, {5, 1, 1}, "nobody"};
  EXPECT_EQ(ask(peer, "RCPT TO:<u@here.test>\r\n"), "550 5.1.1 nobody\r\n");
  EXPECT_THAT(door.calls, ElementsAre("mail a@client.test", "mail a@client.test", "recipient u@here.test"))
      << "the door is not asked for what policy refuses";
  EXPECT_THAT(notes.rejected,
              ElementsAre(" 452 4.3.1 full", StartsWith("u@elsewhere.test 550 5.7.1"), "u@here.test 550 5.1.1 nobody"));
}

TEST_F(IngressTest, TheNextHopsAnswerIsWaitedFor) {
  start();
  const auto peer = behind_rcpt();
  const mail::Reply nobody{550, {5, 1, 1}, "nobody there"};
  door.hop_answer = Door::HopAnswer{Door::HopAnswer::Kind::refused, &nobody};
  EXPECT_EQ(ask(*peer, "RCPT TO:<a@here.test>\r\n"), "550 5.1.1 nobody there\r\n");
  door.hop_answer = Door::HopAnswer{Door::HopAnswer::Kind::taken, nullptr};
  EXPECT_THAT(ask(*peer, "RCPT TO:<b@here.test>\r\n"), StartsWith("250 "));

  door.hop_answer = Door::HopAnswer{Door::HopAnswer::Kind::later, nullptr};
  send(*peer, "RCPT TO:<c@here.test>\r\nRCPT TO:<d@here.test>\r\n");
  wait_for([&] { return door.askers.size() == 3; });
  net.run_for(milliseconds(20));
  peer->receive();
  EXPECT_EQ(peer->received, "") << "neither c's reply nor d's, which comes behind it";
  ingress->on_recipient_answered(door.askers[2], nullptr, net.loop->now());
  EXPECT_THAT(reply(*peer), StartsWith("250 "));
  wait_for([&] { return door.askers.size() == 4; });
  ingress->on_recipient_answered(door.askers[3], &nobody, net.loop->now());
  EXPECT_EQ(reply(*peer), "550 5.1.1 nobody there\r\n");

  // Whoever has gone is told nothing.
  send(*peer, "RCPT TO:<e@here.test>\r\n");
  wait_for([&] { return door.askers.size() == 5; });
  peer->reset();
  wait_for([&] { return notes.disconnected.size() == 1; });
  ingress->on_recipient_answered(door.askers[4], &nobody, net.loop->now());
}

TEST_F(IngressTest, RecipientsThatAreUnknownAreRefusedAndAliasesBecomeTheirTargets) {
  start();
  policy::RecipientTableBuilder builder('+');
  ASSERT_TRUE(builder.add_lines("u0@here.test\nall@here.test: u0@here.test, out@there.test\n", "file").ok());
  const std::vector<std::string> ours{"here.test"};
  ingress->set_policy(std::make_shared<const policy::RelayPolicy>(*policy::RelayPolicy::make(ours, "mx.test")),
                      std::make_shared<const policy::RecipientTable>(*std::move(builder).finish()), nullptr);
  const auto peer = behind_rcpt();
  EXPECT_THAT(ask(*peer, "RCPT TO:<nobody@here.test>\r\n"), StartsWith("550 5.1.1 "));
  EXPECT_THAT(ask(*peer, "RCPT TO:<postmaster>\r\n"), StartsWith("250 "));
  door.calls.clear();
  EXPECT_THAT(ask(*peer, "RCPT TO:<all@here.test>\r\n"), StartsWith("250 "));
  EXPECT_THAT(door.calls, ElementsAre("recipient u0@here.test", "recipient out@there.test")) << "a route takes each";
  door.recipient_refusal = mail::Reply{550, {5, 7, 1}, "rejected"};
  EXPECT_THAT(ask(*peer, "RCPT TO:<all@here.test>\r\n"), StartsWith("550 5.7.1 "));
  door.recipient_refusal.reset();
  EXPECT_THAT(ask(*peer, "DATA\r\n"), StartsWith("354 "));
  send(*peer, small_content + ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  const mail::Envelope& envelope = door.taken.front().message->envelope;
  ASSERT_EQ(envelope.recipient_count(), 3u);
  EXPECT_EQ(envelope.recipient(0).forward_path.text, "u0@here.test");
  EXPECT_EQ(envelope.recipient(1).forward_path.text, "postmaster");
  EXPECT_EQ(envelope.recipient(2).forward_path.text, "out@there.test");
  EXPECT_EQ(envelope.recipient(2).original_recipient, "rfc822;all@here.test");
  accept(0);
  EXPECT_THAT(reply(*peer), StartsWith("250 "));
}

TEST_F(IngressTest, AGreetingThatIsPutOffComesToWhoWaitsForIt) {
  ListenerContext context;
  context.greeting_delay = milliseconds(300);
  start({}, context);
  const Instant began = net.loop->now();
  Peer patient(address);
  Peer eager(address);
  wait_for([&] { return notes.connected == 2; });
  send(eager, "EHLO client.test\r\n");
  EXPECT_THAT(reply(eager), StartsWith("220 mx.test "));
  EXPECT_THAT(reply(eager), StartsWith("554 5.5.0 "));
  EXPECT_TRUE(ended(eager));
  EXPECT_THAT(reply(patient), StartsWith("220 mx.test "));
  EXPECT_GE(net.loop->now() - began, milliseconds(300));
  EXPECT_THAT(ask(patient, "EHLO client.test\r\n"), StartsWith("250-mx.test"));
}

TEST_F(IngressTest, AGreetingIsNotPutOffForPeersThatMayRelay) {
  ListenerContext context;
  context.greeting_delay = std::chrono::minutes(1);
  context.relay_from = policy::NetworkSet({*IpNetwork::parse("127.0.0.0/8")});
  start({}, context);
  Peer peer(address);
  EXPECT_THAT(reply(peer), StartsWith("220 mx.test "));
}

TEST_F(IngressTest, WhoWaitsForItsGreetingAtTheEndIsToldAndGoes) {
  ListenerContext context;
  context.greeting_delay = std::chrono::minutes(1);
  start({}, context);
  Peer peer(address);
  Peer gone(address);
  wait_for([&] { return notes.connected == 2; });
  gone.close();
  wait_for([&] { return notes.disconnected.size() == 1; });
  ingress->shut_down();
  EXPECT_THAT(reply(peer), StartsWith("421 4.3.2 "));
  EXPECT_TRUE(ended(peer));
}

TEST_F(IngressTest, ConnectionsOfAMinuteAreCountedByPeer) {
  ListenerContext context;
  context.connections_per_minute = 2;
  start({}, context);
  // Over the border of a minute a third would be within the rate.
  const auto minute = [&] { return net.loop->now().time_since_epoch() / std::chrono::minutes(1); };
  const auto began = minute();
  for (int i = 0; i < 2; ++i) {
    Peer peer(address);
    EXPECT_THAT(reply(peer), StartsWith("220 mx.test "));
  }
  Peer third(address);
  const std::string answer = reply(third);
  if (minute() != began) GTEST_SKIP() << "a minute has passed";
  EXPECT_THAT(answer, StartsWith("421 4.7.0 mx.test Too many connections from your address in this minute"));
  EXPECT_TRUE(ended(third));
  EXPECT_EQ(notes.turned_away.size(), 1u);
}

TEST_F(IngressTest, MessagesOfAMinuteAreCountedByPeer) {
  ListenerContext context;
  context.messages_per_minute = 1;
  start({}, context);
  const auto minute = [&] { return net.loop->now().time_since_epoch() / std::chrono::minutes(1); };
  const auto began = minute();
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  door.mail_refusal = mail::Reply{452, {4, 3, 1}, "full"};
  EXPECT_THAT(ask(peer, "MAIL FROM:<a@client.test>\r\n"), StartsWith("452 "));  // and does not count
  door.mail_refusal.reset();
  EXPECT_THAT(ask(peer, "MAIL FROM:<a@client.test>\r\n"), StartsWith("250 "));
  EXPECT_THAT(ask(peer, "RSET\r\n"), StartsWith("250 "));
  const std::string answer = ask(peer, "MAIL FROM:<a@client.test>\r\n");
  if (minute() != began) GTEST_SKIP() << "a minute has passed";
  EXPECT_THAT(answer, StartsWith("450 4.7.1 "));
  EXPECT_EQ(notes.rejected.size(), 2u);
}

TEST_F(IngressTest, NegativeRepliesTakeEverLonger) {
  ListenerContext context;
  context.error_delay = milliseconds(100);
  start({}, context);
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  const auto elapsed = [&](std::string_view command, std::string_view wanted) {
    const Instant began = net.loop->now();
    EXPECT_THAT(ask(peer, command), StartsWith(std::string(wanted)));
    return net.loop->now() - began;
  };
  for (int i = 0; i < 3; ++i) EXPECT_LT(elapsed("WHAT\r\n", "500 "), milliseconds(100));
  EXPECT_GE(elapsed("WHAT\r\n", "500 "), milliseconds(100));
  EXPECT_GE(elapsed("DATA\r\n", "503 "), milliseconds(200));
  EXPECT_LT(elapsed("MAIL FROM:<a@client.test>\r\n", "250 "), milliseconds(100));
  EXPECT_GE(elapsed("RCPT TO:<u@elsewhere.test>\r\n", "550 "), milliseconds(400));
  EXPECT_LT(elapsed("RCPT TO:<u@here.test>\r\n", "250 "), milliseconds(100));
  (void)ask(peer, "DATA\r\n");
  send(peer, small_content + ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  accept(0);
  EXPECT_THAT(reply(peer), StartsWith("250 "));
  EXPECT_LT(elapsed("WHAT\r\n", "500 "), milliseconds(100));
}

TEST_F(IngressTest, WhoSpeaksOnWhileItsReplyWaitsLosesNothing) {
  ListenerContext context;
  context.error_delay = milliseconds(50);
  start({}, context);
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  send(peer, "A\r\nB\r\nC\r\nD\r\nRSET\r\nMAIL FROM:<a@client.test>\r\n");
  send(peer, "RCPT TO:<u@here.test>\r\n");
  for (int i = 0; i < 4; ++i) EXPECT_THAT(reply(peer), StartsWith("500 "));
  for (int i = 0; i < 3; ++i) EXPECT_THAT(reply(peer), StartsWith("250 "));
}

TEST_F(IngressTest, IdleClientsGoSoonerWhenConnectionsRunShort) {
  IngressOptions options;
  options.stress_percent = 50;  // three of six
  options.stress_idle = milliseconds(200);
  start(options);
  const auto first = behind_rcpt();
  Peer second(address);
  EXPECT_THAT(reply(second), StartsWith("220 "));
  net.run_for(milliseconds(300));
  EXPECT_TRUE(notes.stress.empty());
  Peer third(address);
  EXPECT_THAT(reply(third), StartsWith("220 "));
  EXPECT_THAT(notes.stress, ElementsAre(true));
  // Whoever has been waited for that long already is closed at once, and who comes is closed in time.
  EXPECT_THAT(reply(*first), StartsWith("421 4.4.2 "));
  EXPECT_THAT(reply(third), StartsWith("421 4.4.2 "));
  EXPECT_TRUE(ended(*first));
  EXPECT_TRUE(ended(second));
  EXPECT_TRUE(ended(third));
  wait_for([&] { return ingress->connection_count() == 0; });
  ingress->on_tick(net.loop->now());
  EXPECT_THAT(notes.stress, ElementsAre(true, false));
  Peer fourth(address);
  EXPECT_THAT(reply(fourth), StartsWith("220 "));
  net.run_for(milliseconds(300));
  EXPECT_THAT(ask(fourth, "NOOP\r\n"), StartsWith("250 "));
}

TEST_F(IngressTest, BareLineFeedsAreKeptAsLinesWhereTheyAreTaken) {
  smtp::ServerOptions session;
  session.normalize_bare_lf = true;
  start({}, {}, session);
  const auto peer = behind_data();
  std::string sent, kept;
  for (int i = 0; i < 100'000; ++i) {
    sent += i % 5 == 0 ? ".\n" : "\n";
    kept += i % 5 == 0 ? "..\r\n" : "\r\n";
  }
  send(*peer, sent + "\r\n.\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  EXPECT_TRUE(FakeDoor::content_of(door.taken[0]) == kept + "\r\n");
  EXPECT_EQ(door.taken[0].message->facts.size, kept.size() + 2);
  accept(0);
  EXPECT_THAT(reply(*peer), StartsWith("250 "));
}

TEST_F(IngressTest, InputBeforeTheGreetingEndsTheSession) {
  start();
  Peer peer(address);  // the kernel has connected it; nobody has accepted it yet
  send(peer, "EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n");
  EXPECT_THAT(reply(peer), StartsWith("220 mx.test "));
  EXPECT_THAT(reply(peer), StartsWith("554 5.5.0 "));
  EXPECT_TRUE(ended(peer));
  EXPECT_EQ(peer.received, "");
  EXPECT_THAT(door.calls, IsEmpty());
}

TEST_F(IngressTest, InputBehindTheEndOfAGroupEndsTheSession) {
  start();
  Peer peer(address);
  (void)reply(peer);
  send(peer, "EHLO client.test\r\nNOOP\r\n");
  EXPECT_THAT(reply(peer), StartsWith("250-mx.test"));
  EXPECT_THAT(reply(peer), StartsWith("554 5.5.0 "));
  EXPECT_TRUE(ended(peer));
}

TEST_F(IngressTest, RepliesOfPipelinedTransactionsKeepTheirOrder) {
  start();
  const auto peer = behind_rcpt();
  const std::string chunk = "BDAT " + std::to_string(small_content.size()) + " LAST\r\n" + small_content;
  send(*peer, chunk + "MAIL FROM:<b@client.test>\r\nRCPT TO:<u@here.test>\r\n" + chunk);
  wait_for([&] { return door.taken.size() == 2; });
  accept(1, 2);
  net.run_for(milliseconds(20));
  peer->receive();
  EXPECT_EQ(peer->received, "") << "the first is not answered yet";
  ingress->on_refused(door.taken[0].submission, {451, {4, 3, 0}, "no"}, net.loop->now());
  EXPECT_EQ(reply(*peer), "451 4.3.0 no\r\n");
  EXPECT_THAT(reply(*peer), StartsWith("250 "));  // MAIL
  EXPECT_THAT(reply(*peer), StartsWith("250 "));  // RCPT
  EXPECT_THAT(reply(*peer), HasSubstr(mail::QueueId::from_parts(1, 1, 2).to_string()));
}

const std::string group = "MAIL FROM:<b@client.test>\r\nRCPT TO:<u@here.test>\r\nBDAT " +
                          std::to_string(small_content.size()) + " LAST\r\n" + small_content;

TEST_F(IngressTest, RepliesToAGroupLeaveWithTheOneToItsContent) {
  start({.gathering_max = std::chrono::minutes(10)});
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  for (std::uint32_t i = 0; i < 3; ++i) {
    send(peer, group);
    wait_for([&] { return door.taken.size() == i + 1; });
    net.run_for(milliseconds(20));
    peer.receive();
    EXPECT_EQ(peer.received, "");
    accept(i, i);
    EXPECT_THAT(reply(peer), StartsWith("250 2.1.0 "));
    EXPECT_THAT(reply(peer), StartsWith("250 2.1.5 "));
    EXPECT_THAT(reply(peer), HasSubstr(mail::QueueId::from_parts(1, 1, i).to_string()));
  }
  // Two transactions at once: the first one's reply waits for nothing.
  send(peer, group + group);
  wait_for([&] { return door.taken.size() == 5; });
  accept(3, 3);
  for (int i = 0; i < 2; ++i) EXPECT_THAT(reply(peer), StartsWith("250 2.1."));
  EXPECT_THAT(reply(peer), HasSubstr(mail::QueueId::from_parts(1, 1, 3).to_string()));
  accept(4, 4);
  for (int i = 0; i < 2; ++i) EXPECT_THAT(reply(peer), StartsWith("250 2.1."));
  EXPECT_THAT(reply(peer), HasSubstr(mail::QueueId::from_parts(1, 1, 4).to_string()));
  // So does that of a command that is no part of such a group, and whatever stands before it.
  send(peer, "MAIL FROM:<b@client.test>\r\nHELP\r\n" + group.substr(group.find("RCPT")));
  wait_for([&] { return door.taken.size() == 6; });
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.0 "));
  EXPECT_THAT(reply(peer), StartsWith("214 "));
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.5 "));
  accept(5, 5);
  EXPECT_THAT(reply(peer), HasSubstr(mail::QueueId::from_parts(1, 1, 5).to_string()));
}

TEST_F(IngressTest, RepliesToAGroupDoNotWaitForASlowDisk) {
  start({.gathering_max = milliseconds(30)});
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  const Instant began = net.loop->now();
  send(peer, group);
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.0 "));
  EXPECT_GE(net.loop->now() - began, milliseconds(30));
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.5 "));
  accept(0);
  EXPECT_THAT(reply(peer), StartsWith("250 2.0.0 "));
}

TEST_F(IngressTest, WhoHasSaidAllGetsTheRepliesThatAreThere) {
  start({.gathering_max = std::chrono::minutes(10)});
  Peer peer(address);
  (void)reply(peer);
  (void)ask(peer, "EHLO client.test\r\n");
  send(peer, group);
  peer.end_sending();
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.0 "));
  EXPECT_THAT(reply(peer), StartsWith("250 2.1.5 "));
  wait_for([&] { return door.taken.size() == 1; });
  accept(0);
  EXPECT_THAT(reply(peer), StartsWith("250 2.0.0 "));
  EXPECT_TRUE(ended(peer));
}

TEST_F(IngressTest, LargeContentGoesAheadIntoTheSpool) {
  start();
  const std::string content = content_of_size(700'000);
  const auto peer = behind_data();
  const std::uint64_t memory_before = door.memory_bytes;
  send(*peer, content);
  wait_for([&] { return !door.streams.empty() && door.streams[0].size() > 500'000; });
  EXPECT_LE(memory_before - door.memory_bytes, 300u << 10) << "what lies in the spool is not held in memory";
  send(*peer, ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  EXPECT_EQ(FakeDoor::content_of(door.taken[0]), content);
  EXPECT_THAT(door.abandoned, IsEmpty());
  accept(0);
  EXPECT_THAT(reply(*peer), StartsWith("250 2.0.0 "));
}

TEST_F(IngressTest, WithoutMemoryItWaitsAndGoesOn) {
  start();
  const auto peer = behind_data();
  const std::uint64_t all = std::exchange(door.memory_bytes, 0);
  send(*peer, small_content + ".\r\n");
  wait_for([&] { return ingress->anyone_stalled(); });
  const int asked = door.memory_asked;
  net.run_for(milliseconds(30));
  EXPECT_EQ(door.memory_asked, asked) << "it waits to be told, and does not poll";
  EXPECT_THAT(door.taken, IsEmpty());
  door.memory_bytes = all;
  ingress->on_resources();
  wait_for([&] { return door.taken.size() == 1; });
  EXPECT_EQ(FakeDoor::content_of(door.taken[0]), small_content);
  EXPECT_FALSE(ingress->anyone_stalled());
}

// Room is asked for before it is known what of the input is content.
TEST_F(IngressTest, MemoryTakenForWhatWasACommandIsNotTakenAgain) {
  start();
  const auto peer = behind_rcpt();
  const std::uint64_t before = door.memory_bytes;
  const std::string almost_a_chunk(ChunkList::small_bytes - 1, 'x');
  EXPECT_THAT(ask(*peer, "BDAT " + std::to_string(almost_a_chunk.size()) + "\r\n" + almost_a_chunk),
              StartsWith("250 "));
  for (int i = 0; i < 8; ++i) EXPECT_THAT(ask(*peer, "NOOP\r\n"), StartsWith("250 "));
  EXPECT_LE(before - door.memory_bytes, 2048 + ChunkList::small_bytes + ChunkList::chunk_bytes);
  EXPECT_THAT(ask(*peer, "RSET\r\n"), StartsWith("250 "));
  EXPECT_EQ(door.memory_bytes, before);
}

TEST_F(IngressTest, WithoutRoomInTheSpoolItWaitsAndGoesOn) {
  start();
  const std::string content = content_of_size(700'000);
  const auto peer = behind_data();
  door.spool = error(StatusCode::kResourceExhausted, "no room");
  (void)peer->send(content.substr(0, 400'000));
  const std::string rest = content.substr(400'000);
  wait_for([&] { return ingress->anyone_stalled(); });
  door.spool = OkStatus();
  ingress->on_resources();
  send(*peer, rest + ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });
  EXPECT_EQ(FakeDoor::content_of(door.taken[0]), content);
}

// As the shard does, only faster: being tried again in vain is no progress.
TEST_F(IngressTest, WhoWaitsTooLongIsAnswered452HoweverOftenItWasTried) {
  start({.resource_patience = milliseconds(200)});
  const auto first = behind_data();
  const auto second = behind_data();
  door.memory_bytes = 0;
  send(*first, small_content);
  wait_for([&] { return ingress->anyone_stalled(); });
  const Instant began = net.loop->now();
  send(*second, small_content);
  wait_for([&] {
    ingress->on_tick(net.loop->now());
    ingress->on_resources();
    return door.discarded == 2;
  });
  EXPECT_GE(net.loop->now() - began, milliseconds(200));
  EXPECT_LT(net.loop->now() - began, std::chrono::seconds(5));
  EXPECT_FALSE(ingress->anyone_stalled());
  for (Peer* peer : {first.get(), second.get()}) {
    EXPECT_THAT(ask(*peer, "more\r\n.\r\n"), StartsWith("452 4.3.1 "));
    EXPECT_THAT(ask(*peer, "MAIL FROM:<a@client.test>\r\n"), StartsWith("250 ")) << "the session goes on";
  }
  EXPECT_THAT(door.taken, IsEmpty());
}

TEST_F(IngressTest, ASpoolThatFailsFailsTheContent) {
  start();
  const auto peer = behind_data();
  door.spool = error(StatusCode::kUnavailable, "EIO");
  send(*peer, content_of_size(700'000));
  wait_for([&] { return door.discarded == 1; });
  EXPECT_THAT(door.abandoned, ElementsAre(1u));
  EXPECT_THAT(ask(*peer, ".\r\n"), StartsWith("451 4.3.0 "));
  EXPECT_THAT(door.taken, IsEmpty());
}

TEST_F(IngressTest, OnePeersConnectionsAreLimited) {
  start();
  std::vector<std::unique_ptr<Peer>> held;
  for (std::uint32_t i = 0; i < per_peer_limit; ++i) {
    held.push_back(std::make_unique<Peer>(address));
    EXPECT_THAT(reply(*held.back()), StartsWith("220 "));
  }
  Peer beyond(address);
  EXPECT_THAT(reply(beyond), StartsWith("421 4.7.0 mx.test "));
  EXPECT_TRUE(ended(beyond));
  EXPECT_THAT(notes.turned_away, ElementsAre(StartsWith("421 4.7.0 ")));
  EXPECT_EQ(count.value(), per_peer_limit) << "who is refused counts nowhere";
  held.pop_back();
  wait_for([&] { return notes.disconnected.size() == 1; });
  Peer next(address);
  EXPECT_THAT(reply(next), StartsWith("220 "));
}

TEST_F(IngressTest, AllConnectionsAreLimited) {
  start();
  for (std::uint32_t i = 0; i < connections_limit; ++i) ASSERT_TRUE(count.try_acquire());  // other shards have them
  Peer beyond(address);
  EXPECT_THAT(reply(beyond), StartsWith("421 4.3.2 mx.test "));
  EXPECT_TRUE(ended(beyond));
  EXPECT_EQ(peers.count(IpAddress::v4({127, 0, 0, 1})), 0u);
  for (std::uint32_t i = 0; i < connections_limit; ++i) count.release();
  Peer next(address);
  EXPECT_THAT(reply(next), StartsWith("220 "));
}

TEST_F(IngressTest, ShutDownLetsAContentComeToItsEnd) {
  start();
  Peer idle(address);
  (void)reply(idle);
  const auto busy = behind_data();
  send(*busy, "Subject: x\r\n");
  const auto waits = behind_rcpt();
  (void)ask(*waits, "DATA\r\n");
  send(*waits, small_content + ".\r\n");
  wait_for([&] { return door.taken.size() == 1; });

  ingress->stop_accepting();
  ingress->shut_down();
  EXPECT_THAT(reply(idle), StartsWith("421 4.3.2 "));
  EXPECT_TRUE(ended(idle));
  accept(0);
  EXPECT_THAT(reply(*waits), StartsWith("250 2.0.0 "));
  EXPECT_THAT(reply(*waits), StartsWith("421 4.3.2 "));
  send(*busy, "\r\nhello\r\n.\r\n");
  wait_for([&] { return door.taken.size() == 2; });
  EXPECT_FALSE(ingress->stopped()) << "a reply is due";
  accept(1);
  EXPECT_THAT(reply(*busy), StartsWith("250 2.0.0 "));
  EXPECT_THAT(reply(*busy), StartsWith("421 4.3.2 "));
  EXPECT_TRUE(ended(*busy));
}

TEST_F(IngressTest, AHalfClosedClientHearsWhatBecameOfItsMessage) {
  start();
  const auto peer = behind_data();
  send(*peer, small_content + ".\r\n");
  peer->end_sending();
  wait_for([&] { return door.taken.size() == 1; });
  net.run_for(milliseconds(20));
  accept(0);
  EXPECT_THAT(reply(*peer), StartsWith("250 2.0.0 "));
  EXPECT_TRUE(ended(*peer));
}

// Whatever was under way is given back: connection, counts, memory, chunks. The fixture and the door look at the rest.
TEST_F(IngressTest, AConnectionMayBeLostAtEachStep) {
  start();
  const std::string large = content_of_size(700'000);
  const std::vector<std::tuple<std::string, std::function<void(Peer&)>>> steps{
      {"greeted", [](Peer&) {}},
      {"in a command", [&](Peer& peer) { send(peer, "EHL"); }},
      {"behind EHLO", [&](Peer& peer) { (void)ask(peer, "EHLO c.test\r\n"); }},
      {"behind MAIL",
       [&](Peer& peer) {
         (void)ask(peer, "EHLO c.test\r\n");
         (void)ask(peer, "MAIL FROM:<a@c.test>\r\n");
       }},
      {"in content", [&](Peer& peer) { send(peer, "Subject: x\r\n"); }},
      {"in streamed content",
       [&](Peer& peer) {
         const std::size_t streams = door.streams.size();
         send(peer, large);
         wait_for([&] { return door.streams.size() > streams; });
       }},
      {"stalled",
       [&](Peer& peer) {
         door.memory_bytes = 0;
         send(peer, small_content);
         wait_for([&] { return ingress->anyone_stalled(); });
       }},
      {"submitted",
       [&](Peer& peer) {
         const std::size_t taken = door.taken.size();
         send(peer, small_content + ".\r\n");
         wait_for([&] { return door.taken.size() > taken; });
       }},
  };
  for (const bool reset : {false, true}) {
    for (const auto& [name, step] : steps) {
      SCOPED_TRACE(name + (reset ? ", reset" : ", closed"));
      const std::uint64_t memory = door.memory_bytes;
      const std::size_t disconnected = notes.disconnected.size();
      std::unique_ptr<Peer> peer;
      if (name.find("content") != std::string::npos || name == "stalled" || name == "submitted") {
        peer = behind_data();
      } else {
        peer = std::make_unique<Peer>(address);
        (void)reply(*peer);
      }
      step(*peer);
      if (reset) {
        peer->reset();
      } else {
        peer->close();
      }
      if (name == "submitted" && !reset) net.run_for(milliseconds(20));
      if (name == "submitted") accept(door.taken.size() - 1);  // the mail is accepted all the same
      if (name == "stalled") {
        door.memory_bytes = memory;
        ingress->on_resources();
      }
      wait_for([&] { return notes.disconnected.size() == disconnected + 1; });
      EXPECT_EQ(count.value(), 0u);
      EXPECT_EQ(door.messages_out, 0);
      EXPECT_EQ(door.memory_bytes, memory);
      EXPECT_FALSE(ingress->anyone_stalled());
    }
  }
  EXPECT_EQ(door.abandoned.size(), door.streams.size());
}

}  // namespace
}  // namespace postern::ingress
