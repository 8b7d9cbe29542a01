#include "resolver/resolver.h"

#include <algorithm>
#include <cerrno>
#include <tuple>

#include <postern/base/check.h>
#include <postern/base/hash.h>

namespace postern::resolver {
namespace {

// How soon to look again whether the loop has a receive buffer, when nothing else happens meanwhile.
constexpr Duration starved_retry = std::chrono::milliseconds(10);
// Of answers that were refused here and never reached the cache.
constexpr Duration refusal_ttl = std::chrono::seconds(1);

}  // namespace

// One attempt's socket: a fresh one, hence a fresh port, for each message sent. It outlives its attempt until its last
// operation has completed; closing it earlier would hand old completions to a reused descriptor.
struct Resolver::Socket {
  io::Descriptor descriptor = -1;
  std::uint32_t generation = 0;
  std::uint32_t pending = none;  // whose attempt; none: left
  std::uint32_t operations = 0;  // not yet completed
  bool tcp = false;
  std::array<std::byte, dns::QueryMessage::bytes_max + 2> message{};
  std::size_t message_bytes = 0;
  io::Slice slice;
  io::Address remote;
};

std::size_t Resolver::QuestionHash::operator()(const dns::Question& question) const {
  return hash_bytes(as_bytes(question.name.wire()), seed + static_cast<std::uint64_t>(question.type));
}

Resolver::Resolver(io::Loop& loop, dns::Cache::Reader& cache, Notifier& notifier, const ResolverOptions& options,
                   Random seed)
    : loop_(loop),
      cache_(cache),
      notifier_(notifier),
      options_(options),
      random_(seed),
      health_(options.servers.size(), options.rotate),
      by_question_(0, QuestionHash{random_()}) {
  POSTERN_CHECK(options.flights_max >= 1);
}

Resolver::~Resolver() {
  // Whoever could not wait for idle() ends the process next. What the loop may still read must stay until then.
  for (std::unique_ptr<Socket>& socket : sockets_) {
    if (socket->operations != 0) std::ignore = socket.release();
  }
}

const dns::Answer* Resolver::refusal() {
  ++counters_.overloaded;
  refusal_ = dns::Answer::temporary(dns::Answer::Failure::overloaded);
  refusal_.expires_at = loop_.now() + refusal_ttl;
  return &refusal_;
}

const dns::Answer* Resolver::lookup(const dns::Question& question, Waiter& waiter, std::uint64_t cookie) {
  ++counters_.lookups;
  if (const dns::Cache::Reader::Hit hit = cache_.find(question, loop_.now())) {
    ++counters_.hits;
    if (hit.refresh_due && !stopping_ && !by_question_.contains(question) && cache_.begin_refresh(question)) {
      ++counters_.refreshes;
      start_flight(add_pending(question));
    }
    return hit.answer;
  }
  if (stopping_ || waiters_ == options_.waiters_max) return refusal();
  std::uint32_t index = none;
  if (const auto found = by_question_.find(question); found != by_question_.end()) {
    index = found->second;
  } else {
    const dns::Cache::Reader::Begun begun = cache_.begin(question, loop_.now());
    if (begun.ask == dns::Cache::Reader::Ask::hit) {
      ++counters_.hits;
      return begun.answer;
    }
    index = add_pending(question);
    if (begun.ask == dns::Cache::Reader::Ask::flight) {
      start_flight(index);
    } else {
      set_deadline(index, loop_.now() + options_.notice_timeout);
    }
  }
  pending_[index]->waiting.push_back({.waiter = &waiter, .cookie = cookie});
  ++waiters_;
  return nullptr;
}

void Resolver::forget(const Waiter& waiter) {
  const auto is_it = [&waiter](const Waiting& waiting) { return waiting.waiter == &waiter; };
  for (const std::unique_ptr<Pending>& pending : pending_) {
    if (pending != nullptr) waiters_ -= std::erase_if(pending->waiting, is_it);
  }
  for (Waiting& waiting : delivering_) {
    if (is_it(waiting)) waiting.waiter = nullptr;
  }
}

void Resolver::on_completion(const io::Completion& completion) {
  const io::Token& token = completion.token;
  const auto operation = static_cast<Operation>(token.kind - options_.first_kind);
  Socket& socket = *sockets_[token.slot];
  POSTERN_CHECK(socket.descriptor >= 0 && socket.generation == token.generation && socket.operations > 0);
  --socket.operations;
  const std::uint32_t index = socket.pending;
  if (index == none) {
    if (completion.buffer.held()) loop_.release(completion.buffer);
  } else {
    switch (operation) {
      case Operation::recv_datagram:
        on_received(token.slot, completion, /*tcp=*/false);
        break;
      case Operation::recv:
        on_received(token.slot, completion, /*tcp=*/true);
        break;
      case Operation::connect:
        if (completion.result == 0) {
          begin_operation(token.slot, Operation::send);
          begin_operation(token.slot, Operation::recv);
          break;
        }
        [[fallthrough]];
      case Operation::send_datagram:
      case Operation::send:
        if (completion.result < 0) {
          pending_[index]->lookup->on_failure(loop_.now(), random_);
          drive(index);
        }
        break;
    }
  }
  close_if_done(token.slot);
  feed_starved();
  finish_flights();
}

void Resolver::on_received(std::uint32_t socket_index, const io::Completion& completion, bool tcp) {
  const std::uint32_t index = sockets_[socket_index]->pending;
  const std::uint32_t generation = sockets_[socket_index]->generation;
  Pending& pending = *pending_[index];
  if (completion.result == -ENOBUFS) {
    if (completion.buffer.held()) loop_.release(completion.buffer);
    starved_.push_back(socket_index);
    return;
  }
  if (completion.result < 0 || (tcp && completion.result == 0)) {
    pending.lookup->on_failure(loop_.now(), random_);
  } else if (tcp) {
    pending.lookup->on_stream(completion.bytes, loop_.now(), random_);
  } else {
    pending.lookup->on_datagram(completion.bytes, loop_.now(), random_);
  }
  if (completion.buffer.held()) loop_.release(completion.buffer);
  drive(index);
  // Not when the flight has left this socket, whose slot may already be another's.
  if (sockets_[socket_index]->generation == generation && sockets_[socket_index]->pending == index) {
    begin_operation(socket_index, tcp ? Operation::recv : Operation::recv_datagram);
  }
}

void Resolver::feed_starved() {
  while (!starved_.empty() && loop_.buffers_free() > 0) {
    const std::uint32_t index = starved_.back();
    starved_.pop_back();
    begin_operation(index, sockets_[index]->tcp ? Operation::recv : Operation::recv_datagram);
  }
}

void Resolver::on_notice(const dns::Question& question) {
  const auto found = by_question_.find(question);
  if (found == by_question_.end() || pending_[found->second]->own) return;
  const std::uint32_t index = found->second;
  const dns::Cache::Reader::Begun begun = cache_.begin(question, loop_.now());
  switch (begun.ask) {
    case dns::Cache::Reader::Ask::hit:
      deliver(index, *begun.answer);
      break;
    case dns::Cache::Reader::Ask::joined:
      set_deadline(index, loop_.now() + options_.notice_timeout);
      break;
    case dns::Cache::Reader::Ask::flight:
      start_flight(index);
      break;  // abandoned, or evicted at once
  }
  finish_flights();
}

void Resolver::on_deadline(Instant now) {
  feed_starved();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::uint32_t index = deadlines_.begin()->second;
    if (pending_[index]->own) {
      pending_[index]->lookup->on_deadline(now, random_);
      drive(index);
    } else {
      on_joined_deadline(index);
    }
  }
  finish_flights();
}

