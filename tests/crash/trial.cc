#include "tests/crash/trial.h"

#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include <postern/base/check.h>

#include "io/sim/world.h"
#include "tests/sim/next_hop.h"
#include "tests/sim/oracle.h"
#include "tests/sim/relay.h"

namespace postern::crash {
namespace {

using namespace std::chrono_literals;

// A settlement may wait some 20 ms for company, and the recording machine may be a busy one.
constexpr Duration unsettled_max = 2s;
constexpr Duration drain_max = 30min;

void sync_folder(io::sim::Disk& disk, const std::string& path) {
  io::sim::FilePtr folder;
  POSTERN_CHECK(disk.open(path, O_RDONLY, folder) == 0 && disk.sync(*folder) == 0);
}

std::string parent_of(const std::string& path) {
  return path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
}

void make_folder(io::sim::Disk& disk, const std::string& path) {
  if (disk.find(path) != nullptr) return;
  make_folder(disk, parent_of(path));
  POSTERN_CHECK(disk.make_directory(path) == 0);
  sync_folder(disk, parent_of(path));
}

class Trial {
 public:
  Trial(const Image& image, const Manifest& manifest, const Evidence& evidence, std::uint64_t seed);
  Verdict go();

 private:
  [[nodiscard]] static io::sim::World::Options world_options(const Evidence& evidence, std::uint64_t seed);
  void make_disk(const Image& image);
  void remember();
  void start();
  void restart();
  void read_maildirs();
  [[nodiscard]] bool drained() const;

