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
#include <optional>
#include <string>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/time.h>
#include <postern/dns/lookup.h>
#include <postern/dns/resolv_conf.h>
#include <postern/policy/user_table.h>
#include <postern/route/resolution.h>
#include <postern/route/tls_policy.h>
#include <postern/sasl/client_exchange.h>
#include <postern/sasl/mechanism.h>
#include <postern/smtp/extension.h>
#include <postern/smtp/server_options.h>

#include "io/address.h"
#include "net/tls_stream.h"

namespace postern::shard {

enum class Service : std::uint8_t {
  mx,           // SMTP for anyone; relaying for `relay_from` only
  submission,   // the same
  submissions,  // the same, with TLS from the first byte on [RFC 8314 §3.3]
  lmtp,         // as mx, in LMTP: one reply for each recipient behind the end of data
};

enum class ClientCertificates : std::uint8_t {
  none,      // not asked for
  optional,  // asked for, and whoever shows none or a bad one is a client like any other
  required,  // no session without one
};

// What a listener does with TLS.
struct ListenerTls {
  smtp::TlsUse use = smtp::TlsUse::none;  // STARTTLS; none for Service::submissions
  ClientCertificates client_certificates = ClientCertificates::none;
  std::string client_authorities;  // absolute path of a PEM file; empty: nobody vouches for clients
  // Made by the daemon from the files above and below; where TLS is spoken, else null.
  std::shared_ptr<const net::TlsContext> context;
  // Clients that may relay to any domain by their certificate.
  std::vector<net::CertificateFingerprint> relay_certificates;  // sorted
  bool relay_verified = false;  // whom an authority in the listener's client_authorities vouches for
};

enum class ListenerAuth : std::uint8_t {
  none,      // AUTH is not known
  optional,  // whoever has authenticated may relay
  required,  // 530 5.7.0 before it
};

struct ListenerOptions {
  std::string text;     // as written: "127.0.0.1:25", "unix:/run/x", "systemd:smtp"; for messages
  io::Address address;  // empty when the descriptor is inherited
  int inherited = -1;   // systemd:NAME: a listening descriptor that was passed to us; shared by all shards
  Service service = Service::mx;
  ListenerTls tls{};
  ListenerAuth auth = ListenerAuth::none;
  bool auth_without_tls = false;                 // AUTH in the clear, too
  unsigned socket_mode = 0660;                   // of a unix socket's file, 0001 … 0777
  std::vector<IpNetwork> relay_from;             // peers that may relay to any domain; a unix socket's peers always may
  std::vector<IpNetwork> proxy_protocol_from{};  // peers that must send PROXY's header, versions 1 and 2
  std::vector<IpNetwork> xclient_from{};         // peers that may say who their client is
  std::vector<IpNetwork> xforward_from{};
  smtp::ExtensionSet extensions_off{};  // not offered
  Duration deliver_by_min{};            // DELIVERBY, by-mode R: announced, 0 (none) … 24 h
  bool normalize_bare_lf = false;       // of content; else it is refused
  Duration greeting_delay{};            // for peers that may not relay, 0 … 1 min
  unsigned line = 0;                    // in the configuration file

  [[nodiscard]] bool is_inherited() const { return inherited >= 0; }
};

// PEM files, as absolute paths.
struct CertificateOptions {
  std::string chain;
  std::string key;
  unsigned line = 0;  // in the configuration file, for messages
};

// Asking next hops whether they take a recipient, before RCPT is answered.
struct CalloutOptions {
  enum class Failure : std::uint8_t {
    defer,   // 450: whoever is refused in the end is refused by the sender's own relay
    accept,  // as if nobody were asked
  };
  bool usual = false;                           // on routes that do not say otherwise
  Duration timeout = std::chrono::seconds(20);  // for one RCPT, 1 s … 4 min
  Failure failure = Failure::defer;             // what RCPT is answered when the next hop cannot say
  std::uint32_t cache = 20'000;                 // answers that each shard keeps, 2 … 1,000,000
  Duration positive = std::chrono::hours(24);   // for how long, 1 s … 30 d
  Duration negative = std::chrono::hours(1);    // 1 s … 30 d
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

  CalloutOptions callout{};

