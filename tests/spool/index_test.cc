#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include <postern/spool/index.h>

namespace postern::spool {
namespace {

constexpr std::uint32_t record_bytes = 300;
constexpr std::uint64_t segment_size = 1u << 20;

Segment& add_segment(Index& index, std::uint64_t sequence) {
  auto segment = std::make_unique<Segment>(SegmentKey{});
  segment->sequence = sequence;
  segment->bytes = segment_size;
  segment->end = segment_size;
  return index.add_segment(std::move(segment));
}

// Adds a message to the segment and returns its position.
std::uint64_t add(Index& index, Segment& in, std::uint64_t id, std::uint64_t offset, std::uint16_t recipients = 1) {
  index.add_message(in, mail::QueueId{id}, offset, record_bytes, recipients, {}, {});
  return make_position(in.sequence, offset);
}

std::optional<std::uint64_t> state_at(const Index& index, std::uint64_t message, std::uint16_t recipient = 0) {
  const Entry* const entry = index.find_entry(message);
  if (entry == nullptr) return std::nullopt;
  const auto ref = index.state(message, *entry, recipient);
  return ref ? std::optional(ref->position) : std::nullopt;
}

class IndexStates : public ::testing::Test {
 protected:
  void set(Segment& in, std::uint64_t offset, std::uint64_t message, std::uint64_t id, std::uint16_t recipient = 0,
           std::uint32_t bytes = 100) {
    index.set_state(in, make_position(in.sequence, offset), bytes, message, mail::QueueId{id}, recipient);
  }
  // What a start would know of `segment`, in an index that knows what came before it.
  Segment& read_back(Index& to, const Segment& segment) const {
    std::vector<std::byte> summary;
    const std::uint32_t count = index.build_summary(segment, summary);
    Segment& made = add_segment(to, segment.sequence);
    EXPECT_TRUE(to.apply_summary(made, summary, count).ok());
    return made;
  }

