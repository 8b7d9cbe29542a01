#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/mail/xtext.h>
#include <postern/smtp/client_session.h>
#include <postern/smtp/path.h>

namespace postern::smtp {
namespace {

constexpr std::size_t reply_bytes_typical_max = 512;  // [RFC 5321 §4.5.3.1.5]
constexpr std::size_t receive_window_min = std::size_t{64} * 1024;
static_assert(ClientSession::replies_outstanding_max * reply_bytes_typical_max <= receive_window_min);

constexpr mail::EnhancedStatus bad_destination{5, 1, 3};
constexpr mail::EnhancedStatus bad_sender{5, 1, 7};
constexpr mail::EnhancedStatus too_large_for_next_hop{5, 3, 4};
constexpr mail::EnhancedStatus connection_trouble{4, 4, 2};
constexpr mail::EnhancedStatus protocol_trouble{4, 5, 0};
constexpr mail::EnhancedStatus too_many_recipients{4, 5, 3};
constexpr mail::EnhancedStatus conversion_required{5, 6, 3};
constexpr mail::EnhancedStatus utf8_required{5, 6, 7};
constexpr mail::EnhancedStatus feature_lacking{5, 3, 3};
constexpr mail::EnhancedStatus too_late{5, 4, 7};
constexpr mail::EnhancedStatus require_tls_needed{5, 7, 30};
constexpr mail::EnhancedStatus shutting_down{4, 3, 2};
constexpr mail::EnhancedStatus tls_unavailable{4, 7, 4};  // security features not supported [RFC 3463 §3.8]
constexpr mail::EnhancedStatus tls_trouble{4, 7, 5};      // cryptographic failure

mail::Reply ours(mail::EnhancedStatus status, std::string_view text) {
  return {.code = 0, .status = status, .text = std::string(text)};
}

mail::Outcome outcome_of(const mail::Reply& reply) {
  return reply.permanent() ? mail::Outcome::failed : mail::Outcome::deferred;
}

// 452, or 552 with older peers [RFC 5321 §4.5.3.1.10]; they stand for other shortages too, where a status says so.
bool speaks_of_recipient_limit(const mail::Reply& reply) {
  if (reply.code != 452 && reply.code != 552) return false;
  return !reply.status.present() || (reply.status.subject == 5 && reply.status.detail == 3);
}

void append_decimal(std::string& out, std::uint64_t value) {
  char digits[std::numeric_limits<std::uint64_t>::digits10 + 1];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value).ptr;
  out.append(digits, end);
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool has_ascii_paths(const DeliveryRequest& request) {
  return is_ascii(request.reverse_path) &&
         std::all_of(request.forward_paths.begin(), request.forward_paths.end(), is_ascii);
}

void append_dsn_of_mail(std::string& out, const DeliveryRequest& request) {
  if (request.dsn_return == mail::DsnReturn::full) out += " RET=FULL";
  if (request.dsn_return == mail::DsnReturn::headers) out += " RET=HDRS";
  // What came from a disk is no more trusted than a peer: what is no xtext could be read as more than a parameter.
  if (mail::is_envelope_id(request.envelope_id)) out.append(" ENVID=").append(request.envelope_id);
}

// `utf8`: MAIL asked for SMTPUTF8, without which ORCPT holds no UTF-8 [RFC 6533 §3].
void append_dsn_of_recipient(std::string& out, const DsnRequest& asked, bool utf8) {
  if ((asked.notify.bits & mail::Notify::never) != 0) {
    out += " NOTIFY=NEVER";
  } else if (asked.notify.bits != 0) {
    char separator = '=';
    out += " NOTIFY";
    const auto append = [&](std::uint8_t bit, std::string_view word) {
      if ((asked.notify.bits & bit) == 0) return;
      out += separator;
      out += word;
      separator = ',';
    };
    append(mail::Notify::success, "SUCCESS");
    append(mail::Notify::failure, "FAILURE");
    append(mail::Notify::delay, "DELAY");
  }
  if (mail::is_original_recipient(asked.original_recipient, utf8))
    out.append(" ORCPT=").append(asked.original_recipient);
}

// What the grammar of a path does not have could be read by the peer as more than a path.
bool is_forward_path(std::string_view text) {
  return parse_mailbox(text).has_value() || equal_ignoring_case(text, "postmaster");
}

bool is_reverse_path(std::string_view text) {
  return text.empty() || parse_mailbox(text).has_value();
}

// Dot-stuffed content is plain content too when no line begins with a dot.
bool is_plain(const mail::ContentFacts& facts) {
  return facts.form != mail::ContentForm::dot_stuffed || !facts.line_starts_with_dot;
}

}  // namespace

// --- the driver's view
// -------------------------------------------------------------------------------------------------

void ClientSession::reset(Instant now, Dialect dialect, StartTls start_tls, const sasl::Credentials* credentials) {
  dialect_ = dialect;
  credentials_ = credentials;
  exchange_.reset();
  authenticated_by_.reset();
  auth_trouble_ = AuthTrouble::none;
  start_tls_ = start_tls;
  starttls_said_ = false;
  secured_ = false;
  tls_failed_ = false;
  parser_.reset();
  state_ = State::greeting;
  connection_ = ConnectionVerdict::reusable;
  greeted_ = false;
  reset_due_ = false;
  has_result_ = false;
  extensions_ = {};
  failure_.code = 0;
  failure_.status = {};
  failure_.text.clear();
  transactions_ = 0;
  if (output_secret_) sasl::wipe(output_);
  output_secret_ = false;
  output_.clear();
  output_taken_ = 0;
  output_position_ = 0;
  transaction_ = {};
  arm(now);
}

ClientSession::Want ClientSession::want() const {
  switch (state_) {
    case State::idle:
      return Want::delivery;
    case State::handshake:
      return Want::handshake;
    case State::channel:
      return Want::channel;
    case State::salting:
      return Want::salted_password;
    case State::closed:
      return Want::close;
    case State::transaction:
      return transaction_.content == Content::wanted ? Want::content : Want::bytes;
    default:
      return Want::bytes;
  }
}

Bytes ClientSession::output() const {
  return as_bytes(std::string_view(output_).substr(output_taken_));
}

void ClientSession::on_output_taken(std::size_t bytes) {
  POSTERN_CHECK(bytes <= output_.size() - output_taken_);
  output_taken_ += bytes;
  output_position_ += bytes;
  if (output_taken_ == output_.size()) {
    if (output_secret_) sasl::wipe(output_);
    output_secret_ = false;
    output_.clear();
    output_taken_ = 0;
  }
}

void ClientSession::on_bytes(Bytes bytes, Instant now) {
  while (!bytes.empty() && state_ != State::closed) {
    if (state_ == State::idle) {
      // Nothing is asked, nothing may come; mostly it is a 421 for a connection that was idle too long.
      end(ConnectionVerdict::closing, ours(protocol_trouble, "the peer spoke out of turn"));
      return;
    }
    if (state_ == State::handshake) {
      // Said by whoever can write into the connection, and meant to be heard as if it had come under TLS
      // [CVE-2011-0411].
      end_as_protocol_error("the peer spoke between its reply to STARTTLS and the handshake");
      return;
    }
    if (state_ == State::channel || state_ == State::salting) {
      end_authentication(AuthTrouble::broken, protocol_trouble, "the peer answered before it was asked");
      return;
    }
    const ReplyParser::Progress progress = parser_.on_bytes(bytes);
    bytes = bytes.subspan(progress.consumed);
    switch (progress.result) {
      case ReplyParser::Result::incomplete:
        return;
      case ReplyParser::Result::malformed:
        end_as_protocol_error("the peer's answer is no SMTP reply");
        return;
      case ReplyParser::Result::reply:
        on_reply(now);
        break;
    }
  }
}

void ClientSession::on_connection_lost(Instant now) {
  (void)now;
  if (state_ == State::closed) return;
  if (state_ == State::idle || state_ == State::quitting) {
    // No one waits for anything: not a failure.
    connection_ = ConnectionVerdict::lost;
    state_ = State::closed;
    deadline_ = never;
    return;
  }
  end_silent(false);
}

void ClientSession::on_deadline(Instant now) {
  if (now < deadline_) return;
  if (state_ == State::quitting) {
    state_ = State::closed;
    deadline_ = never;
    return;
  }
  end_silent(true);
}

void ClientSession::quit(Instant now) {
  switch (state_) {
    case State::closed:
    case State::quitting:
      return;
    case State::idle:
      write("QUIT\r\n");
      state_ = State::quitting;
      connection_ = ConnectionVerdict::closing;
      arm(now);
      return;
    default:
      end(ConnectionVerdict::closing, ours(shutting_down, "the session was ended by this side"));
  }
}

std::size_t ClientSession::recipients_max() const {
  if (extensions_.rcpt_max == 0) return mail::Envelope::recipients_max;
  return static_cast<std::size_t>(std::min<std::uint64_t>(extensions_.rcpt_max, mail::Envelope::recipients_max));
}

DeliveryResult ClientSession::take_result() {
  POSTERN_CHECK(has_result_);
  has_result_ = false;
  result_.connection = connection_;
  return result_;
}

// --- greeting
// ----------------------------------------------------------------------------------------------------------

void ClientSession::on_reply(Instant now) {
  const mail::Reply& reply = parser_.reply();
  switch (state_) {
    case State::greeting:
      if (reply.code != 220) {
        end(ConnectionVerdict::closing, reply);
        return;
      }
      say_hello();
      break;
    case State::ehlo:
    case State::helo:
      if (!output_.empty()) {
        end_as_protocol_error("the peer answered before it was asked");
        return;
      }
      if (reply.code / 100 == 2) {
        if (state_ == State::ehlo) read_extensions();
        on_hello_accepted();
      } else if (state_ == State::ehlo && reply.permanent() && dialect_ == Dialect::smtp) {
        // [RFC 5321 §3.2] has 500 and 502; some who do not know EHLO say 501, 504 or 550.
        write("HELO ");
        write(options_->ehlo_name);
        write("\r\n");
        state_ = State::helo;
      } else {
        end(ConnectionVerdict::closing, reply);
        return;
      }
      break;
    case State::starttls:
      on_starttls_reply();
      break;
    case State::auth:
      on_auth_reply();
      break;
    case State::transaction:
      on_transaction_reply(now);
      return;
    case State::quitting:
      state_ = State::closed;
      break;
    case State::handshake:
    case State::channel:
    case State::salting:
    case State::idle:
    case State::closed:
      break;
  }
  arm(now);
}

void ClientSession::say_hello() {
  write(dialect_ == Dialect::lmtp ? "LHLO " : "EHLO ");
  write(options_->ehlo_name);
  write("\r\n");
  state_ = State::ehlo;
}

// --- TLS
// ---------------------------------------------------------------------------------------------------------------

void ClientSession::on_hello_accepted() {
  if (start_tls_ != StartTls::never && !secured_) {
    if (extensions_.starttls) {
      write("STARTTLS\r\n");
      starttls_said_ = true;
      state_ = State::starttls;
      return;
    }
    if (start_tls_ == StartTls::always) {
      end(ConnectionVerdict::closing, ours(tls_unavailable, "TLS is required, and the next hop does not offer it"));
      return;
    }
  }
  on_greeted();
}

void ClientSession::on_greeted() {
  if (credentials_ != nullptr) return prepare_authentication();
  greeted_ = true;
  state_ = State::idle;
}

void ClientSession::on_starttls_reply() {
  const mail::Reply& reply = parser_.reply();
  if (!output_.empty()) {
    end_as_protocol_error("the peer answered before it was asked");
  } else if (reply.code == 220) {
    extensions_ = {};
    state_ = State::handshake;
  } else if (reply.code == 421) {
    end(ConnectionVerdict::lost, ours(tls_unavailable, "the next hop answered STARTTLS with " + reply.to_log_text()));
  } else if (reply.code < 400) {
    end_as_protocol_error("the peer answered STARTTLS with neither 220 nor a refusal");
  } else if (start_tls_ == StartTls::always) {
    end(ConnectionVerdict::closing,
        ours(tls_unavailable, "TLS is required, and the next hop answered STARTTLS with " + reply.to_log_text()));
  } else {
    on_greeted();
  }
}

void ClientSession::on_secured(Instant now) {
  POSTERN_CHECK(state_ == State::handshake, "nobody asked for a handshake");
  secured_ = true;
  parser_.reset();
  say_hello();
  arm(now);
}

void ClientSession::on_tls_failed(std::string_view reason, Instant now) {
  // Behind the greeting it is a connection lost like any other.
  if (greeted_ || authenticating() || state_ == State::closed || !starttls_said_) return on_connection_lost(now);
  end(ConnectionVerdict::lost, ours(tls_trouble, reason));
}

void ClientSession::read_extensions() {
  extensions_ = {};
  extensions_.esmtp = true;
  std::string_view rest = parser_.reply().text;
  // The first line names the peer [RFC 5321 §4.1.1.1].
  for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    rest.remove_prefix(end + 1);
    const std::string_view line = trim(rest.substr(0, rest.find('\n')));
    const std::size_t keyword_end = std::min(line.find_first_of(" \t="), line.size());
    const std::string_view keyword = line.substr(0, keyword_end);
    std::string_view values = trim(line.substr(std::min(keyword_end + 1, line.size())));
    const auto is = [keyword](std::string_view name) { return equal_ignoring_case(keyword, name); };
    if (is("PIPELINING")) {
      extensions_.pipelining = true;
    } else if (is("CHUNKING")) {
      extensions_.chunking = true;
    } else if (is("8BITMIME")) {
      extensions_.eight_bit_mime = true;
    } else if (is("BINARYMIME")) {
      extensions_.binary_mime = true;
    } else if (is("SMTPUTF8")) {
      extensions_.smtp_utf8 = true;
    } else if (is("ENHANCEDSTATUSCODES")) {
      extensions_.enhanced_status_codes = true;
    } else if (is("DSN")) {
      extensions_.dsn = true;
    } else if (is("MT-PRIORITY")) {
      extensions_.mt_priority = true;
    } else if (is("STARTTLS")) {
      extensions_.starttls = true;
    } else if (is("REQUIRETLS")) {
      extensions_.require_tls = true;
    } else if (is("AUTH")) {  // also "AUTH=…", which some say beside it for clients of the last century
      extensions_.auth = true;
      while (!values.empty()) {
        const std::string_view name = values.substr(0, values.find_first_of(" \t"));
        values = trim(values.substr(name.size()));
        if (const auto mechanism = sasl::mechanism_named(name)) extensions_.mechanisms.add(*mechanism);
      }
    } else if (is("DELIVERBY")) {
      extensions_.deliver_by = true;
      extensions_.deliver_by_min = parse_uint<std::uint32_t>(values).value_or(0);
    } else if (is("SIZE")) {
      extensions_.size = true;
      extensions_.size_max = parse_uint<std::uint64_t>(values).value_or(0);
    } else if (is("LIMITS")) {
      while (!values.empty()) {
        const std::string_view limit = values.substr(0, values.find(' '));
        values = trim(values.substr(limit.size()));
        const std::size_t equals = std::min(limit.find('='), limit.size());
        const std::string_view name = limit.substr(0, equals);
        const auto value = parse_uint<std::uint64_t>(limit.substr(std::min(equals + 1, limit.size())));
        if (!value) continue;
        if (equal_ignoring_case(name, "MAILMAX")) extensions_.mail_max = *value;
        if (equal_ignoring_case(name, "RCPTMAX")) extensions_.rcpt_max = *value;
        if (equal_ignoring_case(name, "RCPTDOMAINMAX")) extensions_.domain_max = *value;
      }
    }
  }
}

