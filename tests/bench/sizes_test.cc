// Sizes of messages: fixed, from the command line, and the shape of real mail.
#include "bench/sizes.h"

#include <cstdint>
#include <map>
#include <string>

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

TEST(Sizes, AFixedSizeIsAlwaysThatSize) {
  const StatusOr<Sizes> sizes = Sizes::parse("10KiB");
  ASSERT_TRUE(sizes.ok());
  Random random(1);
  ASSERT_EQ(sizes->choices().size(), 1u);
  EXPECT_EQ(sizes->choices()[sizes->draw(random)].bytes, 10'240u);
  EXPECT_EQ(sizes->mean_bytes(), 10'240);
}

TEST(Sizes, ChoicesAreDrawnByTheirWeight) {
  const StatusOr<Sizes> sizes = Sizes::parse("1KiB:70,10KiB:25,1MiB:5");
  ASSERT_TRUE(sizes.ok());
  Random random(42);
  std::map<std::uint32_t, int> drawn;
  constexpr int draws = 100'000;
  for (int i = 0; i < draws; ++i) ++drawn[sizes->choices()[sizes->draw(random)].bytes];
  EXPECT_NEAR(drawn[1024], 0.70 * draws, 0.01 * draws);
  EXPECT_NEAR(drawn[10'240], 0.25 * draws, 0.01 * draws);
  EXPECT_NEAR(drawn[1u << 20], 0.05 * draws, 0.01 * draws);
}

TEST(Sizes, TheSameSeedDrawsTheSameSizes) {
  const Sizes sizes = Sizes::real_mix();
  Random one(7), other(7);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(sizes.draw(one), sizes.draw(other));
}

TEST(Sizes, TheMixHasTheShapeThatItsHeaderStates) {
  const Sizes mix = Sizes::real_mix();
  EXPECT_NEAR(mix.mean_bytes() / 1024, 63, 2);
  std::uint64_t total = 0, below_5_kib = 0, above_1_mib = 0;
  for (const Sizes::Choice& choice : mix.choices()) {
    total += choice.weight;
    if (choice.bytes <= 5 * 1024) below_5_kib += choice.weight;
    if (choice.bytes > 1u << 20) above_1_mib += choice.weight;
  }
  EXPECT_EQ(total, 4000u) << "four sizes a band, in thousandths";
  EXPECT_NEAR(static_cast<double>(below_5_kib) / static_cast<double>(total), 0.5, 0.05);
  EXPECT_NEAR(static_cast<double>(above_1_mib) / static_cast<double>(total), 0.012, 0.0005);
}

TEST(Sizes, WhatIsNoSizeIsRefusedWithAReason) {
  for (const char* text : {"", "0", "10KB", "1KiB:0", "1KiB:x", "1KiB:", "100GiB", "1KiB,,2KiB", "1KiB:1000001"}) {
    const StatusOr<Sizes> sizes = Sizes::parse(text);
    EXPECT_FALSE(sizes.ok()) << text;
    EXPECT_FALSE(message_of(sizes.status()).empty()) << text;
  }
  std::string many;
  for (int i = 0; i < 1025; ++i) many += "1KiB,";
  EXPECT_FALSE(Sizes::parse(many).ok());
}

}  // namespace
}  // namespace postern::bench
