// What the configuration file said, checked and resolved: one immutable snapshot that all threads read.
//
// The daemon makes it (daemon/config.cc knows keys, units and bounds); a reload makes another one. Nobody changes a
// snapshot: it travels as std::shared_ptr<const Options>. Every value here is within the bounds written beside it, so
// consumers do not check again. Defaults are those of posternd.toml(5).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/time.h>
#include <postern/dns/lookup.h>
#include <postern/dns/resolv_conf.h>
#include <postern/route/resolution.h>
#include <postern/smtp/extension.h>

#include "io/address.h"

namespace postern::shard {

enum class Service : std::uint8_t {
  mx,    // SMTP for anyone; relaying for `relay_from` only
  lmtp,  // the same in LMTP: one reply for each recipient behind the end of data
};

struct ListenerOptions {
  std::string text;     // as written: "127.0.0.1:25", "unix:/run/x", "systemd:smtp"; for messages
  io::Address address;  // empty when the descriptor is inherited
  int inherited = -1;   // systemd:NAME: a listening descriptor that was passed to us; shared by all shards
  Service service = Service::mx;
  unsigned socket_mode = 0660;                   // of a unix socket's file, 0001 … 0777
  std::vector<IpNetwork> relay_from;             // peers that may relay to any domain; a unix socket's peers always may
  std::vector<IpNetwork> proxy_protocol_from{};  // peers that must send PROXY's header, versions 1 and 2
  std::vector<IpNetwork> xclient_from{};         // peers that may say who their client is
  std::vector<IpNetwork> xforward_from{};
  smtp::ExtensionSet extensions_off{};  // not offered
  unsigned line = 0;                    // in the configuration file

  [[nodiscard]] bool is_inherited() const { return inherited >= 0; }
};

// Who exists in the accepted domains. Nothing given: everyone does.
struct RecipientOptions {
  struct Known {
    std::string entry;
    unsigned line = 0;  // in the configuration file
  };
  std::vector<Known> known;  // as written, at most 100,000; what is wrong with one shows when the table is made
  std::string file;          // absolute; empty: none
  char separator = '\0';     // between user and tag; '\0': no sub-addressing
  Duration check_interval = std::chrono::seconds(10);  // how often the file is looked at, 100 ms … 1 h

  [[nodiscard]] bool given() const { return !known.empty() || !file.empty(); }
};

struct LimitOptions {
  std::uint64_t message_bytes = 50u << 20;  // 1 KiB … 4 GiB − 1; announced as SIZE
  std::uint32_t recipients = 1000;          // per transaction, 1 … 65,535; at least 100 should be [RFC 5321 §4.5.3.1.8]
  std::uint32_t connections = 32768;        // per process, 1 … 1,000,000; clamped to the descriptor limit at start
  std::uint32_t connections_per_peer = 100;    // per process and peer address, 1 … connections
  std::uint32_t errors = 20;                   // negative replies to one session before 421 4.7.0, 1 … 10,000
  Duration idle = std::chrono::minutes(5);     // for the next bytes of a client [RFC 5321 §4.5.3.2.7], 1 s … 1 h
  Duration session = std::chrono::hours(2);    // the whole of one session, 1 s … 24 h
  Duration hold = std::chrono::hours(24 * 7);  // FUTURERELEASE at most, 1 min … 30 d
  std::uint32_t received_hops = 100;           // Received fields in a message that loops [RFC 5321 §6.3], 10 … 1,000
};

enum class Durability : std::uint8_t {
  synced,      // 250 after stable storage
  page_cache,  // survives a crash of the process only
};

struct SpoolOptions {
  Durability durability = Durability::synced;
  std::uint64_t min_free_bytes = 1u << 30;  // of the file system; below: 452 4.3.1 at MAIL, deliveries go on
  std::uint64_t segment_bytes = 64u << 20;  // of one log segment, 2 MiB … 1 GiB, a multiple of 1 MiB
};

// How mail for matching recipients travels; the first match wins, no match means MX. The texts have been parsed by the
// route room's functions once already: parsing them again succeeds.
struct RouteOptions {
  std::string match;  // domain | .subdomains.of | user@domain | *
  std::string via;    // mx | smtp:… | maildir:… | discard | reject:…
  unsigned line = 0;  // in the configuration file, for messages
};

struct SmtpClientOptions {
  std::uint16_t port = 25;                              // of MX hosts
  std::uint32_t connections_per_path = 20;              // over all shards, 1 … 10,000
  Duration idle = std::chrono::seconds(5);              // how long an unused connection is kept, 0 … 5 min
  std::uint32_t recipients = 100;                       // in one transaction [RFC 5321 §4.5.3.1.8], 1 … 1,000
  std::uint32_t messages_per_connection = 1000;         // 1 … 1,000,000
  Duration connect_timeout = std::chrono::seconds(30);  // 1 s … 5 min
  Duration reply_timeout = std::chrono::minutes(5);     // greeting, EHLO, MAIL, RCPT [RFC 5321 §4.5.3.2], 1 s … 1 h
  Duration content_timeout = std::chrono::minutes(10);  // end of data [RFC 5321 §4.5.3.2.6], 1 s … 1 h
  std::vector<IpNetwork> refuse_networks;               // addresses an MX look-up may not lead to
};

struct RetryOptions {
  std::vector<Duration> schedule{std::chrono::minutes(1), std::chrono::minutes(5), std::chrono::minutes(15),
                                 std::chrono::minutes(30),
                                 std::chrono::hours(1)};  // 1 … 32 steps of 100 ms … 7 d; the last repeats
  Duration give_up_after = std::chrono::hours(96);        // 1 s … 30 d
};

struct DnsOptions {
  std::vector<dns::ServerAddress> servers;  // never empty: those of resolv.conf when none is configured
  dns::LookupOptions lookup;                // of resolv.conf where the servers are
  bool rotate = false;
};

struct EventLogOptions {
  std::string path;  // absolute, or "-" for stderr, or "" for none
};

struct AdminOptions {
  std::string text;     // as written; empty: no admin listener
  io::Address address;  // empty: no admin listener
};

struct Options {
  std::string hostname;
  std::string data_dir;                                // absolute
  std::uint32_t shards = 1;                            // resolved: 1 … 256
  std::string user;                                    // empty: stay who we are
  std::uint64_t memory_bytes = 0;                      // resolved budget for content, queues, caches; at least 32 MiB
  Duration shutdown_grace = std::chrono::seconds(30);  // 0 … 1 h
  std::vector<ListenerOptions> listeners;              // 1 … 64
  // Where the world reaches us: the listeners' addresses, a wildcard beside this machine's own of its family. Mail that
  // MX records lead to one of them would loop.
  std::vector<route::Endpoint> own_endpoints;
  std::vector<std::string> accept_domains;  // A-labels, lower case; ".example.test" includes subdomains
  RecipientOptions recipients;
  LimitOptions limits;
  SpoolOptions spool;
  std::vector<RouteOptions> routes;  // in order, at most 10,000
  SmtpClientOptions smtp_client;
  RetryOptions retry;
  DnsOptions dns;
  EventLogOptions event_log;
  AdminOptions admin;
};

using OptionsSnapshot = std::shared_ptr<const Options>;

}  // namespace postern::shard
