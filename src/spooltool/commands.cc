#include "spooltool/commands.h"

namespace postern::spooltool {

int complain(const Status& status) {
  std::fprintf(stderr, "postern-spool: %s\n", std::string(message_of(status)).c_str());
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      return exit_usage;
    case StatusCode::kNotFound:
      return exit_no_spool;
    case StatusCode::kDataLoss:
      return exit_damage;
    default:
      return exit_unread;
  }
}

int flushed(std::FILE* out, int code) {
  if (std::fflush(out) == 0 && std::ferror(out) == 0) return code;
  std::fputs("postern-spool: the output could not be written\n", stderr);
  return exit_unwritten;
}

}  // namespace postern::spooltool
