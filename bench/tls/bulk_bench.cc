// What TLS adds to the encryption of bulk bytes: 16 KiB records of AES-128-GCM by BoringSSL's AEAD alone, from one
// buffer into another; by SSL_write() and SSL_read() of TLS 1.3 with nothing of ours around them (a BIO that drops what
// is written, and copies what is read); and by a tls::Stream. All three in turn, on this thread's CPU clock, the median
// of many rounds of each, and of what each took beside the AEAD's in the same round, because the machine is others'
// too. Expected: the stream within 15 % of the AEAD. It copies once on each side of the library; opening, the library
// copies once more, from its record buffer to its reader.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <openssl/aead.h>

#include <postern/base/check.h>
#include <postern/base/copy.h>

#include "bench/tls/times.h"
#include "tests/tls/certificates.h"
#include "tests/tls/pair.h"
#include "tls/server_context.h"

namespace postern::tls {
namespace {

constexpr std::size_t record = net::TlsStream::record_bytes_max;
constexpr std::size_t records = 6;  // of a round: enough for the clock, few enough for the second-level cache
constexpr std::size_t bytes = record * records;

class Aead {
 public:
  Aead() {
    const std::array<std::uint8_t, 16> key{};
    POSTERN_CHECK(EVP_AEAD_CTX_init(context_.get(), EVP_aead_aes_128_gcm(), key.data(), key.size(),
                                    EVP_AEAD_DEFAULT_TAG_LENGTH, nullptr) == 1);
  }
  void seal() {
    for (std::vector<std::uint8_t>& sealed : sealed_) {
      std::size_t size = 0;
      POSTERN_CHECK(EVP_AEAD_CTX_seal(context_.get(), sealed.data(), &size, sealed.size(), nonce_.data(), nonce_.size(),
                                      plain_.data(), plain_.size(), header_.data(), header_.size()) == 1);
    }
  }
  void open() {
    for (const std::vector<std::uint8_t>& sealed : sealed_) {
      std::size_t size = 0;
      POSTERN_CHECK(EVP_AEAD_CTX_open(context_.get(), plain_.data(), &size, plain_.size(), nonce_.data(), nonce_.size(),
                                      sealed.data(), sealed.size(), header_.data(), header_.size()) == 1);
    }
  }

 private:
  bssl::ScopedEVP_AEAD_CTX context_;
  std::array<std::uint8_t, 12> nonce_{};
  std::array<std::uint8_t, 5> header_{};
  std::vector<std::uint8_t> plain_ = std::vector<std::uint8_t>(record, 'x');
  std::vector<std::vector<std::uint8_t>> sealed_{records, std::vector<std::uint8_t>(record + 16)};
};

// Two ends that have agreed on TLS 1.3 with AES-128-GCM and said all that follows a handshake.
std::unique_ptr<Pair> make_pair(const net::TlsContext& context, SSL_CTX* client) {
  SSL_CTX_set_min_proto_version(client, TLS1_3_VERSION);
  auto pair = std::make_unique<Pair>(context, client_stream(client));
  pair->run();
  POSTERN_CHECK(pair->server.stream->facts().cipher == "TLS_AES_128_GCM_SHA256");
  return pair;
}

SSL* ssl_of(const End& end) {
  return const_cast<SSL*>(static_cast<const Stream&>(*end.stream).ssl());
}

// A BIO around nothing but what it is to read.
struct BareBio {
  Bytes input;

  // Takes the place of the stream's own BIO. `this` outlives the SSL's last use of it.
  void put_into(SSL* ssl) {
    static const BIO_METHOD* const method = [] {
      BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "bare");
      BIO_meth_set_read(made, [](BIO* bio, char* out, int size) {
        Bytes& left = static_cast<BareBio*>(BIO_get_data(bio))->input;
        BIO_clear_retry_flags(bio);
        const std::size_t count = std::min(left.size(), static_cast<std::size_t>(size));
        if (count == 0) {
          BIO_set_retry_read(bio);
          return -1;
        }
        copy_bytes(reinterpret_cast<std::byte*>(out), left.data(), count);
        left = left.subspan(count);
        return static_cast<int>(count);
      });
      BIO_meth_set_write(made, [](BIO*, const char*, int size) { return size; });
      BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long { return command == BIO_CTRL_FLUSH ? 1 : 0; });
      return made;
    }();
    BIO* const bio = BIO_new(method);
    BIO_set_data(bio, this);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
  }
};

