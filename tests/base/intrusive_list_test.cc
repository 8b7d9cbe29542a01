#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/intrusive_list.h>

namespace postern {
namespace {

struct OtherTag;
struct Item : ListHook<>, ListHook<OtherTag> {
  explicit Item(int v) : value(v) {}
  int value;
};
using List = IntrusiveList<Item>;
using OtherList = IntrusiveList<Item, OtherTag>;

template <class AnyList>
std::vector<int> values(AnyList& list) {
  std::vector<int> out;
  for (const Item& item : list) out.push_back(item.value);
  return out;
}

TEST(IntrusiveList, KeepsOrderInBothDirections) {
  Item a(1), b(2), c(3);
  List list;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.pop_front(), nullptr);
  list.push_back(b);
  list.push_back(c);
  list.push_front(a);
  EXPECT_EQ(values(list), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(list.front(), &a);
  EXPECT_EQ(list.back(), &c);
  List::remove(b);
  EXPECT_EQ(values(list), (std::vector<int>{1, 3}));
  EXPECT_EQ(list.pop_front(), &a);
  EXPECT_EQ(list.pop_front(), &c);
  EXPECT_TRUE(list.empty());
}

TEST(IntrusiveList, AnElementCanBeInListsOfDifferentTags) {
  Item a(1), b(2);
  List list;
  OtherList other;
  list.push_back(a);
  other.push_back(b);
  other.push_back(a);
  List::remove(a);
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(values(other), (std::vector<int>{2, 1}));
}

TEST(IntrusiveList, ADestroyedElementHasLeft) {
  List list;
  Item a(1);
  list.push_back(a);
  {
    Item b(2);
    list.push_back(b);
  }
  EXPECT_EQ(values(list), std::vector<int>{1});
}

TEST(IntrusiveList, ADestroyedListFreesItsElements) {
  Item a(1);
  {
    List list;
    list.push_back(a);
  }
  List list;
  list.push_back(a);
  EXPECT_EQ(values(list), std::vector<int>{1});
}

TEST(IntrusiveList, SpliceMovesAllAndLeavesTheOtherEmpty) {
  Item a(1), b(2), c(3), d(4);
  List list, other;
  list.splice_back(other);
  EXPECT_TRUE(list.empty());
  list.push_back(a);
  list.push_back(b);
  other.push_back(c);
  other.push_back(d);
  list.splice_back(other);
  EXPECT_TRUE(other.empty());
  EXPECT_EQ(values(list), (std::vector<int>{1, 2, 3, 4}));
  other.splice_back(list);
  EXPECT_EQ(values(other), (std::vector<int>{1, 2, 3, 4}));
}

}  // namespace
}  // namespace postern
