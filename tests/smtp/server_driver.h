// A driver for server sessions in tests and fuzzers: answers verdicts at once, collects content, keeps slots open on
// request. It stands where ingress stands, without a socket or a spool. Header only, so that fuzzers can include it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/reply.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/password.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

namespace postern::smtp {

class ServerDriver {
 public:
  struct Finished {
    ReplySlot slot;
    mail::Envelope envelope;
    mail::ContentFacts facts;
    std::string content;
  };
  struct ScriptedRefusal {
    Wait wait = Wait::bytes;
    Verdict verdict;
  };

  explicit ServerDriver(std::shared_ptr<const ServerOptions> options, ServerFacts facts = {})
      : session_(std::move(options), std::move(facts), Instant{}) {
    settle();
  }

  [[nodiscard]] ServerSession& session() { return session_; }
  [[nodiscard]] const std::vector<Finished>& finished() const { return finished_; }
  [[nodiscard]] static mail::QueueId id_of(std::size_t transaction) {
    return mail::QueueId::from_parts(1, 1, static_cast<std::uint32_t>(transaction) + 1);
  }

  // The next verdict of that wait, instead of accepting.
  void expand_next(std::vector<std::string> targets) { expansions_.push_back(std::move(targets)); }
  void refuse_next(Wait wait, Verdict verdict) { refusals_.push_back({wait, std::move(verdict)}); }
  // The next piece of content cannot be kept.
  void fail_next_content(mail::Reply reply) { content_failure_ = std::move(reply); }
  void fail_finished_content(mail::Reply reply) { finish_failure_ = std::move(reply); }
  void hold_slots() { hold_ = true; }

  // Input that arrives at one moment. It is copied, so that a sanitizer sees every byte read outside of it or too late.
  void feed(std::string_view text) {
    const std::vector<char> copy(text.begin(), text.end());
    std::string_view rest(copy.data(), copy.size());
    if (!waiting_input_.empty()) {
      waiting_input_ += rest;
      (void)session_.on_bytes(as_bytes(waiting_input_), now_);  // in another wait: consumes nothing, is told of more
      take_output();
      return;
    }
    run(rest);
    waiting_input_ = rest;
  }

  // Everything output so far has left; input that was there before stays early.
  void report_sent() { session_.on_output_sent(session_.output_total()); }

  void answer_durable(std::size_t transaction) {
    session_.on_content_durable(finished_.at(transaction).slot, id_of(transaction), now_);
    continue_waiting_input();
  }
  void answer_refused(std::size_t transaction, const mail::Reply& reply) {
    session_.on_content_refused(finished_.at(transaction).slot, reply, now_);
    continue_waiting_input();
  }
  // The handshake behind STARTTLS is complete.
  void secure() {
    session_.on_secured({.version = "TLSv1.3", .cipher = "TLS_AES_128_GCM_SHA256"}, now_);
    continue_waiting_input();
  }
  void shut_down() {
    session_.on_shutdown();
    take_output();
  }
  void advance(Duration by) {
    now_ += by;
    if (session_.next_deadline() <= now_) session_.on_deadline(now_);
    take_output();
  }

  // What the client would have received since the last call.
  [[nodiscard]] std::string take_received() { return std::exchange(received_, {}); }

 private:
  void continue_waiting_input() {
    std::string input = std::exchange(waiting_input_, {});
    std::string_view rest = input;
    run(rest);
    waiting_input_ = rest;
  }

  [[nodiscard]] Verdict verdict_for(Wait wait) {
    for (auto it = refusals_.begin(); it != refusals_.end(); ++it) {
      if (it->wait != wait) continue;
      Verdict verdict = std::move(it->verdict);
      refusals_.erase(it);
      return verdict;
    }
    return Verdict::accept();
  }

