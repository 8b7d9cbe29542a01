#include "egress/salted_passwords.h"

#include <utility>

#include <postern/base/check.h>

namespace postern::egress {

// Has copies of all that it needs, as the connection may go while it runs.
class SaltedPasswords::Task final : public io::Task {
 public:
  void begin(std::shared_ptr<const sasl::Credentials> credentials, std::string salt, std::uint32_t iterations) {
    credentials_ = std::move(credentials);
    salt_ = std::move(salt);
    iterations_ = iterations;
  }
  void run() override { salted_ = sasl::pbkdf2_hmac_sha256(credentials_->password.view(), salt_, iterations_); }
  void move_to(Kept& kept) {
    kept.credentials = std::move(credentials_);
    kept.salt = std::move(salt_);
    kept.iterations = iterations_;
    kept.salted = salted_;
    sasl::wipe(salted_);
  }
  [[nodiscard]] bool is_of(const SaltedPasswordUser& user) const {
    return user.credentials_ == credentials_ && user.salt_ == salt_ && user.iterations_ == iterations_;
  }
  void drop() { credentials_.reset(); }

 private:
  std::shared_ptr<const sasl::Credentials> credentials_;
  std::string salt_;
  std::uint32_t iterations_ = 0;
  sasl::Digest salted_{};
};

SaltedPasswords::SaltedPasswords(io::Loop& loop, net::Dispatcher& dispatcher)
    : loop_(loop), dispatcher_(dispatcher), kind_(dispatcher.claim(*this)), task_(std::make_unique<Task>()) {}

SaltedPasswords::~SaltedPasswords() {
  while (waiting_.pop_front() != nullptr) {
  }
  // A thread is still at it, at the end of a process that was not given the time: its memory goes with that.
  if (idle()) {
    dispatcher_.release(kind_);
  } else {
    (void)task_.release();  // NOLINT(bugprone-unused-return-value)
  }
}

const sasl::Digest* SaltedPasswords::ask(std::shared_ptr<const sasl::Credentials> credentials, const std::string& salt,
                                         std::uint32_t iterations, SaltedPasswordUser& user) {
  if (const sasl::Digest* const known = find(*credentials, salt, iterations)) return known;
  user.credentials_ = std::move(credentials);
  user.salt_ = salt;
  user.iterations_ = iterations;
  waiting_.push_back(user);
  run_next();
  return nullptr;
}

void SaltedPasswords::forget(SaltedPasswordUser& user) {
  user.unlink();
  user.credentials_.reset();
}

void SaltedPasswords::clear() {
  kept_.clear();
}

const sasl::Digest* SaltedPasswords::find(const sasl::Credentials& credentials, const std::string& salt,
                                          std::uint32_t iterations) const {
  for (const Kept& kept : kept_) {
    if (kept.credentials.get() == &credentials && kept.iterations == iterations && kept.salt == salt) {
      return &kept.salted;
    }
  }
  return nullptr;
}

void SaltedPasswords::run_next() {
  if (running_) return;
  const SaltedPasswordUser* const next = waiting_.front();
  if (next == nullptr) return;
  running_ = true;
  task_->begin(next->credentials_, next->salt_, next->iterations_);
  loop_.run_task(*task_, {.slot = 0, .generation = 0, .kind = kind_});
}

void SaltedPasswords::on_completion(const io::Completion& completion) {
  POSTERN_CHECK(running_, "a computation ended twice");
  running_ = false;
  if (completion.result < 0) {
    // Those who asked for this one are told so; the next one may find room among the loop's tasks.
    IntrusiveList<SaltedPasswordUser, SaltWaitTag> told;
    IntrusiveList<SaltedPasswordUser, SaltWaitTag> others;
    while (SaltedPasswordUser* const user = waiting_.pop_front()) {
      (task_->is_of(*user) ? told : others).push_back(*user);
    }
    while (SaltedPasswordUser* const user = others.pop_front()) waiting_.push_back(*user);
    task_->drop();
    run_next();
    while (SaltedPasswordUser* const user = told.pop_front()) {
      user->credentials_.reset();
      user->on_salted_password(nullptr);
    }
    return;
  }
  ++computed_;
  if (kept_.size() == kept_max) kept_.pop_front();
  task_->move_to(kept_.emplace_back());
  answer_those_known();
}

// Their answers may lead to other calls here.
void SaltedPasswords::answer_those_known() {
  IntrusiveList<SaltedPasswordUser, SaltWaitTag> told;
  IntrusiveList<SaltedPasswordUser, SaltWaitTag> others;
  const Kept& last = kept_.back();
  while (SaltedPasswordUser* const user = waiting_.pop_front()) {
    const bool known =
        user->credentials_ == last.credentials && user->iterations_ == last.iterations && user->salt_ == last.salt;
    (known ? told : others).push_back(*user);
  }
  while (SaltedPasswordUser* const user = others.pop_front()) waiting_.push_back(*user);
  sasl::Digest salted = last.salted;
  run_next();
  while (SaltedPasswordUser* const user = told.pop_front()) {
    user->credentials_.reset();
    user->on_salted_password(&salted);
  }
  sasl::wipe(salted);
}

}  // namespace postern::egress
