#include <utility>

#include <CLI/CLI.hpp>

#include "spooltool/commands.h"

namespace postern::spooltool {
namespace {

void add_data_dir(CLI::App& app, std::string& data_dir, bool positional) {
  app.add_option(positional ? "data_dir,--data-dir" : "--data-dir", data_dir, "posternd's data_dir")
      ->type_name("DATA_DIR")
      ->capture_default_str();
}

}  // namespace

int run_command_line(int argc, const char* const* argv, std::FILE* out) {
  CLI::App app("Reads the spool of a stopped or running posternd and changes nothing in it; see postern-spool(8).",
               "postern-spool");
  app.require_subcommand(1);
  app.set_version_flag("--version", "postern-spool " POSTERN_VERSION);
  app.footer(
      "Exit status: 0 good, 1 damage, 2 no such message, 10 usage, 11 no spool there, 12 cannot be read,\n"
      "13 the output could not be written or would overwrite a file.");

  CheckArguments check;
  CLI::App& check_app = *app.add_subcommand("check", "verifies all of it and counts what it holds");
  add_data_dir(check_app, check.data_dir, true);
  check_app.add_flag("--json", check.json, "one JSON object");

  DumpArguments dump;
  CLI::App& dump_app = *app.add_subcommand("dump", "one line per record, in order");
  add_data_dir(dump_app, dump.data_dir, true);
  CLI::Option* const log = dump_app.add_option("--log", dump.log, "this log alone: its directory's name, 00a");
  dump_app.add_option("--segment", dump.segment, "this segment file alone, wherever it lies")->excludes(log);
  dump_app.add_flag("--json", dump.json, "one JSON object a line");

  ShowArguments show;
  CLI::App& show_app = *app.add_subcommand("show", "one waiting message: envelope, recipients' states, header");
  show_app.add_option("queue_id", show.queue_id, "as in the 250 and in the event log")
      ->required()
      ->type_name("QUEUE_ID");
  add_data_dir(show_app, show.data_dir, false);
  show_app.add_option("--lines", show.lines, "of the header section at most")->capture_default_str();
  show_app.add_flag("--json", show.json, "one JSON object");

  ExportArguments exporting;
  std::vector<std::string> places;
  CLI::App& export_app =
      *app.add_subcommand("export", "QUEUE_ID… TO, or --all TO: content and envelope as files in the folder TO");
  export_app.add_option("places", places, "queue ids, and last the folder")->required()->type_name("[QUEUE_ID…] TO");
  export_app.add_flag("--all", exporting.all, "every message that waits");
  add_data_dir(export_app, exporting.data_dir, false);
  export_app.add_flag("--lf", exporting.lf, "LF line ends; else CRLF");
  export_app.add_flag("--trace", exporting.trace, "with the Received field that posternd added");
  export_app.add_flag("--force", exporting.force, "replace files that are there");
  export_app.add_flag("--include-damaged", exporting.include_damaged,
                      "also what is whole in damaged segments, delivered or not, and messages with pieces missing");
  export_app.add_flag("--json", exporting.json, "the count as one JSON object");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {  // also --help and --version
    return app.exit(wrong) == 0 ? exit_good : exit_usage;
  }
  if (check_app.parsed()) return run_check(check, out);
  if (dump_app.parsed()) return run_dump(dump, out);
  if (show_app.parsed()) return run_show(show, out);
  exporting.to = places.back();
  places.pop_back();
  exporting.queue_ids = std::move(places);
  if (exporting.all != exporting.queue_ids.empty()) {
    return complain(postern::error(postern::StatusCode::kInvalidArgument,
                                   exporting.all ? "export: --all goes without queue ids"
                                                 : "export: name queue ids before the folder, or give --all"));
  }
  return run_export(exporting, out);
}

}  // namespace postern::spooltool
