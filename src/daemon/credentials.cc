#include "daemon/credentials.h"

#include <algorithm>
#include <memory>

#include <postern/base/status.h>
#include <postern/base/text.h>
#include <postern/route/route_table.h>
#include <postern/sasl/client_exchange.h>
#include <postern/sasl/password.h>

#include "daemon/secret_file.h"

namespace postern::daemon {
namespace {

constexpr std::size_t name_bytes_max = 64;
constexpr std::size_t password_file_bytes_max = 4096;
constexpr std::string_view key_of_file = "smtp_client.credentials.password_file";

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= name_bytes_max && std::ranges::all_of(text, [](char c) {
    return is_ascii_alpha(c) || is_ascii_digit(c) || c == '.' || c == '-' || c == '_';
  });
}

bool sends_passwords(sasl::MechanismSet mechanisms) {
  return mechanisms.empty() || mechanisms.has(sasl::Mechanism::plain) || mechanisms.has(sasl::Mechanism::login);
}

}  // namespace

std::vector<CredentialsFault> faults_of(const shard::CredentialsOptions& credentials) {
  std::vector<CredentialsFault> faults;
  if (!is_name(credentials.name)) {
    faults.push_back({"name",
                      credentials.name.empty() ? "missing" : "is not 1 … 64 letters, digits, \".\", \"-\", \"_\"",
                      R"(write name = "provider", by which routes call them)"});
  }
  if (!sasl::is_prepared_text(credentials.user, sasl::user_bytes_max)) {
    faults.push_back({"user", credentials.user.empty() ? "missing" : "is not 1 … 255 bytes without control characters",
                      R"(write user = "us@example.net", as the next hop knows us)"});
  }
  if (credentials.password_file.empty()) {
    faults.push_back({"password_file", "missing", R"(write password_file = "FILE", which holds the password alone)"});
  }
  return faults;
}

std::vector<RouteAuthFault> faults_of_route_auth(const shard::Options& options) {
  std::vector<RouteAuthFault> faults;
  for (const shard::RouteOptions& route : options.routes) {
    if (route.credentials.empty()) continue;
    const auto found =
        std::ranges::find(options.smtp_client.credentials, route.credentials, &shard::CredentialsOptions::name);
    if (found == options.smtp_client.credentials.end()) {
      faults.push_back({route.line, "\"" + log_escaped(route.credentials, 100) + "\" is no credentials' name",
                        "write [[smtp_client.credentials]] and name, user and password_file"});
      continue;
    }
    if (const auto via = route::parse_via(route.via); via.ok() && !via->may_authenticate()) {
      faults.push_back({route.line, "credentials are for a host that is named here, over TCP",
                        R"(write via = "smtp:HOST" or "lmtp:HOST:PORT", or remove it)"});
      continue;
    }
    const route::TlsLevel level = (route.tls ? *route.tls : options.smtp_client.tls.usual).level;
    if (level == route::TlsLevel::none && !found->without_tls) {
      faults.push_back({route.line, "credentials are not used without TLS",
                        R"(write tls = "verified" beside it, or without_tls = true with the credentials)"});
    } else if (level != route::TlsLevel::verified && sends_passwords(found->mechanisms)) {
      faults.push_back(
          {route.line,
           R"(whoever can redirect the connection can ask for the password; write tls = "verified" beside )"
           R"(it, or mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] with the credentials)",
           "", false});
    }
  }
  return faults;
}

void load_credentials(shard::Options& options, const std::function<void(const TlsTrouble&)>& report) {
  for (shard::CredentialsOptions& one : options.smtp_client.credentials) {
    const auto fail = [&](std::string_view what) {
      report({.line = one.line,
              .key = std::string(key_of_file),
              .what = std::string(what),
              .cure = "write the password alone on one line of a file that the user who runs posternd may read"});
    };
    SecretFile file;
    if (const Status status = read_secret_file(one.password_file, password_file_bytes_max, file); !status.ok()) {
      fail(message_of(status));
      continue;
    }
    if (file.others_may_read) {
      report({.line = one.line,
              .key = std::string(key_of_file),
              .what = one.password_file + ": anyone may read it; chmod 600",
              .cure = "",
              .fatal = false});
    }
    std::string_view password = file.text;
    if (password.ends_with('\n')) password.remove_suffix(1);
    if (password.ends_with('\r')) password.remove_suffix(1);
    if (!sasl::is_prepared_text(password, sasl::password_bytes_max)) {
      fail(one.password_file + ": not one line of 1 … 511 bytes of UTF-8 without control characters");
      continue;
    }
    auto made = std::make_shared<sasl::Credentials>();
    made->user = one.user;
    made->password = sasl::Secret(password);
    made->mechanisms = one.mechanisms;
    made->without_tls = one.without_tls;
    if (made->mechanisms.empty()) {
      for (const sasl::Mechanism mechanism : sasl::all_mechanisms) made->mechanisms.add(mechanism);
    }
    one.made = std::move(made);
  }
}

}  // namespace postern::daemon