  [[nodiscard]] bool given() const { return !known.empty() || !file.empty(); }
};

// What clients' handshakes may cost; for sessions that begin from now on.
struct TlsLimitOptions {
  std::uint32_t handshakes = 1000;           // in progress at a time, of one shard, 1 … 1,000,000
  std::uint32_t handshakes_per_peer = 3000;  // begun in a minute by one peer that may not relay, 0 (any) … 1,000,000
  Duration handshake_timeout = std::chrono::minutes(1);  // from its start to its end, 1 s … 10 min
};

// Who may authenticate, and how.
struct AuthOptions {
  std::string users_file;  // absolute; empty: none
  unsigned line = 0;       // of it in the configuration file
  // Made by the daemon from that file; null: none.
  std::shared_ptr<const policy::UserTable> users;
  // Empty: PLAIN and LOGIN, and SCRAM when everyone's entry can be used with it.
  sasl::MechanismSet mechanisms;
  std::uint32_t failures = 3;                        // of one session, 1 … 100
  Duration failure_delay = std::chrono::seconds(1);  // before the first, doubling, is answered; 0 … 30 s
  std::uint32_t failures_per_peer = 20;              // at once and in each 10 minutes, 0 (any) … 1,000,000
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
  // In a minute, of one peer that may not relay, 0 (any number) … 1,000,000.
  std::uint32_t connection_rate_per_peer = 0;
  std::uint32_t message_rate_per_peer = 0;
  Duration error_delay{};                           // of negative replies, 0 … 10 s; doubles five times
  std::uint32_t stress_at = 80;                     // percent of `connections`, 0 (never) … 100
  Duration stress_idle = std::chrono::seconds(10);  // 1 s … 1 h
  std::uint32_t min_data_rate = 0;                  // bytes of content a second, 0 (any rate) … 1,000,000
  std::uint32_t received_hops = 100;  // Received fields in a message that loops [RFC 5321 §6.3], 10 … 1,000
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
  std::string match;                      // domain | .subdomains.of | user@domain | *
  std::string via;                        // mx | smtp:… | maildir:… | discard | reject:…
  std::optional<route::TlsPolicy> tls{};  // of the route's own, where it leads to hosts over TCP
  std::string credentials{};              // names one of SmtpClientOptions::credentials; empty: none
  std::optional<bool> callout{};          // in place of recipients.callout, where it leads to next hops
  unsigned line = 0;                      // in the configuration file, for messages
};

// How TLS is spoken with next hops. Files are absolute paths of PEM files.
struct ClientTls {
  route::TlsPolicy usual;   // of routes that have no policy of their own; names are theirs alone
  std::string authorities;  // who may vouch for next hops; empty: those whom this system trusts
  std::string certificate;  // shown to next hops that ask for one, with `key`; both empty: none
  std::string key;
  unsigned line = 0;  // in the configuration file, for messages
  // Made by the daemon from these files; null when no policy asks for TLS.
  std::shared_ptr<const net::TlsClientContext> context;
};

// By what we authenticate with the next hops of routes that name it.
struct CredentialsOptions {
  std::string name;  // letters, digits, ".", "-", "_"; 1 … 64
  std::string user;
  std::string password_file;  // absolute
  sasl::MechanismSet mechanisms;
  bool without_tls = false;
  unsigned line = 0;  // in the configuration file, for messages
  // Made by the daemon from the above and the file.
  std::shared_ptr<const sasl::Credentials> made{};
};

struct SmtpClientOptions {
  std::uint16_t port = 25;  // of MX hosts
  // Per process, idle ones included, 1 … 1,000,000; each shard has its share; clamped to the descriptor limit at start.
  std::uint32_t connections = 8192;
  std::uint32_t connections_per_path = 20;              // over all shards, 1 … 10,000
  Duration idle = std::chrono::seconds(5);              // how long an unused connection is kept, 0 … 5 min
  std::uint32_t recipients = 100;                       // in one transaction [RFC 5321 §4.5.3.1.8], 1 … 1,000
  std::uint32_t messages_per_connection = 1000;         // 1 … 1,000,000
  Duration connect_timeout = std::chrono::seconds(30);  // 1 s … 5 min
  Duration reply_timeout = std::chrono::minutes(5);     // greeting, EHLO, MAIL, RCPT [RFC 5321 §4.5.3.2], 1 s … 1 h
  Duration content_timeout = std::chrono::minutes(10);  // end of data [RFC 5321 §4.5.3.2.6], 1 s … 1 h
  std::vector<IpNetwork> refuse_networks;               // addresses an MX look-up may not lead to
  ClientTls tls{};
  std::vector<CredentialsOptions> credentials{};  // at most 100, with names of their own
};

struct RetryOptions {
  std::vector<Duration> schedule{std::chrono::minutes(1), std::chrono::minutes(5), std::chrono::minutes(15),
                                 std::chrono::minutes(30),
                                 std::chrono::hours(1)};  // 1 … 32 steps of 100 ms … 7 d; the last repeats
  Duration give_up_after = std::chrono::hours(96);        // 1 s … 30 d
  Duration warn_after{};                                  // of a delay, 1 s … 30 d; 0: never
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
  std::vector<CertificateOptions> certificates;        // at most 100; at least one when a listener speaks TLS
  // Where the world reaches us: the listeners' addresses, a wildcard beside this machine's own of its family. Mail that
  // MX records lead to one of them would loop.
  std::vector<route::Endpoint> own_endpoints;
  std::vector<std::string> accept_domains;  // A-labels, lower case; ".example.test" includes subdomains
  RecipientOptions recipients;
  AuthOptions auth;
  LimitOptions limits;
  TlsLimitOptions tls_limits{};
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
