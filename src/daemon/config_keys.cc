#include "daemon/config_keys.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <vector>

namespace postern::daemon {
namespace {

constexpr auto keys = std::to_array<KeyInfo>({
    {"", "hostname", "", "our name in EHLO, Received and DSNs; the machine's when absent"},
    {"", "data_dir", R"("/var/lib/postern")", "logs, keys, state; created 0700; relative to this file's folder"},
    {"", "shards", "0", "threads, each with its own ring and log; 0: one per CPU this process may use"},
    {"", "user", R"("")", "become this user after binding; empty: stay who we are"},
    {"", "memory", R"("50%")", "budget for content, queues, caches; bytes, or share of what the cgroup or machine has"},
    {"", "shutdown_grace", R"("30s")", "how long SIGTERM waits for what is in flight"},
    {"io", "backend", R"("auto")", "auto | uring"},

    {"listener", "address", R"("0.0.0.0:25")", "HOST:PORT, [V6]:PORT, unix:/PATH, systemd:NAME"},
    {"listener", "service", R"("mx")", "mx | submission | submissions (TLS from the first byte on) | lmtp"},
    {"listener", "mode", R"("0660")", "permissions of a unix socket: who may write to it may connect, and relay"},
    {"listener", "tls", R"("none")", "none | opportunistic | required (STARTTLS before anything else)"},
    {"listener", "relay_from", R"(["127.0.0.0/8", "::1/128"])", "peers that may relay to any domain"},
    {"listener", "proxy_protocol_from", "[]", "peers that must send the PROXY protocol's header, versions 1 and 2"},
    {"listener", "xclient_from", "[]", "peers that may say by XCLIENT who their client is"},
    {"listener", "xforward_from", "[]", "peers that may say it by XFORWARD, for the event log alone"},
    {"listener", "extensions_off", "[]", R"(extensions not offered, by their EHLO names: ["DSN", "CHUNKING"])"},
    {"listener", "bare_newline", R"("reject")",
     "reject (550) | normalize: what an LF alone in content becomes is CR LF"},
    {"listener", "greeting_delay", R"("0s")",
     "how long peers that may not relay wait for the greeting; who talks meanwhile is refused"},
    {"listener", "deliver_by_min", R"("0s")", "the least time that DELIVERBY must give before mail is returned"},
    {"listener", "client_certificates", R"("none")", "none | optional | required: whether clients are asked for one"},
    {"listener", "client_authorities", R"("")", "PEM file of those who vouch for clients' certificates"},
    {"listener", "relay_certificates", "[]",
     R"(whose clients may relay to any domain: SHA-256 fingerprints, or "verified" by client_authorities)"},

    {"listener", "auth", R"("none")", "none | optional (who authenticates may relay) | required"},
    {"listener", "auth_without_tls", "false", "whether passwords may come in the clear"},

    {"tls", "handshakes", "1000", "in progress at a time, of each shard; beyond: 421, or closed where TLS comes first"},
    {"tls", "handshakes_per_peer", "3000",
     "begun in a minute by a peer that may not relay (IPv6: its /64); 0: any number"},
    {"tls", "handshake_timeout", R"("1m")", "from a handshake's first byte to its last"},

    {"auth", "users", R"("")", "file of USER:HASH[:SENDER,…], made by postern-passwd; read again when it changes"},
    {"auth", "mechanisms", "[]",
     R"(["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]; []: SCRAM when all users have verifiers of it)"},
    {"auth", "failures", "3", "of one session, before it is closed with 421"},
    {"auth", "failure_delay", R"("1s")", "before the first is answered; doubles with each in the session"},
    {"auth", "failures_per_peer", "20", "at once and every 10 minutes; beyond, AUTH is answered 454; 0: any number"},

    {"tls.certificate", "chain", R"("")", "PEM file, the certificate first; the first is shown to unknown names"},
    {"tls.certificate", "key", R"("")", "PEM file of its private key, ECDSA or RSA"},

    {"domains", "accept", "[]", R"(recipients' domains taken from anyone; ".example.test" includes subdomains)"},

    {"recipients", "known", "[]",
     R"(who exists in the accepted domains: "user@example.test", "@example.test", "alias@example.test: a@x.test, b@y.test")"},
    {"recipients", "file", R"("")",
     "the same, one a line, or a cdb (*.cdb); read again when it changes; both empty: everyone exists"},
    {"recipients", "separator", R"("")", R"(between user and tag, like "+"; "": no sub-addressing)"},
    {"recipients", "check_interval", R"("10s")", "how often the file is looked at"},
    {"recipients", "callout", "false", "whether next hops of the accepted domains are asked before RCPT is answered"},
    {"recipients", "callout_timeout", R"("20s")", "for their answer to one RCPT"},
    {"recipients", "callout_failure", R"("defer")",
     "when they cannot be asked: defer (450) | accept (and perhaps return the mail later)"},
    {"recipients", "callout_cache", "20000", "answers that each shard keeps, half of them negative ones"},
    {"recipients", "callout_positive", R"("1d")", "how long a next hop's acceptance is kept"},
    {"recipients", "callout_negative", R"("1h")", "how long its refusal is kept"},

    {"limits", "message_bytes", R"("50MiB")", "largest content; announced as SIZE"},
    {"limits", "recipients", "1000", "per transaction"},
    {"limits", "connections", "32768", "per process; clamped to the descriptor limit with a warning"},
    {"limits", "connections_per_peer", "100", "per process and peer address"},
    {"limits", "errors", "20", "negative replies to one session before it is closed with 421"},
    {"limits", "idle_timeout", R"("5m")", "how long a session waits for the client's next bytes"},
    {"limits", "session_timeout", R"("2h")", "the whole of one session"},
    {"limits", "hold", R"("7d")", "how long FUTURERELEASE may have mail held"},
    {"limits", "connection_rate_per_peer", R"("unlimited")",
     R"(of a peer that may not relay (IPv6: its /64), like "30/min"; beyond: 421)"},
    {"limits", "message_rate_per_peer", R"("unlimited")", "the same of its messages; beyond, MAIL is answered 450"},
    {"limits", "min_data_rate", "0", "bytes of content a second, over 30 s, or 421; 0: at any rate"},
    {"limits", "error_delay", R"("0s")",
     "before the fourth negative reply to a peer that may not relay leaves; doubles with each, five times"},
    {"limits", "stress_at", "80", "percent of connections from which on idle clients are closed sooner; 0: never"},
    {"limits", "stress_idle_timeout", R"("10s")", "how long a session waits for its client then"},
    {"limits", "received_hops", "100", "Received fields in a message before it counts as a loop"},

    {"spool", "durability", R"("synced")",
     "synced: 250 after stable storage | page_cache: survives a process crash only"},
    {"spool", "min_free", R"("1GiB")", "free space below which MAIL is answered 452; deliveries go on"},
    {"spool", "segment", R"("64MiB")", "size of one log segment, whole MiB"},

    {"route", "match", R"("*")", "domain | .subdomains.of | user@domain | *; the first match wins"},
    {"route", "via", R"("mx")",
     "mx | smtp:HOST[:PORT] | smtp:[ADDRESS]:PORT | lmtp:unix:/PATH | lmtp:HOST:PORT | maildir:PATH | discard | "
     "reject:TEXT"},
    {"route", "tls", R"("opportunistic")", "as smtp_client.tls, which it takes the place of for hosts over TCP"},
    {"route", "auth", R"("")", "the name of the smtp_client.credentials to authenticate by; smtp: and lmtp:HOST alone"},
    {"route", "tls_names", "[]",
     R"(with tls = "verified": whom the certificate may be for, instead of the next hop's name)"},
    {"route", "callout", "false", "in place of recipients.callout"},

    {"smtp_client", "port", "25", "port used for MX hosts"},
    {"smtp_client", "tls", R"("opportunistic")",
     "none | opportunistic (where offered) | required | verified (with a certificate for the next hop's name)"},
    {"smtp_client", "tls_authorities", R"("")",
     "PEM file of those who vouch for next hops' certificates; empty: those whom this system trusts"},
    {"smtp_client", "tls_certificate", R"("")",
     "PEM file of the certificate that next hops may ask us for; empty: none"},
    {"smtp_client", "tls_key", R"("")", "PEM file of its private key"},
    {"smtp_client", "connections", "8192", "at a time, idle ones included; at most what the descriptor limit allows"},
    {"smtp_client", "connections_per_path", "20", "at most so many to one site, over all shards"},
    {"smtp_client", "idle_seconds", "5", "how long an unused connection is kept"},
    {"smtp_client", "recipients", "100", "in one transaction"},
    {"smtp_client", "messages_per_connection", "1000", "then the connection is closed"},
    {"smtp_client", "connect_timeout", R"("30s")", "per address"},
    {"smtp_client", "reply_timeout", R"("5m")", "for the greeting and the replies to commands"},
    {"smtp_client", "content_timeout", R"("10m")", "for the reply to end of data"},
    {"smtp_client", "refuse_networks", R"(["0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128"])",
     "addresses an MX look-up may not lead to"},

    {"smtp_client.credentials", "name", R"("")", "what routes call them: letters, digits, and .-_"},
    {"smtp_client.credentials", "user", R"("")", "who we are to the next hop"},
    {"smtp_client.credentials", "password_file", R"("")",
     "the password, alone on one line; read again at a reload (SIGHUP)"},
    {"smtp_client.credentials", "mechanisms", "[]",
     R"(that may be used: ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]; []: all, the strongest first)"},
    {"smtp_client.credentials", "without_tls", "false", "whether they may be used in the clear"},

    {"retry", "schedule", R"(["1m", "5m", "15m", "30m", "1h"])", "the last repeats; with a jitter of 10 %"},
    {"retry", "give_up_after", R"("4d")", "then the sender is told"},
    {"retry", "warn_after", R"("never")", R"(how long mail waits before the sender is told of the delay, like "4h")"},

    {"dns", "servers", "[]", R"(recursive servers, "ADDRESS[:PORT]"; empty: those of resolv.conf)"},

    {"event_log", "path", R"("events.jsonl")", R"(in data_dir; "-": stderr; "": none)"},

    {"admin", "listen", R"("")", R"(metrics and health: "127.0.0.1:8025" or "unix:/run/postern/admin.sock"; "": none)"},
});

// Damerau-Levenshtein without transpositions over non-adjacent letters: typing errors.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::vector<std::size_t> two_before(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    two_before = before;
    before = row;
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], two_before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

