// How an EventBuffer reaches the file: the shard fills fixed chunks in turn and publishes how many bytes of each are
// complete; the writer follows. A chunk is handed back when the writer has written all of a closed chunk. Chunks
// instead of a byte ring, so that a line is always contiguous and formatting needs no second copy.
#include "shard/event_log.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include <postern/base/text.h>

namespace postern::shard {
namespace {

// After a wake the writer sleeps this long, then writes what has come together: one write for many events.
constexpr std::chrono::milliseconds gather_time{20};

// A field is cut at event_field_bytes_max, so that one line stays within event_bytes_max.
constexpr std::string_view cut(std::string_view text) {
  return text.substr(0, event_field_bytes_max);
}

// `prefix` is everything up to the text, with its opening quote.
void append_field(std::string& line, std::string_view prefix, std::string_view text) {
  line.append(prefix);
  append_json_escaped(line, cut(text));
  line.push_back('"');
}

void append_number(std::string& line, std::string_view prefix, std::uint64_t value) {
  line.append(prefix);
  char digits[20];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  line.append(digits, end);
}

}  // namespace

std::string_view to_text(EventKind kind) {
  switch (kind) {
    case EventKind::received:
      return "received";
    case EventKind::relayed:
      return "relayed";
    case EventKind::deferred:
      return "deferred";
    case EventKind::delayed:
      return "delayed";
    case EventKind::failed:
      return "failed";
    case EventKind::expired:
      return "expired";
    case EventKind::rejected:
      return "rejected";
    case EventKind::asked:
      return "asked";
    case EventKind::connected:
      return "connected";
    case EventKind::disconnected:
      return "disconnected";
    case EventKind::secured:
      return "secured";
    case EventKind::authenticated:
      return "authenticated";
    case EventKind::auth_failed:
      return "auth_failed";
    case EventKind::tls_failed:
      return "tls_failed";
    case EventKind::dsn:
      return "dsn";
    case EventKind::stress:
      return "stress";
    case EventKind::dropped:
      return "dropped";
  }
  return "?";
}

void EventClock::format(WallTime time, char* out) {
  const auto milliseconds = std::chrono::floor<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const auto second = std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
  if (second != second_) {
    const std::time_t when = second;
    std::tm parts{};
    gmtime_r(&when, &parts);
    if (std::strftime(text_, sizeof text_, "%Y-%m-%dT%H:%M:%S.000Z", &parts) != text_size) {
      std::memcpy(text_, "0000-00-00T00:00:00.000Z", text_size);  // a year beyond 9999
    }
    second_ = second;
  }
  std::memcpy(out, text_, text_size);
  const auto rest = static_cast<unsigned>(milliseconds - second * 1000);
  out[20] = static_cast<char>('0' + rest / 100);
  out[21] = static_cast<char>('0' + rest / 10 % 10);
  out[22] = static_cast<char>('0' + rest % 10);
}

void append_event(std::string& line, const Event& event, EventClock& clock) {
  char time[EventClock::text_size];
  clock.format(event.time, time);
  line.append(R"({"time":")").append(time, sizeof time);
  line.append(R"(","event":")").append(to_text(event.kind)).push_back('"');
  if (event.id.value != 0) {
    const auto id = event.id.to_text();
    line.append(R"(,"id":")").append(id.data(), id.size()).push_back('"');
  }
  if (event.from) append_field(line, R"(,"from":")", *event.from);
  if (!event.to.empty()) append_field(line, R"(,"to":")", event.to);
  if (!event.site.empty()) append_field(line, R"(,"site":")", event.site);
  if (!event.peer.empty()) append_field(line, R"(,"peer":")", event.peer);
  if (!event.protocol.empty()) append_field(line, R"(,"protocol":")", event.protocol);
  if (!event.tls.empty()) append_field(line, R"(,"tls":")", event.tls);
  if (!event.cipher.empty()) append_field(line, R"(,"cipher":")", event.cipher);
  if (!event.user.empty()) append_field(line, R"(,"user":")", event.user);
  if (!event.mechanism.empty()) append_field(line, R"(,"mechanism":")", event.mechanism);
  if (event.resumed) line.append(*event.resumed ? R"(,"resumed":true)" : R"(,"resumed":false)");
  if (event.verified) line.append(*event.verified ? R"(,"verified":true)" : R"(,"verified":false)");
  if (!event.reply.empty()) append_field(line, R"(,"reply":")", event.reply);
  if (event.bytes) append_number(line, R"(,"bytes":)", *event.bytes);
  if (event.count) append_number(line, R"(,"count":)", *event.count);
  if (event.elapsed) {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(*event.elapsed).count();
    append_number(line, R"(,"ms":)", ms > 0 ? static_cast<std::uint64_t>(ms) : 0);
  }
  line.append("}\n");
}

struct EventBuffer::Chunk {
  static constexpr std::size_t closed = std::size_t{1} << 63;  // no more will come into this chunk
  alignas(64) std::atomic<std::size_t> published{0};           // complete bytes, and the mark `closed`
  std::array<char, chunk_bytes> text;
};

// The writer thread and the file.
class EventLog::Writer {
 public:
  Writer(EventLog& log, Setup setup, int descriptor)
      : log_(log), setup_(std::move(setup)), descriptor_(descriptor), thread_([this] { run(); }) {}

