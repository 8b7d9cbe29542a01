// Writes messages of a spool as files for another relay, or for people: QUEUEID.eml, the content, and QUEUEID.json, the
// envelope. What is under these names is whole and on stable storage: files are written under other names, synced and
// renamed, the envelope's last.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/smtp/content_converter.h>
#include <postern/spool/types.h>

#include "spooltool/files.h"
#include "spooltool/text.h"

namespace postern::spooltool {

class ExportFolder {
 public:
  struct Options {
    bool lf = false;     // LF line ends; else CRLF
    bool trace = false;  // with the fields that posternd put in front
    bool force = false;  // files that are there are replaced
  };
  // Makes `path` (0700, for the mail of others) when it is not there; its parent must be.
  [[nodiscard]] static StatusOr<ExportFolder> open(std::string path, const Options& options);
  ~ExportFolder();
  ExportFolder(ExportFolder&& other) noexcept
      : path_(std::move(other.path_)),
        options_(other.options_),
        folder_(std::exchange(other.folder_, -1)),
        pending_(std::move(other.pending_)) {}
  ExportFolder& operator=(ExportFolder&&) = delete;

  // A piece of the content that could not be read.
  struct Missing {
    std::uint64_t offset = 0;  // in the content as it lies in the spool
    std::uint64_t bytes = 0;
    std::string why;
  };
  // One message at a time: begin(), write() of its content in the spool's form, piece by piece, end().
  // kAlreadyExists: it is there, and nobody said force; nothing was begun.
  [[nodiscard]] Status begin(mail::QueueId id, const spool::MessageView& view);
  [[nodiscard]] Status write(Bytes content);
  void note_missing(Missing missing) { missing_.push_back(std::move(missing)); }
  // `source` says where it lay. It has its name with the next flush(), which end() calls once in a while.
  [[nodiscard]] Status end(const mail::Envelope& envelope, const std::vector<RecipientFacts>& facts,
                           std::string_view source);
  // Takes back what begin() began.
  void abandon();
  // Everything that was ended is under its name, durably.
  [[nodiscard]] Status flush();

 private:
  ExportFolder(std::string path, const Options& options, int folder)
      : path_(std::move(path)), options_(options), folder_(folder) {}
  [[nodiscard]] std::string name(std::string_view suffix) const { return id_.to_string() + std::string(suffix); }
  [[nodiscard]] Status failure(const std::string& name) const;
  [[nodiscard]] Status create(const std::string& name);
  [[nodiscard]] Status put(std::string_view text);
  [[nodiscard]] Status close_file(const std::string& name);
  [[nodiscard]] Status rename_to(const std::string& name);

  std::string path_;
  Options options_;
  int folder_;
  std::vector<std::string> pending_;  // names that wait for flush(), contents before their envelopes

  mail::QueueId id_;
  int file_ = -1;
  bool convert_ = false;
  smtp::ContentConverter converter_;
  std::string buffer_;
  std::uint64_t written_ = 0;
  std::string added_fields_;
  mail::ContentFacts facts_;
  std::vector<Missing> missing_;
};

}  // namespace postern::spooltool