// --- begin of a delivery
// -----------------------------------------------------------------------------------------------

void ClientSession::begin(const DeliveryRequest& request, Instant now) {
  POSTERN_CHECK(state_ == State::idle, "begin() on a session that is not idle");
  POSTERN_CHECK(!has_result_, "the last delivery's result was not taken");
  POSTERN_CHECK(!request.forward_paths.empty());
  transaction_ = {};
  transaction_.only_ask = request.only_ask;
  open_recipients(request);
  plan_content(request);
  refuse_unsendable(request);
  if (recipients_open_ == 0) {
    give_result();
    return;
  }
  write_commands(request);
  transaction_.reused = transactions_ > 0;
  transaction_.output_base = output_position_ + output().size();
  ++transactions_;
  state_ = State::transaction;
  release_commands();
  arm(now);
}

void ClientSession::open_recipients(const DeliveryRequest& request) {
  const std::size_t count = request.forward_paths.size();
  if (results_.size() < count) results_.resize(count);
  recipient_states_.assign(count, RecipientState::pending);
  recipients_open_ = count;
  result_ = {};
  result_.recipients = std::span(results_).first(count);
}

void ClientSession::plan_content(const DeliveryRequest& request) {
  const mail::ContentFacts& content = request.content;
  plan_ = {};
  if (extensions_.chunking && options_->use_chunking && is_plain(content)) {
    plan_.transfer = ContentPlan::Transfer::bdat;
    plan_.announced_bytes = request.added_bytes + content.size;
    return;
  }
  plan_.stuff = content.form != mail::ContentForm::dot_stuffed && content.line_starts_with_dot;
  plan_.trailer = content.ends_with_crlf || content.size == 0 ? ".\r\n" : "\r\n.\r\n";
}

