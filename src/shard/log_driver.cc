#include "shard/log_driver.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>

namespace postern::shard {
namespace {

constexpr std::size_t zero_bytes = 1u << 20;
constexpr Duration space_interval = std::chrono::seconds(1);
constexpr Duration making_alarm_interval = std::chrono::minutes(1);
// Of the messages that the start could not read; of the others it says how many they are.
constexpr std::size_t unreadable_told_max = 10;
// Messages replayed in one turn, at about 5 µs each: a quarter of the turns' time, or a millisecond where they are
// short.
constexpr std::int64_t replayed_per_millisecond = 50, replayed_min = 256, replayed_max = 4096;

Status failure(std::int32_t result, std::string_view what) {
  const StatusCode code = result == -ENOENT   ? StatusCode::kNotFound
                          : result == -ENOSPC ? StatusCode::kResourceExhausted
                                              : StatusCode::kUnavailable;
  return error(code, std::string(what) + ": " + std::strerror(-result));
}

Status read_status(const io::Completion& completion, std::uint64_t asked) {
  if (completion.result < 0) return failure(completion.result, "reading the spool");
  if (static_cast<std::uint64_t>(completion.result) < asked) {
    return error(StatusCode::kDataLoss, "the segment file ends early");
  }
  return OkStatus();
}

// Shared by all drivers of the process: only ever read.
Bytes zeros() {
  static const spool::AlignedBuffer buffer = [] {
    spool::AlignedBuffer made(zero_bytes);
    std::memset(made.data(), 0, made.size());
    return made;
  }();
  return buffer.first(zero_bytes);
}

}  // namespace

LogDriver::LogDriver(const Setup& setup) : setup_(setup), directory_path_(path_of(spool::log_directory(setup.log))) {}

LogDriver::~LogDriver() = default;

io::Token LogDriver::token(Use use) const {
  return {.slot = std::uint32_t{setup_.index} << 24 | static_cast<std::uint32_t>(use),
          .generation = 1,
          .kind = setup_.kind};
}

// --- start-up --------------------------------------------------------------------------------------------------------

void LogDriver::start() {
  request_ = {.kind = io::FileRequest::Kind::list_directory, .path = directory_path_.c_str()};
  request_.names_out = &names_;
  phase_ = Phase::listing;
  ++pending_;
  setup_.loop.file(request_, token(Use::start));
}

void LogDriver::on_start(const io::Completion& completion) {
  if (phase_ == Phase::listing) {
    if (completion.result < 0 && completion.result != -ENOENT) {
      return unusable(failure(completion.result, directory_path_));
    }
    directory_made_ = completion.result >= 0;
    phase_ = Phase::sizing;
    return size_next();
  }
  if (completion.result < 0) return unusable(failure(completion.result, path_));
  slots_.push_back({*spool::parse_slot_name(names_[name_]), size_});
  ++name_;
  size_next();
}

void LogDriver::size_next() {
  while (name_ < names_.size() && !spool::parse_slot_name(names_[name_])) {
    setup_.user.on_log_alarm(*this,
                             directory_path_ + "/" + names_[name_] +
                                 (spool::is_damaged_name(names_[name_])
                                      ? ": holds records of mail that could not be read; see to it, then remove it"
                                      : ": not a segment file; left alone"));
    ++name_;
  }
  if (name_ == names_.size()) {
    phase_ = Phase::recovering;
    recovery_ = std::make_unique<spool::Recovery>(setup_.log, setup_.options, std::move(slots_));
    return recover();
  }
  path_ = directory_path_ + "/" + names_[name_];
  request_ = {.kind = io::FileRequest::Kind::file_size, .path = path_.c_str()};
  request_.size_out = &size_;
  ++pending_;
  setup_.loop.file(request_, token(Use::start));
}

void LogDriver::recover() {
  while (!recovery_->done()) {
    const std::optional<spool::ReadIntent> intent = recovery_->take_read();
    if (!intent) return;  // one is under way
    const StatusOr<OpenFilePtr> opened = file(intent->slot);
    if (!opened.ok()) {
      // A device that fails here is damage, to be worked around. For want of descriptors, memory or rights nothing is
      // said of the file: a start that took it for lost would deliver again what is settled there.
      const StatusCode code = opened.status().code();
      if (code == StatusCode::kResourceExhausted || code == StatusCode::kPermissionDenied) {
        return unusable(opened.status());
      }
      recovery_->on_read(opened.status());
      continue;
    }
    ++pending_;
    recovery_asked_ = intent->target.size();
    recovery_file_ = *opened;
    setup_.loop.log_read(recovery_file_->file, intent->target, intent->offset, token(Use::recovery));
    return;
  }
  if (!recovery_->status().ok()) return unusable(recovery_->status());
  become_ready();
}

void LogDriver::become_ready() {
  log_ = std::make_unique<spool::Log>(setup_.options, recovery_->take_result());
  recovery_.reset();
  phase_ = Phase::running;
  for (const std::string& alarm : log_->recovery_report().alarms) setup_.user.on_log_alarm(*this, alarm);
  setup_.user.on_log_ready(*this);
}

void LogDriver::unusable(const Status& status) {
  phase_ = Phase::unusable;
  setup_.user.on_log_unusable(*this, status);
}

StatusOr<LogDriver::OpenFilePtr> LogDriver::file(spool::Slot slot) {
  if (const auto known = files_.find(slot.value); known != files_.end()) return known->second;
  const std::string path = path_of(spool::slot_path(setup_.log, slot));
  const StatusOr<io::Loop::LogFile> opened =
      setup_.loop.open_log(path.c_str(), setup_.synced && !POSTERN_PLANTED(ack_before_sync));
  if (!opened.ok()) return opened.status();
  if (!opened->direct && setup_.synced && !setup_.said_buffered.exchange(true)) {
    setup_.user.on_log_alarm(*this,
                             path +
                                 ": the file system refuses O_DIRECT; using buffered writes and fdatasync, which "
                                 "cost several times as much");
  }
  return files_.emplace(slot.value, std::make_shared<const OpenFile>(setup_.loop, *opened)).first->second;
}

void LogDriver::begin_replay() {
  replay_ = std::make_unique<spool::Replay>(*log_);
  replay_pumped_at_ = setup_.loop.now();
}

// A bounded number a turn, as new mail is served meanwhile; in proportion to what the turns take, so that the queue is
// complete in time although much else is done.
void LogDriver::pump_replay(Instant now) {
  const auto turn = std::chrono::floor<std::chrono::microseconds>(now - std::exchange(replay_pumped_at_, now)).count();
  auto left = std::clamp<std::int64_t>(turn * replayed_per_millisecond / 1000, replayed_min, replayed_max);
  replay_waits_ = false;
  for (; left > 0; --left) {
    const std::optional<spool::ReplayedMessage> message = replay_->take_message();
    if (replay_->done()) return end_replay();
    if (!message) break;
    setup_.user.on_replayed(*this, *message);
  }
  while (const std::optional<spool::Replay::Read> read = replay_->take_read()) read_for_replay(*read);
  replay_waits_ = left > 0 && replay_reads_ > 0;
}

void LogDriver::end_replay() {
  const std::vector<spool::Replay::Unreadable>& unreadable = replay_->unreadable();
  setup_.metrics.spool_messages_quarantined.add(unreadable.size());
  for (std::size_t told = 0; told < std::min(unreadable.size(), unreadable_told_max); ++told) {
    setup_.user.on_log_alarm(
        *this, "message " + unreadable[told].id.to_string() +
                   " cannot be read and stays in the spool: " + std::string(message_of(unreadable[told].status)));
  }
  if (unreadable.size() > unreadable_told_max) {
    setup_.user.on_log_alarm(*this, std::to_string(unreadable.size() - unreadable_told_max) +
                                        " more messages cannot be read and stay in the spool: " +
                                        std::string(message_of(unreadable.back().status)));
  }
  if (!unreadable.empty()) {
    setup_.user.on_log_alarm(*this,
                             "what is left of messages that cannot be read is saved by: postern-spool export "
                             "--all --include-damaged --data-dir " +
                                 setup_.data_dir + " TO");
  }
  replay_.reset();
  setup_.user.on_replay_done(*this);
}

void LogDriver::read_for_replay(const spool::Replay::Read& read) {
  const StatusOr<OpenFilePtr> opened = file(read.intent.slot);
  if (!opened.ok()) return replay_->on_read(read.window, opened.status());
  ++pending_;
  ++replay_reads_;
  replay_asked_.at(read.window) = read.intent.target.size();
  io::Token name = token(Use::first_replay_read);
  name.slot += read.window;
  replay_files_.at(read.window) = *opened;
  setup_.loop.log_read((*opened)->file, read.intent.target, read.intent.offset, name);
}

void LogDriver::compact(const spool::ReadIntent& intent) {
  const StatusOr<OpenFilePtr> opened = file(intent.slot);
  if (!opened.ok()) return log_->on_compaction_read(opened.status(), setup_.loop.now());
  ++pending_;
  compaction_file_ = *opened;
  compaction_asked_ = intent.target.size();
  setup_.loop.log_read(compaction_file_->file, intent.target, intent.offset, token(Use::compaction));
}

// --- every turn ------------------------------------------------------------------------------------------------------

void LogDriver::turn(Instant now, bool more_is_coming) {
  if (!log_) return;
  while (log_->wants_key()) {
    spool::SegmentKey key;
    setup_.loop.random(key);
    log_->add_key(key);
  }
  if (making_ == Making::idle && !stopping_) {
    if (std::optional<spool::SlotRequest> wanted = log_->take_slot_request()) {
      wanted_ = std::move(*wanted);
      making_path_ = path_of(wanted_.path);
      if (tail_ == wanted_.slot) tail_.reset();
      files_.erase(wanted_.slot.value);
      switch (wanted_.kind) {
        case spool::SlotRequest::Kind::remove:
          make(Making::remove);
          break;
        case spool::SlotRequest::Kind::set_aside:
          making_new_path_ = path_of(wanted_.new_path);
          make(Making::set_aside);
          break;
        case spool::SlotRequest::Kind::create:
          make(directory_made_ ? Making::create : Making::directory);
          break;
      }
    }
  }
  write_next(now, more_is_coming);
  if (replay_ && !stopping_) {
    pump_replay(now);
  } else if (compaction_file_ == nullptr && !stopping_) {
    if (const std::optional<spool::ReadIntent> intent = log_->take_compaction_read(now)) {
      compact(*intent);
    }
  }
  issue_reads();
  if (now >= next_space_ && !space_asked_ && !stopping_) {
    space_asked_ = true;
    next_space_ = now + space_interval;
    space_request_ = {.kind = io::FileRequest::Kind::space, .path = setup_.data_dir.c_str()};
    space_request_.space_out = &space_;
    ++pending_;
    setup_.loop.file(space_request_, token(Use::space));
  }
  say_alarms(now);
}

void LogDriver::say_alarms(Instant now) {
  for (const std::string& alarm : log_->take_alarms()) {
    if (alarms_.admit(now, alarm)) setup_.user.on_log_alarm(*this, alarm);
  }
  if (alarms_.next_deadline() > (stopping_ ? never : now)) return;
  if (const std::optional<AlarmLimit::Rest> rest = alarms_.take_rest(never)) {
    setup_.user.on_log_alarm(
        *this, directory_path_ + ": " + std::to_string(rest->count) + " more alarms; the last one: " + rest->reason);
  }
}

Instant LogDriver::next_deadline() const {
  if (!log_) return never;
  return std::min(next_step(), alarms_.next_deadline());
}

Instant LogDriver::next_step() const {
  if (replay_ != nullptr && !stopping_) {
    // Its next read or message is due unless a read is under way, whose completion wakes the loop.
    return replay_waits_ ? log_->next_deadline() : Instant::min();
  }
  return stopping_ ? log_->next_deadline() : std::min(log_->next_deadline(), space_asked_ ? never : next_space_);
}

void LogDriver::write_next(Instant now, bool more_is_coming) {
  if (write_file_ != nullptr) return;
  const std::optional<spool::WriteIntent> intent = log_->take_write(now, more_is_coming);
  if (!intent) return;
  const StatusOr<OpenFilePtr> opened = file(intent->slot);
  if (!opened.ok()) {
    log_->on_written(opened.status(), now);
    after_write();
    return;
  }
  tail_ = intent->slot;
  write_file_ = *opened;
  write_bytes_ = intent->data.size();
  write_began_ = now;
  ++pending_;
  setup_.loop.durable_write(write_file_->file, intent->data, intent->offset, token(Use::write));
}

void LogDriver::on_write(const io::Completion& completion) {
  const Instant now = setup_.loop.now();
  write_file_.reset();
  setup_.metrics.spool_write_seconds.observe(now - write_began_);
  if (completion.result < 0) {
    log_->on_written(failure(completion.result, "writing the spool log " + directory_path_), now);
  } else if (static_cast<std::size_t>(completion.result) != write_bytes_) {
    log_->on_written(error(StatusCode::kUnavailable, "writing the spool log " + directory_path_ + ": short write"),
                     now);
  } else {
    log_->on_written(OkStatus(), now);
  }
  after_write();
}

void LogDriver::after_write() {
  const spool::Log::Figures& figures = log_->figures();
  setup_.metrics.spool_batches.add(figures.batches - std::exchange(batches_seen_, figures.batches));
  setup_.metrics.spool_bytes.add(figures.bytes_written - std::exchange(bytes_seen_, figures.bytes_written));
  for (const spool::Ticket ticket : log_->take_durable()) {
    if (ticket.value != 0) setup_.user.on_durable(*this, ticket);
  }
  for (const spool::Moved& moved : log_->take_moved()) setup_.user.on_moved(*this, moved);
  if (log_->failed()) {
    for (const spool::Ticket ticket : log_->take_undone()) {
      if (ticket.value != 0) setup_.user.on_undone(*this, ticket);
    }
    if (!std::exchange(said_failed_, true)) setup_.user.on_log_failed(*this, log_->failure());
    return;
  }
  setup_.user.on_log_room(*this);
}

void LogDriver::on_completion(const io::Completion& completion) {
  --pending_;
  const std::uint32_t name = completion.token.slot & 0xFF'FFFF;
  if (name >= static_cast<std::uint32_t>(Use::first_read)) {
    return on_read(name - static_cast<std::uint32_t>(Use::first_read), completion);
  }
  if (name >= static_cast<std::uint32_t>(Use::first_replay_read)) {
    const auto window = static_cast<unsigned>(name - static_cast<std::uint32_t>(Use::first_replay_read));
    --replay_reads_;
    replay_waits_ = false;
    replay_files_.at(window).reset();
    return replay_->on_read(window, read_status(completion, replay_asked_.at(window)));
  }
  switch (static_cast<Use>(name)) {
    case Use::start:
      return on_start(completion);
    case Use::recovery:
      recovery_file_.reset();
      recovery_->on_read(read_status(completion, recovery_asked_));
      return recover();
    case Use::write:
      return on_write(completion);
    case Use::making:
      return on_making(completion);
    case Use::compaction:
      compaction_file_.reset();
      log_->on_compaction_read(read_status(completion, compaction_asked_), setup_.loop.now());
      return;
    case Use::space:
      if (completion.result >= 0) log_->on_space(space_.free_bytes);
      look_for_folder();
      setup_.user.on_log_room(*this);
      return;
    case Use::folder:
    case Use::listed:
      return on_folder_seen(completion.result);
    case Use::first_replay_read:
    case Use::first_read:
      break;
  }
}

// --- is it still there? ----------------------------------------------------------------------------------------------

void LogDriver::look_for_folder() {
  if (!directory_made_ || stopping_) {
    space_asked_ = false;
    return;
  }
  identity_request_ = {.kind = io::FileRequest::Kind::identity, .path = directory_path_.c_str()};
  identity_request_.identity_out = &identity_;
  ++pending_;
  setup_.loop.file(identity_request_, token(Use::folder));
}

void LogDriver::on_folder_seen(std::int32_t result) {
  // The backend was too busy to look; it says nothing of the folder.
  if (result == -EAGAIN || result == -ECANCELED || result == -ENOMEM) {
    space_asked_ = false;
    return;
  }
  const bool of_folder = identity_request_.path == directory_path_.c_str();
  if (of_folder && result == 0) {
    if (!folder_) folder_ = identity_;
    if (*folder_ != identity_) return end_look(directory_path_ + " is not the folder that it was");
    if (tail_ && !stopping_) {
      looked_for_ = file_to_look_for();
      looked_for_path_ = path_of(spool::slot_path(setup_.log, looked_for_));
      identity_request_.path = looked_for_path_.c_str();
      ++pending_;
      setup_.loop.file(identity_request_, token(Use::listed));
      return;
    }
  }
  // A file that was given up meanwhile may well be gone.
  if (result < 0 && !of_folder && !files_.contains(looked_for_.value)) result = 0;
  end_look(result == 0 ? std::string() : std::string(identity_request_.path) + ": " + std::strerror(-result));
}

// The file that is written to, and the others in turn: whoever removes them all may leave the one that is made next.
spool::Slot LogDriver::file_to_look_for() {
  if (folder_gone_ && files_.contains(looked_for_.value)) return looked_for_;
  looked_for_tail_ = !looked_for_tail_;
  if (looked_for_tail_) return *tail_;
  auto next = files_.upper_bound(last_in_turn_.value);
  if (next == files_.end()) next = files_.begin();
  if (next == files_.end()) return *tail_;
  last_in_turn_ = spool::Slot{next->first};
  return last_in_turn_;
}

// `trouble`: none, or what is wrong.
void LogDriver::end_look(std::string_view trouble) {
  space_asked_ = false;
  if (folder_gone_ == !trouble.empty()) return;
  folder_gone_ = !trouble.empty();
  log_->on_folder(!folder_gone_);
  if (folder_gone_) {
    setup_.user.on_log_alarm(
        *this, "the spool is no longer where it was: " + std::string(trouble) +
                   "; new mail is answered 452. What waits is delivered as far as its files are open, and what does "
                   "not get away before the stop may be lost: put the folder back, or mount its file system again");
    return;
  }
  setup_.user.on_log_alarm(*this, directory_path_ + " is there again: mail is accepted");
  setup_.user.on_log_room(*this);
}

// --- segment files ---------------------------------------------------------------------------------------------------

void LogDriver::make(Making step) {
  using Kind = io::FileRequest::Kind;
  making_ = step;
  making_request_ = {};
  switch (step) {
    case Making::directory:
      making_request_ = {.kind = Kind::make_directory, .path = directory_path_.c_str(), .mode = 0700};
      break;
    case Making::parent_open:
      path_ = setup_.data_dir + "/logs";
      making_request_ = {.kind = Kind::open, .path = path_.c_str(), .open_flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC};
      break;
    case Making::create:
      making_request_ = {.kind = Kind::open,
                         .path = making_path_.c_str(),
                         .open_flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC,
                         .mode = 0600};
      break;
    case Making::allocate:
      making_request_ = {.kind = Kind::allocate, .descriptor = making_file_, .length = wanted_.bytes};
      break;
    case Making::zero:
      making_request_ = {.kind = Kind::write,
                         .descriptor = making_file_,
                         .data = zeros().first(std::min<std::uint64_t>(zero_bytes, wanted_.bytes - zeroed_)),
                         .offset = zeroed_};
      break;
    case Making::parent_sync:
    case Making::sync:
    case Making::directory_sync:
      making_request_ = {.kind = Kind::sync, .descriptor = making_file_};
      break;
    case Making::parent_close:
    case Making::close:
    case Making::directory_close:
      making_request_ = {.kind = Kind::close, .descriptor = making_file_};
      break;
    case Making::directory_open:
      making_request_ = {
          .kind = Kind::open, .path = directory_path_.c_str(), .open_flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC};
      break;
    case Making::remove:
      making_request_ = {.kind = Kind::unlink, .path = making_path_.c_str()};
      break;
    case Making::set_aside:
      making_request_ = {.kind = Kind::rename, .path = making_path_.c_str(), .other_path = making_new_path_.c_str()};
      break;
    case Making::idle:
      return;
  }
  ++pending_;
  setup_.loop.file(making_request_, token(Use::making));
}

void LogDriver::on_making(const io::Completion& completion) {
  const std::int32_t result = completion.result;
  if (result < 0 && !(making_ == Making::directory && result == -EEXIST) &&
      !(making_ == Making::remove && result == -ENOENT)) {
    const bool holds_file = making_ == Making::allocate || making_ == Making::zero || making_ == Making::sync ||
                            making_ == Making::parent_sync || making_ == Making::directory_sync;
    if (holds_file) setup_.loop.close(std::exchange(making_file_, -1));
    return making_done(failure(result, making_path_));
  }
  switch (making_) {
    case Making::directory:
      return make(Making::parent_open);
    case Making::parent_open:
      making_file_ = result;
      return make(Making::parent_sync);
    case Making::parent_sync:
      return make(Making::parent_close);
    case Making::parent_close:
      making_file_ = -1;
      directory_made_ = true;
      return make(Making::create);
    case Making::create:
      making_file_ = result;
      zeroed_ = 0;
      return make(Making::allocate);
    case Making::allocate:
      return make(Making::zero);
    case Making::zero:
      zeroed_ += static_cast<std::uint64_t>(result);
      return make(zeroed_ < wanted_.bytes ? Making::zero : Making::sync);
    case Making::sync:
      return make(Making::close);
    case Making::set_aside:
      setup_.user.on_log_alarm(*this, making_new_path_ + ": set aside, as it holds records that could not be read");
      return make(Making::directory_open);
    case Making::close:
      making_file_ = -1;
      return make(Making::directory_open);
    case Making::directory_open:
      making_file_ = result;
      return make(Making::directory_sync);
    case Making::directory_sync:
      return make(Making::directory_close);
    case Making::directory_close:
      making_file_ = -1;
      if (wanted_.kind == spool::SlotRequest::Kind::set_aside) return making_done(OkStatus());
      return making_done(file(wanted_.slot).status());
    case Making::remove:
      return making_done(OkStatus());
    case Making::idle:
      break;
  }
}

void LogDriver::making_done(const Status& status) {
  making_ = Making::idle;
  const Instant now = setup_.loop.now();
  if (!status.ok() && now >= making_alarm_due_) {
    making_alarm_due_ = now + making_alarm_interval;  // it is tried every second
    setup_.user.on_log_alarm(
        *this, (wanted_.kind == spool::SlotRequest::Kind::create ? "a spool segment could not be made: "
                                                                 : "a spool segment could not be put away: ") +
                   std::string(message_of(status)));
  }
  log_->on_slot_done(wanted_.slot, status);
  if (!folder_) next_space_ = now;  // it is there by now: seen at once, to be known again
  setup_.user.on_log_room(*this);
}

// --- reads for deliveries --------------------------------------------------------------------------------------------

void LogDriver::read_message(mail::Location location, ReadUser& user, std::uint64_t cookie) {
  auto read = std::make_unique<Read>();
  read->user = &user;
  read->cookie = cookie;
  read->location = location;
  ask(std::move(read));
}

void LogDriver::read_chunk(const spool::Extent& extent, std::size_t index, ReadUser& user, std::uint64_t cookie) {
  auto read = std::make_unique<Read>();
  read->user = &user;
  read->cookie = cookie;
  read->what = Read::What::chunk;
  read->extent = extent;
  read->index = index;
  ask(std::move(read));
}

void LogDriver::read_state(mail::Location location, mail::QueueId id, std::uint16_t recipient, ReadUser& user,
                           std::uint64_t cookie) {
  auto read = std::make_unique<Read>();
  read->what = Read::What::state;
  read->location = location;
  read->user = &user;
  read->cookie = cookie;
  read->id = id;
  read->recipient = recipient;
  ask(std::move(read));
}

void LogDriver::ask(std::unique_ptr<Read> read) {
  if (free_reads_.empty()) {
    free_reads_.push_back(reads_.size());
    reads_.emplace_back();
  }
  const std::size_t place = free_reads_.back();
  free_reads_.pop_back();
  reads_[place] = std::move(read);
  waiting_reads_.push_back(place);
}

StatusOr<spool::ReadRange> LogDriver::plan(const Read& read) const {
  switch (read.what) {
    case Read::What::message:
      return log_->read_plan(read.location);
    case Read::What::chunk:
      return log_->read_plan(read.extent);
    case Read::What::state:
      return log_->read_plan(read.location, read.recipient);
  }
  return error(StatusCode::kInternal, "no such read");
}

void LogDriver::issue_reads() {
  while (!waiting_reads_.empty() && reads_issued_ < reads_max) {
    const std::size_t place = waiting_reads_.front();
    waiting_reads_.pop_front();
    Read& read = *reads_[place];
    const StatusOr<spool::ReadRange> range = plan(read);
    const StatusOr<OpenFilePtr> opened = range.ok() ? file(range->slot) : range.status();
    if (!opened.ok()) {
      tell(place, opened.status());
      continue;
    }
    read.range = *range;
    read.buffer = spool::AlignedBuffer(range->bytes);
    ++reads_issued_;
    ++pending_;
    io::Token name = token(Use::first_read);
    name.slot += static_cast<std::uint32_t>(place);
    read.file = *opened;
    setup_.loop.log_read(read.file->file, read.buffer.bytes(), range->offset, name);
  }
}

void LogDriver::on_read(std::size_t place, const io::Completion& completion) {
  --reads_issued_;
  Read& read = *reads_[place];
  tell(place, read_status(completion, read.range.bytes));
}

// Ends one read: what was asked for, decoded, or why not.
void LogDriver::tell(std::size_t place, const Status& status) {
  const std::unique_ptr<Read> read = std::move(reads_[place]);
  free_reads_.push_back(place);
  const Bytes range = read->buffer.size() > 0 ? read->buffer.first(read->range.bytes) : Bytes{};
  switch (read->what) {
    case Read::What::message:
      return read->user->on_message_read(read->cookie, status.ok() ? log_->decode_message(read->location, range)
                                                                   : StatusOr<spool::MessageView>(status));
    case Read::What::chunk:
      return read->user->on_chunk_read(
          read->cookie, status.ok() ? log_->decode_chunk(read->extent, read->index, range) : StatusOr<Bytes>(status));
    case Read::What::state:
      return read->user->on_state_read(
          read->cookie,
          status.ok() ? log_->decode_state(read->location, read->id, read->recipient, range) : StatusOr<Bytes>(status));
  }
}

void LogDriver::stop_waiting() {
  stopping_ = true;
  if (log_) log_->stop_waiting();
}

bool LogDriver::idle() const {
  return pending_ == 0 && (!log_ || log_->idle() || log_->failed());
}

}  // namespace postern::shard
