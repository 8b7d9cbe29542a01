// One question: whatever a server (or somebody in its place) sends, does reading it stay within bounds, end, and keep
// what the headers promise? And does a lookup that is fed the same bytes end in time?
#include <cstddef>
#include <cstdint>
#include <string>

#include <postern/base/check.h>
#include <postern/dns/answer.h>
#include <postern/dns/lookup.h>
#include <postern/dns/message.h>

namespace {

using namespace postern;       // NOLINT(google-build-using-namespace)
using namespace postern::dns;  // NOLINT(google-build-using-namespace)

void check_name(const Name& name) {
  POSTERN_CHECK(name.wire().size() <= Name::wire_bytes_max);
  POSTERN_CHECK(Name::from_wire(name.wire()) == name);
  POSTERN_CHECK(Name::parse(name.to_text()) == name);
}

void check_answer(const Answer& answer) {
  POSTERN_CHECK((answer.kind == Answer::Kind::records) ==
                (!answer.mx.empty() || !answer.addresses.empty() || !answer.raw_records.empty()));
  POSTERN_CHECK((answer.kind == Answer::Kind::temporary) == (answer.failure != Answer::Failure::none));
  POSTERN_CHECK(answer.mx.size() <= Answer::records_max && answer.addresses.size() <= Answer::records_max &&
                answer.raw_records.size() <= Answer::records_max);
}

void read(Bytes bytes) {
  const std::optional<Message> message = decode(bytes);
  if (!message) return;
  for (const Record& record : message->records) {
    check_name(record.owner);
    check_name(record.target);
    POSTERN_CHECK(record.rdata.empty() || (record.rdata.data() >= bytes.data() &&
                                           record.rdata.data() + record.rdata.size() <= bytes.data() + bytes.size()));
  }
  if (!message->question) return;
  check_name(message->question->name);
  if (message->truncated) return;
  const Interpretation heard = interpret(*message->question, *message, 8);
  POSTERN_CHECK(heard.aliases <= 8);
  if (!heard.ask_next) check_answer(heard.answer);
}

// The bytes behind the header, as the response to whatever is asked now, over UDP or TCP.
void answer_lookup(Bytes bytes) {
  if (bytes.size() < header_bytes) return;
  const std::optional<Message> asked = decode(bytes);
  Question question{*Name::parse("a.test"), RecordType::mx};
  if (asked && asked->question) question = *asked->question;
  Random random(1);
  Instant now{std::chrono::seconds(1)};
  const std::uint8_t servers[] = {0, 1};
  Lookup lookup(question, servers, {.total_max = std::chrono::seconds(30)}, now, random);
  for (int messages = 0; !lookup.done(); ++messages) {
    POSTERN_CHECK(messages < 100, "a lookup does not end");
    if (const std::optional<Lookup::Send> send = lookup.take_send()) {
      const Bytes query = send->message.subspan(send->tcp ? 2 : 0);
      // Right id, question as asked, the rest as given.
      std::string response(as_text(bytes));
      response.replace(0, 2, as_text(query.first(2)));
      const std::size_t question_size = question.name.wire().size();
      if (response.size() >= header_bytes + question_size) {
        response.replace(header_bytes, question_size, as_text(query.subspan(header_bytes, question_size)));
      }
      if (send->tcp) {
        const std::string length{static_cast<char>(response.size() >> 8), static_cast<char>(response.size())};
        lookup.on_stream(as_bytes(length + response), now, random);
      } else {
        lookup.on_datagram(as_bytes(response), now, random);
      }
    } else {
      now = lookup.next_deadline();
      lookup.on_deadline(now, random);
    }
  }
  check_answer(lookup.answer());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > message_bytes_max) return 0;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  read(bytes);
  answer_lookup(bytes);
  return 0;
}
