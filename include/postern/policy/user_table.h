// The users who may authenticate: what their password is known by, and from whom they may send.
//
//   # comment
//   alice:$y$j9T$…
//   bob@example.net:{SCRAM-SHA-256}16384,…:bob@example.net,@lists.example.net
//
// One user a line: name, what sasl/password.h reads, and, if anything, the reverse-paths that the user may name:
// addresses, or "@domain" for all of one. Without a third field a user may name any. Names are compared byte for byte.
// Immutable, shared by all shards and by the threads that check passwords.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/hash.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>
#include <postern/sasl/password.h>

namespace postern::policy {

class UserTable {
 public:
  static constexpr std::size_t senders_max = 1000;  // of one user

  // `path` is for messages. kInvalidArgument: "PATH:LINE: what; cure". `secret`: nobody's business, and the same as
  // long as strangers are not to find out who is a user.
  [[nodiscard]] static StatusOr<UserTable> parse(std::string_view text, const std::string& path,
                                                 std::string_view secret);

  // Slow [sasl::StoredPassword::matches()], for a user as for a stranger.
  [[nodiscard]] bool matches(std::string_view user, std::string_view password) const;
  // The user's; for a stranger, and for one whose password is kept as a hash, one that nobody can prove to know, always
  // the same, and like the others here in what is shown of it.
  [[nodiscard]] sasl::ScramVerifier scram_verifier(std::string_view user) const;
  // Whether the user is known (still: the table may be another than the one that was authenticated by) and may send
  // from there. The null reverse-path is everyone's.
  [[nodiscard]] bool may_send_from(std::string_view user, const mail::PathView& reverse_path) const;

  [[nodiscard]] std::size_t size() const { return users_.size(); }
  // Everyone can use SCRAM: a client chooses the mechanism before it says who it is.
  [[nodiscard]] bool all_have_verifiers() const { return verifiers_ == users_.size() && !users_.empty(); }

 private:
  struct User {
    sasl::StoredPassword password;
    std::vector<std::string> senders;  // sorted, lower case; empty: any
  };

  UserTable() = default;
  [[nodiscard]] static StatusOr<User> parse_user(std::string_view fields);
  [[nodiscard]] const User* find(std::string_view user) const;
  // Whose place a stranger takes.
  [[nodiscard]] const User& stand_in(std::string_view stranger) const;

  TextMap<std::size_t> places_;  // in users_
  std::vector<User> users_;      // in the file's order
  std::size_t verifiers_ = 0;
  std::string secret_;
};

}  // namespace postern::policy
