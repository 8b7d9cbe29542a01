#include "net/dispatcher.h"

#include <vector>

#include <gtest/gtest.h>

namespace postern::net {
namespace {

struct Recorder final : CompletionHandler {
  std::vector<unsigned> kinds;
  void on_completion(const io::Completion& completion) override { kinds.push_back(completion.token.kind); }
};

io::Completion completion_of(std::uint8_t kind) {
  return {.token = {.slot = 0, .generation = 0, .kind = kind}, .peer = nullptr};
}

TEST(Dispatcher, RoutesByKind) {
  Dispatcher dispatcher;
  Recorder a, b;
  const std::uint8_t first = dispatcher.claim(a, 3);
  const std::uint8_t second = dispatcher.claim(b);
  EXPECT_GT(first, 0) << "kind 0 is nobody's";
  EXPECT_EQ(second, first + 3);
  dispatcher.on_completion(completion_of(static_cast<std::uint8_t>(first + 2)));
  dispatcher.on_completion(completion_of(second));
  EXPECT_EQ(a.kinds, std::vector<unsigned>{first + 2u});
  EXPECT_EQ(b.kinds, std::vector<unsigned>{second});
}

TEST(Dispatcher, ReleasedKindsAreGivenOutAgain) {
  Dispatcher dispatcher;
  Recorder a, b;
  const std::uint8_t first = dispatcher.claim(a, 2);
  const std::uint8_t rest = dispatcher.claim(a, Dispatcher::kinds_max - 2);
  dispatcher.release(first, 2);
  EXPECT_EQ(dispatcher.claim(b, 2), first);
  dispatcher.release(rest, Dispatcher::kinds_max - 2);
}

TEST(DispatcherDeath, AKindWithoutAnOwnerIsOurBug) {
  Dispatcher dispatcher;
  EXPECT_DEATH(dispatcher.on_completion(completion_of(7)), "nobody owns");
}

}  // namespace
}  // namespace postern::net
