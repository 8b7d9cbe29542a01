// One question: does any exchange of any mechanism end in `proven`, or come as far as a password, for anyone but who
// knows it, and does it keep its bounds whatever the client says?
//
// Input: one byte (mechanism; whether PLUS is offered; whether there is an initial response), then the client's
// messages, separated by 0x01, in which 0x02 is the nonce that the server chose and 0x03 the proof of the right
// password for what was said so far. So that a proof can come to be here at all, and no other way.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/digest.h>
#include <postern/sasl/server_exchange.h>

namespace {

using namespace postern::sasl;  // NOLINT(google-build-using-namespace)
using Step = ServerExchange::Step;

constexpr std::string_view nonce = "serverNONCE";
constexpr std::string_view channel = "channel";

const ScramVerifier& verifier() {
  static const ScramVerifier made = make_scram_verifier("pencil", "salt of 16 bytes", 4096);
  return made;
}

std::string proof_of(const std::string& signed_text) {
  static const Digest client_key =
      hmac_sha256(as_text(pbkdf2_hmac_sha256("pencil", "salt of 16 bytes", 4096)), "Client Key");
  Digest proof = hmac_sha256(as_text(verifier().stored_key), signed_text);
  for (std::size_t i = 0; i < proof.size(); ++i) proof[i] = static_cast<char>(proof[i] ^ client_key[i]);
  return to_base64(as_text(proof));
}

// The client's messages, one after the other.
class Client {
 public:
  explicit Client(std::string_view input) : rest_(input) {}

  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] bool proved() const { return proved_; }
  std::string next(std::string_view challenge) {
    const std::size_t border = rest_.find('\x01');
    done_ = border == std::string_view::npos;
    std::string message;
    for (const char c : rest_.substr(0, border)) {
      if (c == '\x02') {
        message += nonce;
      } else if (c == '\x03') {
        const std::size_t end = message.rfind(",p=");
        message += proof_of(first_bare_ + "," + std::string(challenge) + "," + message.substr(0, end));
        proved_ = true;
      } else {
        message += c;
      }
    }
    if (!done_) rest_.remove_prefix(border + 1);
    if (first_bare_.empty()) {
      const std::size_t comma = message.find(',');
      const std::size_t second = comma == std::string::npos ? comma : message.find(',', comma + 1);
      first_bare_ = second == std::string::npos ? std::string() : message.substr(second + 1);
    }
    return message;
  }

 private:
  std::string_view rest_;
  std::string first_bare_;
  bool done_ = false;
  bool proved_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || size > 16 * 1024) return 0;
  const auto mechanism = static_cast<Mechanism>(data[0] & 3u);
  const bool plus_offered = (data[0] & 4u) != 0;
  const bool initial = (data[0] & 8u) != 0;
  Client client({reinterpret_cast<const char*>(data) + 1, size - 1});
  std::optional<std::string> first;
  if (initial) first = client.next("");
  ServerExchange exchange(mechanism, plus_offered, first);
  std::size_t responses = 0;
  bool bound = false;
  for (bool going = true; going;) {
    switch (exchange.step()) {
      case Step::challenge: {
        POSTERN_CHECK(exchange.challenge().size() <= 1024, "a challenge has a bound");
        if (client.done()) return 0;
        POSTERN_CHECK(++responses <= 3, "every exchange ends");
        exchange.on_response(client.next(exchange.challenge()));
        break;
      }
      case Step::credentials: {
        const bool ours = exchange.binding_name() == "tls-exporter";
        bound = !exchange.binding_name().empty();
        exchange.on_credentials(verifier(), nonce, ours ? channel : std::string_view());
        break;
      }
      default:
        going = false;
        break;
    }
  }
  const Step end = exchange.step();
  const bool scram = mechanism == Mechanism::scram_sha_256 || mechanism == Mechanism::scram_sha_256_plus;
  POSTERN_CHECK(end != Step::proven || (scram && client.proved()), "nothing proves a password but knowing it");
  POSTERN_CHECK(end != Step::password || !scram, "SCRAM sends no password");
  POSTERN_CHECK(end != Step::proven || bound == (mechanism == Mechanism::scram_sha_256_plus),
                "PLUS, and it alone, binds");
  if (end == Step::proven || end == Step::password) {
    POSTERN_CHECK(is_prepared_text(exchange.user(), user_bytes_max), "a user's name keeps its bounds");
  }
  if (end == Step::password) POSTERN_CHECK(is_prepared_text(exchange.password(), password_bytes_max), "and a password");
  return 0;
}
