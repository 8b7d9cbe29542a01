// [[smtp_client.credentials]]: what is wrong with them and with routes that name them, and their passwords, read from
// their files at the start and at a reload.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/config_tls.h"
#include "shard/options.h"

namespace postern::daemon {

inline constexpr std::size_t credentials_max = 100;

struct CredentialsFault {
  std::string_view key;
  std::string what;
  std::string cure;
};
// Of one entry as it was written, without its file.
[[nodiscard]] std::vector<CredentialsFault> faults_of(const shard::CredentialsOptions& credentials);

struct RouteAuthFault {
  unsigned line = 1;
  std::string what;
  std::string cure;
  bool fatal = true;  // false: a warning
};
// Of all routes.
[[nodiscard]] std::vector<RouteAuthFault> faults_of_route_auth(const shard::Options& options);

// Reads the passwords and sets `made` of each. When something fatal was reported, the options are good for nothing.
void load_credentials(shard::Options& options, const std::function<void(const TlsTrouble&)>& report);

}  // namespace postern::daemon
