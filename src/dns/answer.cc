#include <algorithm>

#include <postern/dns/answer.h>

namespace postern::dns {
namespace {

Duration seconds(std::uint32_t count) {
  return std::chrono::seconds(count);
}

// The SOA of the zone in which `name` was not found; its presence tells a negative answer from a referral.
const Record* negative_soa(const Message& message, const Name& name) {
  for (const Record& record : message.records) {
    if (record.section == Section::authority && record.type == RecordType::soa && name.is_within(record.owner))
      return &record;
  }
  return nullptr;
}

// Name servers in the authority section, but no SOA: "ask them" [RFC 2308 §2.2]. A server that says so does not resolve
// for us, and must not be understood as "there is no such record": that would return mail.
bool is_referral(const Message& message) {
  return std::any_of(message.records.begin(), message.records.end(), [](const Record& record) {
    return record.section == Section::authority && record.type == RecordType::ns;
  });
}

void add_record(Answer& answer, const Record& record) {
  switch (record.type) {
    case RecordType::a:
    case RecordType::aaaa:
      if (answer.addresses.size() < Answer::records_max) answer.addresses.push_back(record.address);
      break;
    case RecordType::mx:
      answer.mx.push_back({record.preference, record.target});
      break;
    default:
      if (answer.raw_records.size() < Answer::records_max) answer.raw_records.emplace_back(as_text(record.rdata));
      break;
  }
}

}  // namespace

std::size_t Answer::heap_bytes() const {
  // Strings of up to 15 bytes live in themselves (libstdc++); counting them as heap too errs to the safe side.
  std::size_t bytes = mx.capacity() * sizeof(MxRecord) + addresses.capacity() * sizeof(IpAddress) +
                      raw_records.capacity() * sizeof(std::string);
  for (const MxRecord& record : mx) bytes += record.exchange.wire().size() + 1;
  for (const std::string& record : raw_records) bytes += record.capacity() + 1;
  return bytes;
}

std::string_view to_text(Answer::Kind kind) {
  switch (kind) {
    case Answer::Kind::records:
      return "records";
    case Answer::Kind::no_data:
      return "no data";
    case Answer::Kind::no_such_name:
      return "no such name";
    case Answer::Kind::temporary:
      return "temporary failure";
  }
  return "?";
}

std::string_view to_text(Answer::Failure failure) {
  switch (failure) {
    case Answer::Failure::none:
      return "none";
    case Answer::Failure::timed_out:
      return "timed out";
    case Answer::Failure::server_failure:
      return "server failure";
    case Answer::Failure::refused:
      return "refused";
    case Answer::Failure::malformed:
      return "malformed answer";
    case Answer::Failure::alias_loop:
      return "alias loop";
    case Answer::Failure::overloaded:
      return "too many queries under way";
  }
  return "?";
}

Interpretation interpret(const Question& question, const Message& message, std::size_t aliases_max) {
  Interpretation result;
  if (message.code != ResponseCode::no_error && message.code != ResponseCode::no_such_name) {
    const bool refused = message.code == ResponseCode::refused || message.code == ResponseCode::not_implemented;
    result.answer = Answer::temporary(refused ? Answer::Failure::refused : Answer::Failure::server_failure);
    return result;
  }

  Answer& answer = result.answer;
  Name name = question.name;
  Duration ttl = Duration::max();
  while (true) {
    const Record* alias = nullptr;
    bool found = false;
    for (const Record& record : message.records) {
      if (record.section != Section::answer || record.owner != name) continue;
      if (record.type == question.type) {
        add_record(answer, record);
        ttl = std::min(ttl, seconds(record.ttl_seconds));
        found = true;
      } else if (record.type == RecordType::cname && alias == nullptr) {
        alias = &record;
      }
    }
    if (found) {
      answer.kind = Answer::Kind::records;
      break;
    }
    if (alias == nullptr) {
      const Record* soa = negative_soa(message, name);
      // The code speaks of the last name of the chain [RFC 6604 §3].
      if (message.code == ResponseCode::no_such_name) {
        answer.kind = Answer::Kind::no_such_name;
      } else if (soa == nullptr && result.aliases != 0) {
        result.ask_next = std::move(name);
        answer.ttl = ttl;
        return result;
      } else if (soa == nullptr && is_referral(message)) {
        answer = Answer::temporary(Answer::Failure::refused);
        return result;
      } else {
        answer.kind = Answer::Kind::no_data;
      }
      // The lesser of the SOA's own TTL and its MINIMUM field [RFC 2308 §5].
      ttl = std::min(ttl, soa == nullptr ? Duration::zero() : seconds(std::min(soa->ttl_seconds, soa->soa_minimum)));
      break;
    }
    if (result.aliases == aliases_max) {
      result.answer = Answer::temporary(Answer::Failure::alias_loop);
      return result;
    }
    ++result.aliases;
    ttl = std::min(ttl, seconds(alias->ttl_seconds));
    name = alias->target;
  }
  answer.failure = Answer::Failure::none;
  answer.ttl = ttl;
  std::sort(answer.mx.begin(), answer.mx.end());
  if (answer.mx.size() > Answer::records_max) answer.mx.resize(Answer::records_max);
  return result;
}

}  // namespace postern::dns
