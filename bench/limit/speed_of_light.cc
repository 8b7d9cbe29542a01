// Question: what would relaying a message cost if there were no mail logic? The socket and disk operations of a relayed
// message on our own io::Loop, and nothing else: every figure of posternd can be given as a fraction of this one.
//
//   speed_of_light PORT NEXT_HOP_ADDRESS:PORT CONNECTIONS [FOLDER [THREADS]]
//
// Expectation: within 10 % of relay_limit.c, which does the same in plain C on liburing, so that the limit is no straw
// man of our own loop. With FOLDER every message is on stable storage there before its 250 and before it is sent on:
// one durable write in flight, what arrives meanwhile is the next one, as the spool does it.
//
// With THREADS there are so many relays on one port that share nothing, each with its loop, its log and its part of the
// connections: what a second thread costs when nothing of ours is between the two.
//
// It offers PIPELINING and CHUNKING, and uses them where the next hop does: a message that comes as one group of
// commands is one read, one send of all replies, and one send of envelope and content. The connections to the next hop
// are made when the first message is to be relayed.
//
// Parses nothing but the first letter of a command and a chunk's size, looks for the end of data only at the end of
// what arrived, does not stuff dots, takes one message at a time from a client, and treats everything unexpected as a
// reason to stop. SIGUSR1 prints `messages=… enters=… writes=…` of all threads; SIGTERM ends it.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/text.h>

#include "io/loop.h"
#include "io/uring/uring_loop.h"

namespace postern {
namespace {

constexpr std::size_t messages_max = 256;  // held at once; beyond, MAIL waits
constexpr std::size_t content_bytes_first = 16u << 10, content_bytes_max = 64u << 20;
constexpr std::size_t batch_bytes = 1u << 20, batch_bytes_max = 32u << 20;  // the latter: for a single message
constexpr std::string_view final_dot = ".\r\n";
constexpr std::uint64_t log_bytes = 64u << 20;  // written round and round
constexpr std::size_t threads_max = 64;
constexpr std::uint8_t accept_kind = 1, receive_kind = 2, send_kind = 3, write_kind = 4;

volatile std::sig_atomic_t asked_to_report = 0, asked_to_end = 0;

[[noreturn]] void stop(std::string_view what, std::string_view line = {}) {
  std::fprintf(stderr, "speed_of_light: %.*s: %.*s\n", static_cast<int>(what.size()), what.data(),
               static_cast<int>(std::min<std::size_t>(line.size(), 80)), line.data());
  std::exit(1);
}

struct Message {
  std::string envelope;            // MAIL and RCPT lines, then DATA's or BDAT's, as they will be sent
  std::vector<std::byte> content;  // its capacity
  std::size_t size = 0;            // of the content, while it arrives by DATA with the final dot's line

