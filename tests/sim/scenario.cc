#include "tests/sim/scenario.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/random.h>

#include "io/sim/world.h"
#include "tests/net/transparent_tls.h"
#include "tests/net/transparent_tls_client.h"
#include "tests/sim/client.h"
#include "tests/sim/dns_zone.h"
#include "tests/sim/next_hop.h"
#include "tests/sim/relay.h"

namespace postern::sim {
namespace {

using namespace std::chrono_literals;

// Faults happen for this long; then everything is healed and must drain.
constexpr Duration storm = 3min;
// Retries come every few minutes at the latest, so that an hour or two is ample.
constexpr Duration drain_max = 4h;
constexpr Duration wall_steps_max = 10h;
constexpr Duration give_up_after = 1h;
constexpr Duration stop_grace = 60s;

const io::Address listener = *io::Address::parse("10.0.0.1:25");
const io::Address tls_listener = *io::Address::parse("10.0.0.1:465");
const io::Address dns_server = *io::Address::parse("10.3.0.1:53");

// A site: the addresses that one MX set (or smart host) leads to.
struct Site {
  std::vector<std::string> domains;
  std::vector<std::string> addresses;
  NextHop::Features features;
};

const std::vector<Site>& sites() {
  static const std::vector<Site> all = {
      {{"d0.test", "d1.test"}, {"10.1.0.1", "10.1.0.2"}, {.pipelining = true, .chunking = true}},
      {{"d2.test"}, {"10.1.1.1"}, {.pipelining = true, .chunking = false}},
      {{"d3.test"}, {"10.1.2.1"}, {.pipelining = false, .chunking = true}},
      {{"smart.test"}, {"10.1.3.1"}, {.pipelining = true, .chunking = true}},  // by a route
      {{"senders.test"}, {"10.1.9.1"}, {.pipelining = true, .chunking = true}},
      {{}, {"10.1.4.1"}, {.pipelining = true, .chunking = false}},  // where smart.test goes with other routes
      {{}, {"10.1.5.1"}, {.pipelining = true, .chunking = true, .lmtp = true}},  // store.test's, by a route
  };
  return all;
}
io::Address hop_address(const Site& site, const std::string& ip) {
  return *io::Address::parse(ip + (site.features.lmtp ? ":24" : ":25"));
}
constexpr std::size_t dead_site = 1;
constexpr std::size_t senders_site = 4;

// Each third handshake waits for a task, as those with RSA do.
class TransparentContext final : public net::TlsContext {
 public:
  std::unique_ptr<net::TlsStream> make_stream() const override {
    return std::make_unique<net::TransparentTls>(made_++ % 3 == 0);
  }

 private:
  mutable std::uint32_t made_ = 0;  // the world has one thread
};

// Towards next hops, whose certificates are good or not, all at a time.
class TransparentClientContext final : public net::TlsClientContext {
 public:
  explicit TransparentClientContext(const bool& good) : good_(good) {}
  std::unique_ptr<net::TlsStream> make_stream(net::TlsTarget target) const override {
    return std::make_unique<net::TransparentTlsClient>(std::move(target), good_);
  }

 private:
  const bool& good_;
};

class Run {
 public:
  Run(const Scenario& scenario, const std::function<void(std::string_view)>& trace);
  Outcome go();

 private:
  [[nodiscard]] std::shared_ptr<const shard::Options> options() const;
  [[nodiscard]] static io::sim::World::Options world_options(const Scenario& scenario);
  [[nodiscard]] bool chance(unsigned in_hundred) { return world_.chance(in_hundred); }
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) { return world_.random().below(bound); }

  [[nodiscard]] bool bulk() const { return scenario_.messages > 100; }

  void make_disk();
  void make_network();
  [[nodiscard]] Mail& make_mail();
  [[nodiscard]] std::string make_content(std::uint32_t number);
  void plan_clients();
  void start_client(std::vector<Mail*> mails);
  void probe();
  void change_moods();
  void plan_trouble();
  void heal();
  void start_relay();
  void plan_crash();
  void live(Instant until);
  void look_for_quarantine();
  void restart(bool crashed);
  [[nodiscard]] bool drained() const;
  [[nodiscard]] bool stop(Duration grace);
  void stop_and_start();
  void read_maildirs();

