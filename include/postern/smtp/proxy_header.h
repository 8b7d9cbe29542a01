// The PROXY protocol's header, versions 1 and 2: what a load balancer puts in front of a connection to say who the
// client is [haproxy.org, proxy-protocol.txt, 2020].
//
// Grammar only. Whether a peer may say so is the listener's configuration; driven by ingress.
#pragma once

#include <cstddef>
#include <cstdint>

#include <postern/base/bytes.h>
#include <postern/base/ip.h>

namespace postern::smtp {

inline constexpr std::size_t proxy_line_bytes_max = 107;  // version 1, with CRLF
// Version 2: the fixed part, addresses of unix sockets (the longest), and TLVs, which are skipped. A balancer's TLVs
// are a few hundred bytes; the format's own bound is 64 KiB.
inline constexpr std::size_t proxy_block_bytes_max = 16 + 2048;
inline constexpr std::size_t proxy_header_bytes_max = proxy_block_bytes_max;
static_assert(proxy_line_bytes_max <= proxy_header_bytes_max && 16 + 216 <= proxy_block_bytes_max);

struct ProxyHeader {
  // The balancer speaks for itself (LOCAL: a health check), or knows no addresses (UNKNOWN, UNSPEC, unix sockets): the
  // connection's own peer counts.
  bool local = true;
  IpAddress source{};
  std::uint16_t source_port = 0;
};

struct ProxyProgress {
  enum class State : std::uint8_t {
    incomplete,  // so far so good
    malformed,   // never a header, whatever follows
    complete,
  };
  State state = State::incomplete;
  std::size_t consumed = 0;  // complete: the header's bytes; the rest is the client's
  ProxyHeader header{};
};

// `bytes` are those of the connection from its first one on; of any number. More bytes never change what is complete or
// malformed, and proxy_header_bytes_max bytes are never incomplete.
[[nodiscard]] ProxyProgress parse_proxy_header(Bytes bytes);

}  // namespace postern::smtp
