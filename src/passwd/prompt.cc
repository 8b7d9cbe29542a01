#include "passwd/prompt.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <termios.h>
#include <unistd.h>

#include <postern/sasl/password.h>

namespace postern::passwd {
namespace {

constexpr int stopping[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};
volatile std::sig_atomic_t stopped_by = 0;

// Up to the line's end; more than any password may have is cut behind that, which refuses it later.
StatusOr<sasl::Secret> read_line(int descriptor) {
  std::string line;
  line.reserve(sasl::password_bytes_max + 2);  // never moved, so that no copy stays behind
  while (true) {
    char c = 0;
    const ssize_t count = ::read(descriptor, &c, 1);
    if (count < 0 && errno == EINTR && stopped_by == 0) continue;
    if (count < 0) return error(StatusCode::kUnavailable, std::string("standard input: ") + std::strerror(errno));
    if (count == 0 || c == '\n') break;
    if (line.size() <= sasl::password_bytes_max) line += c;
  }
  if (line.ends_with('\r')) line.pop_back();
  sasl::Secret secret{line};
  sasl::wipe(line);
  return secret;
}

// The terminal without echo, until it goes; a signal that ends the program does so when the terminal is as it was.
class Mute {
 public:
  explicit Mute(int terminal) : terminal_(terminal) {
    struct sigaction action{};
    action.sa_handler = [](int signal) { stopped_by = signal; };  // without SA_RESTART: ends what waits for a line
    for (std::size_t i = 0; i < std::size(stopping); ++i) ::sigaction(stopping[i], &action, &before_actions_[i]);
    ok_ = ::tcgetattr(terminal_, &before_) == 0;
    termios mute = before_;
    mute.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL);
    ok_ = ok_ && ::tcsetattr(terminal_, TCSAFLUSH, &mute) == 0;
  }
  Mute(const Mute&) = delete;
  Mute& operator=(const Mute&) = delete;
  ~Mute() {
    if (ok_) ::tcsetattr(terminal_, TCSAFLUSH, &before_);
    for (std::size_t i = 0; i < std::size(stopping); ++i) ::sigaction(stopping[i], &before_actions_[i], nullptr);
    if (stopped_by != 0) ::raise(stopped_by);
  }
  [[nodiscard]] bool ok() const { return ok_; }

 private:
  int terminal_;
  termios before_{};
  struct sigaction before_actions_[std::size(stopping)]{};
  bool ok_ = false;
};

void show(int terminal, std::string_view text) {
  (void)!::write(terminal, text.data(), text.size());
}

}  // namespace

StatusOr<sasl::Secret> read_password(bool twice) {
  if (::isatty(STDIN_FILENO) == 0) return read_line(STDIN_FILENO);
  const Mute mute(STDIN_FILENO);
  if (!mute.ok()) return error(StatusCode::kUnavailable, "the terminal cannot be kept from showing the password");
  const auto ask = [](std::string_view question) {
    show(STDERR_FILENO, question);
    StatusOr<sasl::Secret> answer = read_line(STDIN_FILENO);
    show(STDERR_FILENO, "\n");
    return answer;
  };
  StatusOr<sasl::Secret> first = ask("Password: ");
  if (!first.ok() || !twice) return first;
  const StatusOr<sasl::Secret> second = ask("Again: ");
  if (!second.ok()) return second.status();
  if (!sasl::equal_secrets(first->view(), second->view())) {
    return error(StatusCode::kInvalidArgument, "the two differ; try again");
  }
  return first;
}

}  // namespace postern::passwd
