#include <gtest/gtest.h>

#include <postern/spool/checksum.h>
#include <postern/spool/format.h>
#include <postern/spool/record.h>
#include <postern/spool/types.h>

namespace postern::spool {
namespace {

TEST(Format, PositionsNameSegmentAndOffset) {
  const std::uint64_t position = make_position(0x12'3456'789A, segment_bytes_limit - record_alignment);
  EXPECT_EQ(sequence_of(position), 0x12'3456'789Au);
  EXPECT_EQ(offset_of(position), segment_bytes_limit - record_alignment);
}

TEST(Format, FileNamesAreReadBack) {
  EXPECT_EQ(log_directory(0xA7), "logs/0a7");
  EXPECT_EQ(slot_path(0xA7, Slot{0x2A}), "logs/0a7/0000002a.seg");
  EXPECT_EQ(parse_slot_name("0000002a.seg"), Slot{0x2A});
  EXPECT_EQ(parse_log_name("0a7"), std::uint16_t{0xA7});
  for (const char* name : {"", "2a.seg", "0000002A.seg", "0000002a.sek", "0000002a.seg~", "x000002a.seg"}) {
    EXPECT_FALSE(parse_slot_name(name)) << name;
  }
  EXPECT_FALSE(parse_log_name("a7"));
  EXPECT_FALSE(parse_log_name("0g7"));
}

TEST(Format, ChecksumsDependOnTheKey) {
  SegmentKey a{}, b{};
  b[15] = std::byte{1};
  const auto text = as_bytes("the same bytes");
  EXPECT_NE(Checksum(a).of(text), Checksum(b).of(text));
  EXPECT_NE(Checksum(a).of(text), Checksum().of(text));
  EXPECT_EQ(Checksum(a).of(text), Checksum(a).of(text));
}

TEST(Format, OptionsOutOfBoundsAreNamed) {
  EXPECT_TRUE(Options{}.check().ok());
  const auto refused = [](auto change) {
    Options options;
    change(options);
    return !options.check().ok();
  };
  EXPECT_TRUE(refused([](Options& o) { o.segment_bytes = (64u << 20) + 1; }));
  EXPECT_TRUE(refused([](Options& o) { o.segment_bytes = 2u << 20; }));
  EXPECT_TRUE(refused([](Options& o) { o.segment_bytes = 2u << 30; }));
  EXPECT_TRUE(refused([](Options& o) { o.batch_bytes_max = 8u << 20; }));
  EXPECT_TRUE(refused([](Options& o) { o.batches_max = 2; }));
  EXPECT_TRUE(refused([](Options& o) { o.inline_content_max = 1u << 20; }));
  EXPECT_TRUE(refused([](Options& o) { o.reserved_segments = 0; }));
  EXPECT_TRUE(refused([](Options& o) { o.space_limit_bytes = 256u << 20; }));
  EXPECT_TRUE(refused([](Options& o) { o.garbage_percent = 0; }));
}

}  // namespace
}  // namespace postern::spool
