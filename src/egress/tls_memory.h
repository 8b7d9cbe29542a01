// What one shard remembers of the TLS of next hops: sessions to resume, and hosts where it came to nothing. Lost at the
// end of the process: a full handshake or a try too many is all that costs.
#pragma once

#include <chrono>
#include <cstddef>
#include <iterator>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/hash.h>
#include <postern/base/time.h>

#include "net/tls_stream.h"

namespace postern::egress {

// At most `max` values by name; a new one beyond that takes the place of the one that was put first.
template <class Value>
class BoundedTable {
 public:
  explicit BoundedTable(std::size_t max) : max_(max) {}

  // Until the next put() or erase(); null: there is none.
  [[nodiscard]] Value* find(std::string_view name) {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &found->second->second;
  }
  void put(std::string_view name, Value value) {
    erase(name);
    if (order_.size() == max_) erase(std::string(order_.front().first));
    order_.emplace_back(name, std::move(value));
    places_.emplace(name, std::prev(order_.end()));
  }
  void erase(std::string_view name) {
    const auto found = places_.find(name);
    if (found == places_.end()) return;
    order_.erase(found->second);
    places_.erase(found);
  }
  void clear() {
    places_.clear();
    order_.clear();
  }
  [[nodiscard]] std::size_t size() const { return order_.size(); }

 private:
  using Order = std::list<std::pair<std::string, Value>>;
  std::size_t max_;
  Order order_;  // the oldest first
  TextMap<typename Order::iterator> places_;
};

class TlsMemory {
 public:
  // Of some KiB each, as a session holds the server's chain and ticket; of at most 36 KiB (tls/client_context.cc).
  static constexpr std::size_t sessions_max = 512;
  // Of some 100 bytes each.
  static constexpr std::size_t broken_max = 4096;
  // Long enough that a host without working TLS costs few handshakes, short enough that one which was repaired, or
  // whose handshake somebody disturbed, is soon spoken with in secret again.
  static constexpr Duration broken_for = std::chrono::minutes(10);

  // `host`: one address of a next hop, as text.
  void note_broken(std::string_view host, Instant now) { broken_.put(host, now + broken_for); }
  [[nodiscard]] bool broken(std::string_view host, Instant now) {
    const Instant* const until = broken_.find(host);
    if (until == nullptr) return false;
    if (now < *until) return true;
    broken_.erase(host);
    return false;
  }

  // `target`: the host, and what is asked of its certificate, so that a session tells no more than was looked at.
  void keep_session(std::string_view target, std::shared_ptr<const net::TlsSession> session) {
    sessions_.put(target, std::move(session));
  }
  // May be offered again and again: that links our connections in the eyes of others, and so do our address and name.
  [[nodiscard]] std::shared_ptr<const net::TlsSession> session(std::string_view target) {
    const std::shared_ptr<const net::TlsSession>* const found = sessions_.find(target);
    return found == nullptr ? nullptr : *found;
  }
  void forget_session(std::string_view target) { sessions_.erase(target); }

  // Whom we trust has changed, or what we show.
  void clear() {
    broken_.clear();
    sessions_.clear();
  }

 private:
  BoundedTable<Instant> broken_{broken_max};
  BoundedTable<std::shared_ptr<const net::TlsSession>> sessions_{sessions_max};
};

}  // namespace postern::egress
