#include <algorithm>

#include <postern/base/check.h>
#include <postern/dns/lookup.h>

namespace postern::dns {
namespace {

// Datagrams with a wrong id or question that one attempt puts up with. A forger needs thousands; a late duplicate is
// one.
constexpr std::uint32_t mismatches_max = 8;

}  // namespace

ServerHealth::ServerHealth(std::size_t servers, bool rotate) : servers_(servers), rotate_(rotate) {
  POSTERN_CHECK(servers >= 1 && servers <= servers_max);
}

std::vector<std::uint8_t> ServerHealth::order(Instant now) {
  std::vector<std::uint8_t> result;
  result.reserve(servers_);
  const std::size_t first = rotate_ ? next_++ % servers_ : 0;
  for (const bool avoided : {false, true}) {
    for (std::size_t i = 0; i < servers_; ++i) {
      const std::size_t server = (first + i) % servers_;
      if ((states_[server].avoid_until > now) == avoided) result.push_back(static_cast<std::uint8_t>(server));
    }
  }
  return result;
}

void ServerHealth::on_success(std::size_t server) {
  states_[server] = {};
}

void ServerHealth::on_failure(std::size_t server, Instant now) {
  State& state = states_[server];
  if (++state.failures >= failures_to_avoid) state.avoid_until = now + avoid_for;
}

Lookup::Lookup(Question question, std::span<const std::uint8_t> servers, const LookupOptions& options, Instant now,
               Random& random)
    : question_(std::move(question)),
      asked_(question_),
      options_(options),
      server_count_(servers.size()),
      give_up_at_(now + options.total_max) {
  POSTERN_CHECK(!servers.empty() && servers.size() <= servers_max);
  for (std::size_t i = 0; i < servers.size(); ++i) servers_[i] = {.index = servers[i], .edns = options.edns};
  ask(/*tcp=*/false, now, random);
}

std::optional<Lookup::Send> Lookup::take_send() {
  if (!send_due_ || done_) return std::nullopt;
  send_due_ = false;
  return Send{.server = servers_[current_].index,
              .tcp = tcp_,
              .message = tcp_ ? Bytes(framed_).first(query_.size + 2) : query_.bytes()};
}

Lookup::ServerCredit Lookup::take_credit() {
  return std::exchange(credit_, {});
}

void Lookup::on_datagram(Bytes message, Instant now, Random& random) {
  if (done_ || tcp_) return;
  on_message(message, /*tcp=*/false, now, random);
}

void Lookup::on_stream(Bytes bytes, Instant now, Random& random) {
  if (done_ || !tcp_) return;
  const std::size_t room = message_bytes_max + 2 - stream_.size();
  bytes = bytes.first(std::min(bytes.size(), room));
  stream_.insert(stream_.end(), bytes.begin(), bytes.end());
  if (stream_.size() < 2) return;
  const std::size_t size = std::to_integer<std::size_t>(stream_[0]) << 8 | std::to_integer<std::size_t>(stream_[1]);
  if (stream_.size() - 2 < size) return;
  const std::vector<std::byte> stream = std::move(stream_);  // on_message() may begin another attempt
  stream_.clear();
  on_message(Bytes(stream).subspan(2, size), /*tcp=*/true, now, random);
}

void Lookup::on_failure(Instant now, Random& random) {
  if (done_) return;
  credit_ = {.server = servers_[current_].index, .credit = Credit::failure};
  ask_next_server(Answer::Failure::timed_out, now, random);
}

void Lookup::on_deadline(Instant now, Random& random) {
  if (done_ || now < deadline_) return;
  on_failure(now, random);
}

void Lookup::ask(bool tcp, Instant now, Random& random) {
  if (now >= give_up_at_) return finish(Answer::temporary(last_failure_));
  const Server& server = servers_[current_];
  tcp_ = tcp;
  const auto id = static_cast<std::uint16_t>(random() >> 48);
  query_ = encode_query(asked_, id, server.edns, options_.random_case && !tcp ? &random : nullptr);
  if (tcp) {
    framed_[0] = static_cast<std::byte>(query_.size >> 8);
    framed_[1] = static_cast<std::byte>(query_.size & 0xFF);
    std::copy_n(query_.buffer.begin(), query_.size, framed_.begin() + 2);
  }
  stream_.clear();
  mismatches_ = 0;
  send_due_ = true;
  deadline_ = std::min(now + options_.timeout * (1 << std::min(round_, 8u)), give_up_at_);
}

void Lookup::ask_next_server(Answer::Failure failure, Instant now, Random& random) {
  last_failure_ = failure;
  const auto usable = [](const Server& server) { return !server.finished; };
  if (std::none_of(servers_.begin(), servers_.begin() + static_cast<std::ptrdiff_t>(server_count_), usable)) {
    return finish(Answer::temporary(failure));
  }
  do {
    if (++current_ == server_count_) {
      current_ = 0;
      ++round_;
    }
  } while (servers_[current_].finished);
  if (round_ >= options_.rounds) return finish(Answer::temporary(failure));
  ask(/*tcp=*/false, now, random);
}

void Lookup::on_message(Bytes bytes, bool tcp, Instant now, Random& random) {
  Server& server = servers_[current_];
  switch (match_response(query_.bytes(), bytes)) {
    case Match::yes:
      break;
    case Match::other_case:
      // A server that does not keep the case, or a forger who knows all but it. Over TCP both come out.
      if (!tcp) return ask(/*tcp=*/true, now, random);
      break;
    case Match::no:
      if (tcp) {
        server.finished = true;
        return ask_next_server(Answer::Failure::malformed, now, random);
      }
      if (++mismatches_ >= mismatches_max) ask(/*tcp=*/true, now, random);
      return;
  }
  const std::optional<Message> message = decode(bytes);
  if (!message || (message->truncated && tcp)) {
    server.finished = true;
    return ask_next_server(Answer::Failure::malformed, now, random);
  }
  credit_ = {.server = server.index, .credit = Credit::success};
  if (message->truncated) return ask(/*tcp=*/true, now, random);
  if (server.edns && (message->code == ResponseCode::format_error || message->code == ResponseCode::not_implemented ||
                      message->code == ResponseCode::bad_version)) {
    server.edns = false;  // an old server [RFC 6891 §7]
    return ask(tcp, now, random);
  }

  Interpretation heard = interpret(asked_, *message, options_.aliases_max - aliases_);
  if (heard.answer.kind == Answer::Kind::temporary && !heard.ask_next) {
    if (heard.answer.failure == Answer::Failure::alias_loop) return finish(std::move(heard.answer));
    server.finished = true;
    return ask_next_server(heard.answer.failure, now, random);
  }
  aliases_ += heard.aliases;
  alias_ttl_ = std::min(alias_ttl_, heard.answer.ttl);
  if (heard.ask_next) {
    if (aliases_ >= options_.aliases_max) return finish(Answer::temporary(Answer::Failure::alias_loop));
    asked_.name = *std::move(heard.ask_next);
    for (Server& each : servers_) each.finished = false;
    round_ = 0;
    return ask(/*tcp=*/false, now, random);
  }
  heard.answer.ttl = alias_ttl_;
  finish(std::move(heard.answer));
}

void Lookup::finish(Answer answer) {
  answer_ = std::move(answer);
  done_ = true;
  send_due_ = false;
  deadline_ = never;
  stream_.clear();
}

}  // namespace postern::dns
