// A spool on disk that the real Log wrote, and postern-spool run on it: arguments in, exit code and output out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <postern/mail/envelope.h>
#include <postern/queue/retry_state.h>

#include "tests/spool/model.h"

namespace postern::spooltool::test {

inline constexpr std::uint16_t log_id = 5;  // the rig's

struct Ran {
  int code = 0;
  std::string out;
  std::string err;
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(out); }
  [[nodiscard]] std::vector<nlohmann::json> json_lines() const;
};

class SpoolTool : public testing::Test {
 protected:
  SpoolTool();
  ~SpoolTool() override;

  // --- the spool, in memory until save()
  spool::test::Rig rig{spool::test::Rig::small()};
  // From <sender@client.test> to r0@hop.test, r1@hop.test …
  [[nodiscard]] static std::string envelope(std::uint16_t recipients, const mail::EnvelopeHead& head = usual_head());
  [[nodiscard]] static mail::EnvelopeHead usual_head();
  mail::QueueId append(std::string_view content, std::uint16_t recipients = 1,
                       mail::ContentForm form = mail::ContentForm::plain);
  // Streamed: in chunks, then what is left.
  mail::QueueId append_large(std::string_view content);
  void settle(mail::QueueId id, std::uint16_t recipient = 0, mail::Outcome outcome = mail::Outcome::relayed);
  void defer(mail::QueueId id, std::uint16_t recipient, const queue::RetryState& state);
  [[nodiscard]] std::vector<std::byte>& file(std::uint32_t slot) { return rig.disk().files.at(slot); }
  // Inverts a byte in the middle of the content of a message that append() made.
  void damage_content(mail::QueueId id);
  // Writes the rig's files to data_dir. They are left as they are from then on: see untouched().
  void save();
  // Nothing in data_dir is other than save() left it.
  [[nodiscard]] bool untouched();

  Ran run(std::vector<std::string> arguments);
  [[nodiscard]] std::string segment_path(std::uint32_t slot) const;

  const std::string folder;
  const std::string data_dir;
};

[[nodiscard]] std::string read_text(const std::string& path);
void write_text(const std::string& path, std::string_view text);

}  // namespace postern::spooltool::test
