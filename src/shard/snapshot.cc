#include "shard/snapshot.h"

#include <utility>

namespace postern::shard {

StatusOr<SnapshotPtr> Snapshot::make(const OptionsSnapshot& options, std::uint64_t site_seed) {
  auto made = std::make_shared<Snapshot>();
  made->options = options;

  auto session = std::make_shared<smtp::ServerOptions>();
  session->hostname = options->hostname;
  session->message_bytes_max = options->limits.message_bytes;
  session->recipients_max = options->limits.recipients;
  session->received_max = options->limits.received_hops;
  session->errors_max = options->limits.errors;
  session->command_idle = options->limits.idle;
  session->data_idle = options->limits.idle;
  session->session_max = options->limits.session;
  for (const ListenerOptions& listener : options->listeners) {
    made->listeners.push_back(std::make_shared<const ingress::ListenerContext>(
        ingress::ListenerContext{session, policy::NetworkSet(listener.relay_from)}));
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
    rules.push_back({*std::move(match), *std::move(via)});
  }
  made->routes = std::make_unique<const route::RouteTable>(std::move(rules), options->hostname);

  made->resolution.smtp_port = options->smtp_client.port;
  made->resolution.own_names = {options->hostname};
  made->resolution.own_endpoints = options->own_endpoints;
  made->resolution.refuse_networks = options->smtp_client.refuse_networks;
  made->resolution.site_seed = site_seed;

  made->dsn.hostname = options->hostname;
  return SnapshotPtr(std::move(made));
}

}  // namespace postern::shard
