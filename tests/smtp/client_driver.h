// Drives a ClientSession the way egress does, without a socket: hands over output, sends content by plan, takes
// results, and writes down what happened. For tests and the fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/outcome.h>
#include <postern/smtp/client_session.h>
#include <postern/smtp/content_converter.h>

namespace postern::smtp::testing {

// One delivery as the queue would ask for it, with its content in the form that the request's facts name.
struct Message {
  std::string reverse_path;
  std::vector<std::string> forward_paths;
  mail::BodyType body = mail::BodyType::seven_bit;
  bool smtp_utf8 = false;
  mail::ContentFacts facts;
  std::string added;
  std::string content;
  mail::DsnReturn dsn_return = mail::DsnReturn::unspecified;
  std::string envelope_id;
  std::int8_t priority = 0;
  std::optional<mail::DeliverBy> deliver_by;
  bool require_tls = false;
  bool tls_suffices = false;
  bool only_ask = false;
  std::vector<mail::Notify> notify;              // of each forward path, or none
  std::vector<std::string> original_recipients;  // the same

  [[nodiscard]] DeliveryRequest request(std::vector<std::string_view>& paths, std::vector<DsnRequest>& asked) const {
    paths.assign(forward_paths.begin(), forward_paths.end());
    asked.clear();
    for (std::size_t i = 0; i < notify.size(); ++i) asked.push_back({notify[i], original_recipients[i]});
    return {.reverse_path = reverse_path,
            .forward_paths = paths,
            .body = body,
            .smtp_utf8 = smtp_utf8,
            .content = facts,
            .added_bytes = added.size(),
            .dsn_requests = asked,
            .dsn_return = dsn_return,
            .envelope_id = envelope_id,
            .priority = priority,
            .deliver_by = deliver_by,
            .require_tls = require_tls,
            .tls_suffices = tls_suffices,
            .only_ask = only_ask};
  }
};

struct TakenResult {
  DeliveryResult::Disposition disposition = DeliveryResult::Disposition::settled;
  ConnectionVerdict connection = ConnectionVerdict::reusable;
  bool reply_unknown = false;
  bool rcpt_answered = false;
  std::vector<mail::RecipientResult> recipients;
};

class ClientDriver {
 public:
  ClientDriver(const ClientOptions& options, Instant now, Dialect dialect = Dialect::smtp,
               StartTls start_tls = StartTls::never, const sasl::Credentials* credentials = nullptr)
      : session(options, now, dialect, start_tls, credentials), now_(now) {}

  void begin(const Message& message) {
    message_ = &message;
    std::vector<std::string_view> paths;
    std::vector<DsnRequest> asked;
    session.begin(message.request(paths, asked), now_);
    turn();
  }

  void on_bytes(std::string_view bytes) {
    session.on_bytes(as_bytes(bytes), now_);
    turn();
  }

  // One turn of egress: output first, then results, then what is wanted.
  void turn() {
    while (true) {
      const std::string_view output = as_text(session.output());
      if (!output.empty()) {
        wire += output;
        session.on_output_taken(output.size());
      }
      if (session.has_result()) {
        const DeliveryResult result = session.take_result();
        results.push_back({result.disposition,
                           result.connection,
                           result.reply_unknown,
                           result.rcpt_answered,
                           {result.recipients.begin(), result.recipients.end()}});
      }
      if (session.want() != ClientSession::Want::content || hold_content) return;
      send_content();
    }
  }

  void send_content() {
    const ContentPlan plan = session.content_plan();
    const std::size_t before = wire.size();
    wire += message_->added;
    if (plan.stuff) {
      ContentConverter converter(ContentConverter::Kind::stuff);
      converter.append(as_bytes(message_->content), wire);
    } else {
      wire += message_->content;
    }
    sent_as_announced &= plan.transfer == ContentPlan::Transfer::data || wire.size() - before == plan.announced_bytes;
    wire += plan.trailer;
    session.on_content_sent(now_);
  }

  void advance(Duration by) { now_ += by; }
  [[nodiscard]] Instant now() const { return now_; }

  ClientSession session;
  std::string wire;  // all that was handed to the connection
  std::vector<TakenResult> results;
  bool hold_content = false;      // leave the content unsent
  bool sent_as_announced = true;  // every BDAT carried the bytes it announced

 private:
  const Message* message_ = nullptr;
  Instant now_;
};

}  // namespace postern::smtp::testing