// Whether one more recipient of this domain keeps to RCPTDOMAINMAX.
bool ClientSession::takes_domain_of(std::string_view forward_path) {
  if (extensions_.domain_max == 0) return true;
  const std::size_t at = forward_path.rfind('@');
  const std::string_view domain = at == std::string_view::npos ? std::string_view() : forward_path.substr(at + 1);
  const auto same = [domain](std::string_view known) { return equal_ignoring_case(known, domain); };
  if (std::ranges::any_of(domains_, same)) return true;
  if (domains_.size() >= extensions_.domain_max) return false;
  domains_.push_back(domain);
  return true;
}

// What the sender was promised in our name, and this peer does not promise in turn; code and status 0: nothing.
mail::Reply ClientSession::refusal_of_promises(const DeliveryRequest& request) const {
  if (request.require_tls && !request.reverse_path.empty() && !(request.tls_suffices && extensions_.require_tls)) {
    return ours(require_tls_needed, request.tls_suffices
                                        ? "the next hop does not offer REQUIRETLS"
                                        : "REQUIRETLS needs a next hop that is configured with verified TLS");
  }
  if (!request.deliver_by || !request.deliver_by->returns) return {};
  if (!extensions_.deliver_by) {
    if (dialect_ == Dialect::lmtp) return {};
    return ours(feature_lacking, "the next hop does not offer DELIVERBY");
  }
  if (request.deliver_by->seconds > 0 &&
      static_cast<std::uint32_t>(request.deliver_by->seconds) >= extensions_.deliver_by_min) {
    return {};
  }
  return ours(too_late, "the next hop needs more time than is left");
}

