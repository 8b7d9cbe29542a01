// What became of one attempt to deliver to one recipient.
#pragma once

#include <cstdint>
#include <string_view>

#include <postern/mail/reply.h>

namespace postern::mail {

enum class Outcome : std::uint8_t {
  relayed,   // the next hop (or the Maildir's disk) has it; a DSN calls it relayed or delivered, by the transport
  deferred,  // try again later
  failed,    // never try again: the sender is told
};

enum class Transport : std::uint8_t { smtp, lmtp, maildir, discard };

[[nodiscard]] constexpr std::string_view to_text(Outcome outcome) {
  switch (outcome) {
    case Outcome::relayed:
      return "relayed";
    case Outcome::deferred:
      return "deferred";
    case Outcome::failed:
      return "failed";
  }
  return "?";
}

// Outcome and its reason, for one recipient of one delivery attempt.
struct RecipientResult {
  Outcome outcome = Outcome::deferred;
  Reply reply;  // the next hop's words; or ours with code 0 and a status of ours when it said nothing
  // Deferred for the number of recipients alone, in a transaction that settled others: not an attempt. It is due in a
  // further transaction at once [RFC 5321 §4.5.3.1.10].
  bool beyond_limit = false;
};

}  // namespace postern::mail
