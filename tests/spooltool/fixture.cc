#include "tests/spooltool/fixture.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <unistd.h>

#include "spooltool/commands.h"

namespace postern::spooltool::test {
namespace {

std::string make_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "postern-spool-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  return name;
}

}  // namespace

std::vector<nlohmann::json> Ran::json_lines() const {
  std::vector<nlohmann::json> all;
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::string& path, std::string_view text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  ASSERT_TRUE(file) << path;
}

SpoolTool::SpoolTool() : folder(make_folder()), data_dir(folder + "/data") {
  std::filesystem::create_directories(data_dir + "/logs");
}

SpoolTool::~SpoolTool() {
  std::filesystem::remove_all(folder);
}

mail::EnvelopeHead SpoolTool::usual_head() {
  mail::EnvelopeHead head;
  head.received_at = WallTime(std::chrono::seconds(1'800'000'000));
  head.protocol = mail::Protocol::esmtp;
  return head;
}

std::string SpoolTool::envelope(std::uint16_t recipients, const mail::EnvelopeHead& head) {
  mail::Envelope made;
  made.head = head;
  made.set_reverse_path("sender@client.test", 7);
  made.set_client("client.test", "[192.0.2.1]:2525");
  for (unsigned i = 0; i < recipients; ++i) {
    const std::string path = "r" + std::to_string(i) + "@hop.test";
    made.add_recipient({.forward_path = {path, static_cast<std::uint16_t>(path.find('@') + 1)},
                        .notify = {},
                        .original_recipient = {}});
  }
  std::string text;
  made.encode(text);
  return text;
}

mail::QueueId SpoolTool::append(std::string_view content, std::uint16_t recipients, mail::ContentForm form) {
  if (form == mail::ContentForm::plain) return rig.append(content, envelope(recipients), recipients);
  const std::string bytes = envelope(recipients);
  spool::MessageRecord record = rig.record(content, bytes, recipients);
  record.facts.form = form;
  record.facts.header_bytes = content.find("\r\n\r\n") + 2;
  const StatusOr<mail::Location> location = rig.log().append_message(record, {});
  EXPECT_TRUE(location.ok());
  if (location.ok()) rig.locations_[record.id.value] = *location;
  return record.id;
}

mail::QueueId SpoolTool::append_large(std::string_view content) {
  constexpr std::size_t piece = 6000;
  const spool::ContentId id = rig.log().begin_content();
  std::string_view rest = content;
  for (; rest.size() > piece; rest.remove_prefix(piece)) {
    const Status status = rig.log().append_chunk(id, as_bytes(rest.substr(0, piece)));
    EXPECT_TRUE(status.ok());
    rig.write_all();
  }
  const std::string bytes = envelope(1);
  spool::MessageRecord record = rig.record(rest, bytes, 1);
  record.streamed = id;
  record.facts.size = content.size();
  const StatusOr<mail::Location> location = rig.log().append_message(record, {});
  EXPECT_TRUE(location.ok());
  if (location.ok()) rig.locations_[record.id.value] = *location;
  rig.write_all();
  return record.id;
}

void SpoolTool::settle(mail::QueueId id, std::uint16_t recipient, mail::Outcome outcome) {
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, recipient, outcome, {}).ok());
}

void SpoolTool::defer(mail::QueueId id, std::uint16_t recipient, const queue::RetryState& state) {
  std::string bytes;
  queue::encode_retry_state(state, bytes);
  ASSERT_TRUE(rig.log().append_retry_state(rig.locate(id), id, recipient, as_bytes(bytes)).ok());
}

void SpoolTool::damage_content(mail::QueueId id) {
  const mail::Location at = rig.locate(id);
  for (auto& [slot, bytes] : rig.disk().files) {
    spool::SegmentHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.sequence != spool::sequence_of(at.position)) continue;
    bytes[spool::offset_of(at.position) + at.length - 20] ^= std::byte{0xFF};
    return;
  }
  ADD_FAILURE() << "no segment holds " << id.to_string();
}

std::string SpoolTool::segment_path(std::uint32_t slot) const {
  return data_dir + "/" + spool::slot_path(log_id, spool::Slot{slot});
}

void SpoolTool::save() {
  for (const auto& [slot, bytes] : rig.disk().files) write_text(segment_path(slot), as_text(bytes));
}

bool SpoolTool::untouched() {
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_dir + "/" + spool::log_directory(log_id))) {
    files += entry.is_regular_file() ? 1u : 0u;
  }
  if (files != rig.disk().files.size()) return false;
  for (const auto& [slot, bytes] : rig.disk().files) {
    if (read_text(segment_path(slot)) != as_text(bytes)) return false;
  }
  return true;
}

Ran SpoolTool::run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "postern-spool");
  std::vector<const char*> pointers;
  pointers.reserve(arguments.size());
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* const out = ::open_memstream(&text, &size);
  Ran ran;
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  ran.code = run_command_line(static_cast<int>(pointers.size()), pointers.data(), out);
  std::fclose(out);
  ran.out = testing::internal::GetCapturedStdout() + std::string(text, size);
  ran.err = testing::internal::GetCapturedStderr();
  std::free(text);
  return ran;
}

}  // namespace postern::spooltool::test
