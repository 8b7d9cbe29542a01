#include "bench/arguments.h"

#include <string_view>
#include <utility>

#include <postern/base/units.h>

namespace postern::bench {
namespace {

Status wrong(std::string_view what) {
  return error(StatusCode::kInvalidArgument, what);
}

Status named(std::string_view option, const Status& status) {
  return wrong(std::string(option).append(": ").append(message_of(status)));
}

}  // namespace

StatusOr<Duration> optional_duration(const std::string& text) {
  return text.empty() ? StatusOr<Duration>(Duration::zero()) : parse_duration(text);
}

StatusOr<SourceOptions> source_options(const LoadArguments& arguments, const std::string& target, std::uint64_t run,
                                       WallTime date) {
  SourceOptions made;
  const StatusOr<io::Address> address = io::Address::parse(target);
  if (!address.ok()) return named("the relay's address", address.status());
  made.target = *address;
  if (arguments.sessions == 0 || arguments.sessions > SourceOptions::sessions_max) {
    return wrong("--sessions: 1 to 60000");
  }
  if (arguments.recipients == 0 || arguments.recipients > recipients_max) return wrong("--recipients: 1 to 1000");
  if (arguments.domains == 0) return wrong("--domains: at least 1");
  if (arguments.rate < 0 || arguments.rate > 1e7) return wrong("--rate: 0 to 10000000 a second");
  StatusOr<Sizes> sizes = Sizes::parse(arguments.size);
  if (!sizes.ok()) return named("--size", sizes.status());
  const StatusOr<Duration> duration = optional_duration(arguments.duration);
  if (!duration.ok()) return named("--duration", duration.status());
  made.sessions = arguments.sessions;
  made.messages_per_connection = arguments.messages_per_connection;
  made.content = {.run = run,
                  .recipients = arguments.recipients,
                  .sender = arguments.sender,
                  .domain = arguments.domain,
                  .domains = arguments.domains,
                  .date = date};
  made.sizes = *std::move(sizes);
  made.count = arguments.count;
  made.duration = *duration;
  if (made.count == 0 && made.duration == Duration::zero()) made.duration = std::chrono::seconds(10);
  made.rate = arguments.rate;
  made.pipelining = !arguments.no_pipelining;
  made.chunking = !arguments.no_chunking;
  made.seed = arguments.seed;
  return made;
}

StatusOr<SinkOptions> sink_options(const HopArguments& arguments, const std::string& listen) {
  SinkOptions made;
  const StatusOr<io::Address> address = io::Address::parse(listen);
  if (!address.ok()) return named("the sink's address", address.status());
  made.listen = *address;
  for (const std::string& text : arguments.replies) {
    if (const Status status = made.behaviour.add_reply(text); !status.ok()) return named("--reply", status);
  }
  for (const std::string& text : arguments.delays) {
    if (const Status status = made.behaviour.add_delay(text); !status.ok()) return named("--delay", status);
  }
  for (const std::string& text : arguments.hang_ups) {
    if (const Status status = made.behaviour.add_hang_up(text); !status.ok()) return named("--hang-up", status);
  }
  if (arguments.recipients == 0 || arguments.recipients > 60'000) return wrong("--hop-recipients: 1 to 60000");
  made.messages_per_connection = arguments.messages_per_connection;
  made.connections = arguments.connections;
  made.recipients = arguments.recipients;
  made.chunking = !arguments.no_chunking;
  made.seed = arguments.seed;
  return made;
}

}  // namespace postern::bench
