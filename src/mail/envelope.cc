#include <bit>
#include <chrono>
#include <limits>

#include <postern/base/check.h>
#include <postern/mail/envelope.h>

namespace postern::mail {
namespace {

// The durable form, version 1:
//
//   version (1 byte) | field*           field = tag (1 byte) | size (varint) | value (size bytes)
//
// Numbers are unsigned LEB128 of the least possible length up to 10 bytes; times are varints of zigzagged nanoseconds.
// A field with its default value is left out. Each tag stands at most once but `recipient`, whose order is the
// recipients' order. A recipient's value is path size (varint) | path | domain offset (varint) | field*, with the tags
// of RecipientTag.
//
// What a reader does with a tag that it does not know: 0x80 and above it skips, below it refuses the envelope, as
// delivering without having understood the field would be wrong. A writer that adds a field chooses the range by that.
// Another version is refused.
constexpr std::uint8_t format_version = 1;
constexpr std::uint8_t first_ignorable_tag = 0x80;

struct Tag {
  static constexpr std::uint8_t received_at = 1;
  static constexpr std::uint8_t reverse_path = 2;  // domain offset (varint) | text
  static constexpr std::uint8_t recipient = 3;
  static constexpr std::uint8_t body = 4;
  static constexpr std::uint8_t flags = 5;  // flag_…
  static constexpr std::uint8_t dsn_return = 6;
  static constexpr std::uint8_t envelope_id = 7;
  static constexpr std::uint8_t declared_size = 8;
  static constexpr std::uint8_t protocol = 9;
  static constexpr std::uint8_t priority = 10;  // zigzag
  static constexpr std::uint8_t tenant = 11;
  static constexpr std::uint8_t hold_until = 12;
  static constexpr std::uint8_t deliver_by = 13;
  static constexpr std::uint8_t helo_name = 14;
  static constexpr std::uint8_t client_address = 15;
};
struct RecipientTag {
  static constexpr std::uint8_t notify = 1;
  static constexpr std::uint8_t original_recipient = 2;
};

constexpr std::uint8_t flag_smtp_utf8 = 1, flag_require_tls = 2, flag_deliver_by_returns = 4, flag_deliver_by_trace = 8;
constexpr std::uint8_t flags_all = flag_smtp_utf8 | flag_require_tls | flag_deliver_by_returns | flag_deliver_by_trace;
constexpr std::uint8_t notify_all = Notify::never | Notify::success | Notify::failure | Notify::delay;
constexpr std::size_t path_size_max = std::numeric_limits<std::uint16_t>::max();
constexpr std::size_t varint_size_max = 10;

constexpr std::uint64_t zigzag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
constexpr std::int64_t unzigzag(std::uint64_t value) {
  return static_cast<std::int64_t>((value >> 1) ^ (~(value & 1) + 1));
}
static_assert(unzigzag(zigzag(-9)) == -9 && unzigzag(zigzag(INT64_MIN)) == INT64_MIN);

constexpr std::size_t varint_size(std::uint64_t value) {
  return (static_cast<std::size_t>(std::bit_width(value | 1)) + 6) / 7;
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_number(std::string& out, std::uint8_t tag, std::uint64_t value) {
  if (value == 0) return;
  out += static_cast<char>(tag);
  put_varint(out, varint_size(value));
  put_varint(out, value);
}

void put_text(std::string& out, std::uint8_t tag, std::string_view text) {
  if (text.empty()) return;
  out += static_cast<char>(tag);
  put_varint(out, text.size());
  out += text;
}

std::uint64_t since_epoch(WallTime at) {
  return zigzag(at.time_since_epoch().count());
}

std::size_t field_size(std::size_t value_size) {
  return value_size == 0 ? 0 : 1 + varint_size(value_size) + value_size;
}

// Reads from bytes that may be anything. After the first failure every further take fails too.
class Reader {
 public:
  explicit Reader(std::string_view rest) : rest_(rest) {}

  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] bool at_end() const { return rest_.empty(); }

  std::uint8_t take_byte() {
    if (rest_.empty()) return fail();
    const auto byte = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return byte;
  }

  std::uint64_t take_varint() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < varint_size_max; ++i) {
      const std::uint8_t byte = take_byte();
      if (failed_) return 0;
      const std::uint64_t bits = byte & 0x7Fu;
      if (i == varint_size_max - 1 && bits > 1) return fail();  // beyond 64 bits
      value |= bits << (7 * i);
      if ((byte & 0x80u) == 0) {
        if (bits == 0 && i > 0) return fail();  // longer than need be: not ours
        return value;
      }
    }
    return fail();
  }

