// Brings pieces of spooled content to deliveries: on the owner's shard from the log, elsewhere by letter from the
// owner, because a log is its owner's alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <postern/base/slot_map.h>

#include "egress/content_reader.h"
#include "shard/logs.h"
#include "shard/mailbox.h"

namespace postern::shard {

class PieceServer final : public egress::PieceSource, private ReadUser {
 public:
  // One piece (at most spool::chunk_bytes_limit) per delivery of large content; so many at a time.
  static constexpr std::uint32_t jobs_max = 65'536;

  PieceServer(queue::ShardIndex self, Logs& logs, MailboxEnd& mailbox)
      : self_(self), logs_(logs), mailbox_(mailbox), jobs_(jobs_max) {}
  ~PieceServer();

  // --- egress::PieceSource
  void fetch_piece(const egress::Delivery& delivery, std::size_t index, egress::ContentReader& reader) override;
  void forget_reader(egress::ContentReader& reader) override;
  void release_piece(egress::ContentReader& reader) override;

  // --- letters
  void on_request(const PieceRequest& request);
  void on_reply(PieceReply reply);

 private:
  // A reader's interest in one piece, until it releases it; or another shard's, until it is answered.
  struct Job {
    egress::ContentReader* reader = nullptr;  // null: forgotten, or another shard's
    PieceRequest request;                     // another shard's
    bool remote = false;
    std::string bytes;
  };
  void on_message_read(std::uint64_t cookie, const StatusOr<spool::MessageView>& message) override;
  void on_chunk_read(std::uint64_t cookie, const StatusOr<Bytes>& chunk) override;
  void on_state_read(std::uint64_t cookie, const StatusOr<Bytes>& state) override;
  void read(const egress::Delivery& delivery, std::size_t index, SlotId job);
  void finish(SlotId job, StatusOr<std::string> piece);

  queue::ShardIndex self_;
  Logs& logs_;
  MailboxEnd& mailbox_;
  SlotMap<Job> jobs_;
  absl::flat_hash_map<const egress::ContentReader*, SlotId> by_reader_;
};

}  // namespace postern::shard