// Settles what this peer cannot be given at all.
void ClientSession::refuse_unsendable(const DeliveryRequest& request) {
  const auto refuse_all = [this](mail::EnhancedStatus status, std::string_view text,
                                 DeliveryResult::Disposition disposition) {
    if (recipients_open_ == 0) return;
    settle_open(mail::Outcome::failed, ours(status, text));
    result_.disposition = disposition;
  };
  using enum DeliveryResult::Disposition;

  if (!is_reverse_path(request.reverse_path)) refuse_all(bad_sender, "the reverse-path cannot be sent", settled);
  std::size_t sendable = 0;
  domains_.clear();
  for (std::size_t i = 0; i < request.forward_paths.size(); ++i) {
    const std::string_view path = request.forward_paths[i];
    if (!is_forward_path(path)) {
      settle(i, mail::Outcome::failed, ours(bad_destination, "the forward-path cannot be sent"));
    } else if (sendable == recipients_max() || !takes_domain_of(path)) {
      settle(i, mail::Outcome::deferred, ours(too_many_recipients, "the next hop takes fewer recipients at once"));
      results_[i].beyond_limit = true;
    } else {
      ++sendable;
    }
  }

  if (const mail::Reply reply = refusal_of_promises(request); reply.status.present()) {
    refuse_all(reply.status, reply.text, host_lacks_extension);
  }
  // A message whose addresses and content are ASCII needs no SMTPUTF8, whatever its sender declared [RFC 6531 §3.6].
  const bool needs_utf8 = !has_ascii_paths(request) || (request.smtp_utf8 && request.content.has_eight_bit);
  if (needs_utf8 && !extensions_.smtp_utf8) {
    refuse_all(utf8_required, "the next hop does not offer SMTPUTF8", host_lacks_extension);
  }
  if (mail::needs_binary_mime(request.content)) {
    if (!is_plain(request.content)) {
      refuse_all(conversion_required, "content with bare CR, bare LF or NUL cannot be sent by DATA", settled);
    } else if (!extensions_.binary_mime || plan_.transfer != ContentPlan::Transfer::bdat) {
      refuse_all(conversion_required, "the next hop does not offer BINARYMIME and CHUNKING", host_lacks_extension);
    }
  } else if (request.content.has_eight_bit && !extensions_.eight_bit_mime &&
             options_->without_eight_bit_mime == WithoutEightBitMime::fail) {
    refuse_all(conversion_required, "the next hop does not offer 8BITMIME", host_lacks_extension);
  }
  if (extensions_.size_max != 0 && request.added_bytes + request.content.size > extensions_.size_max) {
    refuse_all(too_large_for_next_hop, "the message is larger than the next hop takes", settled);
  }
}

