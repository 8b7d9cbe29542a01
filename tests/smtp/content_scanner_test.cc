// ContentScanner: what ends a content, what is found in it, at every split, equal to the plain reference.
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <postern/base/random.h>
#include <postern/smtp/content_scanner.h>

#include "tests/smtp/content_reference.h"

namespace postern::smtp {
namespace {

using mail::ContentForm;
using namespace std::literals;

struct Scanned {
  std::size_t consumed = 0;
  std::string content;
  bool done = false;
  mail::ContentFacts facts;
};

// Feeds `bytes` in pieces that end at `splits`; content comes together as the session puts it together.
Scanned scan_in_pieces(std::string_view bytes, ContentForm form, const std::vector<std::size_t>& splits) {
  ContentScanner scanner(form);
  Scanned result;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= splits.size() && !scanner.done(); ++i) {
    const std::size_t end = i == splits.size() ? bytes.size() : splits[i];
    const std::string_view piece = bytes.substr(start, end - start);
    const ContentScanner::Piece found = scanner.scan(as_bytes(piece));
    EXPECT_LE(found.content, found.consumed);
    EXPECT_TRUE(scanner.done() || found.consumed == piece.size());
    result.content += found.held;
    result.content += piece.substr(0, found.content);
    result.consumed += found.consumed;
    EXPECT_EQ(scanner.facts().size, result.content.size());
    start = end;
  }
  if (form != ContentForm::dot_stuffed) scanner.finish();
  result.done = scanner.done();
  result.facts = scanner.facts();
  return result;
}

void expect_reference(std::string_view bytes, ContentForm form, const std::vector<std::size_t>& splits) {
  const testing::ReferenceScan want = testing::reference_scan(bytes, form);
  const Scanned got = scan_in_pieces(bytes, form, splits);
  ASSERT_EQ(got.done, want.consumed.has_value()) << ::testing::PrintToString(bytes);
  if (!got.done) return;
  ASSERT_EQ(got.consumed, *want.consumed) << ::testing::PrintToString(bytes);
  ASSERT_EQ(got.content, want.content);
  ASSERT_EQ(testing::difference(got.facts, want.facts), "") << ::testing::PrintToString(bytes);
}

void expect_reference_at_every_split(std::string_view bytes) {
  for (const ContentForm form : {ContentForm::dot_stuffed, ContentForm::plain, ContentForm::binary}) {
    expect_reference(bytes, form, {});
    for (std::size_t a = 0; a <= bytes.size(); ++a) {
      expect_reference(bytes, form, {a});
      if (bytes.size() > 40) continue;
      for (std::size_t b = a; b <= bytes.size(); ++b) expect_reference(bytes, form, {a, b});
    }
    std::vector<std::size_t> each;
    for (std::size_t i = 1; i < bytes.size(); ++i) each.push_back(i);
    expect_reference(bytes, form, each);
  }
}

std::string random_content(Random& random, std::size_t size, std::string_view alphabet) {
  std::string bytes(size, ' ');
  for (char& c : bytes) c = alphabet[random.below(alphabet.size())];
  return bytes;
}

TEST(ContentScanner, OnlyCrlfDotCrlfEndsTheContent) {
  for (const std::string_view smuggled :
       {"a\n.\nb"sv, "a\n.\r\nb"sv, "a\r.\r\nb"sv, "a\r\n.\nb"sv, "a\r\n.\rb"sv, "a\r\n.\r\r\nb"sv, "a\r\r\n.\r\r\nb"sv,
        "a\r\n\0.\r\nb"sv, "a\n.\rb"sv, "a\r.\rb"sv, "\n.\r\nb"sv, ".\nb"sv, ".\rb"sv, "..\r\nb"sv, " .\r\nb"sv}) {
    ContentScanner scanner;
    EXPECT_EQ(scanner.scan(as_bytes(smuggled)).consumed, smuggled.size());
    EXPECT_FALSE(scanner.done()) << ::testing::PrintToString(smuggled);
    expect_reference_at_every_split(std::string(smuggled) + "\r\n.\r\nQUIT\r\n");
  }
}

TEST(ContentScanner, TheFirstLineMayEndTheContent) {
  const Scanned got = scan_in_pieces(".\r\nQUIT\r\n", ContentForm::dot_stuffed, {});
  EXPECT_TRUE(got.done);
  EXPECT_EQ(got.consumed, 3U);
  EXPECT_EQ(got.content, "");
  EXPECT_TRUE(got.facts.ends_with_crlf);
  EXPECT_FALSE(got.facts.line_starts_with_dot);
}

TEST(ContentScanner, WhatFollowsTheEndIsNeitherConsumedNorJudged) {
  const Scanned got = scan_in_pieces("Subject: x\r\n\r\nhi\r\n.\r\n\xff\n\r\0..\r\n"sv, ContentForm::dot_stuffed, {});
  EXPECT_EQ(got.consumed, 21U);
  EXPECT_EQ(got.content, "Subject: x\r\n\r\nhi\r\n");
  EXPECT_FALSE(got.facts.has_eight_bit || got.facts.has_bare_lf || got.facts.has_bare_cr || got.facts.has_nul);
}

TEST(ContentScanner, ASplitTerminatorIsHeldBackAndNeverHandedOut) {
  ContentScanner scanner;
  ContentScanner::Piece piece = scanner.scan(as_bytes("a\r\n."));
  EXPECT_EQ(piece.content, 3U);
  piece = scanner.scan(as_bytes("\r"));
  EXPECT_EQ(piece.consumed, 1U);
  EXPECT_EQ(piece.content, 0U);
  EXPECT_EQ(piece.held, "");
  piece = scanner.scan(as_bytes("\nNOOP\r\n"));
  EXPECT_EQ(piece.consumed, 1U);
  EXPECT_EQ(piece.content, 0U);
  EXPECT_TRUE(scanner.done());
  EXPECT_EQ(scanner.facts().size, 3U);
}

TEST(ContentScanner, HeldBackBytesThatAreContentComeFirst) {
  ContentScanner scanner;
  (void)scanner.scan(as_bytes("a\r\n."));
  (void)scanner.scan(as_bytes("\r"));
  const ContentScanner::Piece piece = scanner.scan(as_bytes("b\r\n"));
  EXPECT_EQ(piece.held, ".\r");
  EXPECT_EQ(piece.content, 3U);
  EXPECT_TRUE(scanner.facts().has_bare_cr);
  EXPECT_TRUE(scanner.facts().line_starts_with_dot);
}

TEST(ContentScanner, ATrailingCrOfBdatContentIsBare) {
  ContentScanner scanner(ContentForm::plain);
  (void)scanner.scan(as_bytes("abc\r"));
  EXPECT_FALSE(scanner.facts().has_bare_cr);
  scanner.finish();
  EXPECT_TRUE(scanner.facts().has_bare_cr);
  EXPECT_FALSE(scanner.facts().ends_with_crlf);
  EXPECT_EQ(scanner.facts().longest_line, 4U);
}

TEST(ContentScanner, EmptyContentIsWhole) {
  ContentScanner scanner(ContentForm::plain);
  scanner.finish();
  EXPECT_TRUE(scanner.facts().ends_with_crlf);
  EXPECT_EQ(scanner.facts().size, 0U);
  EXPECT_EQ(scanner.facts().header_bytes, 0U);
}

TEST(ContentScanner, ReceivedFieldsCountInTheHeaderOnly) {
  const std::string content =
      "Received: a\r\nRECEIVED : b\r\nreceived\t:\r\nReceived-SPF: no\r\nX: y\r\n Received: folded\r\nReceive: no\r\n"
      "Received\r\nReceived : c\r\n\r\nReceived: body\r\n";
  const Scanned got = scan_in_pieces(content, ContentForm::plain, {});
  EXPECT_EQ(got.facts.received_count, 4U);
  EXPECT_EQ(got.facts.header_bytes, content.find("\r\n\r\n") + 2);
  expect_reference_at_every_split(content + ".\r\n");
}

TEST(ContentScanner, TheFactsAreTheReferencesAtEverySplit) {
  for (const std::string_view content :
       {""sv, "\r\n"sv, "\r\n\r\n.\r\n"sv, "a: b\r\n\r\n..x\r\n.\r\n"sv, "Received: x\r\n\r\n\r\n.\r\n"sv, "x\r\n\r"sv,
        "\r\r\n"sv, "\n\n"sv, ".\r.\r\n.\r\n"sv, "a\r\n.\r\r\n.\r\n"sv, "no line end"sv, "..\r\n...\r\n.\r\n"sv}) {
    expect_reference_at_every_split(content);
  }
}

TEST(ContentScanner, RandomHostileInputEqualsTheReference) {
  Random random(20260701);
  for (int round = 0; round < 3000; ++round) {
    constexpr std::string_view alphabets[] = {"\r\n.\0a"sv, "\r\n.a"sv, "\r\n\r\n\r\n.\xe4R"sv,
                                              "abcdefghijklmnopqrstuvwxyz ABC.\r\n"sv};
    std::string bytes = random_content(random, random.below(300), alphabets[random.below(4)]);
    // Whole line ends and terminators, so that not all is bare.
    for (std::size_t n = random.below(12); n > 0 && !bytes.empty(); --n) {
      constexpr std::string_view inserts[] = {"\r\n"sv, "\r\n.\r\n"sv, "\r\nReceived: x\r\n"sv, "\r\n."sv,
                                              "\r\n\r\n"sv};
      bytes.insert(random.below(bytes.size()), inserts[random.below(round % 2 == 0 ? 5 : 1)]);
    }
    std::vector<std::size_t> splits;
    for (std::size_t n = random.below(5), at = 0; n > 0; --n) {
      at += random.below(bytes.size() - at + 1);
      splits.push_back(at);
    }
    for (const ContentForm form : {ContentForm::dot_stuffed, ContentForm::plain}) {
      expect_reference(bytes, form, splits);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ContentScanner, TextWithOneOddityAtEveryPlaceEqualsTheReference) {
  // Lines of changing length, so that the oddity meets every place of the 64-byte blocks.
  std::string text = "Received: by a\r\nSubject: b\r\n\r\n";
  for (std::size_t line = 0; text.size() < 350; ++line) text += std::string(40 + line * 7 % 61, 'x') + "\r\n";
  for (const std::string_view oddity :
       {"\r\n.\r\n"sv, "\r"sv, "\n"sv, "\0"sv, "\x80"sv, "\r\n.\rx"sv, "\r\n."sv, "\r\n\r\n"sv}) {
    for (std::size_t at = 0; at < text.size(); ++at) {
      std::string bytes = text;
      bytes.insert(at, oddity);
      bytes += ".\r\n";
      for (const ContentForm form : {ContentForm::dot_stuffed, ContentForm::plain}) {
        expect_reference(bytes, form, {});
        expect_reference(bytes, form, {at});
        expect_reference(bytes, form, {at, at + 1});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(ContentScanner, EveryVectorTargetOfThisCpuAgrees) {
  Random random(7);
  std::string text = "Received: by a\r\nSubject: b\r\n\r\n";
  while (text.size() < 5000) text += random_content(random, random.below(200), "abc .\xe9") + "\r\n";
  text += ".\r\n";
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    expect_reference(text, ContentForm::dot_stuffed, {100, 1000, 1001, 3333});
    expect_reference(text, ContentForm::plain, {100, 1000, 1001, 3333});
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace postern::smtp