  std::string_view take_text(std::uint64_t size) {
    if (size > rest_.size()) {
      (void)fail();
      return {};
    }
    const std::string_view text = rest_.substr(0, static_cast<std::size_t>(size));
    rest_.remove_prefix(text.size());
    return text;
  }

  std::string_view take_rest() { return take_text(rest_.size()); }

 private:
  std::uint8_t fail() {
    failed_ = true;
    rest_ = {};
    return 0;
  }
  std::string_view rest_;
  bool failed_ = false;
};

Status damaged(std::string_view what) {
  std::string message = "envelope: ";
  message += what;
  return error(StatusCode::kDataLoss, message);
}

// The one number that makes up the whole of `value`, at most `max`.
bool read_number(std::string_view value, std::uint64_t max, std::uint64_t& number) {
  Reader reader(value);
  number = reader.take_varint();
  return !reader.failed() && reader.at_end() && number <= max;
}

bool read_time(std::string_view value, WallTime& at) {
  std::uint64_t number = 0;
  if (!read_number(value, UINT64_MAX, number)) return false;
  at = WallTime(Duration(unzigzag(number)));
  return true;
}

// Whether PathView's parts of `text` are what its contract says.
bool valid_path(std::string_view text, std::uint64_t domain_offset) {
  if (text.size() > path_size_max || domain_offset > text.size()) return false;
  if (domain_offset == text.size()) return true;  // no domain
  return domain_offset > 0 && text[static_cast<std::size_t>(domain_offset) - 1] == '@';
}

}  // namespace

void Envelope::clear() {
  head = EnvelopeHead{};
  arena_.clear();
  recipients_.clear();
  reverse_path_ = envid_ = helo_ = address_ = Piece{};
  reverse_domain_offset_ = 0;
}

Envelope::Piece Envelope::store(std::string_view text) {
  POSTERN_CHECK(text.size() <= std::numeric_limits<std::uint32_t>::max() - arena_.size());
  const Piece piece{static_cast<std::uint32_t>(arena_.size()), static_cast<std::uint32_t>(text.size())};
  arena_ += text;
  return piece;
}

void Envelope::set_reverse_path(std::string_view text, std::uint16_t domain_offset) {
  POSTERN_CHECK(valid_path(text, domain_offset));
  reverse_path_ = store(text);
  reverse_domain_offset_ = domain_offset;
}

void Envelope::set_dsn_envelope_id(std::string_view xtext) {
  envid_ = store(xtext);
}

void Envelope::set_client(std::string_view helo_name, std::string_view address) {
  helo_ = store(helo_name);
  address_ = store(address);
}

void Envelope::add_recipient(const RecipientView& recipient) {
  const PathView& path = recipient.forward_path;
  POSTERN_CHECK(recipients_.size() < recipients_max);
  POSTERN_CHECK(valid_path(path.text, path.domain_offset));
  recipients_.push_back({.path = store(path.text),
                         .original = store(recipient.original_recipient),
                         .domain_offset = path.domain_offset,
                         .notify = recipient.notify});
}

PathView Envelope::reverse_path() const {
  return {view(reverse_path_), reverse_domain_offset_};
}

RecipientView Envelope::recipient(std::size_t index) const {
  POSTERN_CHECK(index < recipients_.size());
  const StoredRecipient& stored = recipients_[index];
  return {.forward_path = {view(stored.path), stored.domain_offset},
          .notify = stored.notify,
          .original_recipient = view(stored.original)};
}

