// Contents as they are made and checked: exact in size, legal on the wire, and no change goes unseen.
#include "bench/content.h"

#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

Sizes sizes_of(std::string_view text) {
  StatusOr<Sizes> sizes = Sizes::parse(text);
  EXPECT_TRUE(sizes.ok());
  return *std::move(sizes);
}

std::string content_of(const ContentMaker& maker, MessageNumber message, std::size_t size_index) {
  std::string header;
  maker.make_header(header, message, size_index);
  return header.append(maker.body(size_index));
}

ContentCheck::Result check(const std::vector<std::string_view>& pieces) {
  ContentCheck checker;
  checker.begin();
  for (const std::string_view piece : pieces) checker.append(as_bytes(piece));
  return checker.finish();
}

TEST(ContentMaker, ContentsHaveTheWantedSizeToAByte) {
  std::string wanted;
  for (int bytes = 500; bytes < 700; ++bytes) wanted += std::to_string(bytes) + ",";
  const Sizes sizes = sizes_of(wanted);
  const ContentMaker maker({.run = 1}, sizes);
  for (std::size_t i = 0; i < sizes.choices().size(); ++i) {
    const std::size_t size = content_of(maker, 12'345, i).size();
    EXPECT_TRUE(size == sizes.choices()[i].bytes || size + 1 == sizes.choices()[i].bytes) << size;
  }
}

TEST(ContentMaker, ContentsAreLinesThatNeedNoStuffing) {
  const Sizes sizes = sizes_of("1,1000,1001,1002,100KiB");
  const ContentMaker maker({.run = 1, .recipients = 3, .domains = 7}, sizes);
  for (std::size_t i = 0; i < sizes.choices().size(); ++i) {
    const std::string content = content_of(maker, 0xFFFFFF, i);
    ASSERT_TRUE(content.ends_with("\r\n"));
    std::size_t begin = 0;
    while (begin < content.size()) {
      const std::size_t end = content.find("\r\n", begin);
      const std::string_view line = std::string_view(content).substr(begin, end - begin);
      EXPECT_LE(line.size(), 998u);
      EXPECT_FALSE(line.starts_with('.'));
      EXPECT_EQ(line.find_first_of("\r\n"), std::string_view::npos);
      begin = end + 2;
    }
  }
}

TEST(ContentMaker, RecipientsAreSpreadOverTheDomains) {
  const ContentMaker maker({.run = 1, .recipients = 2, .domain = "x.test", .domains = 3}, Sizes::fixed(1000));
  std::string text;
  maker.append_recipient(text, {.message = 4, .index = 1});
  EXPECT_EQ(text, "b00000004-0001@d2.x.test");
  EXPECT_LE(text.size(), maker.recipient_bytes_max());
}

TEST(ContentCheck, WhatWasMadeIsIntactHoweverItIsSplit) {
  const ContentMaker maker({.run = 9, .recipients = 2}, Sizes::fixed(700));
  const std::string content = "Received: from a relay\r\n" + content_of(maker, 5, 0);
  for (std::size_t split = 0; split <= content.size(); ++split) {
    const std::string_view all = content;
    const ContentCheck::Result result = check({all.substr(0, split), all.substr(split)});
    ASSERT_TRUE(result.mark.has_value()) << split;
    EXPECT_TRUE(result.intact) << split;
    EXPECT_EQ(result.mark->run, 9u);
    EXPECT_EQ(result.mark->message, 5u);
    EXPECT_EQ(result.mark->recipients, 2u);
  }
  std::vector<std::string_view> bytes;
  for (std::size_t i = 0; i < content.size(); ++i) bytes.push_back(std::string_view(content).substr(i, 1));
  EXPECT_TRUE(check(bytes).intact);
}

TEST(ContentCheck, EveryChangeOfTheBodyShows) {
  const ContentMaker maker({.run = 9}, Sizes::fixed(600));
  const std::string content = content_of(maker, 5, 0);
  const std::size_t body = content.find("\r\n\r\n") + 4;
  for (std::size_t i = body; i < content.size(); ++i) {
    std::string changed = content;
    changed[i] ^= 1;
    EXPECT_FALSE(check({changed}).intact) << i;
    changed.erase(i, 1);
    EXPECT_FALSE(check({changed}).intact) << i;
  }
  EXPECT_FALSE(check({content, "more\r\n"}).intact);
}

TEST(ContentCheck, ContentsOfOthersHaveNoMark) {
  EXPECT_FALSE(check({}).mark.has_value());
  EXPECT_FALSE(check({"Subject: hello\r\n\r\nbody\r\n"}).mark.has_value());
  EXPECT_FALSE(check({"no header end"}).mark.has_value());
  const std::string endless(ContentCheck::header_bytes_max + 100, 'x');
  EXPECT_FALSE(check({endless, "\r\n\r\n", endless}).mark.has_value());
}

TEST(ContentCheck, IsAsNewAfterEachContent) {
  const ContentMaker maker({.run = 9}, Sizes::fixed(600));
  const std::string good = content_of(maker, 1, 0);
  ContentCheck checker;
  checker.begin();
  checker.append(as_bytes(good));
  EXPECT_TRUE(checker.finish().intact);
  checker.append(as_bytes(std::string_view("Subject: x\r\n\r\nfoo\r\n")));
  EXPECT_FALSE(checker.finish().mark.has_value());
  checker.append(as_bytes(good));
  EXPECT_TRUE(checker.finish().intact);
}

}  // namespace
}  // namespace postern::bench