  // For one more byte, and a final dot's line.
  void make_room() {
    if (size + final_dot.size() < content.size()) return;
    if (content.size() >= content_bytes_max) stop("content too large");
    content.resize(content.empty() ? content_bytes_first : 4 * content.size());
  }
  void make_room(std::size_t bytes) {
    if (bytes > content_bytes_max) stop("content too large");
    if (content.size() < bytes + final_dot.size()) content.resize(bytes + final_dot.size());
  }
  void append(Bytes bytes) {
    make_room(size + bytes.size());
    std::memcpy(content.data() + size, bytes.data(), bytes.size());
    size += bytes.size();
  }
};

struct Connection {
  enum class State : std::uint8_t { awaits_greeting, awaits_hello, idle, awaits_group, awaits_end };
  io::Descriptor descriptor = -1;
  std::uint32_t index = 0;
  bool outbound = false;
  bool in_content = false;
  bool more_in_socket = false;
  bool offers_pipelining = false, offers_chunking = false;  // the next hop
  std::size_t chunk_bytes = 0;                              // of the content that comes by BDAT; 0: by DATA
  State state = State::awaits_greeting;
  unsigned replies_due = 0;
  std::string line;     // an unfinished one; or a whole one that waits for a free message, and what came behind it
  std::string replies;  // those that go with the next send
  std::string sending;  // those that are under way
  Message* message = nullptr;
  std::array<io::Slice, 2> slices;
};

// The durable writes: what was appended while one is under way is the next one.
class Log {
 public:
  Log(io::Loop& loop, const std::string& folder, std::size_t thread)
      : loop_(loop), path_(folder + "/speed_of_light." + std::to_string(thread) + ".log") {
    const int descriptor = ::open(path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    const std::vector<char> zeros(1u << 20);
    for (std::uint64_t done = 0; descriptor >= 0 && done < log_bytes; done += zeros.size()) {
      if (::write(descriptor, zeros.data(), zeros.size()) != static_cast<ssize_t>(zeros.size())) stop("write", path_);
    }
    if (descriptor < 0 || ::fsync(descriptor) != 0) stop("preparing", path_);
    // Pages that stay in the cache make the kernel hand every direct write over them to a worker thread.
    if (::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) != 0 || ::close(descriptor) != 0)
      stop("preparing", path_);
    auto file = loop.open_log(path_.c_str(), true);
    if (!file.ok()) stop("open", path_);
    if (!file->direct) std::fprintf(stderr, "speed_of_light: no O_DIRECT here: figures are those of the fallback\n");
    file_ = *file;
    if (::unlink(path_.c_str()) != 0) stop("unlink", path_);  // it stays until the end of the process, and no longer
    for (Batch& batch : batches_) {
      batch.memory = static_cast<std::byte*>(std::aligned_alloc(io::Loop::log_alignment, batch_bytes_max));
      if (batch.memory == nullptr) stop("memory");
    }
  }
  ~Log() {
    for (const Batch& batch : batches_) std::free(batch.memory);
  }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void append(Connection& in) { waiting_.push_back(&in); }
  // Begins a write when none is under way and something waits.
  void start() {
    if (writing_ || waiting_.empty()) return;
    writing_ = true;
    Batch& batch = batches_[0];
    std::size_t size = 0;
    while (!waiting_.empty()) {
      const Message& message = *waiting_.front()->message;
      const std::size_t needed = message.envelope.size() + message.size;
      if (needed > batch_bytes_max) stop("a message larger than a batch");
      if (size != 0 && size + needed > batch_bytes) break;
      std::memcpy(batch.memory + size, message.envelope.data(), message.envelope.size());
      std::memcpy(batch.memory + size + message.envelope.size(), message.content.data(), message.size);
      size += needed;
      written_.push_back(waiting_.front());
      waiting_.pop_front();
    }
    size = (size + io::Loop::log_alignment - 1) / io::Loop::log_alignment * io::Loop::log_alignment;
    if (offset_ + size > log_bytes) offset_ = 0;
    loop_.durable_write(file_, {batch.memory, size}, offset_, {.slot = 0, .generation = 0, .kind = write_kind});
    offset_ += size;
    ++writes_;
  }
  // Those whose messages are durable now.
  [[nodiscard]] std::vector<Connection*> finish(std::int32_t result) {
    if (result <= 0) stop("durable write", std::strerror(-result));
    writing_ = false;
    return std::exchange(written_, {});
  }
  [[nodiscard]] std::uint64_t writes() const { return writes_; }

 private:
  struct Batch {
    std::byte* memory = nullptr;
  };
  io::Loop& loop_;
  std::string path_;
  io::Loop::LogFile file_;
  Batch batches_[1];
  std::deque<Connection*> waiting_;  // bounded by messages_max
  std::vector<Connection*> written_;
  std::uint64_t offset_ = 0, writes_ = 0;
  bool writing_ = false;
};

// What a thread has done up to the end of its last turn; any thread reads it.
struct alignas(64) Counts {
  std::atomic<std::uint64_t> messages{0}, enters{0}, writes{0};
};

class Relay final : public io::Sink {
 public:
  Relay(io::Loop& loop, Log* log, Counts& counts, const io::Address& next_hop, unsigned connections)
      : loop_(loop), log_(log), counts_(counts), next_hop_(next_hop), connections_wanted_(connections) {
    messages_.resize(messages_max);
    for (Message& message : messages_) free_.push_back(&message);
  }