void ClientSession::write_commands(const DeliveryRequest& request) {
  commands_.clear();
  command_ends_.clear();
  rcpt_of_.clear();
  const auto end_command = [this] {
    commands_ += "\r\n";
    command_ends_.push_back(commands_.size());
  };

  if (reset_due_) {
    commands_ += "RSET";
    end_command();
    transaction_.mail = 1;
    reset_due_ = false;
  }

  const mail::ContentFacts& content = request.content;
  commands_ += "MAIL FROM:<";
  commands_ += request.reverse_path;
  commands_ += '>';
  if (extensions_.size && !request.only_ask) {
    commands_ += " SIZE=";
    append_decimal(commands_, request.added_bytes + content.size);
  }
  const bool binary_is_taken = extensions_.binary_mime && plan_.transfer == ContentPlan::Transfer::bdat;
  if (mail::needs_binary_mime(content) || (request.body == mail::BodyType::binary_mime && binary_is_taken)) {
    commands_ += " BODY=BINARYMIME";
  } else if (extensions_.eight_bit_mime && (content.has_eight_bit || request.body != mail::BodyType::seven_bit)) {
    commands_ += " BODY=8BITMIME";
  }
  const bool utf8 = extensions_.smtp_utf8 && (request.smtp_utf8 || !has_ascii_paths(request));
  if (utf8) commands_ += " SMTPUTF8";
  if (extensions_.dsn) append_dsn_of_mail(commands_, request);
  if (extensions_.mt_priority && request.priority != 0) {
    commands_ += request.priority < 0 ? " MT-PRIORITY=-" : " MT-PRIORITY=";
    append_decimal(commands_, static_cast<std::uint64_t>(std::abs(int{request.priority})));
  }
  if (extensions_.deliver_by && request.deliver_by) {
    const mail::DeliverBy by = *request.deliver_by;
    commands_ += by.seconds < 0 ? " BY=-" : " BY=";
    append_decimal(commands_, static_cast<std::uint64_t>(std::abs(std::int64_t{by.seconds})));
    commands_ += by.returns ? ";R" : ";N";
    if (by.trace) commands_ += 'T';
  }
  if (extensions_.require_tls && request.require_tls && request.tls_suffices) commands_ += " REQUIRETLS";
  end_command();

  for (std::size_t i = 0; i < request.forward_paths.size(); ++i) {
    if (recipient_states_[i] != RecipientState::pending) continue;
    rcpt_of_.push_back(static_cast<std::uint32_t>(i));
    commands_ += "RCPT TO:<";
    commands_ += request.forward_paths[i];
    commands_ += '>';
    if (extensions_.dsn && !request.dsn_requests.empty()) {
      append_dsn_of_recipient(commands_, request.dsn_requests[i], utf8);
    }
    end_command();
  }

  if (request.only_ask) return;
  if (plan_.transfer == ContentPlan::Transfer::data) {
    commands_ += "DATA";
  } else {
    commands_ += "BDAT ";
    append_decimal(commands_, plan_.announced_bytes);
    commands_ += " LAST";
  }
  end_command();
}