  const Manifest& manifest_;
  const Evidence& evidence_;
  io::sim::World world_;
  sim::Oracle oracle_;
  std::shared_ptr<shard::Options> options_;
  std::unique_ptr<sim::NextHop> next_hop_;
  std::unique_ptr<sim::Relay> relay_;
  std::map<std::string, std::string> box_recipients_;  // by sender
};

io::sim::World::Options Trial::world_options(const Evidence& evidence, std::uint64_t seed) {
  io::sim::World::Options made{.seed = seed, .stepped = true};
  made.start = Instant(std::chrono::hours(1));
  made.wall_start = evidence.now();
  return made;
}

Trial::Trial(const Image& image, const Manifest& manifest, const Evidence& evidence, std::uint64_t seed)
    : manifest_(manifest),
      evidence_(evidence),
      world_(world_options(evidence, seed)),
      options_(std::make_shared<shard::Options>()) {
  oracle_.rules.unsettled_max = unsettled_max;
  make_disk(image);
  remember();
  next_hop_ =
      std::make_unique<sim::NextHop>(world_, oracle_, *io::Address::parse("10.1.0.1:25"), sim::NextHop::Features{});
  options_->hostname = "mx.relay.test";
  options_->data_dir = manifest.data;
  options_->shards = 1 + static_cast<std::uint32_t>(world_.random().below(3));
  options_->memory_bytes = 64u << 20;
  options_->spool.segment_bytes = manifest.segment_bytes;
  options_->spool.min_free_bytes = 4u << 20;
  options_->routes = {{.match = "maildir.test", .via = "maildir:" + manifest.mail + "/{local}", .line = 1},
                      {.match = "box.test", .via = "maildir:" + manifest.mail + "/box", .line = 2},
                      {.match = "*", .via = "smtp:[10.1.0.1]:25", .line = 3}};
  shard::ListenerOptions listener;
  listener.text = "10.0.0.1:25";
  listener.address = *io::Address::parse(listener.text);
  options_->listeners = {listener};
  options_->retry.schedule = {1s, 5s, 30s};
  options_->retry.give_up_after = 1h;
  options_->dns.servers = {{.address = *IpAddress::parse("10.3.0.1"), .port = 53}};
}

void Trial::make_disk(const Image& image) {
  io::sim::Disk& disk = world_.disk();
  make_folder(disk, manifest_.data + "/logs");
  make_folder(disk, manifest_.mail);
  for (const auto& [path, file] : image) {
    // What lies in a folder that the crash took is gone with it.
    if (disk.find(parent_of(path)) == nullptr) continue;
    if (file.directory) {
      make_folder(disk, path);
      continue;
    }
    io::sim::FilePtr made;
    POSTERN_CHECK(disk.open(path, O_CREAT | O_WRONLY, made) == 0);
    POSTERN_CHECK(disk.write(*made, file.bytes, 0, true) == static_cast<std::int32_t>(file.bytes.size()));
    sync_folder(disk, parent_of(path));
  }
}

// Tells the oracle what happened before the crash.
void Trial::remember() {
  std::map<std::string, std::pair<std::string, std::string>> by_recipient;  // sender, content
  for (const Sent& sent : manifest_.sent) {
    sim::Mail& mail = oracle_.add(sent.sender, sent.content, sent.recipients);
    for (const std::string& recipient : sent.recipients) {
      by_recipient[recipient] = {sent.sender, sent.content};
      if (recipient.starts_with("bad")) oracle_.on_refused(recipient);
      if (recipient.ends_with("@box.test")) box_recipients_[sent.sender] = recipient;
    }
    for (sim::Rcpt& recipient : mail.recipients) {
      recipient.accepted = true;
      const auto reported = evidence_.reported().find(recipient.address);
      if (reported != evidence_.reported().end()) recipient.reports = reported->second;
    }
    const bool promised = !sent.queue_id.empty() && evidence_.acknowledged().contains(sent.queue_id);
    oracle_.on_fate(mail, promised ? sim::Mail::Fate::accepted : sim::Mail::Fate::unknown, sent.queue_id, world_.now());
  }
  for (const Evidence::Taken& taken : evidence_.taken()) {
    const auto& [sender, content] = by_recipient[taken.recipients.front()];
    const Instant at = world_.now() - (evidence_.now() - taken.at);
    oracle_.confirm(oracle_.on_delivered(sender, taken.recipients, "Received: before the crash\r\n" + content, at));
  }
  oracle_.on_crash(world_.now());
}

void Trial::start() {
  relay_ = std::make_unique<sim::Relay>(world_, options_, io::sim::LoopOptions{}, 128);
}

void Trial::restart() {
  relay_->abandon();
  world_.end_process();
  oracle_.on_crash(world_.now());
  start();
}

bool Trial::drained() const {
  return relay_->started() && relay_->waiting() == 0 && relay_->connections_out() == 0;
}

void Trial::read_maildirs() {
  for (const std::string& path : world_.disk().paths(manifest_.mail + "/")) {
    if (path.find("/new/") == std::string::npos) continue;
    const std::string_view text = as_text(world_.disk().find(path)->now);
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
    const std::string sender = content.substr(field.size(), content.find('>') - field.size());
    const std::string folder = path.substr(manifest_.mail.size() + 1, path.find("/new/") - manifest_.mail.size() - 1);
    const std::string recipient = folder == "box" ? box_recipients_[sender] : folder + "@maildir.test";
    oracle_.confirm(oracle_.on_delivered(sender, {recipient}, content, world_.now()));
  }
}

Verdict Trial::go() {
  Verdict verdict;
  const bool twice = world_.chance(33);
  start();
  if (twice) {
    world_.crash_at(1 + world_.random().below(1500), true);
    (void)world_.run(world_.now() + drain_max, [this] { return drained(); });
    const bool crashed = world_.crashed();
    world_.crash_at(0, false);
    if (crashed) restart();
  }
  (void)world_.run(world_.now() + 1min, [this] { return relay_->started(); });
  verdict.waiting = relay_->started() ? static_cast<std::size_t>(relay_->waiting()) : 0;
  const bool done = world_.run(world_.now() + drain_max, [this] { return drained(); });
  if (!relay_->start_failure().ok()) {
    oracle_.violation("the relay does not start: " + std::string(message_of(relay_->start_failure())));
  } else if (!done) {
    oracle_.violation("not drained: " + std::to_string(relay_->waiting()) + " recipients wait");
  }
  if (relay_->quarantined() != 0) {
    oracle_.violation(std::to_string(relay_->quarantined()) + " messages are quarantined");
  }
  for (const std::string& alarm : relay_->alarms()) oracle_.violation("alarm: " + alarm);
  read_maildirs();
  oracle_.judge(true, world_.now());
  if (const auto& breach = world_.first_breach()) oracle_.violation("breach of io::Loop's contract: " + *breach);
  verdict.violations = oracle_.violations();
  verdict.delivered = oracle_.counts().delivered;
  verdict.doubled = oracle_.counts().doubled;
  if (done && verdict.violations.empty()) {
    relay_->request_stop(1min);
    if (world_.run(world_.now() + 2min, [this] { return relay_->stopped(); }) && relay_->clean()) relay_->take_down();
  }
  next_hop_.reset();
  relay_->abandon();
  world_.end_process();
  return verdict;
}

}  // namespace

Verdict try_image(const Image& image, const Manifest& manifest, const Evidence& evidence, std::uint64_t seed) {
  return Trial(image, manifest, evidence, seed).go();
}

}  // namespace postern::crash
