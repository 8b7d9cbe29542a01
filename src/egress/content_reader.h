// The bytes of one delivery's content in the order and form in which they go out: added fields, content from memory or,
// piece by piece, from the spool; converted on the way where the form must change.
//
// It sends nothing and waits for nothing itself: next() hands out slices, or says that a piece was asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/mail/message.h>
#include <postern/smtp/content_converter.h>

#include "egress/delivery.h"
#include "io/loop.h"

namespace postern::egress {

class ContentReader;

// Where spooled pieces come from: the message's owner (shard/piece_server.h).
class PieceSource {
 public:
  // Asks for message->spooled[index] of a delivery. Later, never from within: reader.on_piece(), unless forgotten.
  virtual void fetch_piece(const Delivery& delivery, std::size_t index, ContentReader& reader) = 0;
  // `reader` will not be called any more.
  virtual void forget_reader(ContentReader& reader) = 0;
  // The bytes handed to on_piece() are not needed any more.
  virtual void release_piece(ContentReader& reader) = 0;

 protected:
  ~PieceSource() = default;
};

class ContentReaderUser {
 public:
  virtual void on_content_ready() = 0;  // call next() again

 protected:
  ~ContentReaderUser() = default;
};

class ContentReader {
 public:
  enum class State : std::uint8_t {
    slices,   // some were appended
    pending,  // on_content_ready() will say when to go on
    end,      // there is nothing more (nothing was appended)
    failed,   // the spool could not be read: status()
  };
  // So much is handed out by one next() at most, but for one chunk more.
  static constexpr std::size_t bytes_per_turn = 256u << 10;
  static constexpr std::size_t slices_per_turn = io::Loop::slices_max - 4;  // room for commands and trailer
  static constexpr std::size_t converted_bytes = 64u << 10;

  ContentReader(PieceSource& source, ContentReaderUser& user) : source_(source), user_(user) {}
  ~ContentReader() { stop(); }
  ContentReader(const ContentReader&) = delete;
  ContentReader& operator=(const ContentReader&) = delete;

  // Begins. `conversion`: of added fields and content alike; `complete_line`: a last line without its end gets it.
  void start(const Delivery& delivery, std::optional<smtp::ContentConverter::Kind> conversion,
             bool complete_line = false);
  // Appends slices that stay valid until the next call of next(), start() or stop().
  [[nodiscard]] State next(std::vector<io::Slice>& slices);
  // What next() has handed out was the last of it.
  [[nodiscard]] bool drained() const;
  void stop();
  [[nodiscard]] const Status& status() const { return status_; }

  // From the PieceSource: the piece asked for; the bytes stay until release_piece().
  void on_piece(StatusOr<Bytes> piece);

 private:
  enum class Step : std::uint8_t { idle, fields, spooled, memory, tail, end };

  // The next raw bytes, or nothing: pending, failed or at the end.
  [[nodiscard]] std::optional<Bytes> take_raw();
  [[nodiscard]] State next_converted(std::vector<io::Slice>& slices);

  PieceSource& source_;
  ContentReaderUser& user_;
  const Delivery* delivery_ = nullptr;
  Step step_ = Step::idle;
  std::size_t index_ = 0;  // of the spooled piece, or of the chunk
  bool fetching_ = false;
  bool holds_piece_ = false;  // lent by the source until the next turn
  std::optional<Bytes> piece_;
  Status status_;

  std::optional<smtp::ContentConverter> converter_;
  bool complete_line_ = false;
  Bytes raw_;  // taken and not yet converted
  std::vector<std::byte> converted_;
};

}  // namespace postern::egress
