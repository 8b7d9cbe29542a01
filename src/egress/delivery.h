// One attempt to deliver one message to recipients that share a site: lent by the message's owner to the shard that
// makes the attempt, and given back with the outcomes. Plain data; at any moment one shard has it.
//
// Or a question: whether a next hop of the site would take a recipient (shard/callouts.h). It takes a connection as
// mail does, and has at most one outcome.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/time.h>
#include <postern/mail/message.h>
#include <postern/queue/messages.h>
#include <postern/route/route.h>

namespace postern::egress {

// What the attempt says of its path.
enum class PathState : std::uint8_t {
  unknown,  // nothing: no connection was tried (Maildir, not attempted)
  usable,   // a next hop answered
  failed,   // no next hop could be reached or would talk
};

struct Delivery {
  // --- set by the owner
  queue::ShardIndex owner = 0;
  queue::ShardIndex executor = 0;  // who makes the attempt
  bool pulled = false;             // answers a PullRequest; else it uses a slot leased to the owner
  queue::Work work;
  const mail::Message* message = nullptr;     // under a lease
  std::shared_ptr<const route::Route> route;  // verdict deliver
  std::string question;                       // a forward path to be asked for, and no message; empty: mail
  Instant answer_by = never;                  // of a question: it is given up then, with its connection

  // --- set by the executing shard
  std::vector<queue::RecipientOutcome> outcomes;  // in the order of work.recipients; empty: not attempted
  PathState path = PathState::unknown;
  mail::Reply path_reply;  // failed: why
  std::string next_hop;    // "mx.example.net[192.0.2.1]:25", "unix:/run/store/lmtp"; empty: none was reached
  // Of the connection that the outcomes came by; empty: it was in the clear. The texts live as long as the process.
  std::string_view tls_version;
  std::string_view tls_cipher;
  bool tls_verified = false;  // the next hop's certificate is for it, by an authority that we trust
  bool keeps_dsn = false;     // the next hop took NOTIFY and its kin: what success there is to report is its to report
  bool keeps_deadline = false;  // it offers DELIVERBY
  bool rcpt_answered = false;   // a question's: the outcome is the reply to its RCPT

  [[nodiscard]] bool is_question() const { return !question.empty(); }

  // Ready for another attempt; keeps capacity.
  void clear() {
    owner = executor = 0;
    pulled = false;
    work = {};
    message = nullptr;
    route.reset();
    outcomes.clear();
    path = PathState::unknown;
    path_reply = {};
    next_hop.clear();
    tls_version = tls_cipher = {};
    tls_verified = false;
    keeps_dsn = false;
    keeps_deadline = false;
    question.clear();
    answer_by = never;
    rcpt_answered = false;
  }
};

}  // namespace postern::egress