  const Scenario scenario_;
  io::sim::World world_;
  Oracle oracle_;
  std::unique_ptr<DnsZone> zone_;
  std::vector<std::unique_ptr<NextHop>> hops_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::unique_ptr<Relay> relay_;
  std::uint32_t crashes_left_;
  std::uint32_t crashes_ = 0;
  std::size_t clients_open_ = 0;
  std::uint32_t made_ = 0;
  std::uint32_t shards_;
  // What a reload may change.
  struct Changeable {
    bool other_hop = false;  // for smart.test
    std::uint64_t message_bytes = 250'000;
    std::uint32_t recipients = 5;  // of a transaction
  };
  Changeable changeable_;
  bool stop_due_ = false;
  bool reload_due_ = false;
  bool healed_ = false;
  bool certificates_are_good_ = true;  // of next hops
  std::shared_ptr<const net::TlsClientContext> hop_tls_ =
      std::make_shared<const TransparentClientContext>(certificates_are_good_);
  std::set<std::string> maildir_files_;
  std::vector<Mail*> probes_;
};

io::sim::World::Options Run::world_options(const Scenario& scenario) {
  io::sim::World::Options made{.seed = scenario.seed * 2 + 1, .stepped = true};
  if (scenario.network_trouble) {
    made.network.latency_max = 30ms;
    made.network.splits = 30;
    made.network.window_bytes = 16u << 10;
    made.network.connects_unanswered = 2;
    made.network.datagrams_lost = 5;
    made.network.datagrams_doubled = 5;
    made.network.connections_lost = 30;
  }
  if (scenario.slow_disk) {
    made.disk.latency_max = 20ms;
    made.disk.stalls = 50;
    made.disk.stall = 3s;
  } else {
    made.disk.latency_max = 500us;
  }
  if (scenario.write_errors) made.disk.write_errors = 1'000;
  if (scenario.disorder) {
    made.lateness_max = 20ms;
    made.turn_max = 1ms;
  }
  return made;
}

Run::Run(const Scenario& scenario, const std::function<void(std::string_view)>& trace)
    : scenario_(scenario), world_(world_options(scenario)), crashes_left_(scenario.crashes), shards_(scenario.shards) {
  if (trace) world_.trace().listen(trace);
  oracle_.rules.give_up_after = give_up_after;
  oracle_.on_violation = [this](std::string_view text) { world_.say("VIOLATION", text); };
  const bool restarts = scenario.crashes + scenario.stops > 0 || scenario.write_errors;
  oracle_.rules.hours_may_jump = scenario.wall_steps && restarts;
  oracle_.rules.answers_may_lie = scenario.write_errors;
  if (scenario.full_disk || scenario.write_errors) oracle_.rules.unsettled_max = storm * 2;
}

std::shared_ptr<const shard::Options> Run::options() const {
  auto made = std::make_shared<shard::Options>();
  made->hostname = "relay.test";
  made->data_dir = "/spool";
  made->shards = shards_;
  made->memory_bytes = scenario_.little_memory ? 512u << 10 : 32u << 20;
  made->shutdown_grace = stop_grace;
  shard::ListenerOptions where;
  where.text = listener.to_string();
  where.address = listener;
  where.relay_from = {*IpNetwork::parse("10.2.0.0/16")};
  if (scenario_.tls) {
    where.tls.use = smtp::TlsUse::opportunistic;
    where.tls.context = std::make_shared<const TransparentContext>();
    shard::ListenerOptions at_once = where;
    at_once.text = tls_listener.to_string();
    at_once.address = tls_listener;
    at_once.service = shard::Service::submissions;
    at_once.tls.use = smtp::TlsUse::none;
    made->listeners = {std::move(where), std::move(at_once)};
  } else {
    made->listeners = {std::move(where)};
  }
  made->limits.message_bytes = changeable_.message_bytes;
  made->limits.connections = 200;
  made->limits.connections_per_peer = 20;
  made->spool.durability = scenario_.page_cache ? shard::Durability::page_cache : shard::Durability::synced;
  made->spool.segment_bytes = scenario_.segment_bytes;
  made->spool.min_free_bytes = 4u << 20;
  const char* const smart_host = changeable_.other_hop ? "smtp:[10.1.4.1]:25" : "smtp:[10.1.3.1]:25";
  made->routes = {{.match = "smart.test", .via = smart_host, .line = 1},
                  {.match = "maildir.test", .via = "maildir:/mail/{local}", .line = 2},
                  {.match = "store.test", .via = "lmtp:[10.1.5.1]:24", .line = 3}};
  if (scenario_.hop_tls) {
    made->smtp_client.tls.context = hop_tls_;
    made->smtp_client.tls.usual.level = route::TlsLevel::opportunistic;
    made->routes.push_back(
        {.match = "d2.test", .via = "mx", .tls = route::TlsPolicy{.level = route::TlsLevel::required}, .line = 4});
    made->routes.push_back(
        {.match = "d3.test", .via = "mx", .tls = route::TlsPolicy{.level = route::TlsLevel::verified}, .line = 5});
  }
  if (scenario_.callouts) {
    made->accept_domains = {"d0.test",    "d1.test",    "d2.test",
                            "smart.test", "store.test", "nowhere.test"};  // not the probes'
    made->recipients.callout = {.usual = true,
                                .timeout = 20s,
                                .failure = scenario_.seed % 2 == 0 ? shard::CalloutOptions::Failure::accept
                                                                   : shard::CalloutOptions::Failure::defer,
                                .cache = 16,
                                .positive = 1min,
                                .negative = 10s};
  }
  made->smtp_client.connections_per_path = scenario_.connections_per_path;
  made->smtp_client.idle = 2s;
  made->smtp_client.recipients = changeable_.recipients;
  made->smtp_client.messages_per_connection = 7;
  made->smtp_client.connect_timeout = 10s;
  made->smtp_client.reply_timeout = 30s;
  made->smtp_client.content_timeout = 40s;
  made->retry.schedule = {10s, 30s, 1min, 2min, 5min};
  made->retry.give_up_after = give_up_after;
  made->dns.servers = {{.address = dns_server.ip(), .port = dns_server.port()}};
  return made;
}

void Run::make_disk() {
  io::sim::Disk& disk = world_.disk();
  for (const char* path : {"/spool", "/spool/logs", "/mail"}) {
    POSTERN_CHECK(disk.make_directory(path) == 0);
    io::sim::FilePtr parent;
    const std::string above = std::string(path).substr(0, std::max<std::size_t>(std::string(path).rfind('/'), 1));
    POSTERN_CHECK(disk.open(above, O_RDONLY, parent) == 0 && disk.sync(*parent) == 0);
  }
}

void Run::make_network() {
  zone_ = std::make_unique<DnsZone>(world_, dns_server);
  for (std::size_t s = 0; s < sites().size(); ++s) {
    const Site& site = sites()[s];
    for (std::size_t i = 0; i < site.addresses.size(); ++i) {
      const std::string host = "mx" + std::to_string(s) + std::to_string(i) + ".test";
      zone_->add_a(host, site.addresses[i]);
      for (const std::string& domain : site.domains) zone_->add_mx(domain, host);
      NextHop::Features features = site.features;
      features.tls = scenario_.hop_tls;
      features.tls_needed = scenario_.hop_tls && !site.domains.empty() &&
                            (site.domains.front() == "d2.test" || site.domains.front() == "d3.test");
      hops_.push_back(std::make_unique<NextHop>(world_, oracle_, hop_address(site, site.addresses[i]), features));
    }
  }
  world_.network().on_outgoing = [this](const io::Address& remote, std::size_t) {
    for (const Site& site : sites()) {
      const std::string ip = remote.ip().to_string();
      if (std::ranges::find(site.addresses, ip) == site.addresses.end()) continue;
      std::size_t sum = 0;
      for (const std::string& each : site.addresses) {
        sum += world_.network().outgoing(hop_address(site, each));
      }
      if (sum > scenario_.connections_per_path) {
        oracle_.violation(std::to_string(sum) + " connections to the site at " + ip + ", limit " +
                          std::to_string(scenario_.connections_per_path));
      }
    }
  };
}

// --- mail and clients ------------------------------------------------------------------------------------------------

std::string Run::make_content(std::uint32_t number) {
  std::string content = "From: sender\r\nSubject: message " + std::to_string(number) +
                        "\r\nX-Sim: " + std::to_string(number) + "\r\n\r\n";
  const std::uint64_t kind = below(10);
  // In bulk, most contents are large.
  const std::uint64_t most = kind < (bulk() ? 1u : 5u)   ? 300
                             : kind < (bulk() ? 2u : 8u) ? 8'000
                                                         : scenario_.content_max;
  const std::size_t size = below(most + 1);
  while (content.size() < size) {
    const std::uint64_t line = below(8);
    if (line == 0) {
      content += ".\r\n";
    } else if (line == 1) {
      content += "..dots at the start\r\n";
    } else if (line == 2) {
      content += below(2) == 0 ? "\r\n" : "the end.\r\n";
    } else {
      content.append(1 + below(900), static_cast<char>('a' + below(26))).append("\r\n");
    }
  }
  return content;
}

Mail& Run::make_mail() {
  const std::uint32_t number = made_++;
  const std::string n = std::to_string(number);
  std::vector<std::string> recipients;
  const std::size_t count = 1 + (chance(40) ? below(4) : 0);
  for (std::size_t i = 0; i < count; ++i) {
    std::string local = "r" + n + "-" + std::to_string(i);
    const std::uint64_t where = below(100);
    if (where < 8) local = "bad" + local;
    std::string domain = sites()[below(senders_site)].domains.front();
    // In bulk only the first wait for the dead site, so that segments with nothing alive lie behind one with something.
    const bool early = number < scenario_.messages / 8;
    if (bulk() && domain == sites()[dead_site].domains.front() && !early) domain = "d3.test";
    if (where >= 8 && where < 16) domain = "d1.test";
    if (where >= 78 && where < 90 && scenario_.lmtp) domain = "store.test";
    if (where >= 90 && where < 95) domain = "nowhere.test";
    if (where >= 95) domain = "maildir.test";
    recipients.push_back(local + "@" + domain);
  }
  // What no relay may take: it is refused, behind the replies to the contents before it.
  const bool bad = chance(5);
  const std::string sender = chance(10) ? std::string() : "s" + n + "@senders.test";
  std::string content = make_content(number);
  if (bad) content += "a bare\nline feed\r\n";
  Mail& mail = oracle_.add(sender, std::move(content), recipients);
  for (Rcpt& recipient : mail.recipients) {
    static constexpr std::array wishes{"SUCCESS", "SUCCESS,FAILURE", "FAILURE", "NEVER"};
    if (chance(25)) recipient.notify = wishes[below(wishes.size())];
  }
  for (const std::string& recipient : recipients) {
    if (recipient.ends_with("@nowhere.test")) oracle_.on_refused(recipient);
  }
  return mail;
}

void Run::plan_clients() {
  for (std::uint32_t planned = 0; planned < scenario_.messages;) {
    std::vector<Mail*> mails;
    const std::size_t count = 1 + below(4);
    for (std::size_t i = 0; i < count && planned < scenario_.messages; ++i, ++planned) mails.push_back(&make_mail());
    ++clients_open_;
    const Duration when =
        bulk() ? (storm - 30s) * planned / scenario_.messages : world_.between(Duration::zero(), storm - 30s);
    world_.at(world_.now() + when, [this, mails] { start_client(mails); });
  }
}

void Run::start_client(std::vector<Mail*> mails) {
  Client::Manners manners;
  manners.pipelining = chance(70);
  manners.chunking = chance(40);
  manners.ahead = chance(50);
  manners.chunk = 1 + below(chance(30) ? 50'000 : 4'000);
  if (chance(20)) manners.trickle = 1 + below(600);
  manners.resets = scenario_.callouts;
  if (scenario_.rude_clients && chance(25)) {
    manners.hang_up_after = static_cast<int>(below(20));
    manners.reset = chance(50);
  }
  if (scenario_.tls) {
    manners.tls = static_cast<Client::Tls>(below(3));
    manners.close_notify = chance(60);
    manners.leaves_handshake = scenario_.rude_clients && chance(5);
  }
  // Clients that were done long ago go now: none of them is being called.
  std::erase_if(clients_, [](const auto& client) { return client->closed(); });
  clients_.push_back(std::make_unique<Client>(world_, oracle_, manners, std::move(mails), [this] { --clients_open_; }));
  const io::Address source = *io::Address::parse("10.2.0." + std::to_string(1 + below(20)) + ":0");
  clients_.back()->connect(source, manners.tls == Client::Tls::at_once ? tls_listener : listener);
}

// Once everything is healed, well-behaved clients: intake must have come back by itself.
void Run::probe() {
  std::vector<Client::Manners> all = {{.chunking = false}, {.chunking = true}};
  if (scenario_.tls) {
    all.push_back({.chunking = true, .tls = Client::Tls::starttls});
    all.push_back({.tls = Client::Tls::at_once});
  }
  for (const Client::Manners& manners : all) {
    const std::string n = std::to_string(made_++);
    probes_.push_back(&oracle_.add("s" + n + "@senders.test", make_content(made_), {"r" + n + "@d3.test"}));
    ++clients_open_;
    clients_.push_back(std::make_unique<Client>(world_, oracle_, manners, std::vector<Mail*>{probes_.back()},
                                                [this] { --clients_open_; }));
    clients_.back()->connect(*io::Address::parse("10.2.1.1:0"),
                             manners.tls == Client::Tls::at_once ? tls_listener : listener);
  }
}

// --- trouble ---------------------------------------------------------------------------------------------------------

void Run::change_moods() {
  if (healed_) return;
  if (scenario_.hop_tls && scenario_.moody_hops) certificates_are_good_ = chance(70);
  for (std::size_t i = 0; i < hops_.size(); ++i) {
    NextHop::Mood mood;
    if (scenario_.moody_hops && chance(70)) {
      mood.temporary = static_cast<unsigned>(below(15));
      mood.permanent = static_cast<unsigned>(below(8));
      mood.hang_up = static_cast<unsigned>(below(8));
      mood.silence = static_cast<unsigned>(below(3));
      mood.slow = static_cast<unsigned>(below(20));
      mood.garbage = static_cast<unsigned>(below(3));
      mood.lost_reply = static_cast<unsigned>(below(8));
      mood.down = chance(15);
      mood.slow_reader = chance(15);
      if (scenario_.hop_tls) mood.tls_trouble = static_cast<unsigned>(below(40));
    }
    // Deferred for a little, so that it is settled in a later segment than its message's.
    if (bulk() && !scenario_.moody_hops) mood.temporary = static_cast<unsigned>(below(6));
    if (scenario_.dead_hop && hops_[i]->address().ip().to_string() == sites()[dead_site].addresses.front()) {
      mood.down = true;
    }
    hops_[i]->set_mood(mood);
  }
  if (scenario_.moody_dns) {
    zone_->set_mood({.silence = static_cast<unsigned>(below(30)),
                     .failures = static_cast<unsigned>(below(30)),
                     .lies = static_cast<unsigned>(below(10)),
                     .truncated = static_cast<unsigned>(below(20)),
                     .slow = static_cast<unsigned>(below(20))});
  }
  world_.at(world_.now() + world_.between(5s, 40s), [this] { change_moods(); });
}

void Run::plan_trouble() {
  change_moods();
  const auto sometime = [this](auto&& what) {
    world_.at(world_.now() + world_.between(1s, storm), [this, what] {
      if (!healed_) what();
    });
  };
  if (scenario_.network_trouble) {
    for (int i = 0; i < 3; ++i) {
      sometime([this] {
        const Site& site = sites()[below(sites().size())];
        const IpAddress ip = *IpAddress::parse(site.addresses[below(site.addresses.size())]);
        world_.network().partition(ip, world_.now() + world_.between(1s, 60s));
      });
    }
  }
  if (scenario_.wall_steps) {
    for (int i = 0; i < 2; ++i) {
      sometime([this] { world_.step_wall(world_.between(-5h, 5h)); });
    }
  }
  if (scenario_.flipped_bits) {
    for (int i = 0; i < 2; ++i) {
      sometime([this] {
        if (world_.disk().flip_bit("/spool/logs")) oracle_.on_flipped_bit();
      });
    }
  }
  if (scenario_.few_descriptors) {
    sometime([this] {
      world_.set_descriptors_max(world_.open_descriptors() + below(6));
      world_.at(world_.now() + 20s, [this] { world_.set_descriptors_max(65'536); });
    });
  }
  // One late, when there is most to remember.
  if (scenario_.stops > 0)
    world_.at(world_.now() + world_.between(storm * 3 / 4, storm - 1s), [this] { stop_due_ = true; });
  for (std::uint32_t i = 1; i < scenario_.stops; ++i) {
    sometime([this] { stop_due_ = true; });
  }
  for (std::uint32_t i = 0; i < scenario_.reloads; ++i) {
    sometime([this] {
      changeable_.other_hop = chance(50);
      changeable_.message_bytes = chance(50) ? 60'000 : Changeable().message_bytes;
      changeable_.recipients = static_cast<std::uint32_t>(1 + below(6));
      reload_due_ = true;
    });
  }
  if (scenario_.full_disk) {
    sometime(
        [this] { world_.disk().options().capacity_bytes = world_.disk().used_bytes() + (4u << 20) + below(1u << 20); });
    sometime([this] { world_.disk().options().capacity_bytes = world_.disk().used_bytes() + below(1u << 20); });
  }
}

void Run::heal() {
  healed_ = true;
  world_.say("everything is healed", {});
  world_.crash_at(0, false);
  world_.crash_in_write(0, false);
  world_.network().options() = {};
  world_.network().heal();
  io::sim::DiskOptions disk;
  disk.latency_max = 500us;
  world_.disk().options() = disk;
  world_.set_descriptors_max(65'536);
  stop_due_ = false;
  if (scenario_.reloads > 0) {
    changeable_ = {};
    reload_due_ = true;
  }
  zone_->set_mood({});
  certificates_are_good_ = true;
  for (const auto& hop : hops_) {
    NextHop::Mood mood;
    mood.down = scenario_.dead_hop && hop->address().ip().to_string() == sites()[dead_site].addresses.front();
    hop->set_mood(mood);
    // Sessions that fell silent stay so: the relay's own timeouts must end them.
  }
}

// --- the relay -------------------------------------------------------------------------------------------------------

void Run::start_relay() {
  io::sim::LoopOptions loop;
  loop.receive_buffers = scenario_.receive_buffers;
  loop.receive_buffer_bytes = scenario_.receive_buffer_bytes;
  if (scenario_.disorder) {
    loop.disorder = 30;
    loop.short_receives = 20;
    loop.accepts_that_end = 20;
  }
  relay_ = std::make_unique<Relay>(world_, options(), loop, scenario_.mailbox_letters);
  plan_crash();
}

void Run::plan_crash() {
  if (crashes_left_ == 0 || healed_) return;
  const bool power_cut = scenario_.power_cuts && !scenario_.page_cache && chance(50);
  if (chance(40)) return world_.crash_in_write(1 + below(chance(30) ? 10 : 100), power_cut);
  // Often soon, so that starts are hit too.
  const std::uint64_t reach = chance(30) ? 60 : chance(30) ? 20'000 : 3'000;
  world_.crash_at(1 + below(reach), power_cut);
}

void Run::look_for_quarantine() {
  if (scenario_.flipped_bits || relay_->quarantined() == 0) return;
  oracle_.violation(std::to_string(relay_->quarantined()) + " messages are quarantined, and no bit was flipped");
}

void Run::restart(bool crashed) {
  look_for_quarantine();
  if (crashed) {
    oracle_.on_crash(world_.now());
    ++crashes_;
    --crashes_left_;
  }
  relay_->abandon();
  world_.end_process();
  relay_.reset();
  // Down for a while.
  (void)world_.run(world_.now() + world_.between(10ms, 5s));
  if (scenario_.other_shards && !healed_) shards_ = static_cast<std::uint32_t>(1 + below(4));
  start_relay();
}

// As SIGTERM does, with a start behind it. What the relay was told before must stand: only a stop that was hindered
// explains that something is delivered again.
void Run::stop_and_start() {
  look_for_quarantine();
  const bool clean = stop(chance(50) ? stop_grace : world_.between(0s, 10s));
  const bool crashed = world_.crashed();
  if (!clean && !crashed) oracle_.on_crash(world_.now());
  restart(crashed);
}

void Run::live(Instant until) {
  while (world_.now() < until) {
    (void)world_.run(std::min(until, world_.now() + 1s),
                     [this] { return (stop_due_ || reload_due_) && relay_->takes_orders(); });
    if (world_.crashed()) {
      restart(true);
    } else if (relay_->exit_code() != 0) {
      // A failed disk: the process ends by itself, and the operator starts it again.
      oracle_.on_crash(world_.now());
      relay_->request_stop(0s);
      (void)world_.run(world_.now() + 15s, [this] { return relay_->stopped(); });
      restart(false);
    } else if (!relay_->start_failure().ok()) {
      if (!scenario_.write_errors && !scenario_.full_disk && !scenario_.flipped_bits && !scenario_.few_descriptors) {
        oracle_.violation("the relay does not start: " + std::string(message_of(relay_->start_failure())));
        return;
      }
      (void)world_.run(world_.now() + 15s, [this] { return relay_->stopped(); });
      restart(false);
    } else if (relay_->takes_orders()) {
      if (std::exchange(reload_due_, false)) relay_->reload(options());
      if (std::exchange(stop_due_, false)) stop_and_start();
    }
  }
}

bool Run::drained() const {
  return clients_open_ == 0 && relay_->started() && relay_->waiting() == 0 && relay_->connections_out() == 0 &&
         relay_->connections_in() == 0;
}

void Run::read_maildirs() {
  for (const std::string& path : world_.disk().paths("/mail/")) {
    if (path.find("/new/") == std::string::npos || !maildir_files_.insert(path).second) continue;
    const io::sim::File& file = *world_.disk().find(path);
    const std::string local = path.substr(6, path.find('/', 6) - 6);
    const std::string_view text = as_text(file.now);
    std::string content;
    for (const char c : text) {
      if (c == '\n') content.push_back('\r');
      content.push_back(c);
    }
    constexpr std::string_view field = "Return-Path: <";
    if (!content.starts_with(field)) {
      oracle_.violation("Maildir file " + path + " does not begin with Return-Path");
      continue;
    }
    const std::string reverse_path = content.substr(field.size(), content.find('>') - field.size());
    oracle_.confirm(oracle_.on_delivered(reverse_path, {local + "@maildir.test"}, content, world_.now()));
  }
}

// True: it stopped, cleanly, and is taken down. False: something that the weather allows came between.
bool Run::stop(Duration grace) {
  world_.say("the relay is told to stop", {});
  relay_->request_stop(grace);
  const bool stopped = world_.run(world_.now() + grace + 30s, [this] { return relay_->stopped(); });
  if (world_.crashed() || relay_->exit_code() != 0) return false;
  if (!stopped || !relay_->clean()) {
    if (scenario_.full_disk && !healed_) return false;  // no room for the last settlements
    oracle_.violation(stopped ? "the stop was not clean" : "the relay does not stop");
    return false;
  }
  if (relay_->buffers_lent() != 0) {
    oracle_.violation(std::to_string(relay_->buffers_lent()) + " receive buffers are still lent after the stop");
  }
  relay_->take_down();
  if (world_.crashed()) return false;  // while it closed its files
  if (relay_->leased_bytes() != 0) {
    oracle_.violation(std::to_string(relay_->leased_bytes()) + " bytes of the budget are gone after the stop");
  }
  if (world_.open_descriptors() != 0) {
    oracle_.violation(std::to_string(world_.open_descriptors()) + " descriptors are open after the stop");
  }
  return true;
}

Outcome Run::go() {
  const Instant begin = world_.now();
  make_disk();
  make_network();
  start_relay();
  live(world_.now() + 2s);
  plan_clients();
  plan_trouble();
  live(world_.now() + storm);
  heal();
  crashes_left_ = 0;
  // Ages and due times are wall time on the disk: steps before a restart move them.
  const Instant give_up = world_.now() + drain_max + (oracle_.rules.hours_may_jump ? wall_steps_max : Duration::zero());
  live(world_.now() + 90s);
  probe();
  // Twice: what failed this moment waits nowhere until its DSN is durable.
  bool drained_in_time = false;
  while (!drained_in_time && world_.now() < give_up && oracle_.violations().empty()) {
    const bool before = drained();
    live(world_.now() + 5s);
    drained_in_time = before && drained();
  }
  if (!drained_in_time && oracle_.violations().empty()) {
    oracle_.violation("not drained: " + std::to_string(relay_->waiting()) + " recipients wait, " +
                      std::to_string(clients_open_) + " clients, " + std::to_string(relay_->connections_out()) +
                      " connections out, " + std::to_string(relay_->connections_in()) + " in");
  }
  for (const Mail* const mail : probes_) {
    if (mail->fate != Mail::Fate::accepted && oracle_.violations().empty()) {
      oracle_.violation("message " + std::to_string(mail->number) + " of a well-behaved client was not accepted");
    }
  }
  read_maildirs();
  look_for_quarantine();
  oracle_.judge(drained_in_time, world_.now());
  if (drained_in_time && oracle_.violations().empty()) {
    if (relay_->buffers_lent() != 0) {
      oracle_.violation(std::to_string(relay_->buffers_lent()) + " receive buffers are still lent after the drain");
    }
    if (!stop(stop_grace)) oracle_.violation("the last stop failed");
  }
  if (const auto& breach = world_.first_breach()) oracle_.violation("breach of io::Loop's contract: " + *breach);
  clients_.clear();
  hops_.clear();
  Outcome outcome{.violations = oracle_.violations(),
                  .hash = world_.trace().hash(),
                  .lines = world_.trace().lines(),
                  .crashes = crashes_,
                  .simulated_seconds = std::chrono::duration<double>(world_.now() - begin).count(),
                  .counts = oracle_.counts()};
  relay_->abandon();
  world_.end_process();
  return outcome;
}

}  // namespace

Scenario Scenario::of_seed(std::uint64_t seed) {
  Random random(seed);
  const auto chance = [&](unsigned in_hundred) { return random.below(100) < in_hundred; };
  const auto one_of = [&](std::initializer_list<std::uint64_t> values) {
    return static_cast<std::uint32_t>(values.begin()[random.below(values.size())]);
  };
  Scenario made{.seed = seed};
  made.shards = one_of({1, 2, 2, 3});
  made.messages = one_of({5, 20, 40, 60});
  made.connections_per_path = one_of({1, 2, 3, 4, 8});
  made.receive_buffers = one_of({4, 16, 64});
  made.receive_buffer_bytes = one_of({256, 1024, 4096});
  made.segment_bytes = one_of({2u << 20, 4u << 20});
  made.content_max = one_of({10'000, 60'000, 150'000});
  made.mailbox_letters = one_of({1, 2, 8, 128});
  made.little_memory = chance(10);
  made.network_trouble = chance(50);
  made.disorder = chance(70);
  made.rude_clients = chance(50);
  made.moody_hops = chance(60);
  made.moody_dns = chance(30);
  made.slow_disk = chance(30);
  made.crashes = chance(50) ? 1 + static_cast<std::uint32_t>(random.below(5)) : 0;
  made.power_cuts = chance(70);
  made.write_errors = chance(6);
  made.full_disk = chance(8);
  made.flipped_bits = chance(8);
  made.wall_steps = chance(15);
  made.few_descriptors = chance(10);
  made.page_cache = chance(10);
  made.dead_hop = chance(15);
  made.stops = chance(35) ? 1 + static_cast<std::uint32_t>(random.below(3)) : 0;
  made.other_shards = chance(50);
  made.reloads = chance(20) ? 1 + static_cast<std::uint32_t>(random.below(3)) : 0;
  // Many segments' worth of mail, so that they are recycled and compacted while something old still waits.
  if (chance(15)) {
    made.messages = 150;
    made.content_max = 240'000;
    made.shards = 1;
    // Below what the configuration allows, else all that a run has time for fills four or five. A record still holds
    // what arrived since the last streamed chunk: 64 KiB and a receive buffer.
    made.segment_bytes = 1280u << 10;
    made.dead_hop = true;
    made.stops = std::max(made.stops, 1u);
    // Mostly in fair weather: then all segments but the oldest, where mail for the dead site lies, are dead in no time.
    if (chance(70)) {
      made.network_trouble = made.moody_hops = made.moody_dns = made.rude_clients = false;
      made.slow_disk = made.full_disk = made.few_descriptors = false;
      made.stops = 1;
    }
    made.little_memory = chance(40);
  }
  made.tls = chance(50);
  made.hop_tls = chance(50);
  made.lmtp = chance(50);
  made.callouts = chance(40);
  return made;
}

std::string Scenario::to_text() const {
  std::string text = std::to_string(shards) + " shards, " + std::to_string(messages) + " messages, limit " +
                     std::to_string(connections_per_path) + ", buffers " + std::to_string(receive_buffers) + "×" +
                     std::to_string(receive_buffer_bytes) + ", segments " + std::to_string(segment_bytes >> 10) +
                     "K, mailboxes of " + std::to_string(mailbox_letters) + ", " + std::to_string(crashes) +
                     " crashes, " + std::to_string(stops) + " stops, " + std::to_string(reloads) + " reloads";
  const std::pair<bool, const char*> features[] = {{other_shards && crashes + stops > 0, "other numbers of shards"},
                                                   {power_cuts && crashes > 0, "power cuts"},
                                                   {network_trouble, "network trouble"},
                                                   {disorder, "disorder"},
                                                   {rude_clients, "rude clients"},
                                                   {moody_hops, "moody hops"},
                                                   {moody_dns, "moody DNS"},
                                                   {slow_disk, "slow disk"},
                                                   {write_errors, "write errors"},
                                                   {full_disk, "full disk"},
                                                   {flipped_bits, "flipped bits"},
                                                   {wall_steps, "wall-clock steps"},
                                                   {few_descriptors, "few descriptors"},
                                                   {little_memory, "little memory"},
                                                   {page_cache, "page cache"},
                                                   {dead_hop, "dead hop"},
                                                   {tls, "TLS"},
                                                   {hop_tls, "TLS with next hops"},
                                                   {lmtp, "LMTP"},
                                                   {callouts, "callouts"}};
  for (const auto& [on, name] : features) {
    if (on) text.append(", ").append(name);
  }
  return text;
}

std::vector<Scenario> Scenario::simpler() const {
  std::vector<Scenario> made;
  const auto with = [&](auto change) {
    Scenario other = *this;
    change(other);
    if (!(other == *this)) made.push_back(other);
  };
  with([](Scenario& s) { s.crashes = 0; });
  with([](Scenario& s) { s.crashes = s.crashes > 1 ? 1 : s.crashes; });
  with([](Scenario& s) { s.stops = s.stops > 1 ? 1 : 0; });
  with([](Scenario& s) { s.reloads = s.reloads > 1 ? 1 : 0; });
  for (bool Scenario::* feature : {&Scenario::other_shards,
                                   &Scenario::power_cuts,
                                   &Scenario::network_trouble,
                                   &Scenario::disorder,
                                   &Scenario::rude_clients,
                                   &Scenario::moody_hops,
                                   &Scenario::moody_dns,
                                   &Scenario::slow_disk,
                                   &Scenario::write_errors,
                                   &Scenario::full_disk,
                                   &Scenario::flipped_bits,
                                   &Scenario::wall_steps,
                                   &Scenario::few_descriptors,
                                   &Scenario::little_memory,
                                   &Scenario::page_cache,
                                   &Scenario::dead_hop,
                                   &Scenario::tls,
                                   &Scenario::hop_tls,
                                   &Scenario::lmtp,
                                   &Scenario::callouts}) {
    with([&](Scenario& s) { s.*feature = false; });
  }
  with([](Scenario& s) { s.messages = s.messages / 2; });
  with([](Scenario& s) { s.shards = 1; });
  with([](Scenario& s) { s.content_max = 300; });
  with([](Scenario& s) { s.mailbox_letters = 128; });
  with([](Scenario& s) { s.receive_buffers = 64; });
  with([](Scenario& s) { s.receive_buffer_bytes = 4096; });
  std::erase_if(made, [](const Scenario& s) { return s.messages == 0; });
  return made;
}

Outcome run(const Scenario& scenario, const std::function<void(std::string_view)>& trace) {
  // Kept until the process ends when the run left shards behind that cannot be taken down.
  return Run(scenario, trace).go();
}

}  // namespace postern::sim
