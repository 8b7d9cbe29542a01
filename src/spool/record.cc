#include <bit>
#include <cstring>

#include <postern/spool/record.h>

namespace postern::spool {
namespace {

bool plausible(const RecordHeader& header) {
  constexpr std::uint32_t magic = RecordHeader{}.magic;
  return header.magic == magic && header.bytes >= sizeof header && header.bytes <= batch_bytes_limit &&
         header.meta_bytes <= header.bytes - sizeof header;
}

std::size_t bits_set(Bytes bitmap) {
  std::size_t count = 0;
  for (const std::byte b : bitmap) count += static_cast<std::size_t>(std::popcount(std::to_integer<unsigned>(b)));
  return count;
}

}  // namespace

std::optional<RecordHeader> check_record(const Checksum& checksum, std::uint64_t position, Bytes bytes) {
  RecordHeader header;
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (!plausible(header) || header.position != position) return std::nullopt;
  const std::size_t head = sizeof header + header.meta_bytes;
  if (bytes.size() < head) return std::nullopt;
  if (checksum.of(bytes.subspan(sizeof header.checksum, head - sizeof header.checksum)) != header.checksum) {
    return std::nullopt;
  }
  return header;
}

std::size_t head_bytes(Bytes bytes) {
  RecordHeader header;
  if (bytes.size() < sizeof header) return 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  return plausible(header) ? sizeof header + header.meta_bytes : 0;
}

bool check_content(const Checksum& checksum, const RecordHeader& header, Bytes record) {
  const std::size_t head = sizeof header + header.meta_bytes;
  if (record.size() < header.bytes) return false;
  const Bytes content = record.subspan(head, header.bytes - head);
  return content.empty() ? header.content_checksum == 0 : checksum.of(content) == header.content_checksum;
}

std::optional<MessageView> read_message(const RecordHeader& header, Bytes record) {
  const std::size_t head = sizeof header + header.meta_bytes;
  MessageMeta meta;
  if (header.kind != RecordKind::message || header.meta_bytes < sizeof meta || record.size() < head)
    return std::nullopt;
  std::memcpy(&meta, record.data() + sizeof header, sizeof meta);
  const std::uint64_t wanted = sizeof meta + std::uint64_t{meta.extent_count} * sizeof(Extent) + meta.settled_bytes +
                               std::uint64_t{meta.envelope_bytes} + meta.added_fields_bytes;
  if (wanted != header.meta_bytes || header.recipient == 0) return std::nullopt;
  if (meta.settled_bytes != 0 && meta.settled_bytes != (header.recipient + 7u) / 8u) return std::nullopt;
  if (meta.content_form > static_cast<std::uint8_t>(mail::ContentForm::binary)) return std::nullopt;

  MessageView view;
  view.id = mail::QueueId{header.queue_id};
  view.recipients = header.recipient;
  Bytes rest = record.subspan(sizeof header + sizeof meta);
  const auto take = [&rest](std::size_t count) {
    const Bytes part = rest.first(count);
    rest = rest.subspan(count);
    return part;
  };
  view.extents = ExtentList(take(meta.extent_count * sizeof(Extent)));
  view.settled = take(meta.settled_bytes);
  view.envelope = take(meta.envelope_bytes);
  view.added_fields = take(meta.added_fields_bytes);
  const std::size_t inline_bytes = header.bytes - head;
  if (rest.size() >= inline_bytes) view.content = rest.first(inline_bytes);

  std::uint64_t size = inline_bytes;
  for (std::size_t i = 0; i < view.extents.size(); ++i) {
    const Extent extent = view.extents[i];
    if (extent.bytes == 0 || extent.bytes > chunk_bytes_limit) return std::nullopt;
    size += extent.bytes;
  }
  if (size != meta.content_size) return std::nullopt;
  if (const unsigned tail = header.recipient % 8u; tail != 0 && !view.settled.empty()) {
    if ((std::to_integer<unsigned>(view.settled.back()) >> tail) != 0) return std::nullopt;
  }
  if (bits_set(view.settled) >= header.recipient) return std::nullopt;  // a record of a dead message is never written

  mail::ContentFacts& facts = view.facts;
  facts.form = static_cast<mail::ContentForm>(meta.content_form);
  facts.line_starts_with_dot = (meta.content_flags & MessageMeta::line_starts_with_dot) != 0;
  facts.has_bare_cr = (meta.content_flags & MessageMeta::has_bare_cr) != 0;
  facts.has_bare_lf = (meta.content_flags & MessageMeta::has_bare_lf) != 0;
  facts.has_nul = (meta.content_flags & MessageMeta::has_nul) != 0;
  facts.has_eight_bit = (meta.content_flags & MessageMeta::has_eight_bit) != 0;
  facts.ends_with_crlf = (meta.content_flags & MessageMeta::ends_with_crlf) != 0;
  facts.received_count = meta.received_count;
  facts.longest_line = meta.longest_line;
  facts.header_bytes = meta.header_bytes;
  facts.size = meta.content_size;
  return view;
}

}  // namespace postern::spool
