// postern-passwd: makes, changes, checks and removes entries of posternd's file of users.
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <sys/random.h>

#include <postern/base/status.h>
#include <postern/base/text.h>
#include <postern/sasl/password.h>

#include "passwd/prompt.h"
#include "passwd/secure_file.h"
#include "passwd/user_text.h"

namespace {

using postern::message_of;
using postern::Status;
using postern::StatusOr;
namespace passwd = postern::passwd;
namespace sasl = postern::sasl;

constexpr int exit_ok = 0;
constexpr int exit_no = 1;  // the password is wrong, there is no such user
constexpr int exit_usage = 64;
constexpr int exit_file = 74;

struct Arguments {
  std::string user;
  std::string file;
  std::string scheme = "scram-sha-256";
  std::optional<std::string> senders;
  bool remove = false;
  bool verify = false;
};

int say(int code, std::string_view text) {
  std::fprintf(stderr, "postern-passwd: %.*s\n", static_cast<int>(text.size()), text.data());
  return code;
}

int code_of(const Status& status) {
  return absl::IsInvalidArgument(status) ? exit_usage : exit_file;
}

StatusOr<std::string> make_hash(const Arguments& arguments) {
  const StatusOr<sasl::Secret> password = passwd::read_password(true);
  if (!password.ok()) return password.status();
  char random[16];
  if (getrandom(random, sizeof random, 0) != sizeof random) {
    return postern::error(postern::StatusCode::kUnavailable, "the kernel gives no random bytes");
  }
  return sasl::store_password(*sasl::scheme_named(arguments.scheme), password->view(), {random, sizeof random});
}

int make_entry(const Arguments& arguments) {
  const StatusOr<std::string> hash = make_hash(arguments);
  if (!hash.ok()) return say(code_of(hash.status()), message_of(hash.status()));
  if (arguments.file.empty()) {
    const std::string text = passwd::with_entry("", arguments.user, *hash, arguments.senders);
    if (const Status status = passwd::check_text(text, "the entry"); !status.ok()) {
      return say(exit_usage, message_of(status));
    }
    std::fputs(text.c_str(), stdout);
    return std::fflush(stdout) == 0 ? exit_ok : say(exit_file, "standard output cannot be written to");
  }
  const StatusOr<passwd::SecureFile> file = passwd::SecureFile::open(arguments.file, true);
  if (!file.ok()) return say(code_of(file.status()), message_of(file.status()));
  const std::string text = passwd::with_entry(file->text(), arguments.user, *hash, arguments.senders);
  Status status = passwd::check_text(text, arguments.file);
  if (!status.ok()) return say(exit_usage, std::string(message_of(status)) + " (nothing was changed)");
  status = file->replace(text);
  return status.ok() ? exit_ok : say(exit_file, message_of(status));
}

int on_entry(const Arguments& arguments) {
  const StatusOr<passwd::SecureFile> file = passwd::SecureFile::open(arguments.file, false);
  if (!file.ok()) return say(code_of(file.status()), message_of(file.status()));
  const std::optional<passwd::Entry> entry = passwd::find_entry(file->text(), arguments.user);
  if (!entry) return say(exit_no, arguments.file + ": no user " + postern::log_escaped(arguments.user));
  if (arguments.remove) {
    const Status status = file->replace(passwd::without(file->text(), *entry));
    return status.ok() ? exit_ok : say(exit_file, message_of(status));
  }
  const StatusOr<sasl::StoredPassword> stored = sasl::StoredPassword::parse(entry->hash);
  if (!stored.ok())
    return say(exit_no,
               "user " + postern::log_escaped(arguments.user) + ": " + std::string(message_of(stored.status())));
  const StatusOr<sasl::Secret> password = passwd::read_password(false);
  if (!password.ok()) return say(code_of(password.status()), message_of(password.status()));
  return stored->matches(password->view()) ? exit_ok : say(exit_no, "that is not the password");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Makes entries of posternd's file of users. The password is asked for at the terminal, or read as one line\n"
      "from standard input. Without --file, the entry is written to standard output.",
      "postern-passwd");
  Arguments arguments;
  app.add_option("USER", arguments.user, "1 to 255 bytes of UTF-8 without a colon")->required();
  app.add_option("--file", arguments.file, "change the entry in this file, or add it; made 0640 when it is not there")
      ->type_name("FILE");
  app.add_option("--scheme", arguments.scheme, "scram-sha-256 | yescrypt | bcrypt | sha512")
      ->type_name("SCHEME")
      ->check([](const std::string& name) {
        return sasl::scheme_named(name) ? std::string()
                                        : "unknown scheme; write scram-sha-256, yescrypt, bcrypt or sha512";
      })
      ->capture_default_str();
  app.add_option("--senders", arguments.senders,
                 "from where the user may send: user@example.net,@example.org; without it, an entry keeps what it has")
      ->type_name("LIST");
  CLI::Option* const remove = app.add_flag("--delete", arguments.remove, "remove the entry from --file");
  CLI::Option* const verify =
      app.add_flag("--verify", arguments.verify, "exit 0 when the password is the user's, else 1");
  remove->excludes(verify);
  app.set_version_flag("--version", "postern-passwd " POSTERN_VERSION);
  app.footer(
      "Exits 0 when done, 1 when the password is wrong or the user not there, 64 for wrong arguments, 74 when a file\n"
      "cannot be read or written. See posternd.toml(5), [auth] users.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {  // also --help and --version
    return app.exit(wrong) == 0 ? exit_ok : exit_usage;
  }
  if (!sasl::is_prepared_text(arguments.user, sasl::user_bytes_max) || arguments.user.find(':') != std::string::npos ||
      arguments.user.starts_with('#') || postern::trim(arguments.user) != arguments.user) {
    return say(exit_usage, "USER is 1 … 255 bytes of UTF-8 without a colon, spaces around it or # at its beginning");
  }
  if (!arguments.remove && !arguments.verify) return make_entry(arguments);
  if (arguments.file.empty()) return say(exit_usage, "--delete and --verify need --file");
  return on_entry(arguments);
}
