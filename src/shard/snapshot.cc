#include "shard/snapshot.h"

#include <algorithm>
#include <utility>

namespace postern::shard {

namespace {

sasl::MechanismSet mechanisms_of(const AuthOptions& auth) {
  using sasl::Mechanism;
  if (!auth.mechanisms.empty()) return auth.mechanisms;
  sasl::MechanismSet mechanisms;
  mechanisms.add(Mechanism::plain);
  mechanisms.add(Mechanism::login);
  if (auth.users == nullptr || !auth.users->all_have_verifiers()) return mechanisms;
  mechanisms.add(Mechanism::scram_sha_256);
  mechanisms.add(Mechanism::scram_sha_256_plus);
  return mechanisms;
}

}  // namespace

spool::Options spool_options(const Options& options) {
  spool::Options made;
  made.segment_bytes = options.spool.segment_bytes;
  made.batch_bytes_max = std::min<std::size_t>(1u << 20, options.spool.segment_bytes / 8 / 4096 * 4096);
  made.inline_content_max = std::min<std::size_t>(made.inline_content_max, made.batch_bytes_max / 2);
  made.min_free_bytes = options.spool.min_free_bytes;
  return made;
}

StatusOr<SnapshotPtr> Snapshot::make(const OptionsSnapshot& options, std::uint64_t site_seed,
                                     std::shared_ptr<const policy::RecipientTable> recipients) {
  auto made = std::make_shared<Snapshot>();
  made->options = options;
  made->recipients = std::move(recipients);
  made->users = options->auth.users;

  smtp::ServerOptions session;
  session.hostname = options->hostname;
  session.message_bytes_max = options->limits.message_bytes;
  session.recipients_max = options->limits.recipients;
  session.received_max = options->limits.received_hops;
  session.errors_max = options->limits.errors;
  session.command_idle = options->limits.idle;
  session.data_idle = options->limits.idle;
  session.session_max = options->limits.session;
  session.data_window_bytes = std::uint64_t{options->limits.min_data_rate} *
                              static_cast<std::uint64_t>(session.data_window / std::chrono::seconds(1));
  session.hold_max = options->limits.hold;
  for (const ListenerOptions& listener : options->listeners) {
    auto own = std::make_shared<smtp::ServerOptions>(session);
    if (listener.service == Service::lmtp) {
      own->dialect = smtp::Dialect::lmtp;
      own->banner = "LMTP Postern";
    }
    own->tls = listener.tls.use;
    own->deliver_by_min = listener.deliver_by_min;
    own->normalize_bare_lf = listener.normalize_bare_lf;
    if (listener.auth != ListenerAuth::none) {
      own->auth_mechanisms = mechanisms_of(options->auth);
      own->auth_required = listener.auth == ListenerAuth::required;
      own->auth_without_tls = listener.auth_without_tls;
    }
    smtp::set_offers(*own, listener.extensions_off);
    made->listeners.push_back(std::make_shared<const ingress::ListenerContext>(
        ingress::ListenerContext{.session = std::move(own),
                                 .relay_from = policy::NetworkSet(listener.relay_from),
                                 .proxy_protocol_from = policy::NetworkSet(listener.proxy_protocol_from),
                                 .xclient_from = policy::NetworkSet(listener.xclient_from),
                                 .xforward_from = policy::NetworkSet(listener.xforward_from),
                                 .tls = listener.tls.context,
                                 .tls_at_once = listener.service == Service::submissions,
                                 .relay_certificates = listener.tls.relay_certificates,
                                 .relay_verified = listener.tls.relay_verified,
                                 .handshakes_max = options->tls_limits.handshakes,
                                 .handshakes_per_peer = options->tls_limits.handshakes_per_peer,
                                 .handshake_timeout = options->tls_limits.handshake_timeout,
                                 .auth = {.failures_max = options->auth.failures,
                                          .failure_delay = options->auth.failure_delay,
                                          .per_peer = {.failures_max = options->auth.failures_per_peer}},
                                 .greeting_delay = listener.greeting_delay,
                                 .connections_per_minute = options->limits.connection_rate_per_peer,
                                 .messages_per_minute = options->limits.message_rate_per_peer,
                                 .error_delay = options->limits.error_delay}));
  }

  StatusOr<policy::RelayPolicy> policy = policy::RelayPolicy::make(options->accept_domains, options->hostname);
  if (!policy.ok()) return policy.status();
  made->relay_policy = std::make_shared<const policy::RelayPolicy>(*std::move(policy));

  std::vector<route::RouteRule> rules;
  for (const RouteOptions& written : options->routes) {
    StatusOr<route::Match> match = route::parse_match(written.match);
    if (!match.ok()) return match.status();
    StatusOr<route::Via> via = route::parse_via(written.via);
    if (!via.ok()) return via.status();
    via->tls = written.tls;
    via->credentials = written.credentials;
    via->callout = written.callout;
    rules.push_back({*std::move(match), *std::move(via)});
  }
  made->routes = std::make_unique<const route::RouteTable>(std::move(rules), options->hostname);

  made->resolution.smtp_port = options->smtp_client.port;
  made->resolution.own_names = {options->hostname};
  made->resolution.own_endpoints = options->own_endpoints;
  made->resolution.refuse_networks = options->smtp_client.refuse_networks;
  made->resolution.site_seed = site_seed;

  made->dsn.hostname = options->hostname;
  made->dsn.bytes_max = spool_options(*options).inline_content_max;
  return SnapshotPtr(std::move(made));
}

}  // namespace postern::shard
