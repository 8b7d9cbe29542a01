// The fixture of the conformance suite: a loop, a sink that records, and the steps that many scripts share.
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <utility>

#include "tests/io/conformance.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;

constexpr Duration patience = 10s;

std::uint64_t key_of(Token token) {
  return std::uint64_t{token.kind} << 56 | std::uint64_t{token.generation} << 32 | std::uint64_t{token.slot};
}

}  // namespace

std::string name_of_backend(const ::testing::TestParamInfo<Backend>& info) {
  return info.param.name;
}

void Recorder::on_completion(const Completion& completion) {
  Event event{.result = completion.result,
              .more = completion.more,
              .more_in_socket = completion.more_in_socket,
              .bytes = std::string(as_text(completion.bytes)),
              .peer = completion.peer != nullptr ? *completion.peer : Address()};
  if (completion.buffer.held()) {
    if (keep_buffers) {
      event.buffer = completion.buffer;
    } else {
      loop_.release(completion.buffer);
    }
  }
  events_[key_of(completion.token)].push_back(std::move(event));
  ++total_;
  if (then) then(completion.token);
}

std::vector<Event>& Recorder::of(Token token) {
  return events_[key_of(token)];
}

void Conformance::TearDown() {
  loop_.reset();
  if (!directory_.empty() && GetParam().directory.empty()) std::filesystem::remove_all(directory_);
  if (GetParam().finish != nullptr) GetParam().finish();
}

void Conformance::start(const Needs& needs) {
  auto made = GetParam().make(needs);
  ASSERT_TRUE(made.ok()) << made.status().message();
  loop_ = *std::move(made);
  seen_ = std::make_unique<Recorder>(*loop_);
}

Token Conformance::token() {
  ++tokens_;
  return {.slot = tokens_, .generation = tokens_ * 7 & 0xFF'FFFF, .kind = tokens_ & 0xFF};
}

Event Conformance::await(Token token, std::size_t count) {
  const Instant deadline = loop().clocks().monotonic + patience;
  while (seen().of(token).size() < count) {
    if (loop().clocks().monotonic >= deadline) {
      ADD_FAILURE() << "no completion within 10 s";
      return {.result = -ETIME};
    }
    (void)loop().run_once(seen(), deadline);
  }
  return seen().of(token).back();
}

void Conformance::settle(Duration quiet) {
  std::size_t before = 0;
  do {
    before = seen().total();
    const Instant until = loop().clocks().monotonic + quiet;
    while (loop().clocks().monotonic < until) (void)loop().run_once(seen(), until);
  } while (seen().total() != before);
}

Descriptor Conformance::listen_anywhere(int backlog) {
  const auto listener = loop().listen(*Address::parse("127.0.0.1:0"), {.reuse_port = true, .backlog = backlog});
  EXPECT_TRUE(listener.ok()) << listener.status().message();
  return listener.ok() ? *listener : -1;
}

Address Conformance::address_of(Descriptor descriptor) {
  const auto address = loop().local_address(descriptor);
  EXPECT_TRUE(address.ok()) << address.status().message();
  return address.ok() ? *address : Address();
}

Descriptor Conformance::open_to(const Address& remote) {
  const auto opened = loop().open_stream(remote, Address());
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  return opened.ok() ? *opened : -1;
}

Conformance::Pair Conformance::connected() {
  const Descriptor listener = listen_anywhere();
  const Address address = address_of(listener);
  const Token accepting = token();
  const Token connecting = token();
  Pair pair{.client = open_to(address)};
  loop().accept(listener, accepting);
  loop().connect(pair.client, address, connecting);
  EXPECT_EQ(await(connecting).result, 0);
  pair.server = await(accepting).result;
  EXPECT_GE(pair.server, 0);
  loop().cancel(accepting);
  EXPECT_EQ(await(accepting, 2).result, -ECANCELED);
  loop().close(listener);
  return pair;
}

void Conformance::send_all(Descriptor descriptor, std::string_view text) {
  const Token sending = token();
  const Slice slice{.data = as_bytes(text).data(), .size = text.size()};
  loop().send(descriptor, {&slice, 1}, sending);
  EXPECT_EQ(await(sending).result, static_cast<std::int32_t>(text.size()));
}

std::string Conformance::receive(Descriptor descriptor, std::size_t size) {
  std::string text;
  bool poll_first = true;
  while (text.size() < size) {
    const Token receiving = token();
    loop().recv(descriptor, poll_first, receiving);
    const Event event = await(receiving);
    if (event.result <= 0) {
      EXPECT_EQ(event.result, 0);
      break;
    }
    poll_first = !event.more_in_socket;
    text += event.bytes;
  }
  return text;
}

std::int32_t Conformance::file(const FileRequest& request) {
  const Token working = token();
  loop().file(request, working);
  return await(working).result;
}

const std::string& Conformance::directory() {
  if (directory_.empty() && !GetParam().directory.empty()) {
    directory_ = GetParam().directory;
    EXPECT_EQ(file({.kind = FileRequest::Kind::make_directory, .path = directory_.c_str(), .mode = 0700}), 0);
  }
  if (directory_.empty()) {
    directory_ = ::testing::TempDir() + "postern-io-XXXXXX";
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
  }
  return directory_;
}

std::string Conformance::make_file(std::string_view name, std::size_t size) {
  std::string path = directory();
  path.append("/").append(name);
  const std::int32_t descriptor = file(
      {.kind = FileRequest::Kind::open, .path = path.c_str(), .open_flags = O_CREAT | O_EXCL | O_WRONLY, .mode = 0600});
  EXPECT_GE(descriptor, 0);
  const std::vector<std::byte> zeroes(size);
  if (size > 0) {
    EXPECT_EQ(file({.kind = FileRequest::Kind::write, .descriptor = descriptor, .data = zeroes}),
              static_cast<std::int32_t>(size));
  }
  EXPECT_EQ(file({.kind = FileRequest::Kind::sync, .descriptor = descriptor}), 0);
  EXPECT_EQ(file({.kind = FileRequest::Kind::close, .descriptor = descriptor}), 0);
  return path;
}

}  // namespace postern::io::testing
