// From what the configuration says about TLS to the contexts that it is spoken with, by listeners and with next hops:
// reads the files, and says what is wrong with them. At the start, at a reload, and whenever a file has changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/tls_stream.h"
#include "shard/options.h"

namespace postern::daemon {

inline constexpr std::size_t certificates_max = 100;
inline constexpr std::size_t fingerprints_max = 1'000;  // per listener

struct TlsTrouble {
  unsigned line = 1;  // in the configuration file
  std::string key;
  std::string what;
  std::string cure;
  bool fatal = true;  // false: a warning
};

// Reads all files that `options` name and sets the context of each listener that speaks TLS, and that for next hops;
// leaves those alone that do not. When something fatal was reported, `options` are good for nothing. Ticket keys belong
// to the process and to a listener's address, and outlive this.
void load_tls(shard::Options& options, const std::function<void(const TlsTrouble&)>& report);

// All listeners' tickets are sealed with new keys from now on. From any thread.
void rotate_ticket_keys();

// "AB:CD:…" or "abcd…": 32 bytes in hexadecimal.
[[nodiscard]] std::optional<net::CertificateFingerprint> parse_fingerprint(std::string_view text);

// What tells a file from what it was: equal marks, equal files.
struct TlsFileMark {
  std::string path;
  std::uint64_t inode = 0, size = 0;
  std::int64_t modified_ns = 0, changed_ns = 0;
  friend bool operator==(const TlsFileMark&, const TlsFileMark&) = default;
};
using TlsFileMarks = std::vector<TlsFileMark>;
[[nodiscard]] TlsFileMarks mark_tls_files(const shard::Options& options);

}  // namespace postern::daemon
