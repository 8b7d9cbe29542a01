// The event log: one JSON object a line for what became of messages, recipients and connections.
//
// It never blocks mail. A shard formats an event into its own bounded buffer (EventBuffer: no lock, no allocation, no
// system call but a wake when the writer sleeps); one thread, the EventLog's, writes the buffers to the file. What does
// not fit is dropped, counted, and said by an event `dropped` once there is room again.
//
//   {"time":"2026-11-22T06:07:13.123Z","event":"relayed","id":"00008G0000001","from":"a@example.org",
//    "to":"b@example.test","site":"example.test","peer":"192.0.2.1:25","reply":"250 2.0.0 Ok","ms":12}
//
// Texts of peers are escaped so that every line is valid JSON and valid UTF-8, whatever they sent.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/mail/queue_id.h>

namespace postern::shard {

enum class EventKind : std::uint8_t {
  received,       // a message is ours: 250 was (or is being) said
  relayed,        // the next hop has it for this recipient
  deferred,       // tried, will be tried again
  delayed,        // waits for so long that the sender is told
  failed,         // never again: refused for good
  expired,        // never again: give_up_after has passed
  rejected,       // a command or content of a client was refused
  asked,          // a next hop was asked whether it takes `to`; `reply` is what it said, or why it said nothing
  connected,      // a client came
  disconnected,   // a client went
  secured,        // a client and we speak TLS; with `site`: a next hop and we
  authenticated,  // a client has shown that it is `user`; with `site`: a next hop has taken us for `user`
  auth_failed,    // it has not, or was not let try; `reply` says which
  tls_failed,     // that came to nothing, or was refused; `reply` says why
  dsn,            // a delivery status notification was made; `id` is the new message's, `to` its recipient
  stress,         // connections run short, or suffice again; `reply` says which, `count` how many there are
  dropped,        // `count` events were lost because the log could not keep up or not be written
};

[[nodiscard]] std::string_view to_text(EventKind kind);

// One event. What is absent is left out of the line. The views need to live until record() returns only; of each at
// most event_field_bytes_max bytes are kept.
struct Event {
  EventKind kind = EventKind::received;
  WallTime time{};
  mail::QueueId id{};                      // value 0: absent
  std::optional<std::string_view> from{};  // the reverse-path; present and empty: null
  std::string_view to{};                   // the forward-path; for `received` only with exactly one recipient
  std::string_view site{};
  std::string_view peer{};            // "192.0.2.1:40312", "unix:"
  std::string_view reply{};           // "250 2.0.0 Ok"; lines of a multiline reply joined by anything
  std::string_view protocol{};        // "ESMTP", for `received`
  std::string_view tls{};             // "TLSv1.3", for `received`, `secured`, and what a next hop answered
  std::string_view cipher{};          // "TLS_AES_128_GCM_SHA256", for `secured` and what a next hop answered
  std::optional<bool> resumed{};      // for `secured`: the handshake was an abbreviated one
  std::optional<bool> verified{};     // with `tls`, of a next hop: the certificate is its own, by a trusted authority
  std::string_view user{};            // as the client said it; for `received`, too
  std::string_view mechanism{};       // "SCRAM-SHA-256", for `authenticated` and `auth_failed`
  std::optional<Duration> elapsed{};  // written as "ms", whole milliseconds
  std::optional<std::uint64_t> bytes{};  // size of the content, for `received`
  // Recipients of `received`, events lost of `dropped`, messages of `disconnected`.
  std::optional<std::uint64_t> count{};
};

// Of each text this much is kept. At worst every byte becomes a six-byte escape, hence the bound of one line: ten
// texts and the fixed parts.
inline constexpr std::size_t event_field_bytes_max = 512;
inline constexpr std::size_t event_bytes_max = std::size_t{10} * 6 * event_field_bytes_max + 512;

// Turns wall time into RFC 3339 text; keeps the last second's text, because most events share it.
class EventClock {
 public:
  static constexpr std::size_t text_size = 24;  // "2026-11-22T06:07:13.123Z"
  // Writes text_size bytes to `out`, UTC, milliseconds rounded down.
  void format(WallTime time, char* out);

 private:
  std::int64_t second_ = INT64_MIN;
  char text_[text_size + 1] = {};
};

// Appends the line of `event`, with its '\n': at most event_bytes_max bytes.
void append_event(std::string& line, const Event& event, EventClock& clock);

class EventLog;

// One shard's side. record() from that shard's thread only; lives as long as the EventLog.
class EventBuffer {
 public:
  static constexpr std::size_t chunk_bytes = 64u << 10;
  static constexpr std::size_t chunks = 16;  // 1 MiB: about 5,000 events, the writer's sleep times the highest rate
  static_assert(2 * event_bytes_max < chunk_bytes, "an event and the `dropped` before it fit into an empty chunk");

  ~EventBuffer();
  EventBuffer(const EventBuffer&) = delete;
  EventBuffer& operator=(const EventBuffer&) = delete;

  // Formats and queues the event, or drops and counts it. Never blocks; about 200 ns.
  void record(const Event& event);
  // Events dropped so far, here or because the file could not be written.
  [[nodiscard]] std::uint64_t dropped() const;

 private:
  friend class EventLog;
  struct Chunk;
  explicit EventBuffer(EventLog& log);
  [[nodiscard]] bool next_chunk();

  EventLog& log_;
  EventClock clock_;
  std::string line_;  // the event being formatted; keeps its capacity
  std::unique_ptr<Chunk[]> chunks_;
  // Chunk numbers count up for ever; chunk n lies in chunks_[n % chunks]. Written by the shard: filling_ is the one
  // being filled. Written by the writer: drained_ are all before it free again.
  std::size_t fill_ = 0;  // bytes in the chunk being filled
  std::uint64_t filling_ = 0;
  std::uint64_t dropped_unsaid_ = 0;
  std::atomic<std::uint64_t> dropped_{0};
  alignas(64) std::atomic<std::uint64_t> drained_{0};
  std::uint64_t reading_ = 0;    // writer only: the chunk being read …
  std::size_t read_offset_ = 0;  // … and how far
};

class EventLog {
 public:
  struct Setup {
    std::string path;        // absolute; "-": stderr; "": nothing is kept and record() returns at once
    std::size_t shards = 1;  // buffers to make
    // Told, from the writer thread, that the file cannot be written (once per kind of trouble until it can again).
    std::function<void(std::string_view)> on_trouble;
  };
  // Opens the file for appending (created 0640) and starts the writer. Fails when the file cannot be opened.
  [[nodiscard]] static StatusOr<std::unique_ptr<EventLog>> start(Setup setup);
  // Writes what the buffers hold, then stops. No record() may run any more.
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  [[nodiscard]] EventBuffer& buffer(std::size_t shard);
  [[nodiscard]] bool enabled() const { return enabled_; }
  // Opens the path anew (the file was renamed by log rotation), from the writer thread, soon. From any thread.
  void reopen();
  [[nodiscard]] std::uint64_t dropped() const;  // over all buffers; from any thread

 private:
  friend class EventBuffer;
  class Writer;
  EventLog() = default;
  void wake_writer();

  bool enabled_ = false;
  std::vector<std::unique_ptr<EventBuffer>> buffers_;
  std::unique_ptr<Writer> writer_;
};

}  // namespace postern::shard
