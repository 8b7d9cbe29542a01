// postern-spool: the program. Its command line is in command_line.cc, its subcommands in run_check.cc, run_dump.cc,
// run_show.cc and run_export.cc.
#include "spooltool/commands.h"

int main(int argc, char** argv) {
  return postern::spooltool::run_command_line(argc, argv, stdout);
}
