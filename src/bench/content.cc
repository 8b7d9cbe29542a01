#include "bench/content.h"

#include <algorithm>
#include <utility>
#include <xxhash.h>

#include <postern/base/check.h>
#include <postern/base/date.h>

namespace postern::bench {
namespace {

constexpr std::size_t line_bytes = 78;  // 76 characters and CRLF
constexpr std::string_view end_of_header = "\r\n\r\n";

// At least `bytes` of text in whole lines. A body is an end of it: its first line is what is left of one.
std::string make_text(std::size_t bytes) {
  constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
  std::string text;
  text.reserve(bytes + line_bytes);
  Random random(7);
  while (text.size() < bytes) {
    for (std::size_t i = 0; i < line_bytes - 2; ++i) text.push_back(letters[random.below(letters.size())]);
    text += "\r\n";
  }
  return text;
}

void free_state(XXH3_state_s* state) {
  XXH3_freeState(state);
}

}  // namespace

// --- making --------------------------------------------------------------------------------------------------------

ContentMaker::ContentMaker(Options options, const Sizes& sizes) : options_(std::move(options)) {
  POSTERN_CHECK(options_.recipients >= 1 && options_.recipients <= recipients_max && options_.domains >= 1);
  head_ = "From: <" + options_.sender + ">\r\nDate: " + format_rfc5322_date(options_.date) +
          "\r\nSubject: postern-bench\r\nMessage-ID: <";
  std::uint32_t largest = 0;
  for (const Sizes::Choice& choice : sizes.choices()) largest = std::max(largest, choice.bytes);
  text_ = make_text(largest);
  const std::size_t header = header_bytes();
  for (const Sizes::Choice& choice : sizes.choices()) {
    std::size_t bytes = choice.bytes > header ? choice.bytes - header : 0;
    if (bytes % line_bytes == 1) --bytes;  // else it would begin with a bare LF
    bytes = std::max(bytes, line_bytes);
    bodies_.push_back(
        {.bytes = static_cast<std::uint32_t>(bytes), .hash = XXH3_64bits(text_.data() + text_.size() - bytes, bytes)});
  }
}

std::size_t ContentMaker::header_bytes() const {
  // Message-ID: <number.run@sender's domain>, To: first recipient, the mark.
  std::string first;
  append_recipient(first, {});
  return head_.size() + 8 + 1 + 16 + std::string_view("@client.test>\r\nTo: <").size() + first.size() + 3 +
         mark_field.size() + mark_value_bytes + end_of_header.size();
}

void ContentMaker::append_recipient(std::string& out, const RecipientNumber& recipient) const {
  append_local_part(out, recipient);
  out.push_back('@');
  if (options_.domains > 1) {
    out.push_back('d');
    out += std::to_string((std::uint64_t{recipient.message} + recipient.index) % options_.domains);
    out.push_back('.');
  }
  out += options_.domain;
}

std::size_t ContentMaker::recipient_bytes_max() const {
  constexpr std::size_t domain_number = std::string_view("@d4294967295.").size();
  return local_part_bytes + domain_number + options_.domain.size();
}

void ContentMaker::make_header(std::string& out, MessageNumber message, std::size_t size_index) const {
  const Body& body = bodies_[size_index];
  const Mark mark{.run = options_.run,
                  .message = message,
                  .recipients = options_.recipients,
                  .body_bytes = body.bytes,
                  .body_hash = body.hash};
  out = head_;
  const std::size_t value = out.size();
  append_mark(out, mark);
  // "run number" is all that a Message-ID needs of it.
  out.resize(value + 16 + 1 + 8);
  out[value + 16] = '.';
  out += "@client.test>\r\nTo: <";
  append_recipient(out, {.message = message, .index = 0});
  out += ">\r\n";
  out += mark_field;
  append_mark(out, mark);
  out += end_of_header;
}

std::string_view ContentMaker::body(std::size_t size_index) const {
  return std::string_view(text_).substr(text_.size() - bodies_[size_index].bytes);
}

// --- checking ------------------------------------------------------------------------------------------------------

ContentCheck::ContentCheck() : state_(nullptr, free_state) {}
ContentCheck::~ContentCheck() = default;

void ContentCheck::begin() {
  header_.clear();
  in_body_ = false;
  mark_.reset();
  body_bytes_ = 0;
  whole_hash_.reset();
}

void ContentCheck::append(Bytes piece) {
  if (in_body_) return read_body(as_text(piece));
  if (header_.empty()) return read_header(as_text(piece));
  header_ += as_text(piece);
  const std::string joined = std::exchange(header_, {});
  read_header(joined);
}

// The whole content up to here.
void ContentCheck::read_header(std::string_view text) {
  const std::size_t end = text.find(end_of_header);
  if (end == std::string_view::npos) {
    // Without a mark the rest counts for nothing.
    in_body_ = text.size() > header_bytes_max;
    if (!in_body_) header_ = text;
    return;
  }
  mark_ = find_mark(text.substr(0, end + 2));
  in_body_ = true;
  if (end + end_of_header.size() < text.size()) read_body(text.substr(end + end_of_header.size()));
}

void ContentCheck::read_body(std::string_view text) {
  if (!mark_) return;
  if (body_bytes_ == 0 && text.size() >= mark_->body_bytes) {
    whole_hash_ = XXH3_64bits(text.data(), text.size());
  } else if (!whole_hash_) {  // else it is longer than its mark says, and changed whatever its hash
    if (!state_) state_.reset(XXH3_createState());
    POSTERN_CHECK(state_ != nullptr, "no memory");
    if (body_bytes_ == 0) XXH3_64bits_reset(state_.get());
    XXH3_64bits_update(state_.get(), text.data(), text.size());
  }
  body_bytes_ += text.size();
}

ContentCheck::Result ContentCheck::finish() {
  Result result{.mark = mark_, .intact = false};
  if (mark_ && body_bytes_ == mark_->body_bytes && body_bytes_ > 0) {
    result.intact = (whole_hash_ ? *whole_hash_ : XXH3_64bits_digest(state_.get())) == mark_->body_hash;
  }
  begin();
  return result;
}

}  // namespace postern::bench
