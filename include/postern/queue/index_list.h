// Doubly linked lists through the objects of a Slab, by index: 8 bytes per link.
#pragma once

#include <cstdint>

#include <postern/queue/slab.h>

namespace postern::queue {

// One per list that an object can be in. Its content means nothing while the object is in none.
struct IndexLink {
  std::uint32_t next = no_index;
  std::uint32_t previous = no_index;
};

struct IndexList {
  std::uint32_t head = no_index;
  std::uint32_t tail = no_index;

  [[nodiscard]] bool empty() const { return head == no_index; }
};

// The operations on lists that run through `member` of the objects of a slab.
template <class Object, IndexLink Object::* member>
struct IndexListOf {
  using Objects = Slab<Object>;

  static void push_back(Objects& objects, IndexList& list, std::uint32_t index) {
    insert_after(objects, list, list.tail, index);
  }
  static void push_front(Objects& objects, IndexList& list, std::uint32_t index) {
    insert_after(objects, list, no_index, index);
  }
  // Behind `after`, which is in `list`; at the front when `after` is no_index.
  static void insert_after(Objects& objects, IndexList& list, std::uint32_t after, std::uint32_t index) {
    const std::uint32_t next = after == no_index ? list.head : (objects[after].*member).next;
    objects[index].*member = {.next = next, .previous = after};
    (after == no_index ? list.head : (objects[after].*member).next) = index;
    (next == no_index ? list.tail : (objects[next].*member).previous) = index;
  }
  static void remove(Objects& objects, IndexList& list, std::uint32_t index) {
    const IndexLink link = objects[index].*member;
    (link.previous == no_index ? list.head : (objects[link.previous].*member).next) = link.next;
    (link.next == no_index ? list.tail : (objects[link.next].*member).previous) = link.previous;
  }
  // `list` is not empty.
  static std::uint32_t pop_front(Objects& objects, IndexList& list) {
    const std::uint32_t index = list.head;
    remove(objects, list, index);
    return index;
  }
  // All of `from` goes behind `to`; `from` is empty then.
  static void splice_back(Objects& objects, IndexList& to, IndexList& from) {
    if (from.empty()) return;
    if (to.empty()) {
      to = from;
    } else {
      (objects[to.tail].*member).next = from.head;
      (objects[from.head].*member).previous = to.tail;
      to.tail = from.tail;
    }
    from = {};
  }
};

}  // namespace postern::queue