// The other shard did not keep its word, or its notice was lost: better a temporary failure than waiting for ever.
void Resolver::on_joined_deadline(std::uint32_t index) {
  dns::Answer answer = dns::Answer::temporary(dns::Answer::Failure::timed_out);
  answer.expires_at = loop_.now() + refusal_ttl;
  deliver(index, answer);
}

Instant Resolver::next_deadline() const {
  if (!finished_.empty()) return Instant::min();
  Instant next = deadlines_.empty() ? never : deadlines_.begin()->first;
  if (!starved_.empty()) next = std::min(next, loop_.now() + starved_retry);
  return next;
}

void Resolver::stop() {
  stopping_ = true;
  queue_.clear();
  finished_.clear();
  for (std::uint32_t index = 0; index < pending_.size(); ++index) {
    Pending* pending = pending_[index].get();
    if (pending == nullptr) continue;
    if (pending->own) {
      for (const std::uint16_t shard : cache_.abandon(pending->question)) notifier_.notify(shard, pending->question);
      leave_socket(*pending);
    }
    on_joined_deadline(index);
  }
  running_ = 0;
}

bool Resolver::idle() const {
  return sockets_open_ == 0;
}

// --- flights
// -----------------------------------------------------------------------------------------------------------

std::uint32_t Resolver::add_pending(const dns::Question& question) {
  std::uint32_t index = 0;
  if (pending_free_.empty()) {
    index = static_cast<std::uint32_t>(pending_.size());
    pending_.emplace_back();
  } else {
    index = pending_free_.back();
    pending_free_.pop_back();
  }
  pending_[index] = std::make_unique<Pending>();
  pending_[index]->question = question;
  by_question_.emplace(question, index);
  return index;
}