std::size_t Envelope::memory_bytes() const {
  return sizeof(*this) + arena_.capacity() + recipients_.capacity() * sizeof(StoredRecipient);
}

void Envelope::encode(std::string& out) const {
  out += static_cast<char>(format_version);
  put_number(out, Tag::received_at, since_epoch(head.received_at));
  if (const PathView path = reverse_path(); !path.null()) {
    out += static_cast<char>(Tag::reverse_path);
    put_varint(out, varint_size(path.domain_offset) + path.text.size());
    put_varint(out, path.domain_offset);
    out += path.text;
  }
  put_number(out, Tag::body, static_cast<std::uint64_t>(head.body));
  put_number(out, Tag::flags,
             (head.smtp_utf8 ? unsigned{flag_smtp_utf8} : 0u) | (head.require_tls ? unsigned{flag_require_tls} : 0u) |
                 (head.deliver_by_returns ? unsigned{flag_deliver_by_returns} : 0u) |
                 (head.deliver_by_trace ? unsigned{flag_deliver_by_trace} : 0u));
  put_number(out, Tag::dsn_return, static_cast<std::uint64_t>(head.dsn_return));
  put_text(out, Tag::envelope_id, dsn_envelope_id());
  put_number(out, Tag::declared_size, head.declared_size);
  put_number(out, Tag::protocol, static_cast<std::uint64_t>(head.protocol));
  put_number(out, Tag::priority, zigzag(head.priority));
  put_number(out, Tag::tenant, head.tenant);
  put_number(out, Tag::hold_until, since_epoch(head.hold_until));
  put_number(out, Tag::deliver_by, since_epoch(head.deliver_by));
  put_text(out, Tag::helo_name, helo_name());
  put_text(out, Tag::client_address, client_address());
  for (const StoredRecipient& recipient : recipients_) {
    const std::string_view path = view(recipient.path), original = view(recipient.original);
    const std::uint8_t notify = recipient.notify.bits;
    out += static_cast<char>(Tag::recipient);
    put_varint(out, varint_size(path.size()) + path.size() + varint_size(recipient.domain_offset) +
                        field_size(notify == 0 ? 0 : varint_size(notify)) + field_size(original.size()));
    put_varint(out, path.size());
    out += path;
    put_varint(out, recipient.domain_offset);
    put_number(out, RecipientTag::notify, notify);
    put_text(out, RecipientTag::original_recipient, original);
  }
}

Status Envelope::decode_recipient(std::string_view value) {
  Reader reader(value);
  RecipientView recipient;
  recipient.forward_path.text = reader.take_text(reader.take_varint());
  const std::uint64_t domain_offset = reader.take_varint();
  if (reader.failed() || !valid_path(recipient.forward_path.text, domain_offset)) return damaged("bad forward-path");
  recipient.forward_path.domain_offset = static_cast<std::uint16_t>(domain_offset);
  std::uint32_t seen = 0;
  while (!reader.at_end()) {
    const std::uint8_t tag = reader.take_byte();
    const std::string_view field = reader.take_text(reader.take_varint());
    if (reader.failed()) return damaged("recipient cut short");
    if (tag < 32) {
      if ((seen & (1u << tag)) != 0) return damaged("recipient's field twice");
      seen |= 1u << tag;
    }
    switch (tag) {
      case RecipientTag::notify: {
        std::uint64_t bits = 0;
        if (!read_number(field, notify_all, bits)) return damaged("bad NOTIFY");
        recipient.notify.bits = static_cast<std::uint8_t>(bits);
        break;
      }
      case RecipientTag::original_recipient:
        recipient.original_recipient = field;
        break;
      default:
        if (tag < first_ignorable_tag) return damaged("recipient has a field that this version does not know");
    }
  }
  if (recipients_.size() == recipients_max) return damaged("too many recipients");
  add_recipient(recipient);
  return OkStatus();
}