  Index index;
};

TEST_F(IndexStates, TheLatestOfTheOnlyRecipientIsKeptInItsMessagesEntry) {
  Segment& first = add_segment(index, 7);
  const std::uint64_t message = add(index, first, 1, 8192);
  EXPECT_EQ(state_at(index, message), std::nullopt);
  set(first, 16384, message, 1);
  EXPECT_EQ(state_at(index, message), make_position(7, 16384));
  EXPECT_EQ(index.state(message, *index.find_entry(message), 0)->bytes, 128u) << "rounded up";
  Segment& later = add_segment(index, 900);
  const std::uint64_t died = index.died_bytes();
  set(later, 8192 + 64, message, 1, 0, 64 + opaque_bytes_limit);
  EXPECT_EQ(state_at(index, message), make_position(900, 8256));
  EXPECT_EQ(index.state(message, *index.find_entry(message), 0)->bytes, 576u);
  EXPECT_GT(index.died_bytes(), died) << "the one before is garbage";
  EXPECT_TRUE(index.settle(later, message, mail::QueueId{1}, 0));
  EXPECT_EQ(state_at(index, message), std::nullopt);
}

TEST_F(IndexStates, EachOfManyRecipientsHasItsOwn) {
  Segment& segment = add_segment(index, 3);
  const std::uint64_t message = add(index, segment, 1, 8192, 3);
  for (std::uint16_t i = 0; i < 3; ++i) set(segment, 16384 + i * 128u, message, 1, i);
  EXPECT_TRUE(index.settle(segment, message, mail::QueueId{1}, 1));
  EXPECT_EQ(state_at(index, message, 0), make_position(3, 16384));
  EXPECT_EQ(state_at(index, message, 1), std::nullopt);
  EXPECT_EQ(state_at(index, message, 2), make_position(3, 16640));
  index.drop(message);
  EXPECT_EQ(state_at(index, message, 0), std::nullopt);
}

TEST_F(IndexStates, OneTooFarAwayForTheEntryIsKnownAllTheSame) {
  Segment& first = add_segment(index, 1);
  const std::uint64_t message = add(index, first, 1, 8192);
  Segment& far = add_segment(index, (std::uint64_t{1} << 32) + 5);
  set(first, 16384, message, 1);
  set(far, 8256, message, 1);
  EXPECT_EQ(state_at(index, message), make_position(far.sequence, 8256));
  set(first, 32768, message, 1);
  EXPECT_EQ(state_at(index, message), make_position(1, 32768));
}

TEST_F(IndexStates, WhatBelongsToNobodyIsNotTaken) {
  Segment& segment = add_segment(index, 3);
  const std::uint64_t message = add(index, segment, 1, 8192);
  set(segment, 16384, message, 2);                  // another message's id
  set(segment, 16384, message, 1, 1);               // no such recipient
  set(segment, 16384, make_position(3, 65536), 1);  // nothing lies there
  set(segment, 16384, make_position(2, 8192), 1);   // no such segment
  EXPECT_EQ(state_at(index, message), std::nullopt);
  EXPECT_TRUE(index.settle(segment, message, mail::QueueId{1}, 0));
  set(segment, 16384, message, 1);
  EXPECT_EQ(state_at(index, message), std::nullopt) << "settled already";
  EXPECT_TRUE(segment.notes.empty());
}

TEST_F(IndexStates, GoOverToTheRecordThatReplacesTheirs) {
  Segment& first = add_segment(index, 1);
  const std::uint64_t one = add(index, first, 1, 8192);
  const std::uint64_t three = add(index, first, 3, 16384, 3);
  set(first, 32768, one, 1);
  set(first, 33024, three, 3, 0);
  set(first, 33280, three, 3, 2);
  EXPECT_TRUE(index.settle(first, three, mail::QueueId{3}, 0));
  Segment& second = add_segment(index, 2);
  index.replace(&second, one, mail::QueueId{1});
  const std::uint64_t one_moved = add(index, second, 1, 8192);
  index.replace(&second, three, mail::QueueId{3});
  const std::uint64_t three_moved = add(index, second, 3, 16384, 3);
  EXPECT_EQ(state_at(index, one), std::nullopt);
  EXPECT_EQ(state_at(index, one_moved), make_position(1, 32768)) << "its segment is behind the message's";
  EXPECT_EQ(state_at(index, three_moved, 0), std::nullopt);
  EXPECT_EQ(state_at(index, three_moved, 1), std::nullopt);
  EXPECT_EQ(state_at(index, three_moved, 2), make_position(1, 33280));
}

TEST_F(IndexStates, AreInTheSummariesOfTheirSegments) {
  Segment& first = add_segment(index, 1);
  const std::uint64_t one = add(index, first, 1, 8192);
  const std::uint64_t two = add(index, first, 2, 16384, 2);
  const std::uint64_t gone = add(index, first, 4, 20480);
  set(first, 32768, one, 1);
  set(first, 33024, two, 2, 1);
  Index again;
  read_back(again, first);
  EXPECT_EQ(state_at(again, one), make_position(1, 32768));
  EXPECT_EQ(state_at(again, two, 1), make_position(1, 33024));
  EXPECT_EQ(state_at(again, gone), std::nullopt);

  // A newer state of the first, and the other message rewritten before its state followed it.
  Segment& second = add_segment(index, 2);
  set(second, 8192, one, 1);
  set(second, 9216, gone, 4);
  EXPECT_TRUE(index.settle(second, gone, mail::QueueId{4}, 0));
  index.replace(&second, two, mail::QueueId{2});
  const std::uint64_t two_moved = add(index, second, 2, 16384, 2);
  const Segment& second_again = read_back(again, second);
  EXPECT_EQ(state_at(again, one), make_position(2, 8192));
  EXPECT_EQ(state_at(again, two, 1), std::nullopt);
  EXPECT_EQ(state_at(again, two_moved, 1), make_position(1, 33024));
  EXPECT_EQ(state_at(again, gone), std::nullopt);
  EXPECT_EQ(second_again.live_messages, 1u);

  // The summary of the first is made anew from what is known now: nothing of it is the latest any more.
  std::vector<std::byte> summary;
  EXPECT_EQ(index.build_summary(first, summary), 1u) << "the first message alone";
}

}  // namespace
}  // namespace postern::spool