// --- output
// ------------------------------------------------------------------------------------------------------------

void ClientSession::write(std::string_view text) {
  output_ += text;
}

// Puts into the output what the peer may be sent now. Without PIPELINING one command at a time.
void ClientSession::release_commands() {
  Transaction& t = transaction_;
  const std::size_t outstanding_max = extensions_.pipelining && options_->use_pipelining ? replies_outstanding_max : 1;
  while (t.released < command_ends_.size() && t.released - t.answered < outstanding_max) {
    const std::size_t begin = t.released == 0 ? 0 : command_ends_[t.released - 1];
    if (t.released == transfer()) {
      if (t.answered == transfer() && t.accepted == 0) {
        command_ends_.pop_back();  // nobody to send it to
        return;
      }
      if (!may_release_transfer()) return;
      if (plan_.transfer == ContentPlan::Transfer::bdat) t.content = Content::wanted;
    }
    write(std::string_view(commands_).substr(begin, command_ends_[t.released] - begin));
    ++t.released;
  }
}

bool ClientSession::may_release_transfer() const {
  if (transaction_.answered == transfer()) return transaction_.accepted > 0;
  // How many replies a BDAT gets that no recipient was accepted for, RFC 2033 does not say.
  if (dialect_ == Dialect::lmtp && plan_.transfer == ContentPlan::Transfer::bdat) return false;
  // DATA behind unanswered RCPTs commits us to nothing but a dot [RFC 2920 §3.1]; BDAT to all of the content.
  return plan_.transfer == ContentPlan::Transfer::data ||
         plan_.announced_bytes <= options_->pipelined_content_bytes_max;
}

void ClientSession::arm(Instant now) {
  const ClientTimeouts& timeouts = options_->timeouts;
  const auto timeout = [&]() -> std::optional<Duration> {
    switch (state_) {
      case State::greeting:
        return timeouts.greeting;
      case State::ehlo:
      case State::helo:
      case State::starttls:
      case State::auth:
        return timeouts.ehlo;
      case State::handshake:
      case State::channel:
      case State::salting:
      case State::idle:
      case State::closed:
        return std::nullopt;
      case State::quitting:
        return timeouts.quit;
      case State::transaction:
        break;
    }
    if (transaction_.content == Content::wanted) return timeouts.data_block;
    switch (step()) {
      case Step::rset:
      case Step::mail:
        return timeouts.mail;
      case Step::rcpt:
        return timeouts.rcpt;
      case Step::data:
        return timeouts.data;
      case Step::bdat:
      case Step::end_of_data:
        break;
    }
    return timeouts.end_of_data;
  }();
  deadline_ = timeout ? now + *timeout : never;
}

void ClientSession::on_content_progress(Instant now) {
  if (want() == Want::content) arm(now);
}

void ClientSession::on_content_sent(Instant now) {
  if (state_ == State::closed) return;  // the peer refused what was on its way
  POSTERN_CHECK(want() == Want::content);
  transaction_.content = Content::sent;
  arm(now);
}

// --- replies of a transaction
// ------------------------------------------------------------------------------------------

ClientSession::Step ClientSession::step() const {
  const Transaction& t = transaction_;
  if (t.end_of_data_due) return Step::end_of_data;
  if (t.answered < t.mail) return Step::rset;
  if (t.answered == t.mail) return Step::mail;
  if (t.answered < transfer()) return Step::rcpt;
  return plan_.transfer == ContentPlan::Transfer::data ? Step::data : Step::bdat;
}

// Whether the peer can have had what its reply answers.
bool ClientSession::was_asked() const {
  const Transaction& t = transaction_;
  if (t.end_of_data_due) return t.discarding ? output_.empty() : t.content == Content::sent;
  if (t.answered == t.released || output_position_ < t.output_base + command_ends_[t.answered]) return false;
  return step() != Step::bdat || t.content == Content::sent;
}

void ClientSession::on_transaction_reply(Instant now) {
  const mail::Reply& reply = parser_.reply();
  if (reply.code == 421) {
    end(ConnectionVerdict::closing, reply);
    return;
  }
  if (!was_asked()) {
    on_early_reply();
    return;
  }
  Transaction& t = transaction_;
  const Step answered = step();
  switch (answered) {
    case Step::rset:
      if (reply.code / 100 != 2) {
        end(ConnectionVerdict::closing, reply);
        return;
      }
      break;
    case Step::mail:
      on_mail_reply();
      break;
    case Step::rcpt:
      on_rcpt_reply(rcpt_of_[t.answered - t.mail - 1]);
      break;
    case Step::data:
      on_data_reply();
      break;
    case Step::bdat:
    case Step::end_of_data:
      on_final_reply();
      break;
  }
  if (state_ != State::transaction) return;
  if (dialect_ == Dialect::lmtp && (answered == Step::bdat || answered == Step::end_of_data) && recipients_open_ > 0) {
    arm(now);  // the next recipient's reply
    return;
  }
  if (answered == Step::end_of_data) {
    t.end_of_data_due = false;
  } else {
    ++t.answered;
    release_commands();
  }
  if (t.answered == command_ends_.size() && !t.end_of_data_due) finish_transaction(now);
  arm(now);
}

