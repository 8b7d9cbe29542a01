#include "daemon/config.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/config_keys.h"

namespace postern::daemon {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

System machine() {
  System system;
  system.hostname = "mx.example.org";
  system.cpus = 4;
  system.memory_bytes = std::uint64_t{8} << 30;
  system.resolv_conf = "nameserver 192.0.2.53\n";
  system.inherited = {{"smtp", 3}};
  return system;
}

// A listener is the one thing that a configuration cannot do without.
constexpr std::string_view minimal = "[[listener]]\naddress = \"127.0.0.1:25\"\n";

LoadedConfig load(std::string_view text, const System& system = machine()) {
  return parse_config(text, "/etc/postern/posternd.toml", system);
}

// `text` stands before the listener, so that its lines count from 1.
LoadedConfig load_root(std::string_view text) {
  return load(std::string(text) + "\n" + std::string(minimal));
}

std::string only_error(const LoadedConfig& loaded) {
  EXPECT_EQ(loaded.options, nullptr);
  EXPECT_EQ(loaded.errors.size(), 1u) << testing::PrintToString(loaded.errors);
  return loaded.errors.empty() ? "" : loaded.errors.front();
}

TEST(Config, DefaultsAreThoseOfTheManual) {
  const LoadedConfig loaded = load(minimal);
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  const shard::Options& options = *loaded.options;
  EXPECT_EQ(options.hostname, "mx.example.org");
  EXPECT_EQ(options.data_dir, "/var/lib/postern");
  EXPECT_EQ(options.shards, 4u);
  EXPECT_EQ(options.user, "");
  EXPECT_EQ(options.memory_bytes, std::uint64_t{4} << 30);
  EXPECT_EQ(options.shutdown_grace, seconds(30));
  ASSERT_EQ(options.listeners.size(), 1u);
  EXPECT_EQ(options.listeners[0].address.to_string(), "127.0.0.1:25");
  EXPECT_EQ(options.listeners[0].relay_from.size(), 2u);
  EXPECT_EQ(options.limits.message_bytes, 50u << 20);
  EXPECT_EQ(options.limits.recipients, 1000u);
  EXPECT_EQ(options.limits.connections, 32768u);
  EXPECT_EQ(options.limits.connections_per_peer, 100u);
  EXPECT_EQ(options.spool.durability, shard::Durability::synced);
  EXPECT_EQ(options.spool.min_free_bytes, 1u << 30);
  EXPECT_TRUE(options.routes.empty());
  EXPECT_EQ(options.smtp_client.port, 25);
  EXPECT_EQ(options.smtp_client.connections_per_path, 20u);
  EXPECT_EQ(options.smtp_client.idle, seconds(5));
  EXPECT_EQ(options.smtp_client.refuse_networks.size(), 4u);
  EXPECT_THAT(options.retry.schedule, ElementsAre(minutes(1), minutes(5), minutes(15), minutes(30), hours(1)));
  EXPECT_EQ(options.retry.give_up_after, hours(96));
  EXPECT_EQ(options.retry.warn_after, Duration::zero());
  ASSERT_EQ(options.dns.servers.size(), 1u);
  EXPECT_EQ(options.dns.servers[0].address.to_string(), "192.0.2.53");
  EXPECT_EQ(options.event_log.path, "/var/lib/postern/events.jsonl");
  EXPECT_TRUE(options.admin.address.empty());
}

std::vector<std::string> endpoints_of(const LoadedConfig& loaded) {
  std::vector<std::string> texts;
  if (loaded.options == nullptr) return {"no options"};
  for (const route::Endpoint& own : loaded.options->own_endpoints) {
    texts.push_back(io::Address::ip(own.address, own.port).to_string());
  }
  return texts;
}

TEST(Config, WildcardListenersAreReachedUnderEachAddressOfTheMachine) {
  System system = machine();
  for (const char* address : {"127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"}) {
    system.addresses.push_back(*IpAddress::parse(address));
  }
  EXPECT_THAT(endpoints_of(load("[[listener]]\naddress = '0.0.0.0:25'\n", system)),
              ElementsAre("0.0.0.0:25", "127.0.0.1:25", "192.0.2.7:25"));
  EXPECT_THAT(endpoints_of(load("[[listener]]\naddress = '[::]:26'\n[[listener]]\naddress = 'unix:/x'\n", system)),
              ElementsAre("[::]:26", "[::1]:26", "[2001:db8::7]:26"));
  EXPECT_THAT(endpoints_of(load("[[listener]]\naddress = '192.0.2.8:25'\n", system)), ElementsAre("192.0.2.8:25"));
}

TEST(Config, EveryKeyArrives) {
  const LoadedConfig loaded = load(R"(
hostname = "MX1.Example.NET"
data_dir = "spool"
shards = 2
user = "postern"
memory = "25%"
shutdown_grace = "1m30s"
io.backend = "uring"
[[listener]]
address = "[::1]:2525"
service = "mx"
tls = "none"
relay_from = ["192.0.2.0/24"]
[[listener]]
address = "unix:/run/smtp.sock"
[[listener]]
address = "systemd:smtp"
[domains]
accept = ["Example.test", ".sub.example.test"]
[recipients]
callout = true
callout_timeout = "5s"
callout_failure = "accept"
callout_cache = 10
callout_positive = "2h"
callout_negative = "1m"
[limits]
message_bytes = "1MiB"
recipients = 100
connections = 10
connections_per_peer = 5
errors = 3
idle_timeout = "10s"
session_timeout = "1m"
received_hops = 50
[spool]
durability = "page_cache"
min_free = 4096
segment = "16MiB"
[[route]]
match = "example.test"
via = "maildir:/srv/{local}"
[[route]]
match = "*"
via = "smtp:[127.0.0.1]:2526"
callout = false
[smtp_client]
port = 2525
tls = "none"
connections_per_path = 3
idle_seconds = 0
recipients = 50
messages_per_connection = 7
connect_timeout = "2s"
reply_timeout = "3s"
content_timeout = "4s"
refuse_networks = []
[retry]
schedule = ["500ms", "2s"]
give_up_after = "1h"
warn_after = "30m"
[dns]
servers = ["127.0.0.1:5300"]
[event_log]
path = "-"
[admin]
listen = "127.0.0.1:8025"
)");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  const shard::Options& options = *loaded.options;
  EXPECT_EQ(options.hostname, "mx1.example.net");
  EXPECT_EQ(options.data_dir, "/etc/postern/spool") << "relative to the file's folder";
  EXPECT_EQ(options.shards, 2u);
  EXPECT_EQ(options.user, "postern");
  EXPECT_EQ(options.memory_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(options.shutdown_grace, seconds(90));
  ASSERT_EQ(options.listeners.size(), 3u);
  EXPECT_EQ(options.listeners[0].address.to_string(), "[::1]:2525");
  ASSERT_EQ(options.listeners[0].relay_from.size(), 1u);
  EXPECT_EQ(options.listeners[0].relay_from[0].to_string(), "192.0.2.0/24");
  EXPECT_TRUE(options.listeners[1].address.is_unix());
  EXPECT_EQ(options.listeners[2].inherited, 3);
  EXPECT_THAT(options.accept_domains, ElementsAre("example.test", ".sub.example.test"));
  EXPECT_TRUE(options.recipients.callout.usual);
  EXPECT_EQ(options.recipients.callout.timeout, seconds(5));
  EXPECT_EQ(options.recipients.callout.failure, shard::CalloutOptions::Failure::accept);
  EXPECT_EQ(options.recipients.callout.cache, 10u);
  EXPECT_EQ(options.recipients.callout.positive, hours(2));
  EXPECT_EQ(options.recipients.callout.negative, minutes(1));
  EXPECT_EQ(options.routes.at(0).callout, std::nullopt);
  EXPECT_EQ(options.routes.at(1).callout, false);
  EXPECT_EQ(options.limits.message_bytes, 1u << 20);
  EXPECT_EQ(options.limits.recipients, 100u);
  EXPECT_EQ(options.limits.connections, 10u);
  EXPECT_EQ(options.limits.connections_per_peer, 5u);
  EXPECT_EQ(options.limits.errors, 3u);
  EXPECT_EQ(options.limits.idle, seconds(10));
  EXPECT_EQ(options.limits.session, minutes(1));
  EXPECT_EQ(options.limits.received_hops, 50u);
  EXPECT_EQ(options.spool.durability, shard::Durability::page_cache);
  EXPECT_EQ(options.spool.min_free_bytes, 4096u);
  EXPECT_EQ(options.spool.segment_bytes, 16u << 20);
  ASSERT_EQ(options.routes.size(), 2u);
  EXPECT_EQ(options.routes[0].match, "example.test");
  EXPECT_EQ(options.routes[0].via, "maildir:/srv/{local}");
  EXPECT_EQ(options.routes[1].via, "smtp:[127.0.0.1]:2526");
  EXPECT_EQ(options.smtp_client.port, 2525);
  EXPECT_EQ(options.smtp_client.connections_per_path, 3u);
  EXPECT_EQ(options.smtp_client.idle, seconds(0));
  EXPECT_EQ(options.smtp_client.recipients, 50u);
  EXPECT_EQ(options.smtp_client.messages_per_connection, 7u);
  EXPECT_EQ(options.smtp_client.connect_timeout, seconds(2));
  EXPECT_EQ(options.smtp_client.reply_timeout, seconds(3));
  EXPECT_EQ(options.smtp_client.content_timeout, seconds(4));
  EXPECT_TRUE(options.smtp_client.refuse_networks.empty());
  EXPECT_THAT(options.retry.schedule, ElementsAre(milliseconds(500), seconds(2)));
  EXPECT_EQ(options.retry.give_up_after, hours(1));
  EXPECT_EQ(options.retry.warn_after, minutes(30));
  ASSERT_EQ(options.dns.servers.size(), 1u);
  EXPECT_EQ(options.dns.servers[0].port, 5300);
  EXPECT_EQ(options.event_log.path, "-");
  EXPECT_EQ(options.admin.address.port(), 8025);
}

struct Fault {
  std::string_view text;       // one line before the minimal configuration's listener, or with a table of its own
  std::string_view beginning;  // of the message, behind FILE:
  std::string_view within;
};

class ConfigFault : public testing::TestWithParam<Fault> {};

TEST_P(ConfigFault, IsSaidWithPlaceKeyAndCure) {
  const std::string message = only_error(load_root(GetParam().text));
  EXPECT_THAT(message, testing::StartsWith("/etc/postern/posternd.toml:" + std::string(GetParam().beginning)));
  EXPECT_THAT(message, HasSubstr(std::string(GetParam().within)));
}

const Fault faults[] = {
    {"hostname = 3", "1: hostname: ", "a text in quotes"},
    {"hostname = \"not a name\"", "1: hostname: ", "no host name"},
    {"hostname = \"[192.0.2.1]\"", "1: hostname: ", "no host name"},
    {"data_dir = \"\"", "1: data_dir: ", "empty"},
    {"shards = 257", "1: shards: ", "0 … 256"},
    {"shards = -1", "1: shards: ", "out of range"},
    {"shards = \"2\"", "1: shards: ", "whole number"},
    {"user = 1", "1: user: ", "quotes"},
    {"memory = \"0%\"", "1: memory: ", "\"1%\" … \"100%\""},
    {"memory = \"101%\"", "1: memory: ", "\"1%\" … \"100%\""},
    {"memory = \"1KiB\"", "1: memory: ", "out of range"},
    {"memory = \"much\"", "1: memory: ", "512KiB"},
    {"memory = true", "1: memory: ", "wrong type"},
    {"shutdown_grace = \"2h\"", "1: shutdown_grace: ", "out of range"},
    {"shutdown_grace = \"soon\"", "1: shutdown_grace: ", "\"30s\""},
    {"shutdown_grace = 30", "1: shutdown_grace: ", "quotes"},
    {"io.backend = \"epoll\"", "1: io.backend: ", "\"auto\" or \"uring\""},
    {"io = 3", "1: io: ", "is a table"},
    {"hostnme = \"a.example\"", "1: hostnme: unknown key", "did you mean hostname?"},
    {"received_hops = 50", "1: received_hops: unknown key", "did you mean limits.received_hops?"},
    {"zebra = 5", "1: zebra: unknown key", "--print-config"},
    {"[limit]\nrecipients = 5", "1: limit: unknown key", "did you mean limits?"},
    {"[tls]\n[[tls.certificate]]\nchain = \"x\"", "2: tls.certificate.key: missing", "key.pem"},
    {"[[tls.certificate]]\nchain = \"x\"\nkey = \"\"", "3: tls.certificate.key: empty", "PEM"},
    {"[tls.certificate]\nchain = \"x\"", "1: tls.certificate: there may be several", "[[tls.certificate]]"},
    {"[tls]\ncertificat = 1", "2: tls.certificat: unknown key", ""},
    {"[domains]\naccept = \"example.test\"", "2: domains.accept: ", "a list of texts"},
    {"[domains]\naccept = [\n\"good.test\",\n\"bad domain\"]", "4: domains.accept: ", "no domain"},
    {"[domains]\naccept = [3]", "2: domains.accept: ", "a list of texts"},
    {"[recipients]\nknown = \"a@x.test\"", "2: recipients.known: ", "a list of texts"},
    {"[recipients]\nseparator = \"++\"", "2: recipients.separator: ", "\"+\""},
    {"[recipients]\nseparator = \"a\"", "2: recipients.separator: ", "\"+\""},
    {"[recipients]\ncheck_interval = \"2h\"", "2: recipients.check_interval: ", "100ms … 1h"},
    {"[domains]\nacept = []", "2: domains.acept: unknown key", "did you mean accept?"},
    {"[limits]\nmessage_bytes = \"1B\"", "2: limits.message_bytes: ", "out of range"},
    {"[limits]\nmessage_bytes = \"50 megabytes\"", "2: limits.message_bytes: ", "\"50MiB\""},
    {"[limits]\nmessage_bytes = -1", "2: limits.message_bytes: ", "\"50MiB\""},
    {"[recipients]\ncallout = \"yes\"", "2: recipients.callout: ", "true or false"},
    {"[recipients]\ncallout_timeout = \"5m\"", "2: recipients.callout_timeout: ", "1s … 4m"},
    {"[recipients]\ncallout_failure = \"reject\"", "2: recipients.callout_failure: ", "defer"},
    {"[recipients]\ncallout_cache = 1", "2: recipients.callout_cache: ", "2 … 1000000"},
    {"[recipients]\ncallout_positive = \"0s\"", "2: recipients.callout_positive: ", "1s … "},
    {"[recipients]\ncallout_negative = \"31d\"", "2: recipients.callout_negative: ", "1s … "},
    {"[[route]]\nmatch = \"*\"\nvia = \"discard\"\ncallout = true", "4: route.callout: ", "no next hop"},
    {"[limits]\nrecipients = 0", "2: limits.recipients: ", "1 … 65535"},
    {"[limits]\nconnections = 0", "2: limits.connections: ", "1 … 1000000"},
    {"[limits]\nconnections_per_peer = 99999999999", "2: limits.connections_per_peer: ", "out of range"},
    {"[limits]\nerrors = 0", "2: limits.errors: ", "1 … 10000"},
    {"[limits]\nidle_timeout = \"0s\"", "2: limits.idle_timeout: ", "1s … 1h"},
    {"[limits]\nsession_timeout = \"25h\"", "2: limits.session_timeout: ", "1s … 1d"},
    {"[limits]\nhold = \"31d\"", "2: limits.hold: ", "1m … 4w2d"},
    {"[limits]\nreceived_hops = 1", "2: limits.received_hops: ", "10 … 1000"},
    {"[spool]\ndurability = \"maybe\"", "2: spool.durability: ", "\"synced\" or \"page_cache\""},
    {"[spool]\nmin_free = \"x\"", "2: spool.min_free: ", "\"50MiB\""},
    {"[spool]\nsegment = \"1MiB\"", "2: spool.segment: ", "2MiB … 1GiB"},
    {"[spool]\nsegment = 3000000", "2: spool.segment: ", "multiple of 1MiB"},
    {"[[route]]\nmatch = \"*\"", "1: route.via: missing", "via = \"mx\""},
    {"[[route]]\nvia = \"mx\"", "1: route.match: missing", "match = \"*\""},
    {"[[route]]\nmatch = \"a b\"\nvia = \"mx\"", "2: route.match: ", ""},
    {"[[route]]\nmatch = \"*\"\nvia = \"pigeon:coop\"", "3: route.via: ", ""},
    {"[[route]]\nmatch = \"*\"\nvia = \"lmtp:store.example\"", "3: route.via: ", "lmtp:HOST:PORT"},
    {"[[listener]]\naddress = \"unix:/run/x\"\n[[route]]\nmatch = \"*\"\nvia = \"lmtp:unix:/run/x\"",
     "5: route.via: ", "a listener of this daemon"},
    {"[[listener]]\naddress = \"unix:/run/x\"\nmode = \"rw\"", "3: listener.mode: ", "\"0660\""},
    {"[[listener]]\naddress = \"unix:/run/x\"\nmode = \"0000\"", "3: listener.mode: ", "\"0660\""},
    {"[[listener]]\naddress = \"unix:/run/x\"\nmode = \"1777\"", "3: listener.mode: ", "\"0660\""},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nmode = \"0600\"", "3: listener.mode: ", "unix sockets only"},
    {"[[route]]\nmatch = \"*\"\nvia = \"smtp:\"", "3: route.via: ", ""},
    {"[[route]]\nmatch = \"*\"\nvia = \"mx\"\nwhy = 1", "4: route.why: unknown key", ""},
    {"[route]\nmatch = \"*\"", "1: route: there may be several", "[[route]]"},
    {"[smtp_client]\nport = 0", "2: smtp_client.port: ", "1 … 65535"},
    {"[smtp_client]\ntls = \"always\"", "2: smtp_client.tls: ", "\"verified\""},
    {"[smtp_client]\ntls_key = \"key.pem\"", "2: smtp_client.tls_certificate: missing", "cert.pem"},
    {"[smtp_client]\ntls_certificate = \"cert.pem\"", "2: smtp_client.tls_key: missing", "key.pem"},
    {"[smtp_client]\ntls_authorities = \"no.pem\"", "1: smtp_client.tls_authorities: /", "name a PEM file"},
    {"[[route]]\nmatch = \"*\"\nvia = \"mx\"\ntls = \"yes\"", "4: route.tls: ", "\"required\""},
    {"[[route]]\nmatch = \"*\"\nvia = \"mx\"\ntls = \"verified\"\ntls_names = [\"*.example.net\"]",
     "5: route.tls_names: ", "without a wildcard"},
    {"[[route]]\nmatch = \"*\"\nvia = \"mx\"\ntls_names = [\"mx.example.net\"]", "4: route.tls_names: has no effect",
     "\"verified\""},
    {"[[route]]\nmatch = \"*\"\nvia = \"maildir:/srv/mail\"\ntls = \"required\"", "4: route.tls: has no effect",
     "remove it"},
    {"[[route]]\nmatch = \"*\"\nvia = \"lmtp:unix:/run/store\"\ntls = \"none\"", "4: route.tls: has no effect",
     "remove it"},
    {"[smtp_client]\nconnections_per_path = 0", "2: smtp_client.connections_per_path: ", "1 … 10000"},
    {"[smtp_client]\nidle_seconds = 301", "2: smtp_client.idle_seconds: ", "0 … 300"},
    {"[smtp_client]\nrecipients = 0", "2: smtp_client.recipients: ", "1 … 1000"},
    {"[smtp_client]\nconnections = 0", "2: smtp_client.connections: ", "1 … 1000000"},
    {"[smtp_client]\nconnections = 1000001", "2: smtp_client.connections: ", "1 … 1000000"},
    {"[tls]\nhandshakes = 0", "2: tls.handshakes: ", "1 … 1000000"},
    {"[tls]\nhandshakes = 1000001", "2: tls.handshakes: ", "1 … 1000000"},
    {"[tls]\nhandshakes_per_peer = 1000001", "2: tls.handshakes_per_peer: ", "0 … 1000000"},
    {"[tls]\nhandshake_timeout = \"500ms\"", "2: tls.handshake_timeout: ", "1s … 10m"},
    {"[tls]\nhandshake_timeout = \"11m\"", "2: tls.handshake_timeout: ", "1s … 10m"},
    {"[smtp_client]\nmessages_per_connection = 0", "2: smtp_client.messages_per_connection: ", "1 … 1000000"},
    {"[smtp_client]\nconnect_timeout = \"0s\"", "2: smtp_client.connect_timeout: ", "1s … 5m"},
    {"[smtp_client]\nreply_timeout = \"2h\"", "2: smtp_client.reply_timeout: ", "1s … 1h"},
    {"[smtp_client]\ncontent_timeout = \"2h\"", "2: smtp_client.content_timeout: ", "1s … 1h"},
    {"[smtp_client]\nrefuse_networks = [\"10.0.0.0/33\"]", "2: smtp_client.refuse_networks: ", "\"192.0.2.0/24\""},
    {"[limits]\nconnection_rate_per_peer = \"30\"", "2: limits.connection_rate_per_peer: \"30\" is no rate",
     "\"30/min\""},
    {"[limits]\nmessage_rate_per_peer = 30", "2: limits.message_rate_per_peer: ", ""},
    {"[limits]\nmin_data_rate = -1", "2: limits.min_data_rate: ", "0 … 1000000"},
    {"[[listener]]\naddress = \"0.0.0.0:25\"\nbare_newline = \"keep\"", "3: listener.bare_newline: ", "normalize"},
    {"[[listener]]\naddress = \"0.0.0.0:25\"\ngreeting_delay = \"2m\"", "3: listener.greeting_delay: ", "0 … 1m"},
    {"[[listener]]\naddress = \"0.0.0.0:25\"\ndeliver_by_min = \"25h\"", "3: listener.deliver_by_min: ", "… "},
    {"[retry]\nschedule = []", "2: retry.schedule: empty", "[\"1m\", \"5m\", \"1h\"]"},
    {"[retry]\nschedule = [\"1x\"]", "2: retry.schedule: ", "\"30s\""},
    {"[retry]\nschedule = [\"1ms\"]", "2: retry.schedule: ", "100ms … "},
    {"[retry]\ngive_up_after = \"60d\"", "2: retry.give_up_after: ", "out of range"},
    {"[retry]\nwarn_after = \"often\"", "2: retry.warn_after: \"often\": ", "\"4d\""},
    {"[retry]\nwarn_after = \"100ms\"", "2: retry.warn_after: ", "1s … "},
    {"[retry]\nwarn_after = \"4d\"", "2: retry.warn_after: has no effect", "or less"},
    {"[dns]\nservers = [\"dns.example\"]", "2: dns.servers: ", "\"127.0.0.1:5300\""},
    {"[dns]\nservers = "
     "[\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\"]",
     "2: dns.servers: more than 8", ""},
    {"[event_log]\npath = 3", "2: event_log.path: ", "quotes"},
    {"[admin]\nlisten = \"8025\"", "2: admin.listen: ", "\"127.0.0.1:8025\""},
    {"[[listener]]\nservice = \"mx\"", "1: listener.address: missing", "0.0.0.0:25"},
    {"[[listener]]\naddress = \"25\"", "2: listener.address: ", "no address"},
    {"[[listener]]\naddress = \"systemd:other\"", "2: listener.address: ", "FileDescriptorName="},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nservice = \"submissions\"", "3: listener.service: TLS needs",
     "[[tls.certificate]]"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\ntls = \"always\"", "3: listener.tls: ", "\"required\""},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nclient_certificates = \"required\"",
     "3: listener.client_certificates: has no effect", "beside it"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nclient_authorities = \"ca.pem\"",
     "3: listener.client_authorities: has no effect", "beside it"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nrelay_certificates = [\"ab:cd\"]",
     "3: listener.relay_certificates: ", "openssl x509"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\ntls = \"required\"", "3: listener.tls: TLS needs",
     "[[tls.certificate]]"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nproxy_protocol_from = [\"balancer\"]",
     "3: listener.proxy_protocol_from: ", "\"192.0.2.0/24\""},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nxclient_from = 3", "3: listener.xclient_from: ", "a list of texts"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nextensions_off = [\n\"DSN\",\n\"VRFY\"]",
     "5: listener.extensions_off: \"VRFY\"", "PIPELINING, SIZE"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nextensions_off = \"DSN\"",
     "3: listener.extensions_off: ", "a list of texts"},
    {"[[listener]]\naddress = \"127.0.0.1:26\"\nrelay_from = [\"x\"]", "3: listener.relay_from: ", "\"192.0.2.0/24\""},
    {"[[listener]]\naddress = \"127.0.0.1:25\"", "4: listener.address: ", "taken by the listener of line 1"},
    {"\n\xC3\xBC = 1", "2: ", "outside ASCII"},
    {"hostname = ", "1: ", "TOML"},
};

