// postern-bench: the command line. What its subcommands do is in run_source.cc, run_sink.cc and run_relay.cc.
#include <CLI/CLI.hpp>

#include "bench/commands.h"

#ifdef POSTERN_MIMALLOC
#include <mimalloc.h>
#endif

namespace {

using postern::bench::HopArguments;
using postern::bench::LoadArguments;

std::string version_text() {
  std::string text = "postern-bench " POSTERN_VERSION;
#ifdef POSTERN_MIMALLOC
  // Said here so that the linker keeps the library, whose malloc replaces libc's by being loaded.
  text += " (mimalloc " + std::to_string(mi_version()) + ")";
#endif
  return text;
}

void add_load(CLI::App& app, LoadArguments& load) {
  app.add_option("--sessions", load.sessions, "SMTP sessions at a time")->capture_default_str();
  app.add_option("--messages-per-connection", load.messages_per_connection,
                 "then QUIT and a new connection; 0: as many as there are")
      ->capture_default_str();
  app.add_option("--recipients", load.recipients, "recipients of each message")->capture_default_str();
  app.add_option("--domain", load.domain, "domain of the recipients")->capture_default_str();
  app.add_option("--domains", load.domains, "more than 1: recipients in d0.DOMAIN, d1.DOMAIN …, in turn")
      ->capture_default_str();
  app.add_option("--sender", load.sender, "reverse-path")->capture_default_str();
  app.add_option("--size", load.size, "content: 10KiB; or 1KiB:70,100KiB:30 by weight; or mix, the shape of real mail")
      ->capture_default_str();
  CLI::Option* const count = app.add_option("--count", load.count, "messages to send");
  app.add_option("--duration", load.duration, "time to send for; 10s when neither is given")->excludes(count);
  app.add_option("--rate", load.rate, "open loop: messages due per second, whatever the relay does; 0: closed loop")
      ->capture_default_str();
  app.add_flag("--no-pipelining", load.no_pipelining, "one command at a time, whatever is offered");
  app.add_flag("--no-chunking", load.no_chunking, "DATA, whatever is offered");
  app.add_option("--seed", load.seed, "of the sizes' order")->capture_default_str();
}

void add_hop(CLI::App& app, HopArguments& hop) {
  app.add_option("--reply", hop.replies,
                 "STAGE=CODE [STATUS] TEXT[@SHARE%]: refuse there; \"rcpt=450 4.2.0 Busy@10%\"");
  app.add_option("--delay", hop.delays, "STAGE=TIME[@SHARE%]: be late there; end=50ms@1%");
  app.add_option("--hang-up", hop.hang_ups, "STAGE[@SHARE%]: end the connection there; data@0.5%");
  app.add_option("--hop-messages-per-connection", hop.messages_per_connection, "then 421; 0: no limit")
      ->capture_default_str();
  app.add_option("--hop-connections", hop.connections, "at a time, others get 421; 0: no limit")->capture_default_str();
  app.add_option("--hop-recipients", hop.recipients, "per transaction, others get 452")->capture_default_str();
  app.add_flag("--hop-no-chunking", hop.no_chunking, "do not offer CHUNKING");
  app.add_option("--hop-seed", hop.seed, "of the shares")->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace postern::bench;
  CLI::App app("Load for SMTP relays, and a next hop that counts what comes of it; see postern-bench(1).",
               "postern-bench");
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text());

  SourceArguments source;
  CLI::App& source_app = *app.add_subcommand("source", "sends messages to a relay and measures its answers");
  source_app.add_option("address", source.target, "the relay, 127.0.0.1:25")->required()->type_name("ADDRESS:PORT");
  add_load(source_app, source.load);
  source_app.add_flag("--json", source.json, "report as JSON");

  SinkArguments sink;
  CLI::App& sink_app =
      *app.add_subcommand("sink", "takes messages, counts and checks them, and misbehaves when told to");
  sink_app.add_option("address", sink.listen, "where to listen; port 0: any")->required()->type_name("ADDRESS:PORT");
  sink_app.add_option("--expect", sink.expect, "end when so many numbered messages have come; what misses is lost");
  sink_app.add_option("--idle", sink.idle, "end when nothing came for so long after the first message");
  add_hop(sink_app, sink.hop);
  sink_app.footer("Stages: connect, hello, mail, rcpt, data, end (the reply to the content).");
  sink_app.add_flag("--json", sink.json, "report as JSON");

  RelayArguments relay;
  CLI::App& relay_app = *app.add_subcommand("relay", "source and sink around a relay: what a message costs it");
  relay_app.add_option("address", relay.target, "the relay, 127.0.0.1:2525")->required()->type_name("ADDRESS:PORT");
  relay_app.add_option("--sink", relay.listen, "where its next hop listens: what the relay is configured to send to")
      ->required()
      ->type_name("ADDRESS:PORT");
  CLI::Option* const command = relay_app.add_option("--command", relay.command,
                                                    "starts the relay in the foreground; by sh -c, ended by SIGTERM");
  relay_app.add_option("--pid", relay.pid, "a relay that runs already: this process and its descendants")
      ->excludes(command);
  relay_app.add_option("--spool", relay.spool, "a folder on the relay's disk, to count that disk's writes and flushes");
  relay_app.add_option("--warm-up", relay.warm_up, "messages before the measurement")->capture_default_str();
  relay_app.add_option("--drain", relay.drain, "wait at most so long for messages accepted but not yet delivered")
      ->capture_default_str();
  add_load(relay_app, relay.load);
  add_hop(relay_app, relay.hop);
  relay_app.footer("Stages: connect, hello, mail, rcpt, data, end (the reply to the content).");
  relay_app.add_flag("--json", relay.json, "report as JSON");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {  // also --help and --version
    return app.exit(wrong) == 0 ? exit_good : exit_usage;
  }
  if (source_app.parsed()) return run_source(source);
  if (sink_app.parsed()) return run_sink(sink);
  return run_relay(relay);
}