void ClientSession::on_mail_reply() {
  const mail::Reply& reply = parser_.reply();
  Transaction& t = transaction_;
  if (reply.code / 100 == 2) {
    t.mail_accepted = true;
  } else if (reply.code / 100 == 3) {
    end_as_protocol_error("the peer answered MAIL with 3xx");
  } else if (t.reused && reply.code == 503) {
    // Out of order for the peer though not for us: the two differ about this session, which says nothing of the mail.
    end(ConnectionVerdict::closing, reply);
  } else {
    settle_open(outcome_of(reply), reply);
    t.mail_refused = true;
    command_ends_.resize(t.released);  // what is not on its way stays here
  }
}

void ClientSession::on_rcpt_reply(std::size_t recipient) {
  const mail::Reply& reply = parser_.reply();
  if (transaction_.mail_refused) return;  // an echo of that refusal
  result_.rcpt_answered = transaction_.only_ask;
  if (reply.code / 100 == 2) {
    recipient_states_[recipient] = RecipientState::accepted;
    ++transaction_.accepted;
    if (transaction_.only_ask) settle(recipient, mail::Outcome::relayed, reply);
  } else if (reply.code / 100 == 3) {
    end_as_protocol_error("the peer answered RCPT with 3xx");
  } else {
    // Some say 552 for too many recipients, where 452 is due [RFC 5321 §4.5.3.1.10].
    settle(recipient, reply.code == 552 ? mail::Outcome::deferred : outcome_of(reply), reply);
    results_[recipient].beyond_limit = transaction_.accepted > 0 && speaks_of_recipient_limit(reply);
  }
}

void ClientSession::on_data_reply() {
  const mail::Reply& reply = parser_.reply();
  Transaction& t = transaction_;
  if (reply.code / 100 == 3) {
    t.end_of_data_due = true;
    if (t.accepted > 0) {
      t.content = Content::wanted;
    } else if (dialect_ == Dialect::lmtp) {
      // 503 was due [RFC 2033 §4.2]. Nobody knows how many replies a dot would bring, so that none is sent.
      end_as_protocol_error("the peer takes content for nobody");
    } else {
      // Pipelined, and taken though no recipient was [RFC 2920 §3.1]: an empty content ends it.
      t.discarding = true;
      write(".\r\n");
    }
  } else if (reply.code / 100 == 2) {
    end_as_protocol_error("the peer answered DATA with 2xx");
  } else {
    settle_open(outcome_of(reply), reply);
  }
}

// The reply to the end of data, of DATA or BDAT.
void ClientSession::on_final_reply() {
  const mail::Reply& reply = parser_.reply();
  if (reply.code / 100 == 3) {
    end_as_protocol_error("the peer answered the end of data with 3xx");
    return;
  }
  if (dialect_ == Dialect::lmtp) {
    on_final_reply_lmtp();
    return;
  }
  // After a failed BDAT the peer's state is indeterminate [RFC 3030 §2]; after DATA it is clear [RFC 5321 §4.1.1.4].
  transaction_.peer_is_clean = reply.positive() || plan_.transfer == ContentPlan::Transfer::data;
  settle_open(reply.positive() ? mail::Outcome::relayed : outcome_of(reply), reply);
}

// One reply for each accepted recipient, in the order of their RCPTs [RFC 2033 §4.2]; each settles its own. When the
// connection is lost before the last one, those answered keep their outcomes.
void ClientSession::on_final_reply_lmtp() {
  const mail::Reply& reply = parser_.reply();
  Transaction& t = transaction_;
  if (reply.code >= 500 && reply.code <= 504 && step() == Step::bdat && t.final_replies == 0) {
    // That is no recipient's fate: the command was not understood or out of order, and gets this one reply alone.
    settle_open(outcome_of(reply), reply);
    end(ConnectionVerdict::closing, reply);
    return;
  }
  settle(next_final_recipient(), reply.positive() ? mail::Outcome::relayed : outcome_of(reply), reply);
  t.content_refused |= !reply.positive();
  t.peer_is_clean = plan_.transfer == ContentPlan::Transfer::data || !t.content_refused;
}

// The first accepted recipient without its last reply. Only while there is one: recipients_open_ > 0 behind all RCPTs.
std::size_t ClientSession::next_final_recipient() {
  std::size_t& next = transaction_.final_replies;
  while (recipient_states_[rcpt_of_[next]] != RecipientState::accepted) ++next;
  return rcpt_of_[next++];
}

