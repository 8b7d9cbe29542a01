// The name of a site: the set of domains that share one MX set (or one smart host, or one Maildir template).
#pragma once

#include <cstdint>

#include <postern/base/strong_id.h>

namespace postern::mail {

// 64-bit keyed hash of a site's key text (see route/route.h) under a seed that is one per process and secret: equal on
// all shards without a shared table, different after a restart, never stored. The home shard of a site is
// `value % shards`. Two sites collide once in 2^32 sites; they then share one path, which costs limits, not mail,
// because every delivery carries its own next hops.
using SiteId = StrongId<struct SiteTag, std::uint64_t>;

}  // namespace postern::mail
