#include "net/dispatcher.h"

#include <algorithm>

#include <postern/base/check.h>

namespace postern::net {

std::uint8_t Dispatcher::claim(CompletionHandler& handler, std::size_t count) {
  const auto first = std::search_n(handlers_.begin() + 1, handlers_.end(), static_cast<std::ptrdiff_t>(count),
                                   static_cast<CompletionHandler*>(nullptr));
  POSTERN_CHECK(count > 0 && first != handlers_.end(), "no kinds left");
  std::fill_n(first, count, &handler);
  return static_cast<std::uint8_t>(first - handlers_.begin());
}

void Dispatcher::release(std::uint8_t first_kind, std::size_t count) {
  POSTERN_CHECK(first_kind > 0 && first_kind + count <= handlers_.size());
  std::fill_n(handlers_.begin() + first_kind, count, nullptr);
}

void Dispatcher::on_completion(const io::Completion& completion) {
  CompletionHandler* const handler = handlers_[completion.token.kind];
  POSTERN_CHECK(handler != nullptr, "completion of a kind that nobody owns");
  handler->on_completion(completion);
}

}  // namespace postern::net