// A refusal of content that the peer has not read to its end is an answer; anything else is out of step with us, and
// may not be taken for the answer to something that we have yet to say.
void ClientSession::on_early_reply() {
  const mail::Reply& reply = parser_.reply();
  const Step awaited_step = step();
  if (transaction_.content == Content::wanted && (awaited_step == Step::bdat || awaited_step == Step::end_of_data) &&
      reply.code >= 400) {
    if (dialect_ == Dialect::lmtp) {
      // It may be meant for the first recipient alone (a full mailbox): the others are not failed for it.
      settle(next_final_recipient(), outcome_of(reply), reply);
      end(ConnectionVerdict::closing, reply);
      return;
    }
    settle_open(outcome_of(reply), reply);
    end(ConnectionVerdict::closing, reply);
    return;
  }
  end_as_protocol_error("the peer answered before it was asked");
}

// --- end of a delivery, end of the connection
// --------------------------------------------------------------------------

void ClientSession::settle(std::size_t recipient, mail::Outcome outcome, const mail::Reply& reply) {
  if (recipient_states_[recipient] == RecipientState::settled) return;
  recipient_states_[recipient] = RecipientState::settled;
  --recipients_open_;
  results_[recipient].outcome = outcome;
  results_[recipient].reply = reply;
  results_[recipient].beyond_limit = false;
}

void ClientSession::settle_open(mail::Outcome outcome, const mail::Reply& reply) {
  for (std::size_t i = 0; recipients_open_ > 0 && i < recipient_states_.size(); ++i) settle(i, outcome, reply);
}

// Every further transaction leaves fewer recipients than the one before, or there is none: a peer that settles nobody
// gets no second one.
void ClientSession::give_result() {
  POSTERN_CHECK(recipients_open_ == 0);
  has_result_ = true;
  const auto settles = [](const mail::RecipientResult& result) { return result.outcome != mail::Outcome::deferred; };
  if (std::ranges::any_of(result_.recipients, settles)) return;
  for (mail::RecipientResult& result : result_.recipients) result.beyond_limit = false;
}

void ClientSession::finish_transaction(Instant now) {
  reset_due_ = transaction_.mail_accepted && !transaction_.peer_is_clean;
  give_result();
  state_ = State::idle;
  if (extensions_.mail_max != 0 && transactions_ >= extensions_.mail_max) quit(now);
}

void ClientSession::end(ConnectionVerdict verdict, const mail::Reply& reply, bool timed_out) {
  const bool mid_content = state_ == State::transaction && transaction_.content == Content::wanted;
  if (state_ == State::transaction) {
    // Nothing of this delivery was taken, and the connection's past is as good a reason as any: not an attempt. A peer
    // that is slow is not one that has gone away.
    if (transaction_.reused && transaction_.answered <= transaction_.mail && !timed_out) {
      result_.disposition = DeliveryResult::Disposition::retry_on_fresh_connection;
    }
    settle_open(mail::Outcome::deferred, reply);
    give_result();
  }
  tls_failed_ = starttls_said_ && !greeted_ && !authenticating() && verdict == ConnectionVerdict::lost;
  if (authenticating() && auth_trouble_ == AuthTrouble::none) auth_trouble_ = AuthTrouble::broken;
  exchange_.reset();
  failure_ = reply;
  connection_ = verdict;
  state_ = State::closed;
  deadline_ = never;
  // A peer that goes on listening is told [RFC 5321 §3.1]; not in the middle of a command or a content.
  const bool tell = reply.code >= 400 && reply.code != 421 && output_.empty() && !mid_content;
  if (output_secret_) sasl::wipe(output_);
  output_secret_ = false;
  output_.clear();
  output_taken_ = 0;
  if (tell) write("QUIT\r\n");
}

void ClientSession::end_silent(bool timed_out) {
  if (state_ == State::transaction && transaction_.content == Content::sent && recipients_open_ > 0) {
    result_.reply_unknown = true;
  }
  std::string text = timed_out ? "timed out" : "connection lost";
  text += awaited();
  const bool securing = starttls_said_ && !greeted_ && !authenticating();
  end(ConnectionVerdict::lost, ours(securing ? tls_trouble : connection_trouble, text), timed_out);
}

void ClientSession::end_as_protocol_error(std::string_view text) {
  end(ConnectionVerdict::lost, ours(protocol_trouble, text));
}

std::string_view ClientSession::awaited() const {
  switch (state_) {
    case State::greeting:
      return " waiting for the greeting";
    case State::starttls:
      return " waiting for the reply to STARTTLS";
    case State::handshake:
      return " during the TLS handshake";
    case State::ehlo:
      return dialect_ == Dialect::lmtp ? " waiting for the reply to LHLO" : " waiting for the reply to EHLO";
    case State::helo:
      return " waiting for the reply to HELO";
    case State::channel:
    case State::auth:
    case State::salting:
      return " during AUTH";
    case State::transaction:
      break;
    default:
      return "";
  }
  if (transaction_.content == Content::wanted) return " while sending the content";
  switch (step()) {
    case Step::rset:
      return " waiting for the reply to RSET";
    case Step::mail:
      return " waiting for the reply to MAIL";
    case Step::rcpt:
      return " waiting for the reply to RCPT";
    case Step::data:
      return " waiting for the reply to DATA";
    case Step::bdat:
    case Step::end_of_data:
      break;
  }
  return " waiting for the reply to the end of data";
}

}  // namespace postern::smtp
