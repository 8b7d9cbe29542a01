// How a sink misbehaves on request: what it says, how long it takes and when it hangs up, at each stage of a session.
// Pure: randomness is an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/mail/reply.h>

namespace postern::bench {

// Where a reply is due. `end` is the reply to the end of the content.
enum class Stage : std::uint8_t { connect, hello, mail, rcpt, data, end };

struct Rule {
  Stage stage = Stage::connect;
  std::optional<mail::Reply> reply;    // instead of the good one
  Duration delay{};                    // before it
  bool hang_up = false;                // instead of any
  std::uint32_t share_millionths = 0;  // of the times when the stage is reached
};

// What is to be done at one stage, once.
struct Act {
  const mail::Reply* reply = nullptr;  // valid as long as the behaviour
  Duration delay{};
  bool hang_up = false;
};

class Behaviour {
 public:
  static constexpr std::size_t rules_max = 64;

  // "rcpt=450 4.2.0 Busy@10%": at that stage, in that share of cases (all when none is given). Codes are 4xx and 5xx,
  // an enhanced status may follow. kInvalidArgument says what is wrong.
  [[nodiscard]] Status add_reply(std::string_view text);
  [[nodiscard]] Status add_delay(std::string_view text);    // "end=50ms@1%"
  [[nodiscard]] Status add_hang_up(std::string_view text);  // "data@0.5%"

  [[nodiscard]] bool good() const { return rules_.empty(); }
  // Delays add up; of replies and hang-ups the first that applies counts.
  [[nodiscard]] Act at(Stage stage, Random& random) const;

 private:
  [[nodiscard]] Status add(Rule rule);
  std::vector<Rule> rules_;
};

}  // namespace postern::bench
