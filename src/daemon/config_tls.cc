#include "daemon/config_tls.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <map>
#include <memory>
#include <mutex>
#include <unistd.h>
#include <utility>

#include <sys/stat.h>

#include <postern/base/status.h>

#include "daemon/process.h"
#include "tls/certificate.h"
#include "tls/client_context.h"
#include "tls/server_context.h"
#include "tls/ticket_keys.h"

namespace postern::daemon {
namespace {

constexpr std::size_t file_bytes_max = 1u << 20;
constexpr std::int64_t day_s = 86'400;

// One set of keys per listener, for the life of the process, so that a reload spoils no ticket. Bounded by the
// listeners that a process can have had: their addresses change with a restart only.
class TicketKeyring {
 public:
  std::shared_ptr<const tls::TicketKeys> of(const std::string& listener) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<tls::TicketKeys>& keys = keys_[listener];
    if (keys == nullptr) keys = std::make_shared<tls::TicketKeys>();
    return keys;
  }
  void rotate() {
    const std::lock_guard lock(mutex_);
    for (const auto& [listener, keys] : keys_) keys->rotate();
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<tls::TicketKeys>> keys_;
};

TicketKeyring& ticket_keyring() {
  static TicketKeyring keyring;
  return keyring;
}

// Where systems keep the authorities whom they trust, each as one PEM file.
constexpr std::array system_authorities = {
    "/etc/ssl/certs/ca-certificates.crt",                 // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",                             // openSUSE
    "/etc/ssl/cert.pem",
};

// The last context for next hops, which is used again when all that it was made of is the same: it comes with sessions
// to resume and connections to use again.
class LastClientContext {
 public:
  StatusOr<std::shared_ptr<const net::TlsClientContext>> make(const std::string& authorities,
                                                              const std::string& certificate_texts,
                                                              std::shared_ptr<const tls::Certificate> certificate) {
    const std::lock_guard lock(mutex_);
    if (context_ != nullptr && authorities == authorities_ && certificate_texts == certificate_texts_) return context_;
    auto made = tls::make_client_context({.authorities_pem = authorities, .certificate = std::move(certificate)});
    if (!made.ok()) return made;
    authorities_ = authorities;
    certificate_texts_ = certificate_texts;
    context_ = *made;
    return made;
  }

