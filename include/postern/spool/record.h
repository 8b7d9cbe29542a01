// Records as bytes: checking and reading them. Bytes come from the disk and are not trusted.
#pragma once

#include <cstdint>
#include <optional>

#include <postern/base/bytes.h>
#include <postern/spool/checksum.h>
#include <postern/spool/format.h>
#include <postern/spool/types.h>

namespace postern::spool {

// The header of the record that starts with `bytes` when it was written there (`position`) under this key: magic,
// lengths and the checksum over header and meta hold, and meta lies within `bytes`. Content may lie beyond them.
[[nodiscard]] std::optional<RecordHeader> check_record(const Checksum& checksum, std::uint64_t position, Bytes bytes);

// The bytes of header and meta that check_record() needs, from the first sizeof(RecordHeader) of a record; 0: no
// record. Not checked: may be anything up to batch_bytes_limit.
[[nodiscard]] std::size_t head_bytes(Bytes bytes);

// Whether the content of a checked record, all of it in `record`, is what was written.
[[nodiscard]] bool check_content(const Checksum& checksum, const RecordHeader& header, Bytes record);

// The parts of a checked message record. `record` holds header and meta, and content when it is long enough for that
// (else the view's content is empty). nullopt: lengths in it do not add up.
[[nodiscard]] std::optional<MessageView> read_message(const RecordHeader& header, Bytes record);

}  // namespace postern::spool
