// Verifiers and hashes. The latter are libxcrypt's: crypt_rn() keeps nothing between calls and asks for no chance.
#include <algorithm>
#include <array>
#include <crypt.h>
#include <memory>
#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/password.h>

namespace postern::sasl {
namespace {

constexpr std::string_view scram_prefix = "{SCRAM-SHA-256}";
constexpr std::size_t salt_bytes_max = 64;
constexpr std::size_t bcrypt_bytes_max = 72;  // what it looks at of a password
constexpr unsigned bcrypt_cost_max = 15;
constexpr std::uint32_t sha512_rounds_max = 5'000'000;
constexpr std::size_t hash_bytes_max = 200;
static_assert(password_bytes_max < CRYPT_MAX_PASSPHRASE_SIZE);

Status wrong(std::string_view what) {
  return error(StatusCode::kInvalidArgument, what);
}

constexpr std::string_view known_forms =
    "no hash of a known kind (yescrypt $y$, bcrypt $2b$, sha512 $6$, {SCRAM-SHA-256}); make it with postern-passwd";

// libxcrypt's working memory holds parts of the password when it is done.
struct WipedData {
  void operator()(crypt_data* data) const {
    std::string_view bytes(reinterpret_cast<const char*>(data), sizeof *data);
    volatile char* const begin = const_cast<char*>(bytes.data());
    for (std::size_t i = 0; i < bytes.size(); ++i) begin[i] = 0;
    delete data;
  }
};

std::string crypt_of(std::string_view password, const std::string& setting) {
  const std::unique_ptr<crypt_data, WipedData> data(new crypt_data{});
  std::string phrase(password);
  const char* const made = crypt_rn(phrase.c_str(), setting.c_str(), data.get(), sizeof *data);
  std::string hash = made == nullptr ? "" : made;
  wipe(phrase);
  return hash.starts_with('*') ? "" : hash;
}

// Digits of crypt(3)'s base64, in their order.
bool are_digits(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return is_ascii_alpha(c) || is_ascii_digit(c) || c == '.' || c == '/'; });
}

// Salt and digest behind the parameters: SALT$DIGEST.
bool is_salt_and_digest(std::string_view text, std::size_t digest_size) {
  const std::size_t dollar = text.find('$');
  return dollar != std::string_view::npos && dollar > 0 && are_digits(text.substr(0, dollar)) &&
         text.size() - dollar - 1 == digest_size && are_digits(text.substr(dollar + 1));
}

Status check_yescrypt(std::string_view text) {
  const std::size_t dollar = text.find('$');
  // The flavour j, log2 of the blocks as a digit, the block size: 'T' is 4 KiB, 'B' 2^14 blocks of them, 64 MiB.
  if (dollar != 3 || text[0] != 'j' || text[2] < '.' || text[2] > 'T') return wrong(known_forms);
  if (!are_digits(text.substr(1, 1)) || text[1] > 'B') {
    return wrong("a yescrypt hash that takes more than 64 MiB to check; make it with postern-passwd");
  }
  return is_salt_and_digest(text.substr(4), 43) ? OkStatus() : wrong("a yescrypt hash that was cut or changed");
}

Status check_bcrypt(std::string_view text) {
  const auto cost = parse_uint<unsigned>(text.substr(0, std::min<std::size_t>(text.size(), 2)));
  if (text.size() != 56 || !cost || *cost < 4 || text[2] != '$' || !are_digits(text.substr(3))) {
    return wrong("a bcrypt hash that was cut or changed");
  }
  return *cost <= bcrypt_cost_max ? OkStatus() : wrong("a bcrypt hash of a cost above 15; make it with postern-passwd");
}

Status check_sha512(std::string_view text) {
  constexpr std::string_view rounds_key = "rounds=";
  if (text.starts_with(rounds_key)) {
    const std::size_t dollar = std::min(text.find('$'), text.size());
    const auto rounds = parse_uint<std::uint32_t>(text.substr(rounds_key.size(), dollar - rounds_key.size()));
    if (!rounds || *rounds > sha512_rounds_max) {
      return wrong("a sha512 hash of more than 5,000,000 rounds; make it with postern-passwd");
    }
    text.remove_prefix(std::min(dollar + 1, text.size()));
  }
  return is_salt_and_digest(text, 86) ? OkStatus() : wrong("a sha512 hash that was cut or changed");
}

Status check_hash(std::string_view text) {
  if (text.size() > hash_bytes_max) return wrong(known_forms);
  if (text.starts_with("$y$")) return check_yescrypt(text.substr(3));
  if (text.starts_with("$2b$") || text.starts_with("$2y$") || text.starts_with("$2a$")) {
    return check_bcrypt(text.substr(4));
  }
  if (text.starts_with("$6$")) return check_sha512(text.substr(3));
  return wrong(known_forms);
}

