#include "io/errors.h"

#include <cerrno>
#include <string>
#include <system_error>

namespace postern::io {
namespace {

StatusCode code_of(int code) {
  switch (code) {
    case EADDRINUSE:
    case EEXIST:
      return StatusCode::kAlreadyExists;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
      return StatusCode::kResourceExhausted;
    case EACCES:
    case EPERM:
    case EROFS:
      return StatusCode::kPermissionDenied;
    case ENOENT:
    case ENOTDIR:
      return StatusCode::kNotFound;
    case EINVAL:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
    case ENAMETOOLONG:
      return StatusCode::kInvalidArgument;
    default:
      return StatusCode::kUnavailable;
  }
}

}  // namespace

Status errno_status(int code, std::string_view doing) {
  return error(code_of(code), std::string(doing).append(": ").append(std::generic_category().message(code)));
}

}  // namespace postern::io