bool near(std::string_view a, std::string_view b) {
  return distance(a, b) <= std::max<std::size_t>(1, b.size() / 4);
}

}  // namespace

std::span<const KeyInfo> config_keys() {
  return keys;
}

bool is_array_of_tables(std::string_view table) {
  return table == "listener" || table == "route" || table == "tls.certificate" || table == "smtp_client.credentials";
}

std::string nearest_key(std::string_view table, std::string_view name) {
  std::string_view best;
  for (const KeyInfo& key : keys) {
    if (key.table != table || !near(name, key.name)) continue;
    if (best.empty() || distance(name, key.name) < distance(name, best)) best = key.name;
  }
  // The tables themselves are keys of the root.
  for (const KeyInfo& key : keys) {
    if (!table.empty() || key.table.empty() || !near(name, key.table)) continue;
    if (best.empty() || distance(name, key.table) < distance(name, best)) best = key.table;
  }
  if (!best.empty()) return std::string(best);
  for (const KeyInfo& key : keys) {
    if (key.name == name)
      return std::string(key.table.empty() ? "" : key.table).append(key.table.empty() ? "" : ".").append(name);
  }
  return {};
}

std::string print_config(std::string_view hostname) {
  std::string text = "# Every key of posternd.toml with its default. Uncomment what you change.\n";
  std::string_view table;
  for (const KeyInfo& key : keys) {
    if (key.table != table && key.table != "io") {
      const bool array = is_array_of_tables(key.table);
      text.append(array ? "\n#[[" : "\n#[").append(key.table).append(array ? "]]\n" : "]\n");
    }
    table = key.table;
    std::string line = "#";
    if (key.table == "io") line.append("io.");
    line.append(key.name).append(" = ");
    if (key.table.empty() && key.name == "hostname") {
      line.append("\"").append(hostname).append("\"");
    } else {
      line.append(key.default_value);
    }
    constexpr std::size_t help_column = 44;
    if (line.size() < help_column) line.append(help_column - line.size(), ' ');
    text.append(line).append("  # ").append(key.help).append("\n");
  }
  return text;
}

}  // namespace postern::daemon