void Resolver::remove_pending(std::uint32_t index) {
  set_deadline(index, never);
  by_question_.erase(pending_[index]->question);
  pending_[index].reset();
  pending_free_.push_back(index);
}

void Resolver::set_deadline(std::uint32_t index, Instant deadline) {
  Instant& present = pending_[index]->deadline;
  if (present == deadline) return;
  if (present != never) deadlines_.erase({present, index});
  if (deadline != never) deadlines_.emplace(deadline, index);
  present = deadline;
}

void Resolver::start_flight(std::uint32_t index) {
  pending_[index]->own = true;
  set_deadline(index, never);
  if (running_ == options_.flights_max) {
    queue_.push_back(index);
  } else {
    run_flight(index);
  }
}

void Resolver::run_flight(std::uint32_t index) {
  ++running_;
  Pending& pending = *pending_[index];
  const std::vector<std::uint8_t> servers = health_.order(loop_.now());
  pending.lookup.emplace(pending.question, servers, options_.lookup, loop_.now(), random_);
  drive(index);
}

// Carries out what the lookup wants now: a message on a new socket, another deadline, its end.
void Resolver::drive(std::uint32_t index) {
  Pending& pending = *pending_[index];
  dns::Lookup& lookup = *pending.lookup;
  while (true) {
    switch (const dns::Lookup::ServerCredit credit = lookup.take_credit(); credit.credit) {
      case dns::Lookup::Credit::none:
        break;
      case dns::Lookup::Credit::success:
        health_.on_success(credit.server);
        break;
      case dns::Lookup::Credit::failure:
        health_.on_failure(credit.server, loop_.now());
        break;
    }
    if (lookup.done()) {
      leave_socket(pending);
      set_deadline(index, never);
      finished_.push_back(index);
      return;
    }
    const std::optional<dns::Lookup::Send> send = lookup.take_send();
    if (!send) break;
    leave_socket(pending);
    if (open_socket(index, *send)) break;
    lookup.on_failure(loop_.now(), random_);
  }
  set_deadline(index, lookup.next_deadline());
}

void Resolver::finish_flights() {
  while (!finished_.empty()) {
    const std::uint32_t index = finished_.back();
    finished_.pop_back();
    --running_;
    Pending& pending = *pending_[index];
    dns::Answer answer = pending.lookup->take_answer();
    if (answer.kind == dns::Answer::Kind::temporary) ++counters_.temporary;
    const dns::Cache::Reader::Published published = cache_.publish(pending.question, std::move(answer), loop_.now());
    for (const std::uint16_t shard : published.waiting) notifier_.notify(shard, pending.question);
    deliver(index, *published.answer);
    while (!queue_.empty() && running_ < options_.flights_max) {
      const std::uint32_t next = queue_.front();
      queue_.pop_front();
      run_flight(next);
    }
  }
}

