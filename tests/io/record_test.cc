// What the recording loop writes down. (That it changes nothing, the conformance suite says: uring_test.cc.)
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/record/recording_loop.h"
#include "io/record/trace.h"
#include "io/uring/uring_loop.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;
using record::Entry;
using What = Entry::What;

class Folder {
 public:
  Folder() {
    std::string made = (std::filesystem::temp_directory_path() / "postern-record-XXXXXX").string();
    if (mkdtemp(made.data()) != nullptr) path_ = made;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class Last final : public Sink {
 public:
  void on_completion(const Completion& completion) override { results.push_back(completion.result); }
  std::vector<std::int32_t> results;
};

TEST(RecordingLoop, WritesDownWhatReachesFilesInOrder) {
  const Folder folder;
  auto trace = record::TraceWriter::create(folder / "trace");
  ASSERT_TRUE(trace.ok());
  const auto within = record::make_recording_loop(*make_uring_loop(), **trace);
  Last sink;
  const auto wait = [&](std::size_t count) {
    const Instant deadline = within->now() + 10s;
    while (sink.results.size() < count && within->now() < deadline) within->run_once(sink, deadline);
    ASSERT_EQ(sink.results.size(), count);
  };
  const std::string path = folder / "file";
  within->file({.kind = FileRequest::Kind::open, .path = path.c_str(), .open_flags = O_CREAT | O_RDWR, .mode = 0600},
               {});
  wait(1);
  const Descriptor file = sink.results[0];
  ASSERT_GE(file, 0);
  const std::vector<std::byte> zeros(8192);
  within->file({.kind = FileRequest::Kind::write, .descriptor = file, .data = zeros}, {});
  wait(2);
  within->file({.kind = FileRequest::Kind::sync, .descriptor = file}, {});
  wait(3);
  const StatusOr<Loop::LogFile> log = within->open_log(path.c_str(), true);
  ASSERT_TRUE(log.ok());
  const std::unique_ptr<std::byte, decltype(&std::free)> block(
      static_cast<std::byte*>(std::aligned_alloc(Loop::log_alignment, Loop::log_alignment)), &std::free);
  std::fill_n(block.get(), Loop::log_alignment, std::byte{'x'});
  // Two under way with the same token.
  within->durable_write(*log, Bytes(block.get(), Loop::log_alignment), 0, {});
  within->durable_write(*log, Bytes(block.get(), Loop::log_alignment), 4096, {});
  wait(5);
  within->close(log->descriptor);
  within->close(file);
  ASSERT_TRUE((*trace)->finish().ok());

  const auto read = record::read_trace(folder / "trace");
  ASSERT_TRUE(read.ok()) << read.status().message();
  std::vector<What> order;
  for (const Entry& entry : *read) order.push_back(entry.what);
  const std::vector<What> wanted = {What::file, What::end,        What::file,  What::end,   What::file,
                                    What::end,  What::log_opened, What::write, What::write, What::end,
                                    What::end,  What::closed,     What::closed};
  ASSERT_EQ(order, wanted);
  EXPECT_EQ((*read)[0].path, path);
  EXPECT_EQ((*read)[1].result, file);
  EXPECT_EQ((*read)[1].operation, (*read)[0].operation);
  EXPECT_EQ((*read)[2].length, 8192u);
  EXPECT_TRUE((*read)[2].zeros);
  EXPECT_TRUE((*read)[2].data.empty()) << "zeros are not kept";
  EXPECT_EQ((*read)[4].kind, FileRequest::Kind::sync);
  EXPECT_EQ((*read)[6].path, path);
  EXPECT_EQ((*read)[7].data, std::vector<std::byte>(Loop::log_alignment, std::byte{'x'}));
  EXPECT_EQ((*read)[8].offset, 4096u);
  EXPECT_NE((*read)[9].operation, (*read)[10].operation);
}

TEST(RecordingLoop, WritesDownWhatClientsAreToldAndNextHopsAnswer) {
  const Folder folder;
  auto trace = record::TraceWriter::create(folder / "trace");
  ASSERT_TRUE(trace.ok());
  const auto loop = record::make_recording_loop(*make_uring_loop(), **trace);
  Last sink;
  const auto wait = [&](std::size_t count) {
    const Instant deadline = loop->now() + 10s;
    while (sink.results.size() < count && loop->now() < deadline) loop->run_once(sink, deadline);
    ASSERT_EQ(sink.results.size(), count);
  };
  const StatusOr<Descriptor> listener = loop->listen(*Address::parse("127.0.0.1:0"), {});
  ASSERT_TRUE(listener.ok());
  const Address address = *loop->local_address(*listener);
  const Descriptor out = *loop->open_stream(address, {});
  loop->accept(*listener, {.slot = 1});
  loop->connect(out, address, {.slot = 2});
  wait(2);
  const Descriptor in = std::max(sink.results[0], sink.results[1]);
  // The accepted end says something, and the opened one says something that is nobody's reply.
  const std::string reply = "250 queued\r\n";
  const std::string command = "EHLO\r\n";
  const Slice said{.data = as_bytes(reply).data(), .size = reply.size()};
  const Slice asked{.data = as_bytes(command).data(), .size = command.size()};
  std::vector<std::byte> target(64);
  std::vector<std::byte> other(64);
  loop->send(in, std::span(&said, 1), {.slot = 3});
  loop->recv_into(out, target, true, {.slot = 4});
  loop->send(out, std::span(&asked, 1), {.slot = 5});
  loop->recv_into(in, other, true, {.slot = 6});
  wait(6);
  loop->close(in);
  loop->close(out);
  ASSERT_TRUE((*trace)->finish().ok());

  std::string told;
  std::string heard;
  const auto read = record::read_trace(folder / "trace");
  ASSERT_TRUE(read.ok()) << read.status().message();
  for (const Entry& entry : *read) {
    if (entry.what == What::said) told.append(as_text(entry.data));
    if (entry.what == What::heard) heard.append(as_text(entry.data));
  }
  EXPECT_EQ(told, reply);
  EXPECT_EQ(heard, reply);
}

TEST(Trace, ThatEndsInTheMiddleOfAnEntryIsRefused) {
  const Folder folder;
  auto trace = record::TraceWriter::create(folder / "trace");
  ASSERT_TRUE(trace.ok());
  (*trace)->add({.what = What::said}, as_bytes("abc"));
  ASSERT_TRUE((*trace)->finish().ok());
  ASSERT_EQ(record::read_trace(folder / "trace")->size(), 1u);
  std::filesystem::resize_file(folder / "trace", std::filesystem::file_size(folder / "trace") - 1);
  EXPECT_FALSE(record::read_trace(folder / "trace").ok());
}

}  // namespace
}  // namespace postern::io::testing
