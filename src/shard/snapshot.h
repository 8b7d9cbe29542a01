// The configuration as the shards use it: what is derived from Options once, immutable and shared by all of them.
#pragma once

#include <memory>
#include <vector>

#include <postern/base/status.h>
#include <postern/dsn/composer.h>
#include <postern/policy/recipient_table.h>
#include <postern/policy/relay_policy.h>
#include <postern/policy/user_table.h>
#include <postern/route/resolution.h>
#include <postern/route/route_table.h>
#include <postern/smtp/server_options.h>
#include <postern/spool/types.h>

#include "ingress/ingress.h"
#include "shard/options.h"

namespace postern::shard {

struct Snapshot {
  OptionsSnapshot options;
  std::vector<std::shared_ptr<const ingress::ListenerContext>> listeners;  // in the order of options->listeners
  std::shared_ptr<const policy::RelayPolicy> relay_policy;
  std::shared_ptr<const policy::RecipientTable> recipients;  // null: everyone exists
  std::shared_ptr<const policy::UserTable> users;            // null: nobody may authenticate
  std::unique_ptr<const route::RouteTable> routes;
  route::ResolutionOptions resolution;
  dsn::Options dsn;

  // `site_seed`: one per process. `recipients`: of options->recipients. Fails only on texts that the daemon should have
  // refused.
  [[nodiscard]] static StatusOr<std::shared_ptr<const Snapshot>> make(
      const OptionsSnapshot& options, std::uint64_t site_seed,
      std::shared_ptr<const policy::RecipientTable> recipients = nullptr);
};

// What the configuration means for every log.
[[nodiscard]] spool::Options spool_options(const Options& options);

using SnapshotPtr = std::shared_ptr<const Snapshot>;

}  // namespace postern::shard
