// Checks passwords outside of the shard's thread, a few at a time and a bounded number waiting. One per shard.
//
// A check takes 1 to 500 ms of CPU. The loop's threads, which it borrows, are also those that sign TLS handshakes and
// open files: so most of them are never busy with passwords.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include <postern/base/intrusive_list.h>
#include <postern/base/slot_map.h>
#include <postern/policy/user_table.h>

#include "io/loop.h"
#include "net/dispatcher.h"

namespace postern::ingress {

enum class PasswordCheck : std::uint8_t { right, wrong, not_done };

class AuthenticatorUser {
 public:
  // Of the client that check() was told, which may be gone.
  virtual void on_password_checked(SlotId client, PasswordCheck result) = 0;

 protected:
  ~AuthenticatorUser() = default;
};

class Authenticator final : private net::CompletionHandler {
 public:
  static constexpr std::uint32_t checks_max = 64;  // of them, running:
  static constexpr std::uint32_t running_max = 1;

  // All outlive it.
  Authenticator(io::Loop& loop, net::Dispatcher& dispatcher, AuthenticatorUser& user);
  ~Authenticator();
  Authenticator(const Authenticator&) = delete;
  Authenticator& operator=(const Authenticator&) = delete;

  // False: too many wait. Else the answer follows, never from within.
  [[nodiscard]] bool check(std::shared_ptr<const policy::UserTable> users, std::string_view user,
                           std::string_view password, SlotId client);
  // Nothing is being checked, and no thread looks at anything of this.
  [[nodiscard]] bool idle() const { return checks_->size() == 0; }

 private:
  class Check;
  struct WaitingTag;

  void on_completion(const io::Completion& completion) override;
  void run_next();

  io::Loop& loop_;
  net::Dispatcher& dispatcher_;
  AuthenticatorUser& user_;
  std::uint8_t kind_;
  std::uint32_t running_ = 0;
  std::unique_ptr<SlotMap<Check>> checks_;
  IntrusiveList<Check, WaitingTag> waiting_;  // those not given to a thread, in order
};

}  // namespace postern::ingress
