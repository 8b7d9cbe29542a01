#include "bench/sink.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "bench/sink_session.h"

namespace postern::bench {
namespace {

// A benchmark's peer trusts its relay: nothing but what the behaviour says is refused.
smtp::ServerOptions session_options(const SinkOptions& options) {
  constexpr std::uint32_t endless = UINT32_MAX;
  smtp::ServerOptions made;
  made.hostname = options.hostname;
  made.banner = "ESMTP postern-bench";
  made.message_bytes_max = 0;
  made.recipients_max = options.recipients;
  made.received_max = 10'000;
  made.reply_slots_max = smtp::reply_slots_limit;
  made.offer_chunking = options.chunking;
  made.errors_max = made.refusals_max = made.junk_max = made.tiny_chunks_max = endless;
  return made;
}

}  // namespace

Sink::Sink(Engine& engine, SinkOptions options, Ledger& ledger)
    : engine_(engine),
      options_(std::move(options)),
      ledger_(&ledger),
      session_options_(std::make_shared<smtp::ServerOptions>(session_options(options_))),
      random_(options_.seed),
      listener_(*engine.loop, engine.dispatcher, engine.timers, engine.connections.descriptor_waiters(), *this,
                net::ListenerOptions{.farewell = "421 4.3.2 no descriptor left\r\n"}) {}

Sink::~Sink() = default;

Status Sink::open() {
  return listener_.open(options_.listen, {.reuse_port = false});
}

void Sink::stop() {
  listener_.stop();
  // An ending session may leave the table at once.
  std::vector<SinkSession*> all;
  for (const auto& [session, owner] : sessions_) all.push_back(session);
  for (SinkSession* const session : all) session->shut_down();
}

void Sink::begin_anew(Ledger& ledger) {
  ledger_ = &ledger;
  const std::uint64_t connections = counts_.connections_now;
  counts_ = {};
  counts_.connections = counts_.connections_now = counts_.connections_most = connections;
}

void Sink::on_connection(net::Listener& /*listener*/, io::Descriptor descriptor, const io::Address& peer) {
  auto made = std::make_unique<SinkSession>(*this, peer, engine_.loop->now());
  net::Connection* const connection = engine_.connections.adopt(descriptor, *made);
  if (connection == nullptr) {
    engine_.loop->close(descriptor);
    return;
  }
  ++counts_.connections;
  ++counts_.connections_now;
  counts_.connections_most = std::max(counts_.connections_most, counts_.connections_now);
  SinkSession& session = *made;
  sessions_.emplace(&session, std::move(made));
  session.start(*connection);
}

void Sink::remove(SinkSession& session) {
  --counts_.connections_now;
  sessions_.erase(&session);
}

}  // namespace postern::bench
