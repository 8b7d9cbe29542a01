// One question: does any exchange of any mechanism end in `complete` for a server that has not shown what it must, and
// does it keep its bounds whatever the server says?
//
// Input: one byte (mechanism; whether there is a channel to bind to), then the server's messages, separated by 0x01, in
// which 0x02 is our nonce and 0x03 the right signature for what was said so far; 0x04 alone says yes. So that a
// signature can come to be here at all, and no other way.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/client_exchange.h>
#include <postern/sasl/digest.h>

namespace {

using namespace postern::sasl;  // NOLINT(google-build-using-namespace)
using Step = ClientExchange::Step;

constexpr std::string_view nonce = "clientNONCE";

const Credentials& credentials() {
  static const Credentials made = [] {
    Credentials credentials{.user = "us,er=", .password = Secret("pencil")};
    for (const Mechanism mechanism : all_mechanisms) credentials.mechanisms.add(mechanism);
    return credentials;
  }();
  return made;
}

// PBKDF2 is not what is asked about: this depends on its inputs, which is enough.
Digest salted(const ClientExchange& exchange) {
  return sha256(exchange.salt() + std::to_string(exchange.iterations()));
}

std::string signature_of(const Digest& salted_password, const std::string& signed_text) {
  return to_base64(as_text(hmac_sha256(as_text(hmac_sha256(as_text(salted_password), "Server Key")), signed_text)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || size > 16 * 1024) return 0;
  const auto mechanism = static_cast<Mechanism>(data[0] & 3u);
  const bool plus = mechanism == Mechanism::scram_sha_256_plus;
  const bool bound = plus || (data[0] & 4u) != 0;
  const bool scram = plus || mechanism == Mechanism::scram_sha_256;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);

  ClientExchange exchange(mechanism, credentials(),
                          {.nonce = nonce,
                           .binding_name = bound ? "tls-exporter" : "",
                           .binding = bound ? std::string_view("channel") : std::string_view()});
  std::string first_bare, server_first, signed_text;
  if (scram) {
    const std::string_view first = exchange.response();
    POSTERN_CHECK(first.starts_with(plus ? "p=tls-exporter,," : bound ? "y,," : "n,,"), "the header says what is");
    first_bare = first.substr(first.find(",,") + 2);
  }
  Digest key{};
  bool signed_rightly = false;
  std::size_t steps = 0;
  while (exchange.step() != Step::complete && exchange.step() != Step::failed) {
    POSTERN_CHECK(++steps <= 8, "every exchange ends");
    if (exchange.step() == Step::salted_password) {
      POSTERN_CHECK(
          exchange.iterations() >= scram_iterations_min && exchange.iterations() <= ClientExchange::iterations_max,
          "a server cannot ask for any work");
      POSTERN_CHECK(exchange.salt().size() <= ClientExchange::salt_bytes_max, "nor with any salt");
      key = salted(exchange);
      exchange.on_salted_password(key);
      const std::string last(exchange.response());
      signed_text = first_bare + "," + server_first + "," + last.substr(0, last.rfind(",p="));
      continue;
    }
    if (exchange.step() == Step::respond) POSTERN_CHECK(exchange.response().size() <= 2048, "a response has a bound");
    if (rest.empty()) return 0;
    const std::size_t border = std::min(rest.find('\x01'), rest.size());
    const std::string_view written = rest.substr(0, border);
    rest.remove_prefix(std::min(border + 1, rest.size()));
    if (written == "\x04") {
      exchange.on_success();
      continue;
    }
    std::string message;
    for (const char c : written) {
      if (c == '\x02') {
        message += nonce;
      } else if (c == '\x03') {
        message += signature_of(key, signed_text);
        signed_rightly = signed_rightly || !signed_text.empty();
      } else {
        message += c;
      }
    }
    if (server_first.empty()) server_first = message;
    exchange.on_challenge(message);
    if (scram && exchange.step() == Step::salted_password) {
      POSTERN_CHECK(server_first.starts_with("r=" + std::string(nonce)), "the nonce is ours");
    }
  }
  if (exchange.step() == Step::complete) {
    POSTERN_CHECK(!scram || signed_rightly, "a server proves that it knows the password");
  } else {
    POSTERN_CHECK(!exchange.failure().empty(), "a failure has a reason");
  }
  return 0;
}
