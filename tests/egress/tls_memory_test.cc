#include "egress/tls_memory.h"

#include <chrono>
#include <memory>
#include <string>

#include <gtest/gtest.h>

namespace postern::egress {
namespace {

constexpr Instant start{std::chrono::hours(1)};

TEST(TlsMemory, AHostIsBrokenForItsTime) {
  TlsMemory memory;
  EXPECT_FALSE(memory.broken("a", start));
  memory.note_broken("a", start);
  EXPECT_TRUE(memory.broken("a", start));
  EXPECT_FALSE(memory.broken("b", start));
  EXPECT_TRUE(memory.broken("a", start + TlsMemory::broken_for - Duration(1)));
  memory.note_broken("a", start + std::chrono::minutes(1));
  EXPECT_TRUE(memory.broken("a", start + TlsMemory::broken_for)) << "anew, from then on";
  EXPECT_FALSE(memory.broken("a", start + TlsMemory::broken_for + std::chrono::minutes(1)));
  memory.note_broken("a", start);
  memory.clear();
  EXPECT_FALSE(memory.broken("a", start));
}

TEST(TlsMemory, AnySetOfHostsCostsNoMoreThanItsBound) {
  TlsMemory memory;
  for (std::size_t i = 0; i <= TlsMemory::broken_max; ++i) memory.note_broken(std::to_string(i), start);
  EXPECT_FALSE(memory.broken("0", start)) << "the first to come is the first to go";
  EXPECT_TRUE(memory.broken("1", start));
  EXPECT_TRUE(memory.broken(std::to_string(TlsMemory::broken_max), start));
}

TEST(BoundedTable, KeepsTheLatestOfEachName) {
  BoundedTable<int> table(2);
  table.put("a", 1);
  table.put("b", 2);
  table.put("a", 3);
  EXPECT_EQ(table.size(), 2u);
  table.put("c", 4);
  EXPECT_EQ(table.find("b"), nullptr) << "a was put again behind it";
  ASSERT_NE(table.find("a"), nullptr);
  EXPECT_EQ(*table.find("a"), 3);
  EXPECT_EQ(*table.find("c"), 4);
  table.erase("a");
  table.erase("nobody");
  EXPECT_EQ(table.find("a"), nullptr);
  EXPECT_EQ(table.size(), 1u);
  table.clear();
  EXPECT_EQ(table.size(), 0u);
  EXPECT_EQ(table.find("c"), nullptr);
}

struct Session final : net::TlsSession {};

TEST(TlsMemory, SessionsGoByTheirTarget) {
  TlsMemory memory;
  const auto session = std::make_shared<const Session>();
  memory.keep_session("a;tls=required", session);
  EXPECT_EQ(memory.session("a;tls=required"), session);
  EXPECT_EQ(memory.session("a;tls=required"), session) << "as often as one likes";
  EXPECT_EQ(memory.session("a;tls=verified"), nullptr);
  for (std::size_t i = 1; i < TlsMemory::sessions_max; ++i) memory.keep_session(std::to_string(i), session);
  EXPECT_NE(memory.session("a;tls=required"), nullptr);
  memory.keep_session("one more", session);
  EXPECT_EQ(memory.session("a;tls=required"), nullptr);
  memory.forget_session("one more");
  EXPECT_EQ(memory.session("one more"), nullptr);
}

}  // namespace
}  // namespace postern::egress
