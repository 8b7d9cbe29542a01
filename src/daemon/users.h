// The users that the configuration's file names, as a table that the shards look into. Reads files: at the start, at a
// reload, and by the control thread when the file has changed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <postern/base/status.h>

#include "daemon/config_tls.h"
#include "shard/options.h"

namespace postern::daemon {

inline constexpr std::uint64_t user_file_bytes_max = std::uint64_t{64} << 20;  // some 400,000 users

// Sets options.auth.users to what options.auth.users_file holds; does nothing when there is none. A file that others
// may read is worth a warning. When something fatal was reported, the options are good for nothing.
void load_users(shard::Options& options, const std::function<void(const TlsTrouble&)>& report);

}  // namespace postern::daemon