  void listen(std::uint16_t port) {
    auto descriptor = loop_.listen(io::Address::ip(*IpAddress::parse("127.0.0.1"), port), {});
    if (!descriptor.ok()) stop("listen", message_of(descriptor.status()));
    listener_ = *descriptor;
    loop_.accept(listener_, {.slot = 0, .generation = 0, .kind = accept_kind});
  }
  void turn() {
    loop_.run_once(*this, never);
    if (log_ != nullptr) log_->start();
    counts_.messages.store(relayed_, std::memory_order_relaxed);
    counts_.enters.store(loop_.system_calls(), std::memory_order_relaxed);
    counts_.writes.store(log_ == nullptr ? 0 : log_->writes(), std::memory_order_relaxed);
  }

  void on_completion(const io::Completion& completion) override {
    switch (completion.token.kind) {
      case accept_kind: {
        if (completion.result < 0) stop("accept", std::strerror(-completion.result));
        Connection& in = add(completion.result, false);
        in.replies = "220 light.test ESMTP\r\n";
        send_replies(in);
        receive(in);
        if (!completion.more) loop_.accept(listener_, completion.token);
        return;
      }
      case receive_kind:
        return on_received(*connections_[completion.token.slot], completion);
      case write_kind:
        for (Connection* in : log_->finish(completion.result)) accepted(*in);
        return;
      default:
        if (completion.result < 0 && connections_[completion.token.slot]->outbound) stop("sending to the next hop");
    }
  }

 private:
  void connect_all() {
    for (; connections_wanted_ > 0; --connections_wanted_) {
      auto descriptor = loop_.open_stream(next_hop_, {});
      if (!descriptor.ok()) stop("connecting to the next hop", message_of(descriptor.status()));
      if (::connect(*descriptor, next_hop_.kernel(), next_hop_.kernel_size()) != 0) {
        stop("connecting to the next hop", std::strerror(errno));
      }
      receive(add(*descriptor, true));
    }
  }
  Connection& add(io::Descriptor descriptor, bool outbound) {
    connections_.push_back(std::make_unique<Connection>());
    Connection& connection = *connections_.back();
    connection.descriptor = descriptor;
    connection.index = static_cast<std::uint32_t>(connections_.size() - 1);
    connection.outbound = outbound;
    return connection;
  }

  // --- operations
  void receive(Connection& connection) {
    const io::Token token{.slot = connection.index, .generation = 0, .kind = receive_kind};
    if (connection.in_content) {
      Message& message = *connection.message;
      MutableBytes room = MutableBytes(message.content).subspan(message.size);
      if (connection.chunk_bytes != 0) room = room.first(connection.chunk_bytes - message.size);
      loop_.recv_into(connection.descriptor, room, !connection.more_in_socket, token);
    } else {
      loop_.recv(connection.descriptor, !connection.more_in_socket, token);
    }
  }
  // What is sent stays as it is until the peer has answered it, by which time it was sent.
  void send(Connection& connection, std::string_view text, Bytes content = {}) {
    connection.slices = {io::Slice{.data = as_bytes(text).data(), .size = text.size()},
                         io::Slice{.data = content.data(), .size = content.size()}};
    loop_.send(connection.descriptor, std::span(connection.slices).first(content.empty() ? 1 : 2),
               {.slot = connection.index, .generation = 0, .kind = send_kind});
  }
  void send_replies(Connection& in) {
    std::swap(in.sending, in.replies);
    in.replies.clear();
    send(in, in.sending);
  }

