// Computes what SCRAM makes of passwords (PBKDF2) outside of the shard's thread, and remembers it: a server asks with
// the same salt each time, so that its connections but the first cost nothing. One per shard.
//
// A hostile server can ask for ClientExchange::iterations_max with a new salt each time, for each of the connections
// that its site may have: that is one task at a time, in the order in which they came, each for a connection that is
// still there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include <postern/base/intrusive_list.h>
#include <postern/sasl/client_exchange.h>

#include "io/loop.h"
#include "net/dispatcher.h"

namespace postern::egress {

struct SaltWaitTag;

// Who waits for one; unlinks itself when it goes.
class SaltedPasswordUser : public ListHook<SaltWaitTag> {
 public:
  // Null: it could not be computed. Never from within ask().
  virtual void on_salted_password(const sasl::Digest* salted) = 0;

 protected:
  virtual ~SaltedPasswordUser() = default;

 private:
  friend class SaltedPasswords;
  std::shared_ptr<const sasl::Credentials> credentials_;
  std::string salt_;
  std::uint32_t iterations_ = 0;
};

class SaltedPasswords final : private net::CompletionHandler {
 public:
  static constexpr std::size_t kept_max = 64;  // of some 200 bytes each; beyond, the oldest goes

  // Both outlive it.
  SaltedPasswords(io::Loop& loop, net::Dispatcher& dispatcher);
  ~SaltedPasswords();
  SaltedPasswords(const SaltedPasswords&) = delete;
  SaltedPasswords& operator=(const SaltedPasswords&) = delete;

  // Null: user.on_salted_password() will tell, unless the user is gone or forget() was called. Else valid until the
  // next call.
  [[nodiscard]] const sasl::Digest* ask(std::shared_ptr<const sasl::Credentials> credentials, const std::string& salt,
                                        std::uint32_t iterations, SaltedPasswordUser& user);
  static void forget(SaltedPasswordUser& user);
  // Passwords have changed: what is known of the old ones is overwritten.
  void clear();
  // Nothing is being computed, and no thread looks at anything of this.
  [[nodiscard]] bool idle() const { return !running_; }
  [[nodiscard]] std::uint64_t computed() const { return computed_; }

 private:
  class Task;
  struct Kept {
    std::shared_ptr<const sasl::Credentials> credentials;
    std::string salt;
    std::uint32_t iterations = 0;
    sasl::Digest salted{};

    Kept() = default;
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    ~Kept() { sasl::wipe(salted); }
  };

  void on_completion(const io::Completion& completion) override;
  [[nodiscard]] const sasl::Digest* find(const sasl::Credentials& credentials, const std::string& salt,
                                         std::uint32_t iterations) const;
  void run_next();
  void answer_those_known();

  io::Loop& loop_;
  net::Dispatcher& dispatcher_;
  std::uint8_t kind_;
  bool running_ = false;
  std::uint64_t computed_ = 0;
  std::unique_ptr<Task> task_;
  std::list<Kept> kept_;                                    // the oldest first
  IntrusiveList<SaltedPasswordUser, SaltWaitTag> waiting_;  // each a connection: bounded with these
};

}  // namespace postern::egress
