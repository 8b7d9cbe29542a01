#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include <postern/base/chunk_list.h>
#include <postern/base/random.h>

namespace postern {
namespace {

std::string text_of(const ChunkList& list) {
  std::string text(list.size(), '\0');
  list.copy_to({reinterpret_cast<std::byte*>(text.data()), text.size()});
  return text;
}

TEST(ChunkList, SmallContentTakesOneAllocationOfItsSize) {
  ChunkList list;
  list.expect(1000);
  list.append(as_bytes(std::string(1000, 'a')));
  EXPECT_EQ(list.chunk_count(), 1u);
  EXPECT_EQ(list.memory_bytes(), 1000u);
  ChunkList unexpected;
  unexpected.append(as_bytes("a"));
  EXPECT_EQ(unexpected.memory_bytes(), ChunkList::small_bytes);
}

TEST(ChunkList, LargeContentTakesAlignedChunks) {
  ChunkList list;
  list.expect(200'000);
  list.append(as_bytes(std::string(200'000, 'a')));
  EXPECT_EQ(list.chunk_count(), 4u);
  EXPECT_EQ(list.memory_bytes(), 4 * ChunkList::chunk_bytes);
  for (std::size_t i = 0; i < list.chunk_count(); ++i) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(list.chunk(i).data()) % ChunkList::chunk_alignment, 0u);
  }
}

TEST(ChunkList, GrowthIsForetoldExactly) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    ChunkList list;
    if (random.below(2) == 0) list.expect(random.below(10'000));
    for (int i = 0; i < 20; ++i) {
      const std::size_t size = random.below(random.below(2) == 0 ? 100 : 150'000);
      const std::size_t before = list.memory_bytes();
      const std::size_t growth = list.growth_for(size);
      list.append(as_bytes(std::string(size, 'x')));
      ASSERT_EQ(list.memory_bytes() - before, growth);
      if (list.chunk_count() > 1 && random.below(3) == 0) list.drop_front();
      if (list.chunk_count() > 0 && random.below(20) == 0) list.drop_front();
    }
  }
}

TEST(ChunkList, KeepsBytesInOrderThroughAppendPrepareDropAndMove) {
  Random random(2);
  std::string model;
  ChunkList list;
  for (int i = 0; i < 2000; ++i) {
    switch (random.below(8)) {
      case 0: {
        const MutableBytes room = list.prepare();
        ASSERT_FALSE(room.empty());
        const std::size_t size = random.below(room.size() + 1);
        std::memset(room.data(), 'p', size);
        list.commit(size);
        model.append(size, 'p');
        break;
      }
      case 1:
        if (list.chunk_count() > 0) {
          model.erase(0, list.chunk(0).size());
          list.drop_front();
        }
        break;
      case 2: {
        ChunkList moved = std::move(list);
        list = std::move(moved);
        break;
      }
      default: {
        const std::string text(random.below(20'000), static_cast<char>('a' + i % 26));
        list.append(as_bytes(text));
        model += text;
      }
    }
    ASSERT_EQ(list.size(), model.size());
  }
  EXPECT_TRUE(text_of(list) == model);
  while (list.chunk_count() > 0) list.drop_front();
  EXPECT_EQ(list.memory_bytes(), 0u);
  EXPECT_TRUE(list.empty());
  list.append(as_bytes("after"));
  EXPECT_EQ(text_of(list), "after");
  list.clear();
  EXPECT_EQ(list.memory_bytes(), 0u);
}

}  // namespace
}  // namespace postern
