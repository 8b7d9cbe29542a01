// How postern-spool names and shows things, to people and as JSON. What peers wrote is escaped before it is shown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/spool/format.h>

#include "spooltool/log_image.h"

namespace postern::spooltool {

using Json = nlohmann::ordered_json;

// One line without its end. Bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string to_line(const Json& json);

[[nodiscard]] std::string bytes_text(std::uint64_t bytes);  // "12.3 MiB", "800 bytes"
// "1 message", "2 messages".
[[nodiscard]] std::string count_text(std::uint64_t count, std::string_view one, std::string_view many);
[[nodiscard]] std::string time_text(WallTime at);  // RFC 3339, UTC
[[nodiscard]] std::string_view protocol_text(mail::Protocol protocol);
[[nodiscard]] std::string_view form_text(mail::ContentForm form);
[[nodiscard]] std::string kind_text(const spool::RecordHeader& header);  // "message", "kind 9"
[[nodiscard]] std::string outcome_text(std::uint8_t outcome);            // "relayed", "outcome 7"

[[nodiscard]] std::string_view to_text(RecipientState state);

// What the sender asked for and most do not ask for: REQUIRETLS, BY, HOLDFOR or HOLDUNTIL, MT-PRIORITY; or nothing.
[[nodiscard]] std::string wishes_text(const mail::EnvelopeHead& head);

// reverse_path, received_at … and "recipients", one per recipient of the envelope; `facts` has as many, or fewer.
void add_envelope(Json& json, const mail::Envelope& envelope, const std::vector<RecipientFacts>& facts);

}  // namespace postern::spooltool
