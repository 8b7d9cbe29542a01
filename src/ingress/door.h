// What ingress needs of the shard: the door through which accepted mail goes into the spool and the queue. DSNs go
// through the same door (shard/intake.h implements it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/mail/message.h>
#include <postern/mail/reply.h>
#include <postern/smtp/server_session.h>
#include <postern/spool/types.h>

namespace postern::ingress {

// Names one finished transaction of one connection: comes back with its reply.
struct Submission {
  std::uint32_t connection_slot = 0;
  std::uint32_t connection_generation = 0;
  smtp::ReplySlot reply_slot;
  std::string user;              // whom the client has shown that it is; empty: nobody
  std::string forwarded_client;  // as XFORWARD named it, for the event log; empty: it did not
};

// Names a client that waits to hear whether the next hop takes a recipient.
struct Asker {
  std::uint32_t connection_slot = 0;
  std::uint32_t connection_generation = 0;
};

class Door {
 public:
  // --- may more mail come?
  // Null: yes. Else the reply for MAIL (disk low, disk failed, memory budget), valid until the next call.
  [[nodiscard]] virtual const mail::Reply* refuse_mail(const mail::Envelope& envelope) = 0;
  // Whether a route takes this recipient: null, or what RCPT answers (a reject route, a Maildir name that cannot be).
  [[nodiscard]] virtual const mail::Reply* refuse_recipient(const mail::PathView& forward_path) = 0;

  // Any next hop is asked for anything. False: ask_next_hop() would take everyone.
  [[nodiscard]] virtual bool asks_next_hops() const = 0;
  // Whether the next hop of a recipient in one of our domains takes it, where the next hops are to be asked for that.
  // later: Ingress::on_recipient_answered() comes, never from within, and within a bounded time. refused: `refusal`,
  // valid until the next call. `since`: when this client's RCPT came, which bounds the time for all that is asked for
  // it.
  struct HopAnswer {
    enum class Kind : std::uint8_t { taken, refused, later };
    Kind kind = Kind::taken;
    const mail::Reply* refusal = nullptr;
  };
  [[nodiscard]] virtual HopAnswer ask_next_hop(const mail::PathView& forward_path, const Asker& asker,
                                               Instant since) = 0;

  // ETRN: what waits for `domain`, whoever took it, is tried now. The wish may be denied for a while.
  enum class Woken : std::uint8_t {
    waiting,   // there is some, or there may be
    nothing,   // there is none
    too_soon,  // it was asked for a moment ago
    no_domain,
  };
  [[nodiscard]] virtual Woken wake(std::string_view domain) = 0;

  // --- a message being received
  // Recycled objects. take_memory() accounts for `bytes` more of it; false: not now, and on_memory_free() follows.
  [[nodiscard]] virtual std::unique_ptr<mail::Message> new_message() = 0;
  [[nodiscard]] virtual bool take_memory(mail::Message& message, std::uint64_t bytes) = 0;
  // Gives back what the message's content no longer holds (it went to disk).
  virtual void give_memory(mail::Message& message, std::uint64_t bytes) = 0;
  virtual void discard_message(std::unique_ptr<mail::Message> message) = 0;

  // --- content too large for the message's own record: streamed while it arrives
  [[nodiscard]] virtual spool::ContentId begin_content() = 0;
  // kResourceExhausted: no room in the batches now (on_spool_room() follows); any other error: it cannot be kept.
  [[nodiscard]] virtual Status append_chunk(spool::ContentId content, Bytes bytes) = 0;
  virtual void abandon_content(spool::ContentId content) = 0;

  // --- the end of data
  // The message's envelope, facts and content are complete. Later, never from within: Ingress::on_accepted() when it is
  // on stable storage, or on_refused().
  virtual void submit(std::unique_ptr<mail::Message> message, spool::ContentId streamed,
                      const Submission& submission) = 0;

 protected:
  ~Door() = default;
};

}  // namespace postern::ingress