 private:
  std::mutex mutex_;
  std::string authorities_, certificate_texts_;
  std::shared_ptr<const net::TlsClientContext> context_;
};

LastClientContext& last_client_context() {
  static LastClientContext last;
  return last;
}

struct File {
  std::string text;
  bool others_may_read = false;
};

// An ordinary file of a sane size, whole. It is opened without waiting: a pipe has no writer.
StatusOr<File> read_file(const std::string& path) {
  const auto failed = [&](std::string_view what) {
    return error(StatusCode::kUnavailable, path + ": " + std::string(what));
  };
  const OwnedDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return failed(std::strerror(errno));
  struct stat facts{};
  if (fstat(file.get(), &facts) < 0) return failed(std::strerror(errno));
  if (!S_ISREG(facts.st_mode)) return failed("no ordinary file");
  File read_so_far{.text = "", .others_may_read = (facts.st_mode & S_IROTH) != 0};
  std::string& text = read_so_far.text;
  text.resize(file_bytes_max + 1);
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t count = read(file.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed(std::strerror(errno));
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  if (size > file_bytes_max) return failed("larger than 1MiB");
  text.resize(size);
  return read_so_far;
}

tls::ClientCertificates asked_of(shard::ClientCertificates asked) {
  switch (asked) {
    case shard::ClientCertificates::none:
      return tls::ClientCertificates::none;
    case shard::ClientCertificates::optional:
      return tls::ClientCertificates::optional;
    case shard::ClientCertificates::required:
      return tls::ClientCertificates::required;
  }
  return tls::ClientCertificates::required;
}

class Loader {
 public:
  explicit Loader(const std::function<void(const TlsTrouble&)>& report) : report_(report) {}

  void load(shard::Options& options) {
    std::vector<std::shared_ptr<const tls::Certificate>> certificates;
    for (const shard::CertificateOptions& wanted : options.certificates) {
      if (auto certificate = load_certificate(wanted, "tls.certificate.chain", "tls.certificate.key")) {
        certificates.push_back(std::move(certificate));
      }
    }
    load_client(options);
    if (failed_) return;
    for (shard::ListenerOptions& listener : options.listeners) {
      if (listener.tls.use == smtp::TlsUse::none && listener.service != shard::Service::submissions) continue;
      load_listener(listener, certificates);
    }
  }

 private:
  void fail(unsigned line, std::string_view key, std::string_view what, std::string_view cure) {
    failed_ = true;
    report_({.line = line, .key = std::string(key), .what = std::string(what), .cure = std::string(cure)});
  }
  void warn(unsigned line, std::string_view key, std::string_view what) {
    report_({.line = line, .key = std::string(key), .what = std::string(what), .cure = "", .fatal = false});
  }

  std::shared_ptr<const tls::Certificate> load_certificate(const shard::CertificateOptions& wanted,
                                                           std::string_view chain_name, std::string_view key_name,
                                                           std::string* texts = nullptr) {
    const StatusOr<File> chain = read_file(wanted.chain);
    const StatusOr<File> key = read_file(wanted.key);
    constexpr std::string_view readable = "name a PEM file that the user who runs posternd may read";
    if (!chain.ok()) fail(wanted.line, chain_name, message_of(chain.status()), readable);
    if (!key.ok()) fail(wanted.line, key_name, message_of(key.status()), readable);
    if (!chain.ok() || !key.ok()) return nullptr;
    if (texts != nullptr) *texts = chain->text + key->text;
    if (key->others_may_read) warn(wanted.line, key_name, wanted.key + ": anyone may read it; chmod 600");
    auto certificate = tls::Certificate::parse(chain->text, key->text);
    if (!certificate.ok()) {
      const std::string_view text = message_of(certificate.status());
      const bool about_key = text.starts_with("key: ");
      fail(wanted.line, about_key ? key_name : chain_name,
           (about_key ? wanted.key : wanted.chain) + std::string(text.substr(text.find(':'))),
           about_key ? "name the key that was made with the certificate, without a pass phrase"
                     : "name the certificate and, behind it, those that lead to its authority, in PEM form");
      return nullptr;
    }
    const std::int64_t now = std::time(nullptr);
    if (now > (*certificate)->valid_until_s) {
      warn(wanted.line, chain_name, wanted.chain + ": it has expired; renew it");
    } else if (now + 3 * day_s > (*certificate)->valid_until_s) {
      warn(wanted.line, chain_name, wanted.chain + ": it expires within three days; renew it");
    } else if (now < (*certificate)->valid_from_s) {
      warn(wanted.line, chain_name, wanted.chain + ": it is not valid yet; is the clock right?");
    }
    return *std::move(certificate);
  }

  void load_listener(shard::ListenerOptions& listener,
                     const std::vector<std::shared_ptr<const tls::Certificate>>& certificates) {
    tls::ServerContextOptions wanted{.certificates = certificates,
                                     .client_certificates = asked_of(listener.tls.client_certificates),
                                     .ticket_keys = ticket_keyring().of(listener.text)};
    const std::string& authorities = listener.tls.client_authorities;
    constexpr std::string_view cure = "name a PEM file of the authorities that made clients' certificates";
    if (!authorities.empty()) {
      StatusOr<File> file = read_file(authorities);
      if (!file.ok()) return fail(listener.line, "listener.client_authorities", message_of(file.status()), cure);
      wanted.client_authorities_pem = std::move(file->text);
    }
    auto context = tls::make_server_context(std::move(wanted));
    if (!context.ok()) {
      return fail(listener.line, "listener.client_authorities",
                  authorities + ": " + std::string(message_of(context.status())), cure);
    }
    listener.tls.context = *std::move(context);
  }

  void load_client(shard::Options& options) {
    shard::ClientTls& client = options.smtp_client.tls;
    const auto asks = [&](auto good) {
      return good(client.usual.level) || std::ranges::any_of(options.routes, [&](const shard::RouteOptions& route) {
               return route.tls && good(route.tls->level);
             });
    };
    if (!asks([](route::TlsLevel level) { return level != route::TlsLevel::none; })) return;
    std::string authorities, certificate_texts;
    std::string file = client.authorities;
    if (file.empty()) {
      const auto found =
          std::ranges::find_if(system_authorities, [](const char* path) { return access(path, R_OK) == 0; });
      if (found != system_authorities.end()) file = *found;
    }
    constexpr std::string_view cure = "name a PEM file of those who vouch for next hops";
    if (!file.empty()) {
      StatusOr<File> read = read_file(file);
      if (!read.ok()) return fail(client.line, "smtp_client.tls_authorities", message_of(read.status()), cure);
      authorities = std::move(read->text);
    } else if (asks([](route::TlsLevel level) { return level == route::TlsLevel::verified; })) {
      return fail(client.line, "smtp_client.tls_authorities", "this system has no list of authorities whom it trusts",
                  "install ca-certificates, or name a PEM file of those who vouch for next hops");
    }
    std::shared_ptr<const tls::Certificate> certificate;
    if (!client.certificate.empty()) {
      certificate = load_certificate({.chain = client.certificate, .key = client.key, .line = client.line},
                                     "smtp_client.tls_certificate", "smtp_client.tls_key", &certificate_texts);
      if (certificate == nullptr) return;
    }
    auto context = last_client_context().make(authorities, certificate_texts, std::move(certificate));
    if (!context.ok()) {
      return fail(client.line, "smtp_client.tls_authorities", file + ": " + std::string(message_of(context.status())),
                  cure);
    }
    client.context = *std::move(context);
  }

  const std::function<void(const TlsTrouble&)>& report_;
  bool failed_ = false;
};

}  // namespace

void load_tls(shard::Options& options, const std::function<void(const TlsTrouble&)>& report) {
  Loader(report).load(options);
}

void rotate_ticket_keys() {
  ticket_keyring().rotate();
}

std::optional<net::CertificateFingerprint> parse_fingerprint(std::string_view text) {
  std::string digits(text);
  std::erase(digits, ':');
  net::CertificateFingerprint fingerprint;
  if (digits.size() != 2 * fingerprint.size()) return std::nullopt;
  for (std::size_t i = 0; i < fingerprint.size(); ++i) {
    unsigned value = 0;
    const char* const first = digits.data() + 2 * i;
    const auto [end, trouble] = std::from_chars(first, first + 2, value, 16);
    if (trouble != std::errc() || end != first + 2) return std::nullopt;
    fingerprint[i] = static_cast<std::byte>(value);
  }
  return fingerprint;
}

TlsFileMarks mark_tls_files(const shard::Options& options) {
  TlsFileMarks marks;
  const auto add = [&](const std::string& path) {
    if (path.empty()) return;
    TlsFileMark mark{.path = path};
    struct stat facts{};
    if (stat(path.c_str(), &facts) == 0) {
      constexpr std::int64_t second = 1'000'000'000;
      mark.inode = facts.st_ino;
      mark.size = static_cast<std::uint64_t>(facts.st_size);
      mark.modified_ns = facts.st_mtim.tv_sec * second + facts.st_mtim.tv_nsec;
      mark.changed_ns = facts.st_ctim.tv_sec * second + facts.st_ctim.tv_nsec;
    }
    marks.push_back(std::move(mark));
  };
  for (const shard::CertificateOptions& certificate : options.certificates) {
    add(certificate.chain);
    add(certificate.key);
  }
  for (const shard::ListenerOptions& listener : options.listeners) add(listener.tls.client_authorities);
  add(options.smtp_client.tls.authorities);
  add(options.smtp_client.tls.certificate);
  add(options.smtp_client.tls.key);
  return marks;
}

}  // namespace postern::daemon
