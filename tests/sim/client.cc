#include "tests/sim/client.h"

#include <algorithm>
#include <utility>

namespace postern::sim {

std::string stuffed(std::string_view content) {
  std::string out;
  bool line_start = true;
  for (const char c : content) {
    if (line_start && c == '.') out.push_back('.');
    out.push_back(c);
    line_start = c == '\n';
  }
  return out.append(".\r\n");
}

void Client::plan(std::size_t index) {
  const Mail& mail = *mails_[index];
  const bool first_alone = !(manners_.ahead && manners_.chunking);
  if (manners_.resets && index > 0) queue_.push_back({.kind = Kind::rset, .bytes = "RSET\r\n", .alone = first_alone});
  queue_.push_back(
      {.kind = Kind::mail, .bytes = "MAIL FROM:<" + mail.sender + ">\r\n", .mail = index, .alone = first_alone});
  for (std::size_t i = 0; i < mail.recipients.size(); ++i) {
    const std::string& notify = mail.recipients[i].notify;
    queue_.push_back({.kind = Kind::rcpt,
                      .bytes = "RCPT TO:<" + mail.recipients[i].address + ">" +
                               (notify.empty() ? std::string() : " NOTIFY=" + notify) + "\r\n",
                      .mail = index,
                      .recipient = i});
  }
  if (!manners_.chunking) {
    queue_.push_back({.kind = Kind::data, .bytes = "DATA\r\n", .mail = index});
    return;
  }
  std::string_view rest = mail.content;
  do {
    const std::string_view piece = rest.substr(0, std::min(manners_.chunk, rest.size()));
    rest.remove_prefix(piece.size());
    const bool last = rest.empty();
    queue_.push_back(
        {.kind = last ? Kind::content : Kind::chunk,
         .bytes = "BDAT " + std::to_string(piece.size()) + (last ? " LAST\r\n" : "\r\n") + std::string(piece),
         .mail = index});
  } while (!rest.empty());
}

void Client::pump() {
  while (!ended_ && !queue_.empty()) {
    const bool one_by_one = !manners_.pipelining || queue_.front().alone;
    if (one_by_one && !waiting_.empty()) return;
    Command command = std::move(queue_.front());
    queue_.pop_front();
    if (sent_++ == manners_.hang_up_after) {
      // In the middle of this command.
      if (command.bytes.size() > 1) put(std::string_view(command.bytes).substr(0, command.bytes.size() / 2));
      return end();
    }
    put(command.bytes);
    // From here on the relay may have it.
    if (command.kind == Kind::content) mails_[command.mail]->fate = Mail::Fate::unknown;
    const bool sync = command.kind == Kind::data;
    command.bytes.clear();
    waiting_.push_back(std::move(command));
    if (sync) return;
  }
}

void Client::put(std::string_view bytes) {
  if (manners_.trickle == 0) return send(bytes);
  output_.append(bytes);
  if (!std::exchange(dripping_, true)) drip();
}

void Client::drip() {
  const std::size_t size = std::min(manners_.trickle, output_.size());
  send(std::string_view(output_).substr(0, size));
  output_.erase(0, size);
  if (output_.empty()) {
    dripping_ = false;
    return;
  }
  world().at(world().now() + manners_.trickle_every, [this, alive = alive()] {
    if (*alive && !ended_) drip();
  });
}

void Client::on_open() {
  if (manners_.tls == Tls::at_once) shake_hands();
  watch();
}

void Client::shake_hands() {
  channel_ = Channel::shaking;
  put(manners_.leaves_handshake ? "hel" : "hello\n");
  if (manners_.leaves_handshake) end();
}

// False: the relay's part is not complete, or there was something else in its place.
bool Client::take_hello() {
  constexpr std::string_view hello = "HELLO\n";
  if (!std::string_view(hello).starts_with(std::string_view(input_).substr(0, hello.size()))) {
    oracle_.violation("something else than TLS behind the client's hello: " + input_);
    end();
    return false;
  }
  if (input_.size() < hello.size()) return false;
  input_.erase(0, hello.size());
  channel_ = Channel::secured;
  if (manners_.tls != Tls::starttls) return true;
  queue_.push_back({.kind = Kind::ehlo, .bytes = "EHLO client.test\r\n", .alone = true});
  pump();
  return true;
}

void Client::on_bytes(std::string_view bytes) {
  input_.append(bytes);
  if (channel_ == Channel::shaking && !take_hello()) return;
  std::size_t end_of_line = 0;
  while (!ended_ && (end_of_line = input_.find("\r\n")) != std::string::npos) {
    const std::string line = input_.substr(0, end_of_line);
    input_.erase(0, end_of_line + 2);
    if (line.size() < 3) {
      oracle_.violation("reply line too short: " + line);
      continue;
    }
    if (line.find("STARTTLS") != std::string::npos) offers_starttls_ = true;
    if (line.size() > 3 && line[3] == '-') continue;
    on_reply(std::atoi(line.substr(0, 3).c_str()), line);
    if (channel_ == Channel::shaking && !input_.empty()) {
      oracle_.violation("bytes in the clear behind 220: " + input_);
    }
  }
  // The relay's close_notify: its last byte.
  if (!ended_ && channel_ == Channel::secured && input_.starts_with('\x04')) {
    if (input_.size() > 1) oracle_.violation("bytes behind the relay's close_notify");
    end();
  }
}

void Client::on_reply(int code, std::string_view text) {
  ++replies_;
  world().say("client: reply", text);
  if (code == 421) return end();
  if (waiting_.empty()) {
    oracle_.violation("a reply that no command asked for: " + std::string(text));
    return end();
  }
  const Command command = std::move(waiting_.front());
  waiting_.pop_front();
  switch (command.kind) {
    case Kind::greeting:
      if (code != 220) return end();
      queue_.push_back({.kind = Kind::ehlo, .bytes = "EHLO client.test\r\n", .alone = true});
      break;
    case Kind::ehlo:
      if (code != 250) return end();
      if (manners_.tls == Tls::starttls && channel_ == Channel::clear) {
        if (!offers_starttls_) oracle_.violation("EHLO does not show STARTTLS");
        queue_.push_back({.kind = Kind::starttls, .bytes = "STARTTLS\r\n", .alone = true});
        break;
      }
      for (std::size_t i = 0; i < mails_.size(); ++i) plan(i);
      queue_.push_back({.kind = Kind::quit, .bytes = "QUIT\r\n", .alone = true});
      break;
    case Kind::starttls:
      if (code != 220) return end();
      shake_hands();
      break;
    case Kind::rcpt:
      mails_[command.mail]->recipients[command.recipient].accepted = code == 250;
      mails_[command.mail]->recipients[command.recipient].refused = code != 250;
      break;
    case Kind::data:
      if (code == 354) {
        queue_.push_front(
            {.kind = Kind::content, .bytes = stuffed(mails_[command.mail]->content), .mail = command.mail});
      } else {
        oracle_.on_fate(*mails_[command.mail], Mail::Fate::refused, {}, world().now());
      }
      break;
    case Kind::content: {
      constexpr std::string_view words = "queued as ";
      const std::size_t at = text.find(words);
      if (code == 250 && at == std::string_view::npos)
        oracle_.violation("250 without a queue id: " + std::string(text));
      if (code == 250 && at != std::string_view::npos) {
        oracle_.on_fate(*mails_[command.mail], Mail::Fate::accepted, text.substr(at + words.size()), world().now());
      } else {
        oracle_.on_fate(*mails_[command.mail], Mail::Fate::refused, {}, world().now());
      }
      break;
    }
    case Kind::quit:
      return end();
    default:
      break;
  }
  pump();
  watch();
}

void Client::watch() {
  world().at(world().now() + patience, [this, alive = alive(), replies = replies_] {
    if (*alive && !ended_ && replies == replies_) end();
  });
}

void Client::end() {
  if (std::exchange(ended_, true)) return;
  if (channel_ == Channel::secured && manners_.close_notify && !closed()) send("\x04");
  close(manners_.reset);
  if (done_) done_();
}

}  // namespace postern::sim