INSTANTIATE_TEST_SUITE_P(Each, ConfigFault, testing::ValuesIn(faults));

TEST(Config, TheModeOfASocketThatIsThereNeedsARestart) {
  const std::string listener = "[[listener]]\naddress = \"unix:/run/x\"\n";
  const LoadedConfig before = load(listener);
  const LoadedConfig after = load(listener + "mode = \"0600\"\nservice = \"lmtp\"\n");
  ASSERT_TRUE(before.options && after.options);
  EXPECT_EQ(after.options->listeners.front().service, shard::Service::lmtp);
  EXPECT_EQ(after.options->listeners.front().socket_mode, 0600u);
  EXPECT_THAT(needs_restart(*before.options, *after.options), ElementsAre("listener.mode"));
}

TEST(Config, WithoutAListenerItIsNoConfiguration) {
  EXPECT_THAT(only_error(load("hostname = \"a.example\"\n")), HasSubstr("[[listener]]"));
  EXPECT_THAT(only_error(load("listener = 3\n")), HasSubstr("[[listener]]"));
}

TEST(Config, AllFaultsAreSaidInTheOrderOfTheFile) {
  const LoadedConfig loaded = load_root("shards = 999\nmemory = \"x\"\n[limits]\nrecipients = 0\n");
  EXPECT_EQ(loaded.options, nullptr);
  EXPECT_THAT(loaded.errors,
              ElementsAre(HasSubstr(":1: shards"), HasSubstr(":2: memory"), HasSubstr(":4: limits.recipients")));
}

