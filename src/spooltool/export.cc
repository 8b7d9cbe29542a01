#include "spooltool/export.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

namespace postern::spooltool {
namespace {

// Files renamed behind one sync of the file system: a sync a message would make a large queue a matter of hours.
constexpr std::size_t pending_max = 512;

std::string unfinished(const std::string& name) {
  return "." + name + ".part";
}

}  // namespace

StatusOr<ExportFolder> ExportFolder::open(std::string path, const Options& options) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const bool made = ::mkdir(path.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) {
    return error(StatusCode::kUnavailable, path + ": cannot make the folder: " + std::strerror(errno));
  }
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return error(StatusCode::kUnavailable, path + ": " + std::strerror(errno));
  ExportFolder result(std::move(path), options, folder);
  if (made) {  // its own name must last as well
    const int above = ::openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool synced = above >= 0 && ::fsync(above) == 0;
    const int reason = errno;
    if (above >= 0) ::close(above);
    if (!synced) return error(StatusCode::kUnavailable, result.path_ + ": cannot sync: " + std::strerror(reason));
  }
  return result;
}

ExportFolder::~ExportFolder() {
  if (file_ >= 0) abandon();
  if (folder_ >= 0) ::close(folder_);
}

Status ExportFolder::failure(const std::string& name) const {
  return error(errno == EEXIST ? StatusCode::kAlreadyExists : StatusCode::kUnavailable,
               path_ + "/" + name + ": " + std::strerror(errno) + (errno == EEXIST ? "; --force replaces it" : ""));
}

Status ExportFolder::create(const std::string& name) {
  file_ = ::openat(folder_, unfinished(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  return file_ < 0 ? failure(name) : OkStatus();
}

Status ExportFolder::put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(file_, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failure(name(".eml"));
    written_ += static_cast<std::uint64_t>(put);
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  return OkStatus();
}

Status ExportFolder::close_file(const std::string& name) {
  if (::close(std::exchange(file_, -1)) < 0) return failure(name);
  pending_.push_back(name);
  return OkStatus();
}

Status ExportFolder::begin(mail::QueueId id, const spool::MessageView& view) {
  id_ = id;
  if (!options_.force) {
    for (const char* suffix : {".eml", ".json"}) {
      const std::string wanted = name(suffix);
      const bool waits = std::find(pending_.begin(), pending_.end(), wanted) != pending_.end();
      if (waits || ::faccessat(folder_, wanted.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        errno = EEXIST;
        return failure(wanted);
      }
    }
  }
  facts_ = view.facts;
  added_fields_ = as_text(view.added_fields);
  missing_.clear();
  written_ = 0;
  using Kind = smtp::ContentConverter::Kind;
  const bool stuffed = facts_.form == mail::ContentForm::dot_stuffed;
  // Binary content has no lines to convert.
  const bool to_lf = options_.lf && facts_.form != mail::ContentForm::binary;
  convert_ = stuffed || to_lf;
  converter_.reset(stuffed ? (to_lf ? Kind::stuffed_to_lf : Kind::unstuff) : Kind::plain_to_lf);
  POSTERN_RETURN_IF_ERROR(create(name(".eml")));
  if (!options_.trace) return OkStatus();
  std::string fields;
  if (to_lf) {
    smtp::ContentConverter lines(Kind::plain_to_lf);
    lines.append(as_bytes(added_fields_), fields);
    fields += lines.finish(false);
  } else {
    fields = added_fields_;
  }
  return put(fields);
}

Status ExportFolder::write(Bytes content) {
  if (!convert_) return put(as_text(content));
  buffer_.clear();
  converter_.append(content, buffer_);
  return put(buffer_);
}

Status ExportFolder::end(const mail::Envelope& envelope, const std::vector<RecipientFacts>& facts,
                         std::string_view source) {
  if (convert_) POSTERN_RETURN_IF_ERROR(put(converter_.finish(false)));
  const std::uint64_t content_bytes = written_;
  POSTERN_RETURN_IF_ERROR(close_file(name(".eml")));

  Json json;
  json["queue_id"] = id_.to_string();
  json["content_file"] = name(".eml");
  json["content_bytes"] = content_bytes;
  json["line_ends"] = facts_.form == mail::ContentForm::binary ? "as received" : options_.lf ? "LF" : "CRLF";
  json["complete"] = missing_.empty();
  for (const Missing& missing : missing_) {
    json["missing"].push_back({{"offset", missing.offset}, {"bytes", missing.bytes}, {"why", missing.why}});
  }
  add_envelope(json, envelope, facts);
  json["added_fields"] = added_fields_;
  json["added_fields_in_file"] = options_.trace;
  json["source"] = source;
  POSTERN_RETURN_IF_ERROR(create(name(".json")));
  POSTERN_RETURN_IF_ERROR(put(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
  POSTERN_RETURN_IF_ERROR(close_file(name(".json")));
  return pending_.size() >= pending_max ? flush() : OkStatus();
}

void ExportFolder::abandon() {
  if (file_ >= 0) ::close(std::exchange(file_, -1));
  for (const char* suffix : {".eml", ".json"}) {
    const std::string wanted = name(suffix);
    std::erase(pending_, wanted);
    (void)::unlinkat(folder_, unfinished(wanted).c_str(), 0);  // may never have been made
  }
}

Status ExportFolder::rename_to(const std::string& name) {
  const unsigned flags = options_.force ? 0u : RENAME_NOREPLACE;
  const std::string from = unfinished(name);
  if (::renameat2(folder_, from.c_str(), folder_, name.c_str(), flags) == 0) return OkStatus();
  if (errno != EINVAL || flags == 0) return failure(name);
  // A file system without RENAME_NOREPLACE; begin() has looked.
  return ::renameat(folder_, from.c_str(), folder_, name.c_str()) == 0 ? OkStatus() : failure(name);
}

Status ExportFolder::flush() {
  if (pending_.empty()) return OkStatus();
  if (::syncfs(folder_) < 0) return failure("");
  for (const std::string& name : std::exchange(pending_, {})) POSTERN_RETURN_IF_ERROR(rename_to(name));
  return ::fsync(folder_) == 0 ? OkStatus() : failure("");
}

}  // namespace postern::spooltool
