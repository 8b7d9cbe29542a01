// Delivers one message into Maildirs, one recipient after the other: tmp, write, sync, rename into new, sync the
// directory. What is reported relayed is on stable storage.
//
// The file's name comes from queue id and recipient alone, so that a delivery that is repeated after a crash finds
// itself done already: where new/ has the name, nothing is written twice. Files have LF line ends and begin with
// Return-Path and Received [RFC 5321 §4.4].
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/time.h>

#include "egress/content_reader.h"
#include "egress/delivery.h"
#include "io/loop.h"

namespace postern::egress {

class Egress;

class MaildirDelivery final : private ContentReaderUser {
 public:
  // Of content assembled for one write.
  static constexpr std::size_t write_bytes = ContentReader::converted_bytes;

  explicit MaildirDelivery(Egress& egress);
  MaildirDelivery(const MaildirDelivery&) = delete;
  MaildirDelivery& operator=(const MaildirDelivery&) = delete;

  // `token`: of this object's file operations, one under way at a time.
  void start(Delivery& delivery, io::Token token);
  // No further recipient is begun; the operation under way cannot be taken back.
  void abort() { aborted_ = true; }
  void on_completion(const io::Completion& completion);

 private:
  enum class Step : std::uint8_t {
    check_done,  // does new/ have it already?
    open_tmp,
    make_directory,  // the folder with its parents, tmp, new and cur, when tmp/ or new/ was not there
    content,         // waits for the spool
    write,
    sync_file,
    close_file,
    rename,
    open_directory,  // each of to_sync_
    sync_directory,
    close_directory,
    close_failed,  // after a failure: away with what was begun
    unlink_failed,
  };

  void on_content_ready() override;
  void next_recipient();
  void request(Step step);
  void write_more();
  void list_directories();
  void fail(std::int32_t error, std::string_view what);
  void settle(mail::Outcome outcome, mail::Reply reply);
  void finish();

  Egress& egress_;
  ContentReader reader_;
  Delivery* delivery_ = nullptr;
  io::Token token_;
  Step step_ = Step::check_done;
  bool aborted_ = false;
  bool written_all_ = false;
  bool found_ = false;         // in new/, from an attempt before a crash: nothing to write or rename
  std::size_t recipient_ = 0;  // index into the work's recipients
  std::string name_;
  std::string folder_, tmp_path_, new_path_;
  std::vector<std::string> directories_;  // to make, in order
  std::size_t directory_ = 0;
  std::vector<std::string> to_sync_;
  io::Descriptor file_ = -1;
  io::Descriptor directory_file_ = -1;
  std::uint64_t offset_ = 0;
  std::string buffer_;  // being written
  std::vector<io::Slice> slices_;
  mail::Reply failure_;
  io::FileRequest request_;
};

}  // namespace postern::egress
