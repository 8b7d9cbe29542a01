#include "shard/logs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/mail/queue_id.h>

namespace postern::shard {
namespace {

using testing::ElementsAre;

TEST(Logs, EachShardGetsAFreshOneAtTheFirstStart) {
  EXPECT_THAT(*deal_out_logs({}, 2), ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(Logs, ThoseOfMoreShardsAreDealtOutAndNoneIsLeft) {
  EXPECT_THAT(*deal_out_logs({0, 1, 2, 3, 7}, 2), ElementsAre(ElementsAre(0, 2, 7), ElementsAre(1, 3)));
}

TEST(Logs, AFreshOneTakesAFreeNumber) {
  EXPECT_THAT(*deal_out_logs({0, 2}, 4), ElementsAre(ElementsAre(0), ElementsAre(2), ElementsAre(1), ElementsAre(3)));
}

TEST(Logs, NumbersEnd) {
  std::set<std::uint16_t> all;
  for (std::uint16_t log = 0; log <= mail::QueueId::log_max; ++log) all.insert(log);
  EXPECT_TRUE(deal_out_logs(all, 2).ok());
  EXPECT_EQ(deal_out_logs(all, all.size() + 1).status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace postern::shard
