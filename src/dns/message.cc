#include <algorithm>
#include <string>

#include <postern/base/check.h>
#include <postern/dns/message.h>

namespace postern::dns {
namespace {

constexpr std::uint16_t class_in = 1;
constexpr std::uint16_t flag_response = 0x8000;
constexpr std::uint16_t flags_opcode = 0x7800;
constexpr std::uint16_t flag_truncated = 0x0200;
constexpr std::uint16_t flag_recursion_desired = 0x0100;
constexpr std::uint16_t flag_recursion_available = 0x0080;
constexpr std::uint16_t flag_authenticated_data = 0x0020;
constexpr std::uint16_t flags_code = 0x000F;

std::uint8_t octet(Bytes bytes, std::size_t at) {
  return std::to_integer<std::uint8_t>(bytes[at]);
}

std::uint16_t load16(Bytes bytes, std::size_t at) {
  return static_cast<std::uint16_t>(octet(bytes, at) << 8 | octet(bytes, at + 1));
}

constexpr bool is_letter(std::uint8_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Reads a message from front to back; once something was out of bounds it stays failed and answers zeros.
class Reader {
 public:
  explicit Reader(Bytes message) : message_(message) {}

  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] std::size_t at() const { return at_; }
  [[nodiscard]] std::size_t left() const { return message_.size() - at_; }
  void fail() { failed_ = true; }

  std::uint16_t u16() {
    if (!take(2)) return 0;
    return load16(message_, at_ - 2);
  }
  std::uint32_t u32() {
    const std::uint32_t high = u16();
    return high << 16 | u16();
  }
  Bytes bytes(std::size_t size) { return take(size) ? message_.subspan(at_ - size, size) : Bytes(); }

  // A name, its compression pointers followed [RFC 1035 §4.1.4]. A pointer must lead to before the place where the
  // label run that holds it began, so every jump goes back and no chain can loop; a name that needs more jumps than
  // it can have labels is a waste of our time and refused.
  Name name() {
    std::array<char, Name::wire_bytes_max> wire{};
    std::size_t size = 0;
    std::size_t from = at_;
    std::size_t run_start = at_;
    bool jumped = false;
    unsigned jumps = 0;
    while (true) {
      if (from >= message_.size()) return failed_name();
      const std::uint8_t length = octet(message_, from);
      if (length >= 0xC0) {
        if (message_.size() - from < 2) return failed_name();
        const std::size_t target = static_cast<std::size_t>(length & 0x3F) << 8 | octet(message_, from + 1);
        if (!jumped) at_ = from + 2;
        jumped = true;
        if (target >= run_start || ++jumps > jumps_max) return failed_name();
        from = run_start = target;
        continue;
      }
      if (length > Name::label_bytes_max) return failed_name();  // 0x40, 0x80: never standardised
      if (message_.size() - from < 1u + length || size + 1u + length + (length != 0) > wire.size())
        return failed_name();
      for (std::size_t i = 0; i <= length; ++i) wire[size + i] = static_cast<char>(octet(message_, from + i));
      size += 1u + length;
      from += 1u + length;
      if (length == 0) break;
    }
    if (!jumped) at_ = from;
    std::optional<Name> result = Name::from_wire({wire.data(), size});
    POSTERN_CHECK(result.has_value());
    return *std::move(result);
  }

 private:
  static constexpr unsigned jumps_max = Name::wire_bytes_max / 2;

  bool take(std::size_t size) {
    if (failed_ || left() < size) {
      failed_ = true;
      return false;
    }
    at_ += size;
    return true;
  }
  Name failed_name() {
    failed_ = true;
    return {};
  }

  Bytes message_;
  std::size_t at_ = 0;
  bool failed_ = false;
};

// Reads the RDATA of the types that we know; their length must be what the type needs, to the octet.
void read_rdata(Reader& reader, std::size_t size, Record& record) {
  if (reader.failed() || reader.left() < size) {
    reader.fail();
    return;
  }
  const std::size_t end = reader.at() + size;
  switch (record.type) {
    case RecordType::a: {
      std::array<std::uint8_t, 4> address{};
      const Bytes bytes = reader.bytes(size);
      if (size != address.size()) return reader.fail();
      std::transform(bytes.begin(), bytes.end(), address.begin(),
                     [](std::byte b) { return std::to_integer<std::uint8_t>(b); });
      record.address = IpAddress::v4(address);
      break;
    }
    case RecordType::aaaa: {
      std::array<std::uint8_t, 16> address{};
      const Bytes bytes = reader.bytes(size);
      if (size != address.size()) return reader.fail();
      std::transform(bytes.begin(), bytes.end(), address.begin(),
                     [](std::byte b) { return std::to_integer<std::uint8_t>(b); });
      record.address = IpAddress::v6(address);
      break;
    }
    case RecordType::ns:
    case RecordType::cname:
    case RecordType::ptr:
      record.target = reader.name();
      break;
    case RecordType::mx:
      record.preference = reader.u16();
      record.target = reader.name();
      break;
    case RecordType::soa: {
      record.target = reader.name();
      [[maybe_unused]] const Name mailbox = reader.name();
      reader.bytes(16);  // serial, refresh, retry, expire
      record.soa_minimum = reader.u32();
      break;
    }
    default:
      reader.bytes(size);
      break;
  }
  if (reader.at() != end) reader.fail();
}

}  // namespace

QueryMessage encode_query(const Question& question, std::uint16_t id, bool edns, Random* case_bits) {
  QueryMessage query;
  const auto put8 = [&query](std::uint8_t value) { query.buffer[query.size++] = std::byte{value}; };
  const auto put16 = [&put8](std::uint16_t value) {
    put8(static_cast<std::uint8_t>(value >> 8));
    put8(static_cast<std::uint8_t>(value));
  };
  put16(id);
  put16(flag_recursion_desired);
  put16(1);             // questions
  put16(0);             // answers
  put16(0);             // authority
  put16(edns ? 1 : 0);  // additional: OPT
  std::uint64_t bits = 0;
  unsigned bits_left = 0;
  std::size_t label_left = 0;
  for (const char c : question.name.wire()) {
    auto value = static_cast<std::uint8_t>(c);
    if (label_left == 0) {
      label_left = value;  // a length octet, never a letter of the name even where it looks like one
    } else {
      --label_left;
      if (case_bits != nullptr && is_letter(value)) {
        if (bits_left == 0) {
          bits = (*case_bits)();
          bits_left = 64;
        }
        if ((bits & 1) != 0) value = static_cast<std::uint8_t>(value ^ 0x20);
        bits >>= 1;
        --bits_left;
      }
    }
    put8(value);
  }
  put16(static_cast<std::uint16_t>(question.type));
  put16(class_in);
  if (edns) {  // [RFC 6891 §6.1.2]
    put8(0);
    put16(static_cast<std::uint16_t>(RecordType::opt));
    put16(edns_udp_bytes);
    put16(0);  // extended code, version
    put16(0);  // flags
    put16(0);  // no options
  }
  return query;
}

Match match_response(Bytes query, Bytes response) {
  if (response.size() < header_bytes || query.size() < header_bytes) return Match::no;
  const std::uint16_t flags = load16(response, 2);
  if (load16(query, 0) != load16(response, 0) || (flags & flag_response) == 0 || (flags & flags_opcode) != 0)
    return Match::no;
  const std::uint16_t questions = load16(response, 4);
  if (questions == 0) {
    return (flags & flags_code) == static_cast<std::uint16_t>(ResponseCode::format_error) ? Match::yes : Match::no;
  }
  if (questions != 1) return Match::no;
  // A response's question comes right after the header and so is never compressed: compare it as it stands.
  std::size_t at = header_bytes;
  while (octet(query, at) != 0) at += 1u + octet(query, at);
  const std::size_t name_end = at + 1;
  const std::size_t end = name_end + 4;
  if (response.size() < end) return Match::no;
  if (!std::equal(query.begin() + static_cast<std::ptrdiff_t>(name_end),
                  query.begin() + static_cast<std::ptrdiff_t>(end),
                  response.begin() + static_cast<std::ptrdiff_t>(name_end))) {
    return Match::no;
  }
  bool same_case = true;
  for (std::size_t i = header_bytes; i < name_end; ++i) {
    const std::uint8_t a = octet(query, i);
    const std::uint8_t b = octet(response, i);
    if (a == b) continue;
    // Length octets are below 0x40 and so no letters: they must be equal.
    if (!is_letter(a) || (a ^ 0x20) != b) return Match::no;
    same_case = false;
  }
  return same_case ? Match::yes : Match::other_case;
}

std::optional<Message> decode(Bytes bytes) {
  if (bytes.size() < header_bytes || bytes.size() > message_bytes_max) return std::nullopt;
  Message message;
  Reader reader(bytes);
  message.id = reader.u16();
  const std::uint16_t flags = reader.u16();
  message.response = (flags & flag_response) != 0;
  message.truncated = (flags & flag_truncated) != 0;
  message.recursion_available = (flags & flag_recursion_available) != 0;
  message.authenticated_data = (flags & flag_authenticated_data) != 0;
  std::uint16_t code = flags & flags_code;
  const std::uint16_t questions = reader.u16();
  const std::array<std::uint16_t, 3> counts{reader.u16(), reader.u16(), reader.u16()};

  if (questions > 1) return std::nullopt;  // nobody asks two
  if (questions == 1) {
    Question question;
    question.name = reader.name();
    question.type = RecordType{reader.u16()};
    const std::uint16_t klass = reader.u16();
    if (reader.failed()) return std::nullopt;
    if (klass == class_in) message.question = std::move(question);
  }
  if (message.truncated) {
    message.code = ResponseCode{code};
    return message;
  }

  for (std::size_t section = 0; section < counts.size(); ++section) {
    for (std::uint16_t i = 0; i < counts[section]; ++i) {
      Record record;
      record.section = Section{static_cast<std::uint8_t>(section)};
      record.owner = reader.name();
      record.type = RecordType{reader.u16()};
      const std::uint16_t klass = reader.u16();
      const std::uint32_t ttl = reader.u32();
      const std::uint16_t size = reader.u16();
      if (reader.failed()) return std::nullopt;
      const std::size_t rdata_at = reader.at();
      if (record.type == RecordType::opt) {
        reader.bytes(size);
        // One at most, and only in the additional section [RFC 6891 §6.1.1].
        if (reader.failed() || message.edns || record.section != Section::additional) return std::nullopt;
        message.edns = true;
        code = static_cast<std::uint16_t>(code | (ttl >> 24) << 4);
        continue;
      }
      if (klass == class_in) {
        read_rdata(reader, size, record);
      } else {
        reader.bytes(size);
      }
      if (reader.failed()) return std::nullopt;
      if (klass != class_in) continue;
      record.ttl_seconds = (ttl & 0x8000'0000u) != 0 ? 0 : ttl;
      record.rdata = bytes.subspan(rdata_at, size);
      message.records.push_back(std::move(record));
    }
  }
  message.code = ResponseCode{code};
  return message;
}

}  // namespace postern::dns
