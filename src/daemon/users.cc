#include "daemon/users.h"

#include <cstdlib>
#include <memory>
#include <utility>

#include <sys/random.h>

#include <postern/policy/user_table.h>

#include "daemon/secret_file.h"

namespace postern::daemon {
namespace {

// What strangers' verifiers are made of: the same through all reloads.
const std::string& secret_of_process() {
  static const std::string secret = [] {
    std::string made(32, '\0');
    if (getrandom(made.data(), made.size(), 0) != static_cast<ssize_t>(made.size())) std::abort();
    return made;
  }();
  return secret;
}

}  // namespace

void load_users(shard::Options& options, const std::function<void(const TlsTrouble&)>& report) {
  shard::AuthOptions& auth = options.auth;
  if (auth.users_file.empty()) return;
  SecretFile file;
  if (const Status status = read_secret_file(auth.users_file, user_file_bytes_max, file); !status.ok()) {
    report({.line = auth.line,
            .key = "auth.users",
            .what = std::string(message_of(status)),
            .cure = "make it with postern-passwd, readable for the user who runs posternd"});
    return;
  }
  if (file.others_may_read) {
    report({.line = auth.line,
            .key = "auth.users",
            .what = auth.users_file + ": anyone may read it; chmod 640",
            .cure = "",
            .fatal = false});
  }
  StatusOr<policy::UserTable> table = policy::UserTable::parse(file.text, auth.users_file, secret_of_process());
  if (!table.ok()) {
    // It names its own file and line, and the cure.
    report({.line = auth.line, .key = "auth.users", .what = std::string(message_of(table.status())), .cure = ""});
    return;
  }
  auth.users = std::make_shared<const policy::UserTable>(*std::move(table));
}

}  // namespace postern::daemon