Status Envelope::decode_fields(Bytes bytes) {
  // Bounds every offset into the arena, as each text comes from its own place in `bytes`.
  if (bytes.size() > std::numeric_limits<std::uint32_t>::max()) return damaged("longer than 4 GiB");
  Reader reader(as_text(bytes));
  const std::uint8_t version = reader.take_byte();
  if (reader.failed()) return damaged("empty");
  if (version != format_version) return damaged("version " + std::to_string(version) + " is not known");
  arena_.reserve(bytes.size());  // one allocation for all texts
  std::uint32_t seen = 0;
  while (!reader.at_end()) {
    const std::uint8_t tag = reader.take_byte();
    const std::string_view value = reader.take_text(reader.take_varint());
    if (reader.failed()) return damaged("cut short");
    if (tag < 32 && tag != Tag::recipient) {
      if ((seen & (1u << tag)) != 0) return damaged("field " + std::to_string(tag) + " twice");
      seen |= 1u << tag;
    }
    std::uint64_t number = 0;
    switch (tag) {
      case Tag::received_at:
        if (!read_time(value, head.received_at)) return damaged("bad time of reception");
        break;
      case Tag::reverse_path: {
        Reader path(value);
        const std::uint64_t domain_offset = path.take_varint();
        const std::string_view text = path.take_rest();
        if (path.failed() || !valid_path(text, domain_offset)) return damaged("bad reverse-path");
        set_reverse_path(text, static_cast<std::uint16_t>(domain_offset));
        break;
      }
      case Tag::recipient:
        POSTERN_RETURN_IF_ERROR(decode_recipient(value));
        break;
      case Tag::body:
        if (!read_number(value, static_cast<std::uint64_t>(BodyType::binary_mime), number)) return damaged("bad BODY");
        head.body = static_cast<BodyType>(number);
        break;
      case Tag::flags:
        if (!read_number(value, flags_all, number)) return damaged("bad flags");
        head.smtp_utf8 = (number & flag_smtp_utf8) != 0;
        head.require_tls = (number & flag_require_tls) != 0;
        head.deliver_by_returns = (number & flag_deliver_by_returns) != 0;
        head.deliver_by_trace = (number & flag_deliver_by_trace) != 0;
        break;
      case Tag::dsn_return:
        if (!read_number(value, static_cast<std::uint64_t>(DsnReturn::headers), number)) return damaged("bad RET");
        head.dsn_return = static_cast<DsnReturn>(number);
        break;
      case Tag::envelope_id:
        envid_ = store(value);
        break;
      case Tag::declared_size:
        if (!read_number(value, UINT64_MAX, head.declared_size)) return damaged("bad SIZE");
        break;
      case Tag::protocol:
        if (!read_number(value, static_cast<std::uint64_t>(Protocol::local), number)) return damaged("bad protocol");
        head.protocol = static_cast<Protocol>(number);
        break;
      case Tag::priority:
        if (!read_number(value, zigzag(9), number)) return damaged("bad priority");  // −9…9 are 0…18 zigzagged
        head.priority = static_cast<std::int8_t>(unzigzag(number));
        break;
      case Tag::tenant:
        if (!read_number(value, std::numeric_limits<std::uint32_t>::max(), number)) return damaged("bad tenant");
        head.tenant = static_cast<std::uint32_t>(number);
        break;
      case Tag::hold_until:
        if (!read_time(value, head.hold_until)) return damaged("bad time of release");
        break;
      case Tag::deliver_by:
        if (!read_time(value, head.deliver_by)) return damaged("bad deadline");
        break;
      case Tag::helo_name:
        helo_ = store(value);
        break;
      case Tag::client_address:
        address_ = store(value);
        break;
      default:
        if (tag < first_ignorable_tag) {
          return damaged("field " + std::to_string(tag) + " is not known to this version");
        }
    }
  }
  return OkStatus();
}

Status Envelope::decode(Bytes bytes) {
  clear();
  Status status = decode_fields(bytes);
  if (!status.ok()) clear();
  return status;
}

}  // namespace postern::mail
