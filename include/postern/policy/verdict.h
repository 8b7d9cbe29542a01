// What a policy says of a peer, a command, a recipient or a content: at once or later.
#pragma once

#include <cstdint>
#include <string_view>

#include <postern/mail/reply.h>

namespace postern::policy {

// A refusal is a reply whose text is the policy's own and outlives the verdict (a literal, or text of the configuration
// snapshot): judging allocates nothing.
struct Verdict {
  enum class Kind : std::uint8_t {
    accept,
    refuse,  // answer with code, status and text
    later,   // the policy will give the verdict by the ticket that came with the question
  };
  Kind kind = Kind::accept;
  mail::ReplyCode code = 0;
  mail::EnhancedStatus status{};
  std::string_view text{};

  [[nodiscard]] static constexpr Verdict accepted() { return {}; }
  [[nodiscard]] static constexpr Verdict refused(mail::ReplyCode code, mail::EnhancedStatus status,
                                                 std::string_view text) {
    return {.kind = Kind::refuse, .code = code, .status = status, .text = text};
  }
  [[nodiscard]] static constexpr Verdict pending() {
    return {.kind = Kind::later, .code = 0, .status = {}, .text = {}};
  }
};

// Names a question whose verdict is pending: the asker chooses it (session and reply slot), the policy hands it back.
using VerdictTicket = std::uint64_t;

}  // namespace postern::policy
