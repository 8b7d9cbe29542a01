#include <map>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/base/slot_map.h>

namespace postern {
namespace {

TEST(SlotMap, AnErasedNameFindsNothingAlsoAfterReuse) {
  SlotMap<int> map(4);
  int* const first = map.emplace(1);
  const SlotId old = map.id_of(*first);
  EXPECT_EQ(map.find(old), first);
  map.erase(old);
  EXPECT_EQ(map.find(old), nullptr);
  int* const second = map.emplace(2);
  EXPECT_EQ(map.id_of(*second).slot, old.slot) << "the slot is reused";
  EXPECT_NE(map.id_of(*second), old);
  EXPECT_EQ(map.find(old), nullptr);
}

TEST(SlotMap, TheEmptyNameAndUnusedSlotsFindNothing) {
  SlotMap<int> map(4);
  EXPECT_EQ(map.find({}), nullptr);
  EXPECT_EQ(map.find({3, 1}), nullptr);
  (void)map.emplace(1);
  EXPECT_EQ(map.find({}), nullptr);
  EXPECT_EQ(map.find({1, 1}), nullptr);
}

TEST(SlotMap, IsFullAtItsCapacity) {
  SlotMap<int> map(2);
  EXPECT_EQ(map.next_id(), (SlotId{0, 1}));
  ASSERT_NE(map.emplace(1), nullptr);
  int* const second = map.emplace(2);
  EXPECT_TRUE(map.full());
  EXPECT_TRUE(map.next_id().empty());
  EXPECT_EQ(map.emplace(3), nullptr);
  map.erase(map.id_of(*second));
  const SlotId next = map.next_id();
  EXPECT_EQ(map.id_of(*map.emplace(3)), next);
}

TEST(SlotMap, GenerationsGoRoundWithoutTheEmptyOne) {
  EXPECT_EQ((SlotId{7, 1}).successor(), (SlotId{7, 2}));
  EXPECT_EQ((SlotId{7, SlotId::generation_max}).successor(), (SlotId{7, 1}));
  SlotMap<char> map(1);
  SlotId id = map.id_of(*map.emplace('a'));
  for (int i = 0; i < 1000; ++i) {
    map.erase(id);
    id = id.successor();
    ASSERT_EQ(map.id_of(*map.emplace('b')), id);
  }
}

TEST(SlotMap, AddressesStayAndObjectsAreDestroyed) {
  const auto token = std::make_shared<int>(0);
  {
    SlotMap<std::shared_ptr<int>> map(1000);
    std::vector<std::shared_ptr<int>*> places;
    for (int i = 0; i < 1000; ++i) places.push_back(map.emplace(token));
    for (std::uint32_t i = 0; i < 1000; ++i) EXPECT_EQ(map.find({i, 1}), places[i]);
    EXPECT_EQ(token.use_count(), 1001);
    map.for_each([&](SlotId id, std::shared_ptr<int>&) {
      if (id.slot % 2 == 0) map.erase(id);
    });
    EXPECT_EQ(map.size(), 500u);
    EXPECT_EQ(token.use_count(), 501);
  }
  EXPECT_EQ(token.use_count(), 1);
}

TEST(SlotMap, BehavesLikeAMapFromIdsToValues) {
  Random random(3);
  SlotMap<std::uint64_t> map(200);
  std::map<SlotId, std::uint64_t> model;
  std::vector<SlotId> dead;
  for (int i = 0; i < 50'000; ++i) {
    if (random.below(2) == 0) {
      const std::uint64_t value = random();
      std::uint64_t* const place = map.emplace(value);
      ASSERT_EQ(place == nullptr, model.size() == 200);
      if (place != nullptr) {
        ASSERT_TRUE(model.emplace(map.id_of(*place), value).second);
      }
    } else if (!model.empty()) {
      auto it = model.begin();
      std::advance(it, static_cast<std::ptrdiff_t>(random.below(model.size())));
      map.erase(it->first);
      dead.push_back(it->first);
      model.erase(it);
    }
    if (!dead.empty()) {
      ASSERT_EQ(map.find(dead[random.below(dead.size())]), nullptr);
    }
    ASSERT_EQ(map.size(), model.size());
  }
  std::map<SlotId, std::uint64_t> found;
  map.for_each([&](SlotId id, std::uint64_t value) { found[id] = value; });
  EXPECT_EQ(found, model);
}

}  // namespace
}  // namespace postern
