#include "shard/logs.h"

#include <postern/mail/queue_id.h>

namespace postern::shard {

StatusOr<std::vector<std::vector<std::uint16_t>>> deal_out_logs(std::set<std::uint16_t> found, std::size_t shards) {
  std::vector<std::vector<std::uint16_t>> dealt(shards);
  std::size_t next = 0;
  for (const std::uint16_t log : found) dealt[next++ % shards].push_back(log);
  std::uint16_t fresh = 0;
  for (std::vector<std::uint16_t>& logs : dealt) {
    if (!logs.empty()) continue;
    while (found.contains(fresh)) ++fresh;
    if (fresh > mail::QueueId::log_max) return error(StatusCode::kResourceExhausted, "too many logs");
    found.insert(fresh);
    logs.push_back(fresh);
  }
  return dealt;
}

}  // namespace postern::shard