  // --- messages
  void give_message(Connection& in) {
    in.message = free_.back();
    free_.pop_back();
    in.message->envelope.clear();
    in.message->size = 0;
  }
  void send_on(Connection& out, Message& message) {
    out.message = &message;
    out.replies_due = 3;
    if (out.offers_chunking) {
      message.envelope.append("BDAT ").append(std::to_string(message.size)).append(" LAST\r\n");
      out.state = Connection::State::awaits_end;
      send(out, message.envelope, Bytes(message.content).first(message.size));
    } else {
      message.envelope += "DATA\r\n";
      out.state = Connection::State::awaits_group;
      send(out, message.envelope);
    }
  }
  void content_complete(Connection& in) {
    in.in_content = false;
    in.chunk_bytes = 0;
    if (log_ != nullptr) {
      log_->append(in);
    } else {
      accepted(in);
    }
  }
  void accepted(Connection& in) {
    Message& message = *std::exchange(in.message, nullptr);
    in.replies += "250 2.0.0 Ok\r\n";
    send_replies(in);
    connect_all();
    if (idle_.empty()) {
      queue_.push_back(&message);
    } else {
      Connection& out = *idle_.back();
      idle_.pop_back();
      send_on(out, message);
    }
  }
  void take_next(Connection& out) {
    if (queue_.empty()) {
      out.state = Connection::State::idle;
      idle_.push_back(&out);
    } else {
      Message& message = *queue_.front();
      queue_.pop_front();
      send_on(out, message);
    }
  }
  void relayed(Connection& out) {
    free_.push_back(std::exchange(out.message, nullptr));
    ++relayed_;
    take_next(out);
    if (starved_.empty()) return;
    Connection& in = *starved_.front();
    starved_.pop_front();
    if (on_commands(in, as_bytes(std::exchange(in.line, {})))) receive(in);
  }

