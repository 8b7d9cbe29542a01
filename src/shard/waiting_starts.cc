#include "shard/waiting_starts.h"

namespace postern::shard {

void WaitingStarts::push(const WaitingStart& start) {
  if (start.connected) {
    connected_.push(start);
    return;
  }
  const std::uint32_t index = slab_.take();
  slab_[index].start = start;
  List::push_back(slab_, others_, index);
  if (!start.pulled) unconnected_[start.site] = index;
}

void WaitingStarts::on_connection_idle(mail::SiteId site) {
  const auto found = unconnected_.find(site);
  if (found == unconnected_.end()) return;
  const std::uint32_t index = found->second;
  unconnected_.erase(found);
  List::remove(slab_, others_, index);
  slab_[index].start.connected = true;
  connected_.push(slab_[index].start);
  slab_.free(index);
}

std::optional<WaitingStart> WaitingStarts::take(bool places) {
  const bool other = places && !others_.empty() && (connected_.size() < enough_connected || ++taken_ % turn == 0);
  if (!other) return connected_.take();
  const std::uint32_t index = List::pop_front(slab_, others_);
  const WaitingStart start = slab_[index].start;
  slab_.free(index);
  if (!start.pulled) unconnected_.erase(start.site);
  return start;
}

}  // namespace postern::shard
