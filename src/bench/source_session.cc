#include "bench/source_session.h"

#include <algorithm>
#include <utility>

namespace postern::bench {
namespace {

constexpr Duration connect_timeout = std::chrono::seconds(30);
constexpr Duration source_linger = std::chrono::seconds(2);
// One piece costs the kernel less than four; below this, making it one costs less than that.
constexpr std::size_t copied_bytes_max = 4096;

io::Slice slice_of(std::string_view text) {
  return {.data = reinterpret_cast<const std::byte*>(text.data()), .size = text.size()};
}

}  // namespace

SourceSession::SourceSession(Source& source, Instant now)
    : source_(source), session_(source.session_options_, now), timer_(*this) {}

void SourceSession::connect() {
  connected_ = lost_ = closing_ = quitting_ = begun_ = send_in_flight_ = false;
  messages_ = 0;
  if (!job_ && source_.finished(source_.engine_.loop->now())) return end();
  StatusOr<net::Connection*> connection =
      source_.engine_.connections.connect(source_.options_.target, {}, connect_timeout, *this);
  if (!connection.ok()) {
    source_.on_connection_failed(message_of(connection.status()));
    source_.engine_.timers.arm(timer_, source_.engine_.loop->now() + Source::reconnect_pause);
    return;
  }
  connection_ = *connection;
}

void SourceSession::end() {
  if (std::exchange(ended_, true)) return;
  timer_.cancel();
  --source_.sessions_open_;
}

void SourceSession::wake() {
  pump();
}

void SourceSession::leave_unused(Instant now) {
  if (!connected_ || closing_ || job_ || begun_ || session_.greeted()) return;
  session_.quit(now);
  pump();
}

void SourceSession::on_connected() {
  ++source_.counts_.connections;
  connected_ = true;
  session_.reset(source_.engine_.loop->now());
  pump();
}

std::size_t SourceSession::on_received(MutableBytes bytes) {
  session_.on_bytes(bytes, source_.engine_.loop->now());
  pump();
  return bytes.size();
}

void SourceSession::on_end_of_stream() {
  session_.on_connection_lost(source_.engine_.loop->now());
  pump();
}

void SourceSession::on_sent() {
  send_in_flight_ = false;
  pump();
}

void SourceSession::on_lost(const Status& status) {
  lost_ = true;
  send_in_flight_ = false;
  if (!connected_) {
    source_.on_connection_failed(message_of(status));
    closing_ = true;
    return;  // on_closed() follows
  }
  session_.on_connection_lost(source_.engine_.loop->now());
  pump();
  closing_ = true;
}

void SourceSession::on_closed() {
  const bool failed = !connected_ || !session_.greeted();
  connection_ = nullptr;
  timer_.cancel();
  std::erase(source_.idle_, this);
  if (source_.stopping_ && !begun_) job_.reset();
  if (!failed) return connect();
  source_.engine_.timers.arm(timer_, source_.engine_.loop->now() + Source::reconnect_pause);
}

void SourceSession::on_timer(Timer& /*timer*/, Instant now) {
  if (connection_ == nullptr) {
    if (source_.stopping_) job_.reset();
    return connect();
  }
  session_.on_deadline(now);
  pump();
}

// Carries everything that can go on, until the session waits for the relay or for a message to be due.
void SourceSession::pump() {
  if (pumping_ || closing_ || !connected_) return;
  pumping_ = true;
  using Want = smtp::ClientSession::Want;
  const Instant now = source_.engine_.loop->now();
  for (;;) {
    if (session_.has_result()) {
      take_result(now);
    } else if (session_.want() == Want::delivery && !begun_ && !quitting_) {
      if (!begin_next(now)) break;
    } else {
      if (!send_in_flight_ && !lost_) flush(now);
      if (!session_.has_result()) break;
    }
  }
  pumping_ = false;
  if (session_.want() == Want::close && !send_in_flight_ && (session_.output().empty() || lost_)) {
    if (!session_.greeted()) source_.on_connection_failed(session_.failure().to_log_text());
    closing_ = true;
    timer_.cancel();
    if (!lost_) connection_->close_orderly(source_linger);
  } else {
    source_.engine_.timers.arm(timer_, session_.next_deadline());
  }
}

// False: nothing is due now, and the session waits in the source's list.
bool SourceSession::begin_next(Instant now) {
  source_.failing_since_ = never;
  const std::uint32_t limit = source_.options_.messages_per_connection;
  if (!job_ && (limit == 0 || messages_ < limit)) job_ = source_.next_job(now);
  if (job_) {
    begin(now);
    return true;
  }
  if ((limit > 0 && messages_ >= limit) || source_.finished(now)) {
    quitting_ = true;
    session_.quit(now);
    return true;
  }
  source_.idle_.push_back(this);
  return false;
}

void SourceSession::begin(Instant now) {
  const ContentMaker& maker = source_.maker_;
  const std::uint32_t recipients = maker.options().recipients;
  size_index_ = source_.options_.sizes.draw(source_.random_);
  maker.make_header(header_, job_->message, size_index_);
  paths_text_.clear();
  paths_.clear();
  paths_text_.reserve(recipients * maker.recipient_bytes_max());  // the views below must stay valid
  for (std::uint32_t i = 0; i < recipients; ++i) {
    const std::size_t at = paths_text_.size();
    maker.append_recipient(paths_text_, {.message = job_->message, .index = i});
    paths_.push_back(std::string_view(paths_text_).substr(at));
  }
  begun_ = true;
  begun_at_ = now;
  ++messages_;
  mail::ContentFacts facts;
  facts.ends_with_crlf = true;
  facts.size = header_.size() + maker.body(size_index_).size();
  session_.begin({.reverse_path = maker.options().sender, .forward_paths = paths_, .content = facts}, now);
}

// Hands over the session's commands and, when it wants that, the content behind them, in one send.
void SourceSession::flush(Instant now) {
  slices_.clear();
  if (const Bytes output = session_.output(); !output.empty()) {
    commands_.assign(as_text(output));
    session_.on_output_taken(commands_.size());
    slices_.push_back(slice_of(commands_));
  }
  if (session_.want() == smtp::ClientSession::Want::content) {
    const std::string_view trailer = session_.content_plan().trailer;
    const std::string_view body = source_.maker_.body(size_index_);
    if (body.size() <= copied_bytes_max) {
      if (slices_.empty()) commands_.clear();
      commands_.append(header_).append(body).append(trailer);
      slices_.assign(1, slice_of(commands_));
    } else {
      slices_.push_back(slice_of(header_));
      slices_.push_back(slice_of(body));
      if (!trailer.empty()) slices_.push_back(slice_of(trailer));
    }
    session_.on_content_sent(now);
  }
  if (slices_.empty()) return;
  send_in_flight_ = true;
  connection_->send(slices_);
}

void SourceSession::take_result(Instant now) {
  const smtp::DeliveryResult result = session_.take_result();
  begun_ = false;
  if (result.disposition == smtp::DeliveryResult::Disposition::retry_on_fresh_connection) {
    quitting_ = true;
    session_.quit(now);
    return;
  }
  source_.on_result(*job_, begun_at_, header_.size() + source_.maker_.body(size_index_).size(), result, now);
  job_.reset();
}

}  // namespace postern::bench