  // --- dialogue
  void on_command(Connection& in, std::string_view line) {
    switch (to_ascii_lower(line.front())) {
      case 'h':
      case 'e':
        in.replies += "250-light.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
        return;
      case 'm':
        give_message(in);
        in.message->envelope = line;
        in.replies += "250 2.1.0 Ok\r\n";
        return;
      case 'r':
        in.message->envelope += line;
        in.replies += "250 2.1.5 Ok\r\n";
        return;
      case 'd':
        in.in_content = true;
        in.message->make_room();
        in.replies += "354 End data with <CR><LF>.<CR><LF>\r\n";
        return;
      case 'b': {
        std::string_view size = line.substr(std::min<std::size_t>(line.size(), 5));
        size = size.substr(0, size.find(' '));
        if (!line.ends_with(" LAST\r\n") || !parse_uint<std::uint32_t>(size, content_bytes_max)) stop("a chunk", line);
        in.chunk_bytes = *parse_uint<std::uint32_t>(size);
        if (in.chunk_bytes == 0) stop("an empty message", line);
        in.in_content = true;
        in.message->make_room(in.chunk_bytes);
        return;
      }
      case 'q':
        in.replies += "221 2.0.0 Bye\r\n";
        return;
      default:
        stop("unexpected command", line);
    }
  }
  // Replies go out together: with that to the content when all of it came with the commands. False: the next receive
  // waits, until a message is free.
  bool on_commands(Connection& in, Bytes bytes) {
    bool complete = false;
    while (!bytes.empty()) {
      if (in.in_content) {
        if (in.chunk_bytes == 0) stop("content without waiting for 354");
        const Bytes piece = bytes.first(std::min(bytes.size(), in.chunk_bytes - in.message->size));
        in.message->append(piece);
        bytes = bytes.subspan(piece.size());
        complete = in.message->size == in.chunk_bytes;
        if (complete && !bytes.empty()) stop("commands behind the content", as_text(bytes));
        break;
      }
      const std::string_view text = as_text(bytes);
      const std::size_t end = text.find('\n');
      if (end == std::string_view::npos) {
        in.line = text;
        break;
      }
      if (end < 4) stop("line too short", text);
      if (to_ascii_lower(text.front()) == 'm' && free_.empty()) {
        in.line = text;
        starved_.push_back(&in);
        return false;
      }
      on_command(in, text.substr(0, end + 1));
      bytes = bytes.subspan(end + 1);
    }
    if (complete) {
      content_complete(in);
    } else if (!in.replies.empty() && in.chunk_bytes == 0) {
      send_replies(in);
    }
    return true;
  }
  void on_reply(Connection& out, std::string_view line) {
    if (line[0] != '2' && line[0] != '3') stop("the next hop refuses", line);
    if (out.state == Connection::State::awaits_hello) {
      out.offers_pipelining |= line.substr(4).starts_with("PIPELINING");
      out.offers_chunking |= line.substr(4).starts_with("CHUNKING");
    }
    if (line[3] == '-') return;
    switch (out.state) {
      case Connection::State::awaits_greeting:
        out.state = Connection::State::awaits_hello;
        return send(out, "EHLO light.test\r\n");
      case Connection::State::awaits_hello:
        if (!out.offers_pipelining) stop("the next hop offers no PIPELINING");
        return take_next(out);
      case Connection::State::awaits_group:
        if (--out.replies_due > 0) return;
        out.state = Connection::State::awaits_end;
        out.replies_due = 1;
        std::memcpy(out.message->content.data() + out.message->size, final_dot.data(), final_dot.size());
        return send(out, as_text(Bytes(out.message->content).first(out.message->size + final_dot.size())));
      case Connection::State::awaits_end:
        if (--out.replies_due == 0) relayed(out);
        return;
      case Connection::State::idle:
        stop("the next hop speaks unasked", line);
    }
  }
  void on_replies(Connection& out, std::string_view bytes) {
    std::string joined;
    if (!out.line.empty()) {
      joined = std::exchange(out.line, {}).append(bytes);
      bytes = joined;
    }
    while (!bytes.empty()) {
      const std::size_t end = bytes.find('\n');
      if (end == std::string_view::npos) break;
      if (end < 4) stop("line too short", bytes);
      on_reply(out, bytes.substr(0, end + 1));
      bytes.remove_prefix(end + 1);
    }
    if (!bytes.empty()) out.line = bytes;
  }
  // True: goes on receiving.
  bool on_bytes(Connection& connection, Bytes bytes) {
    if (connection.outbound) {
      on_replies(connection, as_text(bytes));
      return true;
    }
    if (connection.line.empty()) return on_commands(connection, bytes);
    const std::string joined = std::exchange(connection.line, {}).append(as_text(bytes));
    return on_commands(connection, as_bytes(joined));
  }
  void on_received(Connection& connection, const io::Completion& completion) {
    connection.more_in_socket = completion.more_in_socket;
    if (completion.result <= 0) {
      if (completion.buffer.held()) loop_.release(completion.buffer);
      if (connection.outbound) stop("the next hop hung up");
      loop_.close(connection.descriptor);
      return;
    }
    if (completion.buffer.held()) {
      const bool go_on = on_bytes(connection, completion.bytes);
      loop_.release(completion.buffer);
      if (go_on) receive(connection);
      return;
    }
    Message& message = *connection.message;
    message.size += completion.bytes.size();
    if (connection.chunk_bytes != 0) {
      if (message.size == connection.chunk_bytes) content_complete(connection);
    } else if (message.size >= 5 && std::memcmp(message.content.data() + message.size - 5, "\r\n.\r\n", 5) == 0) {
      message.size -= final_dot.size();
      content_complete(connection);
    } else {
      message.make_room();
    }
    receive(connection);
  }

