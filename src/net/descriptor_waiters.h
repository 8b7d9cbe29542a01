// Who wants to hear that a descriptor was closed: listeners that ran out of them. Whoever closes one says so here.
#pragma once

#include <postern/base/intrusive_list.h>

namespace postern::net {

struct DescriptorWaiterTag;

class DescriptorWaiter : public ListHook<DescriptorWaiterTag> {
 public:
  virtual void on_descriptor_free() = 0;

 protected:
  ~DescriptorWaiter() = default;
};

class DescriptorWaiters {
 public:
  // Wakes the one that has waited longest, once; it waits no more then.
  void on_closed() {
    if (DescriptorWaiter* const waiter = waiting_.pop_front(); waiter != nullptr) waiter->on_descriptor_free();
  }
  void wait(DescriptorWaiter& waiter) {
    waiter.unlink();
    waiting_.push_back(waiter);
  }

 private:
  IntrusiveList<DescriptorWaiter, DescriptorWaiterTag> waiting_;
};

}  // namespace postern::net
