// What handshakes of TLS 1.3 (P-256 certificate, X25519) cost the server, in CPU of its side alone (the client's, in
// the same thread, is not counted), full ones and resumed ones, beside what BoringSSL's own operations in them take: a
// key pair and a shared secret, and for a full one the signature. In turn, medians. Expected: a full one takes up to
// one and a half times its operations, a resumed one up to twice its: both have a key schedule, two tickets and an SSL
// to make beside them. And what an idle connection holds in memory.
#include <array>
#include <cstdint>
#include <malloc.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <openssl/curve25519.h>
#include <openssl/ecdsa.h>

#include <postern/base/check.h>

#include "bench/tls/times.h"
#include "tests/tls/certificates.h"
#include "tests/tls/pair.h"
#include "tls/server_context.h"

namespace postern::tls {
namespace {

struct BenchClient {
  BenchClient() {
    SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
    SSL_CTX_set_app_data(context.get(), this);
    SSL_CTX_sess_set_new_cb(context.get(), [](SSL* ssl, SSL_SESSION* fresh) {
      static_cast<BenchClient*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)))->session.reset(fresh);
      return 1;
    });
  }
  bssl::UniquePtr<SSL_CTX> context = client_context();
  bssl::UniquePtr<SSL_SESSION> session;  // the newest ticket
};

// CPU of the server's turns.
double shake_hands(Pair& pair) {
  double spent = 0;
  while (!pair.server.secured || !pair.client.secured) {
    pair.client.turn(SIZE_MAX);
    pair.server.waiting += pair.client.output();
    const double began = thread_seconds();
    pair.server.turn(SIZE_MAX);
    spent += thread_seconds() - began;
    pair.client.waiting += pair.server.output();
  }
  return spent;
}

class KeyExchange {
 public:
  KeyExchange() { X25519_keypair(peer_public_.data(), private_.data()); }
  void run() {
    X25519_keypair(public_.data(), private_.data());
    benchmark::DoNotOptimize(X25519(secret_.data(), private_.data(), peer_public_.data()));
  }

 private:
  std::array<std::uint8_t, 32> peer_public_{}, public_{}, private_{}, secret_{};
};

void BM_Handshakes(benchmark::State& state) {
  const auto context = bench_context();
  BenchClient client;
  const MadeCertificate certificate = make_certificate({});
  EC_KEY* const key = EVP_PKEY_get0_EC_KEY(certificate.key.get());
  std::vector<std::uint8_t> signature(ECDSA_size(key));
  const std::array<std::uint8_t, 32> digest{};
  KeyExchange exchange;
  Times full, resumed, sign, exchanged, both;
  for ([[maybe_unused]] auto _ : state) {
    client.session.reset();
    Pair first(*context, client_stream(client.context.get(), "mx.example.test"));
    full.add(shake_hands(first));
    first.server.write("220");  // the tickets travel before it
    first.run();
    POSTERN_CHECK(client.session != nullptr && !first.server.stream->facts().resumed);
    const bssl::UniquePtr<SSL_SESSION> ticket = std::move(client.session);
    Pair second(*context, client_stream(client.context.get(), "mx.example.test", ticket.get()));
    resumed.add(shake_hands(second));
    POSTERN_CHECK(second.server.stream->facts().resumed);
    const double began = thread_seconds();
    unsigned size = 0;
    POSTERN_CHECK(ECDSA_sign(0, digest.data(), digest.size(), signature.data(), &size, key) == 1);
    const double signed_at = thread_seconds();
    exchange.run();
    const double ended = thread_seconds();
    sign.add(signed_at - began);
    exchanged.add(ended - signed_at);
    both.add(ended - began);
  }
  constexpr double microsecond = 1e-6;
  state.counters["full_us"] = full.median_seconds() / microsecond;
  state.counters["resumed_us"] = resumed.median_seconds() / microsecond;
  state.counters["sign_us"] = sign.median_seconds() / microsecond;
  state.counters["exchange_us"] = exchanged.median_seconds() / microsecond;
  state.counters["full_of_operations"] = full.over(both);
  state.counters["resumed_of_operations"] = resumed.over(exchanged);
}
BENCHMARK(BM_Handshakes);

// --- memory ----------------------------------------------------------------------------------------------------------

// What an idle connection holds, the server's side alone.
void BM_IdleMemory(benchmark::State& state) {
  const auto context = bench_context();
  BenchClient client;
  constexpr std::size_t count = 200;
  double each = 0;
  for ([[maybe_unused]] auto _ : state) {
    std::vector<std::unique_ptr<net::TlsStream>> streams;
    const std::size_t before = mallinfo2().uordblks;
    for (std::size_t i = 0; i < count; ++i) {
      Pair pair(*context, client_stream(client.context.get()));
      pair.run();
      streams.push_back(std::move(pair.server.stream));
    }
    each = static_cast<double>(mallinfo2().uordblks - before) / count;
  }
  state.counters["bytes_each"] = each;
}
BENCHMARK(BM_IdleMemory)->Iterations(1);

}  // namespace
}  // namespace postern::tls

BENCHMARK_MAIN();
