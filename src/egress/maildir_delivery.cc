#include "egress/maildir_delivery.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/route/maildir.h>
#include <postern/smtp/content_converter.h>

#include "egress/egress.h"

namespace postern::egress {
namespace {

// One turn of the converter, and the Return-Path in front of it.
constexpr std::size_t write_more_below = MaildirDelivery::write_bytes / 2;

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

MaildirDelivery::MaildirDelivery(Egress& egress) : egress_(egress), reader_(egress.pieces_, *this) {}

void MaildirDelivery::start(Delivery& delivery, io::Token token) {
  delivery_ = &delivery;
  token_ = token;
  delivery.outcomes.clear();
  recipient_ = 0;
  next_recipient();
}

void MaildirDelivery::next_recipient() {
  while (!aborted_ && recipient_ < delivery_->work.recipients.size()) {
    const std::uint16_t index = delivery_->work.recipients[recipient_];
    const StatusOr<std::string> folder =
        route::expand_maildir(delivery_->route->maildir, delivery_->message->envelope.recipient(index).forward_path);
    if (folder.ok()) {
      name_ = delivery_->message->id.to_string() + "." + std::to_string(index) + "." + egress_.options_.hostname;
      folder_ = *folder;
      tmp_path_ = folder_ + "/tmp/" + name_;
      new_path_ = folder_ + "/new/" + name_;
      to_sync_.clear();
      directories_.clear();
      request(Step::check_done);
      return;
    }
    settle(mail::Outcome::failed, {550, {5, 1, 1}, std::string(message_of(folder.status()))});
  }
  finish();
}

void MaildirDelivery::settle(mail::Outcome outcome, mail::Reply reply) {
  delivery_->outcomes.push_back(
      {.recipient = delivery_->work.recipients[recipient_], .result = {outcome, std::move(reply)}});
  ++recipient_;
}

void MaildirDelivery::finish() {
  reader_.stop();
  Egress& egress = egress_;
  Delivery& delivery = *std::exchange(delivery_, nullptr);
  const mail::SiteId site = delivery.work.site;
  const queue::ShardIndex owner = delivery.owner;
  egress.remove(*this);  // destroys this
  egress.finish(delivery);
  egress.slot_free(site, owner, false);
}

void MaildirDelivery::request(Step step) {
  using Kind = io::FileRequest::Kind;
  step_ = step;
  request_ = {};
  switch (step) {
    case Step::check_done: {
      request_.kind = Kind::open;
      request_.path = new_path_.c_str();
      request_.open_flags = O_RDONLY | O_CLOEXEC;
      break;
    }
    case Step::open_tmp:
      request_.kind = Kind::open;
      request_.path = tmp_path_.c_str();
      request_.open_flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
      request_.mode = 0600;
      break;
    case Step::make_directory:
      request_.kind = Kind::make_directory;
      request_.path = directories_[directory_].c_str();
      request_.mode = 0700;
      break;
    case Step::write:
      request_.kind = Kind::write;
      request_.descriptor = file_;
      request_.data = as_bytes(buffer_);
      request_.offset = offset_;
      break;
    case Step::sync_file:
      request_.kind = Kind::sync;
      request_.descriptor = file_;
      break;
    case Step::close_file:
    case Step::close_failed:
      request_.kind = Kind::close;
      request_.descriptor = file_;
      break;
    case Step::rename:
      request_.kind = Kind::rename;
      request_.path = tmp_path_.c_str();
      request_.other_path = new_path_.c_str();
      break;
    case Step::open_directory:
      request_.kind = Kind::open;
      request_.path = to_sync_.back().c_str();
      request_.open_flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
      break;
    case Step::sync_directory:
      request_.kind = Kind::sync;
      request_.descriptor = directory_file_;
      break;
    case Step::close_directory:
      request_.kind = Kind::close;
      request_.descriptor = directory_file_;
      break;
    case Step::unlink_failed:
      request_.kind = Kind::unlink;
      request_.path = tmp_path_.c_str();
      break;
    case Step::content:
      return;
  }
  egress_.loop_.file(request_, token_);
}

void MaildirDelivery::on_completion(const io::Completion& completion) {
  const std::int32_t result = completion.result;
  switch (step_) {
    case Step::check_done:
      if (result >= 0) {
        // It was delivered before, and perhaps not synced: the directory is synced again before we say so.
        file_ = result;
        found_ = true;
        to_sync_.push_back(folder_ + "/new");
        request(Step::sync_file);
      } else {
        found_ = false;
        request(Step::open_tmp);
      }
      return;
    case Step::open_tmp: {
      if (result == -ENOENT && directories_.empty()) {
        list_directories();
        directory_ = 0;
        request(Step::make_directory);
        return;
      }
      if (result < 0) return fail(result, "cannot create a file in tmp");
      file_ = result;
      offset_ = 0;
      written_all_ = false;
      const mail::ContentFacts& facts = delivery_->message->facts;
      // In binary content CR LF may be data: such a file has it throughout, which readers of Maildirs know.
      const bool binary = facts.form == mail::ContentForm::binary && mail::needs_binary_mime(facts);
      using Kind = smtp::ContentConverter::Kind;
      const Kind kind = facts.form == mail::ContentForm::dot_stuffed ? Kind::stuffed_to_lf : Kind::plain_to_lf;
      reader_.start(*delivery_, binary ? std::nullopt : std::optional(kind), !binary);
      buffer_ = "Return-Path: <";
      buffer_ += delivery_->message->envelope.reverse_path().text;
      buffer_ += binary ? ">\r\n" : ">\n";
      return write_more();
    }
    case Step::make_directory:
      if (result < 0 && result != -EEXIST) return fail(result, "cannot make the folder");
      if (result == 0) to_sync_.push_back(parent_of(directories_[directory_]));
      if (++directory_ < directories_.size()) return request(Step::make_directory);
      return request(Step::open_tmp);
    case Step::write:
      if (result < 0) return fail(result, "cannot write");
      offset_ += buffer_.size();
      buffer_.clear();
      return write_more();
    case Step::sync_file:
      if (result < 0) return fail(result, "cannot sync");
      return request(Step::close_file);
    case Step::close_file:
      file_ = -1;
      if (result < 0) return fail(result, "cannot close");
      if (to_sync_.empty() || to_sync_.back() != folder_ + "/new") to_sync_.push_back(folder_ + "/new");
      return request(found_ ? Step::open_directory : Step::rename);
    case Step::rename:
      if (result == -ENOENT && directories_.empty()) {
        // A crash between the folders of a new Maildir has left tmp without new.
        file_ = -1;
        to_sync_.clear();
        list_directories();
        directory_ = 0;
        return request(Step::make_directory);
      }
      if (result < 0) return fail(result, "cannot rename into new");
      return request(Step::open_directory);
    case Step::open_directory:
      if (result < 0) return fail(result, "cannot open the directory to sync it");
      directory_file_ = result;
      return request(Step::sync_directory);
    case Step::sync_directory:
      if (result < 0) failure_ = {0, {4, 3, 0}, std::string("cannot sync the directory: ") + std::strerror(-result)};
      return request(Step::close_directory);
    case Step::close_directory:
      directory_file_ = -1;
      if (!failure_.text.empty()) {
        settle(mail::Outcome::deferred, std::exchange(failure_, {}));
        return next_recipient();
      }
      to_sync_.pop_back();
      if (!to_sync_.empty()) return request(Step::open_directory);
      settle(mail::Outcome::relayed, {250, {2, 0, 0}, "delivered to Maildir"});
      return next_recipient();
    case Step::close_failed:
      file_ = -1;
      return request(Step::unlink_failed);
    case Step::unlink_failed:
      settle(mail::Outcome::deferred, std::exchange(failure_, {}));
      return next_recipient();
    case Step::content:
      break;
  }
  POSTERN_CHECK(false, "a completion in a step without an operation");
}

// Every directory of the folder's path, from the top, then the three of a Maildir.
void MaildirDelivery::list_directories() {
  for (std::size_t slash = folder_.find('/', 1); slash != std::string::npos; slash = folder_.find('/', slash + 1)) {
    directories_.push_back(folder_.substr(0, slash));
  }
  directories_.push_back(folder_);
  for (const char* part : {"/tmp", "/new", "/cur"}) directories_.push_back(folder_ + part);
}

void MaildirDelivery::write_more() {
  while (!written_all_ && buffer_.size() < write_more_below) {
    slices_.clear();
    const ContentReader::State state = reader_.next(slices_);
    if (state == ContentReader::State::pending) {
      step_ = Step::content;
      return;
    }
    if (state == ContentReader::State::failed) {
      failure_ = {0, {4, 3, 0}, "the spool could not be read: " + std::string(message_of(reader_.status()))};
      return request(Step::close_failed);
    }
    for (const io::Slice& slice : slices_) buffer_.append(reinterpret_cast<const char*>(slice.data), slice.size);
    written_all_ = state == ContentReader::State::end;
  }
  request(buffer_.empty() ? Step::sync_file : Step::write);
}

void MaildirDelivery::on_content_ready() {
  if (step_ == Step::content) write_more();
}

// What is in the way may be gone later: a full disk, a quota, rights. The sender hears of it when the mail expires.
void MaildirDelivery::fail(std::int32_t error, std::string_view what) {
  const bool full = error == -ENOSPC || error == -EDQUOT;
  failure_ = {0, full ? mail::EnhancedStatus{4, 2, 2} : mail::EnhancedStatus{4, 3, 0},
              std::string(what) + ": " + std::strerror(-error)};
  if (file_ >= 0) return request(Step::close_failed);
  if (step_ == Step::rename || step_ == Step::close_file) return request(Step::unlink_failed);
  settle(mail::Outcome::deferred, std::exchange(failure_, {}));
  next_recipient();
}

}  // namespace postern::egress
