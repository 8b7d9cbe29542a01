#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include <postern/base/text.h>
#include <postern/policy/user_table.h>
#include <postern/route/domain.h>
#include <postern/sasl/digest.h>

namespace postern::policy {
namespace {

Status wrong(std::string_view what) {
  return error(StatusCode::kInvalidArgument, what);
}

// As it is compared: lower case, the domain as an A-label. "" when it is neither an address nor "@domain".
std::string sender_key(std::string_view text) {
  const std::size_t at = text.rfind('@');
  if (at == std::string_view::npos || text.size() > 512) return {};
  const StatusOr<std::string> domain = route::normalise_domain(text.substr(at + 1));
  if (!domain.ok()) return {};
  std::string key = to_lower(route::unquote_local_part(text.substr(0, at)));
  return key.append("@").append(*domain);
}

}  // namespace

StatusOr<UserTable::User> UserTable::parse_user(std::string_view fields) {
  const std::size_t colon = std::min(fields.find(':'), fields.size());
  StatusOr<sasl::StoredPassword> password = sasl::StoredPassword::parse(fields.substr(0, colon));
  if (!password.ok()) return password.status();
  User user{.password = *std::move(password), .senders = {}};
  if (colon == fields.size()) return user;
  std::string_view senders = fields.substr(colon + 1);
  while (true) {
    const std::size_t comma = std::min(senders.find(','), senders.size());
    const std::string_view text = trim(senders.substr(0, comma));
    std::string key = sender_key(text);
    if (key.empty()) {
      return wrong("\"" + log_escaped(text, 100) +
                   "\" is no sender; write user@example.net or @example.net, or leave the last colon out for any");
    }
    user.senders.push_back(std::move(key));
    if (user.senders.size() > senders_max)
      return wrong("more than 1,000 senders; write @example.net for all of a domain");
    if (comma == senders.size()) break;
    senders.remove_prefix(comma + 1);
  }
  std::ranges::sort(user.senders);
  return user;
}

StatusOr<UserTable> UserTable::parse(std::string_view text, const std::string& path, std::string_view secret) {
  UserTable table;
  table.secret_ = secret;
  std::size_t number = 0;
  const auto at = [&](std::string_view what) {
    return wrong(path + ":" + std::to_string(number) + ": " + std::string(what));
  };
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (trim(line).empty() || line.front() == '#') continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return at("no colon; write USER:HASH, as postern-passwd does");
    const std::string_view name = line.substr(0, colon);
    if (!sasl::is_prepared_text(name, sasl::user_bytes_max) || trim(name) != name) {
      return at("\"" + log_escaped(name, 100) + "\" is no name; write 1 … 255 bytes of UTF-8 without spaces around it");
    }
    StatusOr<User> user = parse_user(line.substr(colon + 1));
    if (!user.ok()) return at("user " + log_escaped(name, 100) + ": " + std::string(message_of(user.status())));
    if (!table.places_.emplace(std::string(name), table.users_.size()).second) {
      return at("user " + log_escaped(name, 100) + " stands here a second time; remove one");
    }
    if (user->password.scram() != nullptr) ++table.verifiers_;
    table.users_.push_back(*std::move(user));
  }
  return table;
}

const UserTable::User* UserTable::find(std::string_view user) const {
  const auto found = places_.find(user);
  return found == places_.end() ? nullptr : &users_[found->second];
}

const UserTable::User& UserTable::stand_in(std::string_view stranger) const {
  const sasl::Digest digest = sasl::hmac_sha256(secret_, stranger);
  std::uint64_t number = 0;
  std::memcpy(&number, digest.data(), sizeof number);
  return users_[number % users_.size()];
}

bool UserTable::matches(std::string_view user, std::string_view password) const {
  if (users_.empty()) return false;
  const User* const known = find(user);
  const bool good = (known != nullptr ? *known : stand_in(user)).password.matches(password);
  return known != nullptr && good;
}

sasl::ScramVerifier UserTable::scram_verifier(std::string_view user) const {
  if (const User* const known = find(user); known != nullptr && known->password.scram() != nullptr) {
    return *known->password.scram();
  }
  const auto derived = [&](std::string_view what) {
    return sasl::hmac_sha256(secret_, std::string(what) + std::string(user));
  };
  sasl::ScramVerifier made;
  std::size_t salt_size = 16;
  if (const sasl::ScramVerifier* const like = users_.empty() ? nullptr : stand_in(user).password.scram()) {
    made.iterations = like->iterations;
    salt_size = std::min(like->salt.size(), sizeof(sasl::Digest));
  }
  made.salt = sasl::as_text(derived("salt:")).substr(0, salt_size);
  made.stored_key = derived("stored:");
  made.server_key = derived("server:");
  return made;
}

bool UserTable::may_send_from(std::string_view user, const mail::PathView& reverse_path) const {
  const User* const known = find(user);
  if (known == nullptr) return false;
  if (known->senders.empty() || reverse_path.null()) return true;
  const std::string key = sender_key(reverse_path.text);
  return !key.empty() && (std::ranges::binary_search(known->senders, key) ||
                          std::ranges::binary_search(known->senders, key.substr(key.rfind('@'))));
}

}  // namespace postern::policy