TEST(Config, AHostNameOfAListenerIsLookedUp) {
  const LoadedConfig loaded = load("[[listener]]\naddress = \"localhost:2525\"\n");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  EXPECT_EQ(loaded.options->listeners[0].address.port(), 2525);
}

TEST(Config, PrintedKeysAreADefaultConfigurationWhenUncommented) {
  std::string text = print_config("mx.example.org");
  std::string bare;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    if (line.starts_with("#") && !line.starts_with("# ")) line.erase(0, 1);
    bare += line + "\n";
    at = end + 1;
  }
  const LoadedConfig printed = load(bare);
  ASSERT_TRUE(printed.options) << testing::PrintToString(printed.errors) << bare;
  const LoadedConfig plain = load(minimal);
  ASSERT_TRUE(plain.options);
  EXPECT_TRUE(std::ranges::all_of(needs_restart(*plain.options, *printed.options),
                                  [](const std::string& key) { return key == "listener.address"; }));
  EXPECT_EQ(printed.options->limits.message_bytes, plain.options->limits.message_bytes);
  EXPECT_EQ(printed.options->limits.idle, plain.options->limits.idle);
  EXPECT_EQ(printed.options->limits.session, plain.options->limits.session);
  EXPECT_EQ(printed.options->limits.errors, plain.options->limits.errors);
  EXPECT_EQ(printed.options->limits.received_hops, plain.options->limits.received_hops);
  EXPECT_EQ(printed.options->retry.schedule, plain.options->retry.schedule);
  EXPECT_EQ(printed.options->retry.give_up_after, plain.options->retry.give_up_after);
  EXPECT_EQ(printed.options->smtp_client.idle, plain.options->smtp_client.idle);
  EXPECT_EQ(printed.options->smtp_client.recipients, plain.options->smtp_client.recipients);
  EXPECT_EQ(printed.options->smtp_client.messages_per_connection, plain.options->smtp_client.messages_per_connection);
  EXPECT_EQ(printed.options->smtp_client.connect_timeout, plain.options->smtp_client.connect_timeout);
  EXPECT_EQ(printed.options->smtp_client.reply_timeout, plain.options->smtp_client.reply_timeout);
  EXPECT_EQ(printed.options->smtp_client.content_timeout, plain.options->smtp_client.content_timeout);
  EXPECT_EQ(printed.options->smtp_client.refuse_networks.size(), plain.options->smtp_client.refuse_networks.size());
  EXPECT_EQ(printed.options->shutdown_grace, plain.options->shutdown_grace);
  EXPECT_EQ(printed.options->spool.min_free_bytes, plain.options->spool.min_free_bytes);
}