StatusOr<ScramVerifier> parse_scram(std::string_view text) {
  constexpr std::string_view form = "a SCRAM verifier is {SCRAM-SHA-256}ITERATIONS,SALT,STOREDKEY,SERVERKEY in base64";
  std::array<std::string_view, 4> parts;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t comma = i + 1 < parts.size() ? text.find(',') : text.size();
    if (comma == std::string_view::npos) return wrong(form);
    parts[i] = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  const auto iterations = parse_uint<std::uint32_t>(parts[0]);
  const auto salt = from_base64(parts[1]);
  const auto stored_key = from_base64(parts[2]);
  const auto server_key = from_base64(parts[3]);
  if (!iterations || !salt || !stored_key || !server_key || salt->empty() || salt->size() > salt_bytes_max) {
    return wrong(form);
  }
  if (*iterations < scram_iterations_min || *iterations > scram_iterations_max) {
    return wrong("a SCRAM verifier has 4,096 … 1,000,000 iterations; make it with postern-passwd");
  }
  ScramVerifier verifier{.iterations = *iterations, .salt = *salt};
  if (stored_key->size() != verifier.stored_key.size() || server_key->size() != verifier.server_key.size()) {
    return wrong(form);
  }
  std::ranges::copy(*stored_key, verifier.stored_key.begin());
  std::ranges::copy(*server_key, verifier.server_key.begin());
  return verifier;
}

// Both keys of RFC 5802 §3 from the salted password.
void set_keys(ScramVerifier& verifier, std::string_view password) {
  const Digest salted = pbkdf2_hmac_sha256(password, verifier.salt, verifier.iterations);
  verifier.stored_key = sha256(as_text(hmac_sha256(as_text(salted), "Client Key")));
  verifier.server_key = hmac_sha256(as_text(salted), "Server Key");
}

}  // namespace

bool is_prepared_text(std::string_view text, std::size_t bytes_max) {
  return !text.empty() && text.size() <= bytes_max && is_utf8(text) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) >= ' ' && c != 0x7F; });
}

ScramVerifier make_scram_verifier(std::string_view password, std::string_view salt, std::uint32_t iterations) {
  ScramVerifier verifier{.iterations = iterations, .salt = std::string(salt)};
  set_keys(verifier, password);
  return verifier;
}

StatusOr<StoredPassword> StoredPassword::parse(std::string_view text) {
  StoredPassword made;
  if (text.starts_with(scram_prefix)) {
    StatusOr<ScramVerifier> verifier = parse_scram(text.substr(scram_prefix.size()));
    if (!verifier.ok()) return verifier.status();
    made.scram_ = *std::move(verifier);
    return made;
  }
  POSTERN_RETURN_IF_ERROR(check_hash(text));
  made.hash_ = text;
  return made;
}

bool StoredPassword::matches(std::string_view password) const {
  if (!is_prepared_text(password, password_bytes_max)) return false;
  if (scram_) {
    ScramVerifier tried{.iterations = scram_->iterations, .salt = scram_->salt};
    set_keys(tried, password);
    return equal_secrets(as_text(tried.stored_key), as_text(scram_->stored_key));
  }
  const std::string made = crypt_of(password, hash_);
  return !made.empty() && equal_secrets(made, hash_);
}

std::optional<Scheme> scheme_named(std::string_view name) {
  if (name == "scram-sha-256") return Scheme::scram_sha_256;
  if (name == "yescrypt") return Scheme::yescrypt;
  if (name == "bcrypt") return Scheme::bcrypt;
  if (name == "sha512") return Scheme::sha512;
  return std::nullopt;
}

StatusOr<std::string> store_password(Scheme scheme, std::string_view password, std::string_view random) {
  POSTERN_CHECK(random.size() == 16, "a salt of 16 bytes");
  if (!is_prepared_text(password, password_bytes_max)) {
    return wrong("a password is 1 … 511 bytes of UTF-8 without control characters");
  }
  if (scheme == Scheme::scram_sha_256) {
    // Four times the least: 5 ms for whoever tries a password, once in a login for a client, nothing for the server.
    constexpr std::uint32_t iterations = 4 * scram_iterations_min;
    const ScramVerifier made = make_scram_verifier(password, random, iterations);
    return std::string(scram_prefix) + std::to_string(iterations) + "," + to_base64(made.salt) + "," +
           to_base64(as_text(made.stored_key)) + "," + to_base64(as_text(made.server_key));
  }
  if (scheme == Scheme::bcrypt && password.size() > bcrypt_bytes_max) {
    return wrong("bcrypt looks at 72 bytes of a password only; choose another --scheme");
  }
  const char* const prefix = scheme == Scheme::yescrypt ? "$y$" : scheme == Scheme::bcrypt ? "$2b$" : "$6$";
  const unsigned long cost = scheme == Scheme::bcrypt ? 11 : scheme == Scheme::sha512 ? 100'000 : 0;
  std::array<char, CRYPT_GENSALT_OUTPUT_SIZE> setting{};
  if (crypt_gensalt_rn(prefix, cost, random.data(), static_cast<int>(random.size()), setting.data(),
                       static_cast<int>(setting.size())) == nullptr) {
    return error(StatusCode::kUnimplemented, "this machine's crypt(3) lacks the scheme; choose another --scheme");
  }
  std::string made = crypt_of(password, setting.data());
  if (made.empty()) {
    return error(StatusCode::kUnimplemented, "this machine's crypt(3) lacks the scheme; choose another --scheme");
  }
  return made;
}

}  // namespace postern::sasl
