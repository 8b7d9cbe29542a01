// A mail object on one shard: envelope, the fields we put in front, and content in memory or in the spool.
//
// The accepting shard owns it. Others read it under a lease (egress/delivery.h): while `leases` is not zero nothing in
// it changes and nothing is freed. Only the owner counts leases, so the count needs no atomics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <postern/base/chunk_list.h>
#include <postern/base/memory_budget.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/location.h>
#include <postern/mail/queue_id.h>

namespace postern::mail {

// A piece of content in the spool; what `position` means is the spool's affair.
struct SpooledPiece {
  std::uint64_t position = 0;
  std::uint32_t bytes = 0;
};

struct Message {
  QueueId id;
  Location location;  // of the record; empty until it is in a batch
  Envelope envelope;
  std::string added_fields;  // complete CRLF lines, none begins with a dot
  ContentFacts facts;
  // What protected it on its way to us, for its trace; empty: nothing did. The texts live as long as the process.
  std::string_view tls_version, tls_cipher;
  // The content is what lies in `spooled`, in order, followed by `content`.
  std::vector<SpooledPiece> spooled;
  ChunkList content;
  bool spooled_only = false;  // `spooled` and `content` are not filled in: the whole is read back from the spool

  std::uint32_t leases = 0;
  std::uint64_t budget_bytes = 0;  // taken from the owner's budget for this object, as budget_class
  BudgetClass budget_class = BudgetClass::intake;

  // Ready for another mail object; keeps the capacity of texts.
  void clear() {
    id = {};
    location = {};
    envelope.clear();
    added_fields.clear();
    facts = {};
    tls_version = tls_cipher = {};
    spooled.clear();
    content.clear();
    spooled_only = false;
    leases = 0;
    budget_bytes = 0;
    budget_class = BudgetClass::intake;
  }
};

}  // namespace postern::mail