TEST(Config, EveryPrintedKeyHasADefaultAndAHelp) {
  for (const KeyInfo& key : config_keys()) {
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_EQ(key.help.find('\n'), std::string_view::npos) << key.name;
    EXPECT_TRUE(!key.default_value.empty() || key.name == "hostname") << key.name;
  }
}

TEST(Config, ATableHeaderWithoutANameIsAnErrorAndNoAbort) {
  for (const char* header : {"[#", "[[#", "[=]", "[.]", "[a.#]", "[ \x01"}) {
    EXPECT_THAT(only_error(load_root(header)), HasSubstr("/etc/postern/posternd.toml:1: ")) << header;
  }
}

TEST(Config, AReloadSaysWhatNeedsARestart) {
  const LoadedConfig before = load(minimal);
  const LoadedConfig after = load_root("shards = 1\nhostname = \"other.example\"");
  ASSERT_TRUE(before.options && after.options);
  EXPECT_THAT(needs_restart(*before.options, *after.options), ElementsAre("shards"));
}

TEST(Config, WhatAReloadDoesNotTakeIsSaidAndStaysAsItWas) {
  const LoadedConfig before = load(minimal);
  const LoadedConfig after = load(std::string(minimal) + R"(
[smtp_client]
port = 2525
idle_seconds = 9
recipients = 7
connections_per_path = 3
[retry]
schedule = ["9s"]
give_up_after = "9h"
)");
  ASSERT_TRUE(before.options && after.options) << testing::PrintToString(after.errors);
  EXPECT_THAT(needs_restart(*before.options, *after.options),
              ElementsAre("smtp_client.connections_per_path", "smtp_client.idle_seconds", "smtp_client.recipients",
                          "retry.schedule"));
  const shard::OptionsSnapshot merged = merge_for_reload(*before.options, *after.options);
  EXPECT_EQ(merged->smtp_client.idle, before.options->smtp_client.idle);
  EXPECT_EQ(merged->smtp_client.recipients, before.options->smtp_client.recipients);
  EXPECT_EQ(merged->retry.schedule, before.options->retry.schedule);
  EXPECT_EQ(merged->smtp_client.port, 2525);
  EXPECT_EQ(merged->retry.give_up_after, std::chrono::hours(9));
}

TEST(Config, AFileThatCannotBeReadIsSaid) {
  const LoadedConfig loaded = load_config("/nonexistent/posternd.toml", machine());
  EXPECT_THAT(only_error(loaded), HasSubstr("/nonexistent/posternd.toml:1: cannot be read"));
}

}  // namespace
}  // namespace postern::daemon
