// What does one delivery cost the client session, without socket and content?
// Expected: about 1 µs for one recipient with all replies (a relay's whole budget for a message is 50 µs), growing by
// less than 150 ns for each further recipient; no allocation.
// Surroundings: one thread; the peer's replies come as a pipelining peer sends them, in two reads.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/smtp/client_session.h>
#include <postern/smtp/reply_parser.h>

namespace postern::smtp {
namespace {

void deliver(benchmark::State& state, std::string_view extensions, bool bdat) {
  const ClientOptions options{.ehlo_name = "relay.example.test"};
  const Instant now{};
  ClientSession session(options, now);
  const auto take_output = [&session] { session.on_output_taken(session.output().size()); };
  const auto answer = [&](std::string_view reply) {
    session.on_bytes(as_bytes(reply), now);
    take_output();
  };
  answer("220 mx\r\n");
  take_output();
  answer(extensions);

  std::vector<std::string_view> paths(static_cast<std::size_t>(state.range(0)), "some.recipient@example.net");
  DeliveryRequest request{.reverse_path = "some.sender@example.test", .forward_paths = paths};
  request.content.size = 1024;
  request.content.ends_with_crlf = true;
  std::string replies = "250 2.1.0 Ok\r\n";
  for (std::size_t i = 0; i < paths.size(); ++i) replies += "250 2.1.5 Ok\r\n";
  if (!bdat) replies += "354 End data with <CR><LF>.<CR><LF>\r\n";
  for (auto _ : state) {
    session.begin(request, now);
    take_output();
    if (bdat) session.on_content_sent(now);
    answer(replies);
    if (!bdat) session.on_content_sent(now);
    answer("250 2.0.0 Ok: queued as 0123456789ABC\r\n");
    benchmark::DoNotOptimize(session.take_result());
  }
  state.SetItemsProcessed(state.iterations());
}

void deliver_by_data(benchmark::State& state) {
  deliver(state, "250-mx\r\n250-SIZE 1000000\r\n250 PIPELINING\r\n", false);
}
BENCHMARK(deliver_by_data)->Arg(1)->Arg(10);

void deliver_by_bdat(benchmark::State& state) {
  deliver(state, "250-mx\r\n250-SIZE 1000000\r\n250-CHUNKING\r\n250 PIPELINING\r\n", true);
}
BENCHMARK(deliver_by_bdat)->Arg(1);

void parse_reply(benchmark::State& state) {
  ReplyParser parser;
  for (auto _ : state) {
    benchmark::DoNotOptimize(parser.on_bytes(as_bytes("250 2.0.0 Ok: queued as 0123456789ABC\r\n")));
  }
}
BENCHMARK(parse_reply);

}  // namespace
}  // namespace postern::smtp
