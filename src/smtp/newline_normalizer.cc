#include <postern/smtp/newline_normalizer.h>

namespace postern::smtp {

// What the scanner holds back comes again, as the first bytes of the content.
NewlineNormalizer::NewlineNormalizer(const ContentScanner& before)
    : scanner_(before),
      stuffs_(before.facts().form == mail::ContentForm::dot_stuffed),
      previous_cr_(before.state().held == 0 && before.state().previous_cr),
      line_(before.state().held != 0 || before.state().line_bytes == 0 ? Line::fresh : Line::other) {}

Bytes NewlineNormalizer::append(Bytes content, std::size_t held) {
  out_.clear();
  transform(as_text(content));
  const Bytes out = as_bytes(std::string_view(out_));
  // The scanner has those it held back, and they stand unchanged in front.
  (void)scanner_.scan(out.subspan(held));
  return out;
}

void NewlineNormalizer::transform(std::string_view text) {
  while (!text.empty()) {
    const std::size_t lf = text.find('\n');
    const std::string_view run = text.substr(0, lf);
    if (!run.empty()) {
      if (stuffs_ && line_ == Line::made && run.front() == '.') out_ += '.';
      line_ = line_ == Line::fresh && run == "." ? Line::dot : Line::other;
      out_ += run;
      previous_cr_ = run.back() == '\r';
    }
    if (lf == std::string_view::npos) return;
    if (!previous_cr_) {
      if (stuffs_ && line_ == Line::dot) out_ += '.';
      out_ += '\r';
    }
    out_ += '\n';
    line_ = previous_cr_ ? Line::fresh : Line::made;
    previous_cr_ = false;
    text.remove_prefix(lf + 1);
  }
}

void NewlineNormalizer::finish() {
  if (stuffs_) {
    (void)scanner_.scan(as_bytes(std::string_view(".\r\n")));
  } else {
    scanner_.finish();
  }
}

}  // namespace postern::smtp
