#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/smtp/newline_normalizer.h>

#include "tests/smtp/content_reference.h"

namespace postern::smtp {
namespace {

struct Normalized {
  std::string content;
  mail::ContentFacts facts;
  bool ended = false;  // by the client
  std::size_t consumed = 0;
};

std::string text_of(const mail::ContentFacts& facts) {
  std::ostringstream text;
  text << facts.size << ' ' << facts.header_bytes << ' ' << facts.longest_line << ' ' << facts.received_count << ' '
       << facts.line_starts_with_dot << facts.ends_with_crlf << facts.has_bare_cr << facts.has_bare_lf << facts.has_nul;
  return text.str();
}

// As the session does it, in pieces of `step`; DATA's bytes with their end, or a chunk's.
Normalized normalize(std::string_view input, mail::ContentForm form, std::size_t step) {
  ContentScanner scanner(form);
  std::unique_ptr<NewlineNormalizer> normalizer;
  Normalized result;
  while (result.consumed < input.size() && !scanner.done()) {
    const std::string_view piece = input.substr(result.consumed, step);
    const ContentScanner before = scanner;
    const ContentScanner::Piece found = scanner.scan(as_bytes(piece));
    result.consumed += found.consumed;
    std::string content(found.held);
    content += piece.substr(0, found.content);
    if (scanner.facts().has_bare_lf) {
      const bool first = normalizer == nullptr;
      if (first) normalizer = std::make_unique<NewlineNormalizer>(before);
      const Bytes out = normalizer->append(as_bytes(content), first ? found.held.size() : 0);
      EXPECT_LE(out.size(), 2 * content.size() + 1);
      content = as_text(out);
    }
    result.content += content;
  }
  result.ended = scanner.done();
  if (form != mail::ContentForm::dot_stuffed) scanner.finish();
  if (normalizer != nullptr && (result.ended || form != mail::ContentForm::dot_stuffed)) normalizer->finish();
  result.facts = normalizer == nullptr ? scanner.facts() : normalizer->facts();
  return result;
}

// The lines that whoever gets the content sees.
std::vector<std::string> lines_of(std::string_view content, std::string_view end, bool stuffed) {
  std::vector<std::string> lines;
  while (!content.empty()) {
    const std::size_t at = content.find(end);
    std::string_view line = content.substr(0, at);
    if (stuffed && line.starts_with('.')) line.remove_prefix(1);
    lines.emplace_back(line);
    content = at == std::string_view::npos ? std::string_view() : content.substr(at + end.size());
  }
  return lines;
}

// The lines that the client meant: those between CRLFs, unstuffed, and in them those between LFs. A dot that would
// stand alone before an LF is the line's, for stuffing adds nothing that makes an end.
std::vector<std::string> lines_meant(std::string_view content, bool stuffed) {
  std::vector<std::string> lines;
  while (!content.empty()) {
    const std::size_t at = content.find("\r\n");
    std::string_view line = content.substr(0, at);
    if (stuffed && line.starts_with('.') && !line.starts_with(".\n")) line.remove_prefix(1);
    for (;;) {
      const std::size_t lf = line.find('\n');
      if (lf == std::string_view::npos && line.empty() && at == std::string_view::npos) break;
      lines.emplace_back(line.substr(0, lf));
      if (lf == std::string_view::npos) break;
      line.remove_prefix(lf + 1);
    }
    content = at == std::string_view::npos ? std::string_view() : content.substr(at + 2);
  }
  return lines;
}

TEST(NewlineNormalizer, NothingItMakesIsAnEndOfData) {
  using mail::ContentForm;
  struct Case {
    std::string_view input, content;
  };
  for (const Case& one :
       {Case{"a\nb\r\n.\r\n", "a\r\nb\r\n"}, Case{"a\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"},
        Case{"a\r\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"}, Case{"a\n.\r\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"},
        Case{".\nb\r\n.\r\n", "..\r\nb\r\n"}, Case{"\n.\n.\n\r\n.\r\n", "\r\n..\r\n..\r\n\r\n"},
        Case{"a\n..\nb\r\n.\r\n", "a\r\n...\r\nb\r\n"}, Case{"a\r\n..\nb\r\n.\r\n", "a\r\n..\r\nb\r\n"},
        Case{"a\n.x\n\r\n.\r\n", "a\r\n..x\r\n\r\n"}, Case{"a\r\n.x\n\r\n.\r\n", "a\r\n.x\r\n\r\n"}}) {
    for (const std::size_t step : {1u, 2u, 3u, 100u}) {
      const Normalized got = normalize(one.input, ContentForm::dot_stuffed, step);
      EXPECT_EQ(got.content, one.content) << one.input << " by " << step;
      EXPECT_TRUE(got.ended);
      EXPECT_EQ(got.consumed, one.input.size()) << "nothing before its last line ends it";
    }
  }
  // BDAT's content is not stuffed.
  EXPECT_EQ(normalize("a\n.\nb", ContentForm::plain, 1).content, "a\r\n.\r\nb");
}

TEST(NewlineNormalizer, AgreesWithTheReferenceAtEverySplit) {
  Random random(7);
  constexpr std::string_view alphabet = "\r\n..xR";
  for (int round = 0; round < 4000; ++round) {
    std::string content;
    for (std::uint64_t left = random() % 24; left > 0; --left) {
      const char c = alphabet[random() % alphabet.size()];
      content += c == '\r' ? std::string("\r\n") : std::string(1, c);
    }
    for (const bool stuffed : {false, true}) {
      const auto form = stuffed ? mail::ContentForm::dot_stuffed : mail::ContentForm::plain;
      std::string input = content;
      if (stuffed) input += "\r\n.\r\n";
      const Normalized whole = normalize(input, form, input.size() + 1);
      const std::string raw = stuffed ? input.substr(0, whole.consumed - 3) : content;
      EXPECT_EQ(lines_of(whole.content, "\r\n", stuffed), lines_meant(raw, stuffed)) << content;
      EXPECT_EQ(whole.content.find("\r\n.\r\n"), stuffed ? std::string::npos : whole.content.find("\r\n.\r\n"));
      EXPECT_EQ(text_of(whole.facts), text_of(testing::reference_facts(whole.content, form))) << content;
      for (const std::size_t step : {1u, 2u, 5u}) {
        const Normalized cut = normalize(input, form, step);
        EXPECT_EQ(cut.content, whole.content);
        EXPECT_EQ(text_of(cut.facts), text_of(whole.facts));
        EXPECT_EQ(cut.consumed, whole.consumed);
      }
    }
  }
}

}  // namespace
}  // namespace postern::smtp