  ~Writer() {
    tell(stopping);
    thread_.join();
    if (descriptor_ > STDERR_FILENO) ::close(descriptor_);
  }

  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Called after each event. The writer says that it sleeps before it looks at the buffers a last time, and the shard
  // publishes before it looks here; all four accesses are sequentially consistent, so one of the two sees the other.
  // At most one system call in gather_time.
  void wake() {
    if (asleep_.load() && asleep_.exchange(false)) tell(woken);
  }

  void reopen() { tell(reopening); }

  static int open_path(const std::string& path) {
    if (path == "-") return STDERR_FILENO;
    return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  }

 private:
  // What the writer was told since it last looked.
  static constexpr std::uint32_t woken = 1, stopping = 2, reopening = 4;

  void tell(std::uint32_t what) {
    told_.fetch_or(what);
    told_.notify_one();
  }

  void run() {
    for (;;) {
      asleep_.store(true);
      if (!anything_to_read()) told_.wait(0);
      asleep_.store(false);
      const std::uint32_t told = told_.exchange(0);
      // Let more events gather, so that a busy log costs fifty writes a second and not one per event.
      if ((told & (stopping | reopening)) == 0) std::this_thread::sleep_for(gather_time);
      drain();
      if ((told & reopening) != 0) open_anew();
      if ((told & stopping) != 0) return;
    }
  }

  [[nodiscard]] bool anything_to_read() const {
    for (const auto& buffer : log_.buffers_) {
      const auto& chunk = buffer->chunks_[buffer->reading_ % EventBuffer::chunks];
      if (chunk.published.load() != buffer->read_offset_) return true;
    }
    return false;
  }

  void drain() {
    for (const auto& buffer : log_.buffers_) {
      // At most all chunks once around: a shard that writes faster than the disk must not starve the others.
      for (std::size_t turn = 0; turn <= EventBuffer::chunks; ++turn) {
        auto& chunk = buffer->chunks_[buffer->reading_ % EventBuffer::chunks];
        const std::size_t published = chunk.published.load();
        const std::size_t end = published & ~EventBuffer::Chunk::closed;
        if (end > buffer->read_offset_) {
          write(*buffer, {chunk.text.data() + buffer->read_offset_, end - buffer->read_offset_});
          buffer->read_offset_ = end;
        }
        if ((published & EventBuffer::Chunk::closed) == 0) break;
        chunk.published.store(0);
        buffer->read_offset_ = 0;
        ++buffer->reading_;
        buffer->drained_.store(buffer->reading_);
      }
    }
  }

