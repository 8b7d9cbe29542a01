#include <algorithm>

#include <postern/smtp/reply_parser.h>

namespace postern::smtp {

void ReplyParser::reset() {
  reply_bytes_ = 0;
  digits_ = 0;
  place_ = Place::code;
  code_cr_ = false;
}

ReplyParser::Progress ReplyParser::on_bytes(Bytes bytes) {
  if (place_ == Place::malformed) return {0, Result::malformed};
  if (bytes.empty()) return {0, Result::incomplete};
  if (reply_bytes_ == 0) {
    reply_.code = 0;
    reply_.status = {};
    reply_.text.clear();
    first_line_ = true;
  }

  const std::string_view text = as_text(bytes.first(std::min(bytes.size(), reply_bytes_max - reply_bytes_)));
  std::size_t at = 0;
  bool valid = true;
  while (valid && at < text.size()) {
    if (place_ == Place::text) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      append_text(text.substr(at, end - at));
      at = end;
    }
    if (at == text.size()) break;
    const char c = text[at++];
    switch (place_) {
      case Place::code:
        // [RFC 5321 §4.2] has 2 to 5 in front and 0 to 5 behind it; peers use more (571).
        valid = digits_ == 0 ? c >= '2' && c <= '5' : c >= '0' && c <= '9';
        code_ = static_cast<mail::ReplyCode>((digits_ == 0 ? 0 : code_ * 10) + (c - '0'));
        if (++digits_ == 3) place_ = Place::separator;
        continue;
      case Place::separator:
        if (c == '\r') {
          code_cr_ = true;
          continue;
        }
        if (c != '\n') {
          valid = !code_cr_ && (c == ' ' || c == '\t' || c == '-');
          begin_text(c == '-');
          continue;
        }
        begin_text(false);
        break;
      case Place::text:  // the LF
      case Place::malformed:
        break;
    }
    if (end_line()) {
      reply_bytes_ = 0;
      return {at, Result::reply};
    }
  }
  reply_bytes_ += at;
  if (!valid || at < bytes.size()) {
    place_ = Place::malformed;
    return {at, Result::malformed};
  }
  return {at, Result::incomplete};
}

void ReplyParser::begin_text(bool more_lines) {
  more_lines_ = more_lines;
  if (!first_line_ && reply_.text.size() < text_bytes_max) reply_.text += '\n';
  line_offset_ = reply_.text.size();
  place_ = Place::text;
}

void ReplyParser::append_text(std::string_view text) {
  while (!text.empty()) {
    const std::size_t cr = std::min(text.find('\r'), text.size());
    reply_.text += text.substr(0, std::min(cr, text_bytes_max - reply_.text.size()));
    text.remove_prefix(std::min(cr + 1, text.size()));
  }
}

bool ReplyParser::end_line() {
  const std::string_view line = std::string_view(reply_.text).substr(line_offset_);
  const auto status = mail::EnhancedStatus::parse(line);
  if (status && status->class_digit == code_ / 100 && (first_line_ || *status == reply_.status)) {
    reply_.status = *status;
    const std::size_t text_at =
        std::min(line.find_first_not_of(' ', std::min(line.find(' '), line.size())), line.size());
    reply_.text.erase(line_offset_, text_at);
  }
  first_line_ = false;
  digits_ = 0;
  code_cr_ = false;
  place_ = Place::code;
  if (more_lines_) return false;
  reply_.code = code_;
  if (reply_.status.class_digit != code_ / 100) reply_.status = {};
  return true;
}

}  // namespace postern::smtp
