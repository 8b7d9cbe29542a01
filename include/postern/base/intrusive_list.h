// A doubly linked list through hooks inside its elements: no allocation, O(1) removal of an element that is at hand.
//
// The list owns nothing. An element leaves its list when its hook is destroyed, so a dangling list cannot come to be;
// the price is that a list does not know its length.
#pragma once

#include <cstddef>
#include <type_traits>

#include <postern/base/check.h>

namespace postern {

// Base class of an element. `Tag` (any type, never defined) tells several hooks of one element apart. Neither copied
// nor moved while linked; a copy of an element starts unlinked.
template <class Tag = void>
class ListHook {
 public:
  ListHook() = default;
  ListHook(const ListHook&) {}
  ListHook& operator=(const ListHook&) { return *this; }  // NOLINT(bugprone-unhandled-self-assignment): assigns nothing
  ~ListHook() { unlink(); }

  [[nodiscard]] bool linked() const { return next_ != this; }
  // Leaves whatever list it is in; nothing when it is in none.
  void unlink() {
    previous_->next_ = next_;
    next_->previous_ = previous_;
    previous_ = next_ = this;
  }

 private:
  template <class T, class T2>
  friend class IntrusiveList;

  void insert_before(ListHook& successor) {
    POSTERN_CHECK(!linked());
    previous_ = successor.previous_;
    next_ = &successor;
    previous_->next_ = this;
    successor.previous_ = this;
  }

  ListHook* previous_ = this;
  ListHook* next_ = this;
};

// `T` derives from ListHook<Tag>. Destroying a list unlinks its elements (O(n)). Not movable: elements point into it.
template <class T, class Tag = void>
class IntrusiveList {
 public:
  using Hook = ListHook<Tag>;

  class Iterator {
   public:
    explicit Iterator(Hook* at) : at_(at) {}
    T& operator*() const { return static_cast<T&>(*at_); }
    T* operator->() const { return &static_cast<T&>(*at_); }
    Iterator& operator++() {
      at_ = at_->next_;
      return *this;
    }
    friend bool operator==(Iterator, Iterator) = default;

   private:
    Hook* at_;
  };

  IntrusiveList() = default;
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  ~IntrusiveList() { clear(); }

  [[nodiscard]] bool empty() const { return !root_.linked(); }
  // nullptr when empty.
  [[nodiscard]] T* front() { return empty() ? nullptr : static_cast<T*>(root_.next_); }
  [[nodiscard]] T* back() { return empty() ? nullptr : static_cast<T*>(root_.previous_); }

  // The element must be in no list (of this tag).
  void push_back(T& element) { static_cast<Hook&>(element).insert_before(root_); }
  void push_front(T& element) { static_cast<Hook&>(element).insert_before(*root_.next_); }
  // Takes the element off; nullptr when empty.
  T* pop_front() {
    T* const element = front();
    if (element != nullptr) static_cast<Hook*>(element)->unlink();
    return element;
  }
  // Unlinks one element of this list.
  static void remove(T& element) { static_cast<Hook&>(element).unlink(); }

  // Moves all elements of `other` behind ours, in their order. O(1).
  void splice_back(IntrusiveList& other) {
    if (other.empty()) return;
    Hook* const first = other.root_.next_;
    Hook* const last = other.root_.previous_;
    other.root_.previous_ = other.root_.next_ = &other.root_;
    first->previous_ = root_.previous_;
    root_.previous_->next_ = first;
    last->next_ = &root_;
    root_.previous_ = last;
  }

  void clear() {
    while (root_.linked()) root_.next_->unlink();
  }

  // While iterating, remove no element but by unlinking one that the iterator has left already.
  [[nodiscard]] Iterator begin() { return Iterator(root_.next_); }
  [[nodiscard]] Iterator end() { return Iterator(&root_); }

 private:
  Hook root_;
};

}  // namespace postern