  void write(EventBuffer& buffer, std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      if (written > 0) {
        text.remove_prefix(static_cast<std::size_t>(written));
        last_trouble_ = 0;
        continue;
      }
      if (written < 0 && errno == EINTR) continue;
      // A full or broken disk: these events are lost and counted; the next ones are tried again.
      std::uint64_t lost = 0;
      for (const char c : text) lost += c == '\n' ? 1 : 0;
      buffer.dropped_.fetch_add(lost, std::memory_order_relaxed);
      complain("cannot be written", written < 0 ? errno : EIO);
      return;
    }
  }

  void open_anew() {
    const int fresh = open_path(setup_.path);
    if (fresh < 0) {
      complain("cannot be opened again, going on with the old file", errno);
      return;
    }
    if (descriptor_ > STDERR_FILENO) ::close(descriptor_);
    descriptor_ = fresh;
  }

  void complain(std::string_view what, int reason) {
    if (reason == last_trouble_ || !setup_.on_trouble) return;
    last_trouble_ = reason;
    std::string text = "event log ";
    text.append(setup_.path).append(" ").append(what).append(": ").append(std::strerror(reason));
    setup_.on_trouble(text);
  }

  EventLog& log_;
  const Setup setup_;
  int descriptor_;
  int last_trouble_ = 0;
  std::atomic<bool> asleep_{false};
  std::atomic<std::uint32_t> told_{0};
  std::thread thread_;  // last: it uses all of the above
};

EventBuffer::EventBuffer(EventLog& log) : log_(log) {
  if (!log.enabled()) return;
  chunks_ = std::make_unique<Chunk[]>(chunks);
  line_.reserve(2 * event_bytes_max);
}

EventBuffer::~EventBuffer() = default;

void EventBuffer::record(const Event& event) {
  if (!log_.enabled()) return;
  line_.clear();
  if (dropped_unsaid_ != 0) {
    append_event(line_, {.kind = EventKind::dropped, .time = event.time, .count = dropped_unsaid_}, clock_);
  }
  append_event(line_, event, clock_);
  if (fill_ + line_.size() > chunk_bytes && !next_chunk()) {
    ++dropped_unsaid_;
    dropped_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  dropped_unsaid_ = 0;
  Chunk& chunk = chunks_[filling_ % chunks];
  std::memcpy(chunk.text.data() + fill_, line_.data(), line_.size());
  fill_ += line_.size();
  chunk.published.store(fill_);
  log_.wake_writer();
}

bool EventBuffer::next_chunk() {
  if (filling_ + 1 - drained_.load() >= chunks) return false;  // the writer has not handed it back yet
  chunks_[filling_ % chunks].published.store(fill_ | Chunk::closed);
  ++filling_;
  fill_ = 0;
  return true;
}

std::uint64_t EventBuffer::dropped() const {
  return dropped_.load(std::memory_order_relaxed);
}

StatusOr<std::unique_ptr<EventLog>> EventLog::start(Setup setup) {
  auto log = std::unique_ptr<EventLog>(new EventLog());
  log->enabled_ = !setup.path.empty();
  for (std::size_t i = 0; i < setup.shards; ++i) {
    log->buffers_.push_back(std::unique_ptr<EventBuffer>(new EventBuffer(*log)));
  }
  if (log->enabled_) {
    const int descriptor = Writer::open_path(setup.path);
    if (descriptor < 0) {
      return error(StatusCode::kUnavailable, setup.path + ": " + std::strerror(errno) +
                                                 "; make its folder writable for us or set [event_log] path");
    }
    log->writer_ = std::make_unique<Writer>(*log, std::move(setup), descriptor);
  }
  return log;
}

EventLog::~EventLog() = default;

EventBuffer& EventLog::buffer(std::size_t shard) {
  return *buffers_.at(shard);
}

void EventLog::reopen() {
  if (writer_) writer_->reopen();
}

std::uint64_t EventLog::dropped() const {
  std::uint64_t sum = 0;
  for (const auto& buffer : buffers_) sum += buffer->dropped();
  return sum;
}

void EventLog::wake_writer() {
  writer_->wake();
}

}  // namespace postern::shard
