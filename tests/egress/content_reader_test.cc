#include "egress/content_reader.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace postern::egress {
namespace {

// Gives pieces when the test says so.
class Source final : public PieceSource {
 public:
  void fetch_piece(const Delivery& /*delivery*/, std::size_t index, ContentReader& reader) override {
    asked = index;
    asking = &reader;
    ++fetches;
  }
  void forget_reader(ContentReader& /*reader*/) override { asking = nullptr; }
  void release_piece(ContentReader& /*reader*/) override { ++releases; }

  void answer(StatusOr<Bytes> piece) { std::exchange(asking, nullptr)->on_piece(std::move(piece)); }

  ContentReader* asking = nullptr;
  std::size_t asked = 0;
  int fetches = 0;
  int releases = 0;
};

class User final : public ContentReaderUser {
 public:
  void on_content_ready() override { ++ready; }
  int ready = 0;
};

class Reader : public testing::Test {
 protected:
  Reader() { delivery.message = &message; }

  // Reads to the end, answering pieces from `pieces`.
  std::string read_all(std::optional<smtp::ContentConverter::Kind> conversion = std::nullopt,
                       bool complete_line = false) {
    reader.start(delivery, conversion, complete_line);
    std::string all;
    std::vector<io::Slice> slices;
    for (int turns = 0; turns < 1000; ++turns) {
      slices.clear();
      const ContentReader::State state = reader.next(slices);
      for (const io::Slice& slice : slices) all.append(reinterpret_cast<const char*>(slice.data), slice.size);
      if (state == ContentReader::State::end || (state == ContentReader::State::slices && reader.drained())) return all;
      if (state == ContentReader::State::pending) {
        if (source.asking == nullptr) return all + "<stuck>";
        source.answer(as_bytes(pieces.at(source.asked)));
      }
      if (state == ContentReader::State::failed) return all + "<failed>";
    }
    return all + "<no end>";
  }

  void spool(std::string piece) {
    message.spooled.push_back({.position = pieces.size(), .bytes = static_cast<std::uint32_t>(piece.size())});
    pieces[pieces.size()] = std::move(piece);
  }

  mail::Message message;
  Delivery delivery;
  std::map<std::size_t, std::string> pieces;
  Source source;
  User user;
  ContentReader reader{source, user};
};

TEST_F(Reader, FieldsComeFirstThenTheSpoolThenMemory) {
  message.added_fields = "Received: x\r\n";
  spool("one\r\n");
  spool("two\r\n");
  message.content.append(as_bytes("three\r\n"));
  EXPECT_EQ(read_all(), "Received: x\r\none\r\ntwo\r\nthree\r\n");
  EXPECT_EQ(source.fetches, 2);
}

TEST_F(Reader, ContentInMemoryIsDrainedInOneTurn) {
  message.added_fields = "Received: x\r\n";
  message.content.append(as_bytes("body\r\n"));
  reader.start(delivery, std::nullopt);
  std::vector<io::Slice> slices;
  EXPECT_EQ(reader.next(slices), ContentReader::State::slices);
  EXPECT_EQ(slices.size(), 2u);
  EXPECT_TRUE(reader.drained());
}

TEST_F(Reader, NothingAtAllIsAnEnd) {
  EXPECT_EQ(read_all(), "");
}

TEST_F(Reader, MuchMemoryComesInBoundedTurns) {
  const std::string much(1'000'000, 'm');
  message.content.append(as_bytes(much));
  reader.start(delivery, std::nullopt);
  std::vector<io::Slice> slices;
  EXPECT_EQ(reader.next(slices), ContentReader::State::slices);
  EXPECT_FALSE(reader.drained());
  std::size_t bytes = 0;
  for (const io::Slice& slice : slices) bytes += slice.size;
  EXPECT_LE(bytes, ContentReader::bytes_per_turn + ChunkList::chunk_bytes);
  EXPECT_EQ(read_all(), much);
}

TEST_F(Reader, ConversionSpansPieces) {
  spool(".one\r");
  spool("\n.two\r\n");
  message.content.append(as_bytes("last"));
  EXPECT_EQ(read_all(smtp::ContentConverter::Kind::stuff), "..one\r\n..two\r\nlast");
  EXPECT_EQ(read_all(smtp::ContentConverter::Kind::plain_to_lf, true), ".one\n.two\nlast\n");
}

TEST_F(Reader, APieceThatConvertsToNothingYetDoesNotStopTheRest) {
  spool("\r");  // waits for its LF
  spool("\nx\r\n");
  EXPECT_EQ(read_all(smtp::ContentConverter::Kind::plain_to_lf, true), "\nx\n");
}

TEST_F(Reader, EveryPieceIsReleased) {
  spool("one\r\n");
  spool("two\r\n");
  (void)read_all();
  reader.stop();
  EXPECT_EQ(source.releases, source.fetches);
}

TEST_F(Reader, AFailedPieceIsAFailure) {
  message.added_fields = "Received: x\r\n";
  spool("one\r\n");
  reader.start(delivery, std::nullopt);
  std::vector<io::Slice> slices;
  EXPECT_EQ(reader.next(slices), ContentReader::State::slices) << "the fields";
  slices.clear();
  EXPECT_EQ(reader.next(slices), ContentReader::State::pending);
  source.answer(error(StatusCode::kDataLoss, "damaged chunk"));
  EXPECT_EQ(user.ready, 1);
  EXPECT_EQ(reader.next(slices), ContentReader::State::failed);
  EXPECT_EQ(message_of(reader.status()), "damaged chunk");
}

TEST_F(Reader, StoppingForgetsWhatWasAsked) {
  spool("one\r\n");
  reader.start(delivery, std::nullopt);
  std::vector<io::Slice> slices;
  EXPECT_EQ(reader.next(slices), ContentReader::State::pending);
  reader.stop();
  EXPECT_EQ(source.asking, nullptr);
}

}  // namespace
}  // namespace postern::egress
