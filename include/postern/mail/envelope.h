// The envelope: who sends, to whom, and what the sender asked of us [RFC 5321 §2.3.1].
//
// Texts live in one arena per envelope, so that an envelope that is cleared and filled again allocates nothing.
// Views returned stay valid until the next non-const call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>

namespace postern::mail {

// local-part@domain as the client wrote it, without angle brackets and source route; case and quotes are kept.
// A null reverse-path has an empty text. "postmaster" without a domain has an empty domain.
struct PathView {
  std::string_view text;
  std::uint16_t domain_offset = 0;  // of the first character behind the last '@'; text.size() when there is no domain

  [[nodiscard]] constexpr bool null() const { return text.empty(); }
  [[nodiscard]] constexpr std::string_view local_part() const {
    return text.substr(0, domain_offset == text.size() ? text.size() : domain_offset - 1u);
  }
  [[nodiscard]] constexpr std::string_view domain() const { return text.substr(domain_offset); }
};

enum class BodyType : std::uint8_t { seven_bit, eight_bit_mime, binary_mime };
enum class DsnReturn : std::uint8_t { unspecified, full, headers };

// NOTIFY of RFC 3461 §4.1 as a set; empty: not given.
struct Notify {
  static constexpr std::uint8_t never = 1, success = 2, failure = 4, delay = 8;
  std::uint8_t bits = 0;
};

struct RecipientView {
  PathView forward_path;
  Notify notify;
  std::string_view original_recipient;  // ORCPT as given ("rfc822;..."), still xtext; may be empty
};

// BY of MAIL [RFC 2852 §4]: the sender wants the mail delivered within so many seconds.
struct DeliverBy {
  std::int32_t seconds =
      0;                 // −999,999,999 … 999,999,999; 0 and below: the time has passed, only where it does not return
  bool returns = false;  // by-mode R: what is late is returned; else N: its sender is told, and it goes on
  bool trace = false;    // tell of each relay that it passes
};

// How the message came in: for Received, events and DSNs.
enum class Protocol : std::uint8_t {
  smtp,
  esmtp,
  esmtps,
  esmtpa,
  esmtpsa,
  lmtp,
  lmtps,
  local
};  // RFC 3848, RFC 6531 adds UTF8

struct EnvelopeHead {
  WallTime received_at{};
  std::uint64_t declared_size = 0;  // SIZE=; 0: not given
  BodyType body = BodyType::seven_bit;
  bool smtp_utf8 = false;
  bool require_tls = false;
  DsnReturn dsn_return = DsnReturn::unspecified;
  Protocol protocol = Protocol::smtp;
  std::int8_t priority = 0;         // MT-PRIORITY −9…9
  std::uint32_t tenant = 0;         // 0: none
  WallTime hold_until{};            // epoch: no hold
  WallTime deliver_by{};            // epoch: none
  bool deliver_by_returns = false;  // as in DeliverBy
  bool deliver_by_trace = false;
};

class Envelope {
 public:
  // 64 Ki recipients and 4 GiB of text are the encoding's bounds; the session's limits are far below.
  static constexpr std::size_t recipients_max = 65'535;

  EnvelopeHead head;

  void clear();  // keeps the capacity

  void set_reverse_path(std::string_view text, std::uint16_t domain_offset);
  void set_dsn_envelope_id(std::string_view xtext);                       // ENVID, still xtext
  void set_client(std::string_view helo_name, std::string_view address);  // as said / as seen, "[192.0.2.1]:25" form
  void add_recipient(const RecipientView& recipient);

  [[nodiscard]] PathView reverse_path() const;
  [[nodiscard]] std::string_view dsn_envelope_id() const { return view(envid_); }
  [[nodiscard]] std::string_view helo_name() const { return view(helo_); }
  [[nodiscard]] std::string_view client_address() const { return view(address_); }
  [[nodiscard]] std::size_t recipient_count() const { return recipients_.size(); }
  [[nodiscard]] RecipientView recipient(std::size_t index) const;
  [[nodiscard]] std::size_t memory_bytes() const;

  // The durable form (opaque to the spool). Appends to `out`.
  void encode(std::string& out) const;
  // Replaces all with what encode() wrote; bytes from the disk are not trusted. kDataLoss names what is wrong and
  // leaves an empty envelope. A field of a later version is skipped or refused as its tag says (envelope.cc has the
  // format); memory taken is bounded by bytes.size() for texts plus 24 bytes per recipient.
  [[nodiscard]] Status decode(Bytes bytes);

 private:
  struct Piece {
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
  };
  struct StoredRecipient {
    Piece path;
    Piece original;
    std::uint16_t domain_offset = 0;
    Notify notify;
  };
  [[nodiscard]] Piece store(std::string_view text);
  [[nodiscard]] Status decode_fields(Bytes bytes);
  [[nodiscard]] Status decode_recipient(std::string_view value);
  [[nodiscard]] std::string_view view(Piece piece) const {
    return std::string_view(arena_).substr(piece.offset, piece.size);
  }

  std::string arena_;
  Piece reverse_path_, envid_, helo_, address_;
  std::uint16_t reverse_domain_offset_ = 0;
  std::vector<StoredRecipient> recipients_;
};

}  // namespace postern::mail