// What is compared in one run: the cipher alone, the library on a bare BIO, and our stream.
struct Rivals {
  std::shared_ptr<const net::TlsContext> context = bench_context();
  bssl::UniquePtr<SSL_CTX> client = client_context();
  std::unique_ptr<Pair> bare_pair = make_pair(*context, client.get());
  std::unique_ptr<Pair> pair = make_pair(*context, client.get());
  BareBio bio{};
  Aead alone;
  Times aead, library, stream;

  Rivals() { bio.put_into(ssl_of(bare_pair->server)); }
  ~Rivals() { bare_pair->server.stream.reset(); }  // before its BIO
  Rivals(const Rivals&) = delete;
  Rivals& operator=(const Rivals&) = delete;

  void report(benchmark::State& state) const {
    const auto add = [&](const char* name, const Times& times) {
      state.counters[name] = benchmark::Counter(static_cast<double>(bytes) / times.median_seconds(),
                                                benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
    };
    add("aead", aead);
    add("library", library);
    add("stream", stream);
    state.counters["stream_of_library"] = library.over(stream);
    state.counters["stream_of_aead"] = aead.over(stream);
  }
};

void BM_Seal(benchmark::State& state) {
  Rivals rivals;
  auto& [context, client, bare_pair, pair, bio, alone, aead, library, stream] = rivals;
  const std::string text(record, 'x');
  for ([[maybe_unused]] auto _ : state) {
    aead.time([&] { alone.seal(); });
    library.time([&] {
      for (std::size_t i = 0; i < records; ++i) {
        POSTERN_CHECK(SSL_write(ssl_of(bare_pair->server), text.data(), static_cast<int>(record)) == record);
      }
    });
    stream.time([&] {
      for (std::size_t done = 0; done < records;) {
        while (done < records && pair->server.stream->write(as_bytes(text)) == record) ++done;
        benchmark::DoNotOptimize(pair->server.stream->take_output());
        pair->server.stream->on_output_sent();
      }
    });
  }
  rivals.report(state);
}
BENCHMARK(BM_Seal);

void BM_Open(benchmark::State& state) {
  Rivals rivals;
  auto& [context, client, bare_pair, pair, bio, alone, aead, library, stream] = rivals;
  const std::string text(record, 'x');
  std::vector<std::byte> plain(record);
  std::vector<std::byte> sealed(2 * bytes);
  const auto seal = [&](Pair& from) -> Bytes {
    std::size_t size = 0;
    for (std::size_t i = 0; i < records; ++i) {
      POSTERN_CHECK(from.client.stream->write(as_bytes(text)) == record);
      const Bytes made = from.client.stream->take_output();
      copy_bytes(sealed.data() + size, made.data(), made.size());
      size += made.size();
      from.client.stream->on_output_sent();
    }
    return Bytes(sealed).first(size);
  };
  for ([[maybe_unused]] auto _ : state) {
    alone.seal();
    aead.time([&] { alone.open(); });
    bio.input = seal(*bare_pair);
    library.time([&] {
      for (std::size_t i = 0; i < records; ++i) {
        POSTERN_CHECK(SSL_read(ssl_of(bare_pair->server), plain.data(), static_cast<int>(record)) == record);
      }
    });
    const Bytes input = seal(*pair);
    std::size_t size = 0;
    stream.time([&] {
      pair->server.stream->set_input(input);
      while (const std::size_t more = pair->server.stream->read(plain).size) size += more;
    });
    POSTERN_CHECK(size == bytes);
  }
  rivals.report(state);
}
BENCHMARK(BM_Open);

}  // namespace
}  // namespace postern::tls
