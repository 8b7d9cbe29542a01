// What the run of a trace promised and what it had done, seen from outside: which messages were sent, which of them the
// relay had answered for, what next hops had taken.
//
// The manifest names the messages, one JSON object a line, behind one that names the folders
// (tests/relay/test_images.py writes it). That a next hop took something stands in its reply: "250 2.0.0 Ok: kept
// ADDRESS…", or for a DSN "250 2.0.0 Ok: reported MESSAGE-ID ADDRESS…".
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/status.h>
#include <postern/base/time.h>

#include "io/record/trace.h"

namespace postern::crash {

struct Sent {
  std::string sender;
  std::vector<std::string> recipients;
  std::string content;   // CRLF lines, not dot-stuffed
  std::string queue_id;  // as its client has read it; empty: never
};

struct Manifest {
  std::string root;  // of all that the run made
  std::string data;  // data_dir
  std::string mail;  // of the Maildirs
  std::uint64_t segment_bytes = 0;
  std::vector<Sent> sent;
};
[[nodiscard]] StatusOr<Manifest> read_manifest(const std::string& path);

class Evidence {
 public:
  void apply(const io::record::Entry& entry);

  struct Taken {
    std::vector<std::string> recipients;
    WallTime at{};
  };
  // Queue ids of what was answered 250: from before its first byte left.
  [[nodiscard]] const std::set<std::string>& acknowledged() const { return acknowledged_; }
  [[nodiscard]] const std::vector<Taken>& taken() const { return taken_; }
  // DSNs taken by a next hop: by recipient that they report, their Message-IDs.
  [[nodiscard]] const std::map<std::string, std::set<std::string>>& reported() const { return reported_; }
  [[nodiscard]] WallTime now() const { return now_; }

 private:
  void on_said(std::string_view line);
  void on_heard(std::string_view line);

  WallTime now_{};
  std::map<io::Descriptor, std::string> lines_;  // what a connection's last line is so far
  std::set<std::string> acknowledged_;
  std::vector<Taken> taken_;
  std::map<std::string, std::set<std::string>> reported_;
};

}  // namespace postern::crash
