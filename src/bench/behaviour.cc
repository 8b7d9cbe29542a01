#include "bench/behaviour.h"

#include <string>
#include <utility>

#include <postern/base/text.h>
#include <postern/base/units.h>

namespace postern::bench {
namespace {

constexpr std::uint32_t always = 1'000'000;

struct Parts {
  Stage stage = Stage::connect;
  std::string_view value;
  std::uint32_t share_millionths = always;
};

std::optional<Stage> parse_stage(std::string_view text) {
  constexpr std::string_view names[] = {"connect", "hello", "mail", "rcpt", "data", "end"};
  for (std::size_t i = 0; i < std::size(names); ++i) {
    if (text == names[i]) return static_cast<Stage>(i);
  }
  return std::nullopt;
}

std::optional<std::uint32_t> parse_share(std::string_view text) {
  if (!text.ends_with('%')) return std::nullopt;
  text.remove_suffix(1);
  const std::size_t dot = text.find('.');
  const auto whole = parse_uint<std::uint32_t>(text.substr(0, dot), 100);
  if (!whole) return std::nullopt;
  std::uint32_t millionths = *whole * 10'000;
  if (dot != std::string_view::npos) {
    const std::string_view decimals = text.substr(dot + 1);
    const auto fraction = parse_uint<std::uint32_t>(decimals);
    if (!fraction || decimals.size() > 4) return std::nullopt;
    std::uint32_t unit = 10'000;
    for (std::size_t i = 0; i < decimals.size(); ++i) unit /= 10;
    millionths += *fraction * unit;
  }
  if (millionths == 0 || millionths > always) return std::nullopt;
  return millionths;
}

// "STAGE[=VALUE][@SHARE]"
StatusOr<Parts> split(std::string_view text, bool with_value) {
  Parts parts;
  std::string_view rest = text;
  const std::size_t at = rest.rfind('@');
  if (at != std::string_view::npos && rest.ends_with('%')) {
    const auto share = parse_share(rest.substr(at + 1));
    if (!share) return error(StatusCode::kInvalidArgument, "'" + std::string(text) + "': a share is 0.0001% to 100%");
    parts.share_millionths = *share;
    rest = rest.substr(0, at);
  }
  const std::size_t equals = rest.find('=');
  if ((equals != std::string_view::npos) != with_value) {
    return error(
        StatusCode::kInvalidArgument,
        "'" + std::string(text) + "': " + (with_value ? "STAGE=VALUE[@SHARE] is wanted" : "STAGE[@SHARE] is wanted"));
  }
  const auto stage = parse_stage(rest.substr(0, equals));
  if (!stage) {
    return error(StatusCode::kInvalidArgument,
                 "'" + std::string(text) + "': stages are connect, hello, mail, rcpt, data and end");
  }
  parts.stage = *stage;
  if (with_value) parts.value = rest.substr(equals + 1);
  return parts;
}

}  // namespace

Status Behaviour::add(Rule rule) {
  if (rules_.size() == rules_max) return error(StatusCode::kInvalidArgument, "more than 64 rules");
  rules_.push_back(std::move(rule));
  return OkStatus();
}

Status Behaviour::add_reply(std::string_view text) {
  const StatusOr<Parts> parts = split(text, true);
  if (!parts.ok()) return parts.status();
  const auto code = parse_uint<std::uint16_t>(parts->value.substr(0, 3));
  if (!code || *code < 400 || *code > 599 || (parts->value.size() > 3 && parts->value[3] != ' ')) {
    return error(StatusCode::kInvalidArgument, "'" + std::string(text) + "': a reply begins with a code of 400 to 599");
  }
  mail::Reply reply{.code = *code, .status = {}, .text = {}};
  std::string_view words = trim(parts->value.substr(3));
  if (const auto status = mail::EnhancedStatus::parse(words)) {
    reply.status = *status;
    const std::size_t space = words.find(' ');
    words = space == std::string_view::npos ? std::string_view() : words.substr(space + 1);
  }
  reply.text = words.empty() ? "as postern-bench was told" : std::string(words);
  return add({.stage = parts->stage, .reply = std::move(reply), .share_millionths = parts->share_millionths});
}

Status Behaviour::add_delay(std::string_view text) {
  const StatusOr<Parts> parts = split(text, true);
  if (!parts.ok()) return parts.status();
  const StatusOr<Duration> delay = parse_duration(parts->value);
  if (!delay.ok()) return delay.status();
  return add({.stage = parts->stage, .reply = {}, .delay = *delay, .share_millionths = parts->share_millionths});
}

Status Behaviour::add_hang_up(std::string_view text) {
  const StatusOr<Parts> parts = split(text, false);
  if (!parts.ok()) return parts.status();
  return add({.stage = parts->stage, .reply = {}, .hang_up = true, .share_millionths = parts->share_millionths});
}

Act Behaviour::at(Stage stage, Random& random) const {
  Act act;
  for (const Rule& rule : rules_) {
    if (rule.stage != stage || random.below(always) >= rule.share_millionths) continue;
    act.delay += rule.delay;
    if (act.hang_up || act.reply != nullptr) continue;
    act.hang_up = rule.hang_up;
    if (rule.reply) act.reply = &*rule.reply;
  }
  return act;
}

}  // namespace postern::bench
