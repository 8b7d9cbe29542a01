// Numbers in addresses and headers: what the source writes, the sink reads back; what others write, it does not.
#include "bench/numbering.h"

#include <string>

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

TEST(Numbering, ARecipientIsReadBack) {
  for (const RecipientNumber recipient :
       {RecipientNumber{0, 0}, RecipientNumber{42, 1}, RecipientNumber{0xFFFF'FFFF, recipients_max - 1}}) {
    std::string path;
    append_local_part(path, recipient);
    EXPECT_EQ(path.size(), local_part_bytes);
    EXPECT_EQ(parse_recipient(path + "@hop.test"), recipient) << path;
  }
}

TEST(Numbering, FoldedCaseIsReadBackToo) {
  EXPECT_EQ(parse_recipient("B0000002A-0001@HOP.TEST"), (RecipientNumber{42, 1}));
}

TEST(Numbering, OtherAddressesAreNotOurs) {
  for (const char* path : {"", "user@hop.test", "b0000002a-0001", "b0000002a-0001x@hop.test", "b0000002g-0001@hop.test",
                           "b0000002a_0001@hop.test", "b0000002a-ffff@hop.test", "c0000002a-0001@hop.test"}) {
    EXPECT_FALSE(parse_recipient(path).has_value()) << path;
  }
}

constexpr Mark mark{.run = 0x0123456789ABCDEF, .message = 77, .recipients = 3, .body_bytes = 900, .body_hash = ~0ULL};

std::string header_with(const Mark& made) {
  std::string header = "Received: from somewhere\r\n\tby relay\r\nSubject: X\r\n";
  header += mark_field;
  append_mark(header, made);
  return header + "\r\nTo: <x@y>\r\n";
}

TEST(Numbering, AMarkIsReadBackWhereverItStands) {
  EXPECT_EQ(find_mark(header_with(mark)), mark);
  std::string first(mark_field);
  append_mark(first, mark);
  EXPECT_EQ(find_mark(first + "\r\n"), mark);
}

TEST(Numbering, AMarkCountsOnlyAtTheStartOfALine) {
  std::string value;
  append_mark(value, mark);
  EXPECT_FALSE(find_mark("Subject: " + std::string(mark_field) + value + "\r\n").has_value());
  EXPECT_EQ(find_mark("Subject: " + std::string(mark_field) + "\r\n" + header_with(mark)), mark);
}

TEST(Numbering, ABrokenMarkIsNone) {
  const std::string good = header_with(mark);
  const std::size_t at = good.find(mark_field) + mark_field.size();
  for (std::size_t i = 0; i < mark_value_bytes; ++i) {
    std::string bad = good;
    bad[at + i] = '.';
    EXPECT_FALSE(find_mark(bad).has_value()) << i;
  }
  std::string longer = good;
  longer.insert(at + mark_value_bytes, "0");
  EXPECT_FALSE(find_mark(longer).has_value());
  EXPECT_FALSE(find_mark(good.substr(0, at + mark_value_bytes)).has_value());
  Mark nobody = mark;
  nobody.recipients = 0;
  EXPECT_FALSE(find_mark(header_with(nobody)).has_value());
}

}  // namespace
}  // namespace postern::bench
