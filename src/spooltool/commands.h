// postern-spool's subcommands: what the command line gives them, and what they return to the shell.
//
// Each reads a data_dir and changes nothing in it. What is asked for goes to `out`, what went wrong and the progress to
// stderr. A spool in use by a posternd is read all the same.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include <postern/base/status.h>

namespace postern::spooltool {

inline constexpr const char* default_data_dir = "/var/lib/postern";

enum ExitCode : int {
  exit_good = 0,
  exit_damage = 1,      // the spool is damaged, or part of what was asked for is
  exit_no_such = 2,     // no message of that queue id waits in this spool
  exit_usage = 10,      // the command line
  exit_no_spool = 11,   // no such folder, or nothing of posternd's in it
  exit_unread = 12,     // it may not be read, or was written by a newer program
  exit_unwritten = 13,  // the output could not be written, or would overwrite a file
};

struct CheckArguments {
  std::string data_dir = default_data_dir;
  bool json = false;
};
[[nodiscard]] int run_check(const CheckArguments& arguments, std::FILE* out);

struct DumpArguments {
  std::string data_dir = default_data_dir;
  std::string log;      // its directory's name, "00a"; empty: all
  std::string segment;  // one file alone, wherever it lies; empty: all segments in use
  bool json = false;
};
[[nodiscard]] int run_dump(const DumpArguments& arguments, std::FILE* out);

struct ShowArguments {
  std::string data_dir = default_data_dir;
  std::string queue_id;
  unsigned lines = 40;  // of the content's header section at most
  bool json = false;
};
[[nodiscard]] int run_show(const ShowArguments& arguments, std::FILE* out);

struct ExportArguments {
  std::string data_dir = default_data_dir;
  std::vector<std::string> queue_ids;
  bool all = false;
  std::string to;  // a folder; made when it is not there
  bool lf = false;
  bool trace = false;  // our Received field in front
  bool force = false;
  bool include_damaged = false;
  bool json = false;
};
[[nodiscard]] int run_export(const ExportArguments& arguments, std::FILE* out);

// All of the program. Help, version and what is wrong with the command line go to stdout and stderr.
[[nodiscard]] int run_command_line(int argc, const char* const* argv, std::FILE* out);

// What a failure to read means for the shell, and "postern-spool: …" on stderr.
int complain(const Status& status);
// `code`, or exit_unwritten when `out` did not take everything.
[[nodiscard]] int flushed(std::FILE* out, int code);

}  // namespace postern::spooltool