  io::Loop& loop_;
  Log* log_;
  Counts& counts_;
  io::Address next_hop_;
  unsigned connections_wanted_;
  io::Descriptor listener_ = -1;
  std::vector<Message> messages_;
  std::vector<Message*> free_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> idle_;    // to the next hop
  std::deque<Message*> queue_;       // accepted, not yet under way
  std::deque<Connection*> starved_;  // said MAIL, and no message is free
  std::uint64_t relayed_ = 0;
};

struct Job {
  std::uint16_t port = 0;
  io::Address next_hop;
  unsigned connections = 0;  // of each thread
  const char* folder = nullptr;
};

// Goes on for ever, but while `may_go_on` says otherwise.
template <typename MayGoOn>
void relay_mail(const Job& job, std::size_t thread, Counts& counts, const MayGoOn& may_go_on) {
  auto loop = io::make_uring_loop();
  if (!loop.ok()) stop("io_uring", message_of(loop.status()));
  std::unique_ptr<Log> log;
  if (job.folder != nullptr) log = std::make_unique<Log>(**loop, job.folder, thread);
  Relay relay(**loop, log.get(), counts, job.next_hop, job.connections);
  relay.listen(job.port);
  while (may_go_on()) relay.turn();
}

void report(std::span<const Counts> threads) {
  unsigned long long messages = 0, enters = 0, writes = 0;
  for (const Counts& counts : threads) {
    messages += counts.messages.load(std::memory_order_relaxed);
    enters += counts.enters.load(std::memory_order_relaxed);
    writes += counts.writes.load(std::memory_order_relaxed);
  }
  std::printf("messages=%llu enters=%llu writes=%llu\n", messages, enters, writes);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::fputs("usage: speed_of_light PORT NEXT_HOP_ADDRESS:PORT CONNECTIONS [FOLDER [THREADS]]\n", stderr);
    return 2;
  }
  const auto port = parse_uint<std::uint16_t>(argv[1]);
  const std::string_view hop = argv[2];
  const std::size_t colon = hop.rfind(':');
  if (!port || colon == std::string_view::npos) stop("PORT and ADDRESS:PORT are wanted", hop);
  const auto hop_address = IpAddress::parse(hop.substr(0, colon));
  const auto hop_port = parse_uint<std::uint16_t>(hop.substr(colon + 1));
  const auto count = parse_uint<unsigned>(argv[3], 1000);
  const auto threads = parse_uint<std::size_t>(argc > 5 ? argv[5] : "1", threads_max);
  if (!hop_address || !hop_port || !count) stop("not an address, a port or a count", hop);
  if (!threads || *threads == 0 || *threads > *count) stop("not a number of threads", argv[5]);

  struct sigaction action = {};
  action.sa_handler = [](int number) { (number == SIGUSR1 ? asked_to_report : asked_to_end) = 1; };
  for (const int number : {SIGUSR1, SIGTERM, SIGINT}) sigaction(number, &action, nullptr);
  sigset_t ours, before;
  sigfillset(&ours);

  const Job job{.port = *port,
                .next_hop = io::Address::ip(*hop_address, *hop_port),
                .connections = static_cast<unsigned>(*count / *threads),
                .folder = argc > 4 ? argv[4] : nullptr};
  std::array<Counts, threads_max> counts;
  const std::span<const Counts> used = std::span(counts).first(*threads);
  pthread_sigmask(SIG_SETMASK, &ours, &before);  // signals are for this thread
  for (std::size_t thread = 1; thread < *threads; ++thread) {
    std::thread([&job, thread, &counts] { relay_mail(job, thread, counts[thread], [] { return true; }); }).detach();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  relay_mail(job, 0, counts[0], [used] {
    if (std::exchange(asked_to_report, 0) != 0) report(used);
    return asked_to_end == 0;
  });
  report(used);
  std::_Exit(0);  // the other threads are at work
}

}  // namespace
}  // namespace postern

int main(int argc, char** argv) {
  return postern::run(argc, argv);
}