  // Answers what the session waits for, as long as that needs no input.
  void settle() {
    while (true) {
      const Wait wait = session_.wait();
      switch (wait) {
        case Wait::connect_verdict:
          session_.on_connect_verdict(verdict_for(wait), now_);
          break;
        case Wait::wake_verdict:
          session_.on_wake_verdict(verdict_for(wait), session_.wake_domain() != "idle.example", now_);
          break;
        case Wait::identity_verdict:
          session_.on_identity_verdict(verdict_for(wait), now_);
          break;
        case Wait::hello_verdict:
          session_.on_hello_verdict(verdict_for(wait), now_);
          break;
        case Wait::auth_credentials:
          session_.on_credentials(verifier_of(session_.authentication().user()), nonce,
                                  session_.authentication().binding_name() == "tls-exporter" ? channel : "", now_);
          break;
        case Wait::auth_verdict:
          judge_authentication();
          break;
        case Wait::mail_verdict:
          session_.on_mail_verdict(verdict_for(wait), now_);
          break;
        case Wait::recipient_verdict:
          if (!expansions_.empty()) {
            const std::vector<std::string_view> targets(expansions_.front().begin(), expansions_.front().end());
            session_.on_recipient_expanded(targets, now_);
            expansions_.pop_front();
          } else {
            session_.on_recipient_verdict(verdict_for(wait), now_);
          }
          break;
        case Wait::data_verdict:
          content_.clear();
          session_.on_data_verdict(verdict_for(wait), now_);
          break;
        case Wait::content_verdict:
          finish_transaction();
          break;
        case Wait::tls_verdict:
          session_.on_tls_verdict(verdict_for(wait), now_);
          break;
        case Wait::output:
        case Wait::bytes:
        case Wait::reply_slot:
        case Wait::tls:
        case Wait::close:
          take_output();
          if (wait == Wait::output) break;
          return;
      }
    }
  }

  // Its only user, "user", has the password "pencil" [RFC 7677 §3].
  static constexpr std::string_view nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
  static constexpr std::string_view channel = "the channel";
  static const sasl::ScramVerifier& verifier_of(std::string_view user) {
    static const sasl::ScramVerifier known =
        sasl::make_scram_verifier("pencil", *sasl::from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
    static const sasl::ScramVerifier unknown{.iterations = 4096, .salt = "salt of a stranger"};
    return user == "user" ? known : unknown;
  }
  void judge_authentication() {
    using Step = sasl::ServerExchange::Step;
    const sasl::ServerExchange& exchange = session_.authentication();
    const bool good = exchange.step() == Step::proven || (exchange.step() == Step::password &&
                                                          exchange.user() == "user" && exchange.password() == "pencil");
    POSTERN_CHECK(exchange.step() != Step::proven || exchange.user() == "user", "nobody else can prove anything");
    Verdict verdict = verdict_for(Wait::auth_verdict);
    if (!good && verdict.accepted()) verdict = Verdict::refuse({535, {5, 7, 8}, "Authentication failed"});
    session_.on_auth_verdict(verdict, now_);
  }

  void finish_transaction() {
    if (finish_failure_) {
      session_.on_content_failed(*std::exchange(finish_failure_, std::nullopt), now_);
      return;
    }
    Finished& finished = finished_.emplace_back();
    const FinishedTransaction taken = session_.take_transaction(finished.envelope);
    finished.slot = taken.slot;
    finished.facts = taken.facts;
    finished.content = std::exchange(content_, {});
    POSTERN_CHECK(finished.facts.size == finished.content.size(), "content was lost or doubled on its way");
    if (!hold_) session_.on_content_durable(taken.slot, id_of(finished_.size() - 1), now_);
  }

  void run(std::string_view& rest) {
    settle();
    while (!rest.empty() && session_.wait() == Wait::bytes) {
      const std::size_t used = session_.on_bytes(as_bytes(rest), now_);
      if (session_.take_content_dropped()) content_.clear();
      const std::string_view piece = as_text(session_.take_content());
      content_ += piece;
      if (content_failure_ && !piece.empty()) {
        session_.on_content_failed(*std::exchange(content_failure_, std::nullopt), now_);
        content_.clear();
      }
      POSTERN_CHECK(used != 0 || session_.wait() != Wait::bytes, "the session does not come on");
      rest.remove_prefix(used);
      settle();
    }
    if (session_.wait() == Wait::close) rest = {};
    if (rest.empty()) return;
    (void)session_.on_bytes(as_bytes(rest), now_);
    take_output();  // behind STARTTLS it may have had the last word
  }

  void take_output() {
    const Bytes output = session_.output();
    received_ += as_text(output);
    session_.on_output_taken(output.size());
  }

  ServerSession session_;
  Instant now_{};
  std::vector<Finished> finished_;
  std::deque<ScriptedRefusal> refusals_;
  std::deque<std::vector<std::string>> expansions_;  // of the next recipients
  std::optional<mail::Reply> content_failure_;
  std::optional<mail::Reply> finish_failure_;
  bool hold_ = false;
  std::string content_;
  std::string received_;
  std::string waiting_input_;
};

}  // namespace postern::smtp
