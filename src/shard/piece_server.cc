#include "shard/piece_server.h"

#include <utility>

#include <postern/base/check.h>

namespace postern::shard {
namespace {

std::uint64_t cookie_of(SlotId id) {
  return std::uint64_t{id.generation} << 32 | id.slot;
}
SlotId job_of(std::uint64_t cookie) {
  return {static_cast<std::uint32_t>(cookie), static_cast<std::uint32_t>(cookie >> 32)};
}

}  // namespace

PieceServer::~PieceServer() = default;

void PieceServer::fetch_piece(const egress::Delivery& delivery, std::size_t index, egress::ContentReader& reader) {
  Job* const job = jobs_.emplace();
  POSTERN_CHECK(job != nullptr, "more deliveries than there can be");
  job->reader = &reader;
  const SlotId id = jobs_.id_of(*job);
  by_reader_[&reader] = id;
  if (delivery.owner == self_) return read(delivery, index, id);
  mailbox_.send(delivery.owner, PieceRequest{.delivery = &delivery,
                                             .index = static_cast<std::uint32_t>(index),
                                             .job_slot = id.slot,
                                             .job_generation = id.generation,
                                             .from = self_});
}

void PieceServer::read(const egress::Delivery& delivery, std::size_t index, SlotId job) {
  const mail::Message& message = *delivery.message;
  const mail::SpooledPiece& piece = message.spooled[index];
  logs_.find(message.location.log)
      ->read_chunk({.position = piece.position, .bytes = piece.bytes}, index, *this, cookie_of(job));
}

void PieceServer::forget_reader(egress::ContentReader& reader) {
  const auto found = by_reader_.find(&reader);
  POSTERN_CHECK(found != by_reader_.end());
  jobs_.find(found->second)->reader = nullptr;  // ends when its answer comes
  by_reader_.erase(found);
}

void PieceServer::release_piece(egress::ContentReader& reader) {
  const auto found = by_reader_.find(&reader);
  POSTERN_CHECK(found != by_reader_.end());
  jobs_.erase(found->second);
  by_reader_.erase(found);
}

void PieceServer::on_request(const PieceRequest& request) {
  Job* const job = jobs_.emplace();
  POSTERN_CHECK(job != nullptr, "more deliveries than there can be");
  job->remote = true;
  job->request = request;
  read(*request.delivery, request.index, jobs_.id_of(*job));
}

void PieceServer::on_reply(PieceReply reply) {
  finish({reply.job_slot, reply.job_generation}, std::move(*reply.piece));
}

void PieceServer::on_message_read(std::uint64_t /*cookie*/, const StatusOr<spool::MessageView>& /*message*/) {
  POSTERN_CHECK(false, "no message was asked for");
}

void PieceServer::on_state_read(std::uint64_t /*cookie*/, const StatusOr<Bytes>& /*state*/) {
  POSTERN_CHECK(false, "no state was asked for");
}

void PieceServer::on_chunk_read(std::uint64_t cookie, const StatusOr<Bytes>& chunk) {
  finish(job_of(cookie), chunk.ok() ? StatusOr<std::string>(std::string(as_text(*chunk))) : chunk.status());
}

void PieceServer::finish(SlotId id, StatusOr<std::string> piece) {
  Job& job = *jobs_.find(id);
  if (job.remote) {
    mailbox_.send(job.request.from, PieceReply{job.request.job_slot, job.request.job_generation,
                                               std::make_unique<StatusOr<std::string>>(std::move(piece))});
    jobs_.erase(id);
    return;
  }
  egress::ContentReader* const reader = job.reader;
  if (reader == nullptr) {
    jobs_.erase(id);
    return;
  }
  if (!piece.ok()) {
    by_reader_.erase(reader);
    jobs_.erase(id);
    reader->on_piece(piece.status());
    return;
  }
  job.bytes = *std::move(piece);
  reader->on_piece(as_bytes(job.bytes));
}

}  // namespace postern::shard
