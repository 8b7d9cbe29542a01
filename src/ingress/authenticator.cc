#include "ingress/authenticator.h"

#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/sasl/digest.h>

namespace postern::ingress {

// Has copies of all that it needs, as the client may go while it runs.
class Authenticator::Check final : public io::Task, public ListHook<WaitingTag> {
 public:
  Check(std::shared_ptr<const policy::UserTable> users, std::string_view user, std::string_view password, SlotId client)
      : users_(std::move(users)), user_(user), password_(password), client_(client) {}
  void run() override { right_ = users_->matches(user_, password_.view()); }
  [[nodiscard]] bool right() const { return right_; }
  [[nodiscard]] SlotId client() const { return client_; }

 private:
  std::shared_ptr<const policy::UserTable> users_;
  std::string user_;
  sasl::Secret password_;
  SlotId client_;
  bool right_ = false;
};

Authenticator::Authenticator(io::Loop& loop, net::Dispatcher& dispatcher, AuthenticatorUser& user)
    : loop_(loop),
      dispatcher_(dispatcher),
      user_(user),
      kind_(dispatcher.claim(*this)),
      checks_(std::make_unique<SlotMap<Check>>(checks_max)) {}

Authenticator::~Authenticator() {
  while (Check* const check = waiting_.pop_front()) checks_->erase(checks_->id_of(*check));
  // A thread is still at it, at the end of a process that was not given the time: its memory goes with that.
  if (idle()) {
    dispatcher_.release(kind_);
  } else {
    (void)checks_.release();  // NOLINT(bugprone-unused-return-value)
  }
}

bool Authenticator::check(std::shared_ptr<const policy::UserTable> users, std::string_view user,
                          std::string_view password, SlotId client) {
  Check* const check = checks_->emplace(std::move(users), user, password, client);
  if (check == nullptr) return false;
  waiting_.push_back(*check);
  run_next();
  return true;
}

void Authenticator::run_next() {
  while (running_ < running_max) {
    Check* const check = waiting_.pop_front();
    if (check == nullptr) return;
    ++running_;
    const SlotId id = checks_->id_of(*check);
    loop_.run_task(*check, {.slot = id.slot, .generation = id.generation & SlotId::generation_max, .kind = kind_});
  }
}

void Authenticator::on_completion(const io::Completion& completion) {
  const SlotId id{completion.token.slot, completion.token.generation};
  const Check* const check = checks_->find(id);
  POSTERN_CHECK(check != nullptr, "a check ended twice");
  const SlotId client = check->client();
  const PasswordCheck result = completion.result < 0 ? PasswordCheck::not_done
                               : check->right()      ? PasswordCheck::right
                                                     : PasswordCheck::wrong;
  checks_->erase(id);
  --running_;
  run_next();
  user_.on_password_checked(client, result);
}

}  // namespace postern::ingress