void Resolver::deliver(std::uint32_t index, const dns::Answer& answer) {
  POSTERN_CHECK(delivering_.empty());
  delivering_ = std::move(pending_[index]->waiting);
  const dns::Question question = pending_[index]->question;
  remove_pending(index);  // first, so that who asks again from on_answer() begins anew
  waiters_ -= delivering_.size();
  for (std::size_t i = 0; i < delivering_.size(); ++i) {
    const Waiting waiting = delivering_[i];
    if (waiting.waiter != nullptr) waiting.waiter->on_answer(question, answer, waiting.cookie);
  }
  delivering_.clear();
}

// --- sockets
// -----------------------------------------------------------------------------------------------------------

io::Token Resolver::token(std::uint32_t socket, Operation operation) const {
  return {.slot = socket,
          .generation = sockets_[socket]->generation & 0xFF'FFFFu,
          .kind = static_cast<std::uint8_t>(options_.first_kind + static_cast<std::uint8_t>(operation))};
}

bool Resolver::open_socket(std::uint32_t pending_index, const dns::Lookup::Send& send) {
  const io::Address& remote = options_.servers[send.server];
  const StatusOr<io::Descriptor> descriptor =
      send.tcp ? loop_.open_stream(remote, io::Address()) : loop_.open_datagram(remote, io::Address());
  if (!descriptor.ok()) return false;

  std::uint32_t index = 0;
  if (sockets_free_.empty()) {
    index = static_cast<std::uint32_t>(sockets_.size());
    sockets_.push_back(std::make_unique<Socket>());
  } else {
    index = sockets_free_.back();
    sockets_free_.pop_back();
  }
  ++sockets_open_;
  Socket& socket = *sockets_[index];
  socket.descriptor = *descriptor;
  socket.pending = pending_index;
  socket.tcp = send.tcp;
  socket.remote = remote;
  // A copy, because it must stay as it is until sent, while the lookup may go on to its next attempt.
  std::copy(send.message.begin(), send.message.end(), socket.message.begin());
  socket.message_bytes = send.message.size();
  pending_[pending_index]->socket = index;
  ++counters_.queries;
  if (send.tcp) {
    ++counters_.tcp_queries;
    begin_operation(index, Operation::connect);
  } else {
    begin_operation(index, Operation::send_datagram);
    begin_operation(index, Operation::recv_datagram);
  }
  return true;
}

void Resolver::begin_operation(std::uint32_t index, Operation operation) {
  Socket& socket = *sockets_[index];
  ++socket.operations;
  const Bytes message = Bytes(socket.message).first(socket.message_bytes);
  const io::Token name = token(index, operation);
  switch (operation) {
    case Operation::send_datagram:
      loop_.send_datagram(socket.descriptor, message, name);
      break;
    case Operation::recv_datagram:
      loop_.recv_datagram(socket.descriptor, name);
      break;
    case Operation::connect:
      loop_.connect(socket.descriptor, socket.remote, name);
      break;
    case Operation::send:
      socket.slice = {.data = message.data(), .size = message.size()};
      loop_.send(socket.descriptor, {&socket.slice, 1}, name);
      break;
    case Operation::recv:
      loop_.recv(socket.descriptor, /*poll_first=*/true, name);
      break;
  }
}

// Ends a flight's interest in its socket, if it has one.
void Resolver::leave_socket(Pending& pending) {
  if (pending.socket == none) return;
  const std::uint32_t index = std::exchange(pending.socket, none);
  Socket& socket = *sockets_[index];
  socket.pending = none;
  std::erase(starved_, index);
  if (socket.operations > 0) {
    const auto cancel = [this, index](Operation operation) { loop_.cancel(token(index, operation)); };
    if (socket.tcp) {
      cancel(Operation::connect);
      cancel(Operation::send);
      cancel(Operation::recv);
    } else {
      cancel(Operation::send_datagram);
      cancel(Operation::recv_datagram);
    }
  }
  close_if_done(index);
}

void Resolver::close_if_done(std::uint32_t index) {
  Socket& socket = *sockets_[index];
  if (socket.pending != none || socket.operations != 0 || socket.descriptor < 0) return;
  loop_.close(std::exchange(socket.descriptor, -1));
  socket.generation = (socket.generation + 1) & 0xFF'FFFFu;
  sockets_free_.push_back(index);
  --sockets_open_;
}

}  // namespace postern::resolver
