// The server side of each mechanism, step by step.
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/sasl/base64.h>
#include <postern/sasl/server_exchange.h>

namespace postern::sasl {
namespace {

using Step = ServerExchange::Step;

std::string with_nuls(std::string text) {
  for (char& c : text) {
    if (c == '|') c = '\0';
  }
  return text;
}

// [RFC 7677 §3]
constexpr std::string_view client_nonce = "rOprNGfwEbeRWgbNEkqO";
constexpr std::string_view server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
constexpr std::string_view server_first =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
constexpr std::string_view client_final =
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
constexpr std::string_view server_final = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

ScramVerifier pencil() {
  return make_scram_verifier("pencil", *from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
}

// What a client says last, for whatever it was asked and bound to.
std::string final_message(std::string_view first_bare, std::string_view challenge, std::string_view gs2_header,
                          std::string_view binding, std::string_view password = "pencil", std::string_view more = "") {
  std::string without_proof = "c=" + to_base64(std::string(gs2_header) + std::string(binding)) + ",";
  without_proof += challenge.substr(0, challenge.find(','));
  without_proof += more;
  const std::string text = std::string(first_bare) + "," + std::string(challenge) + "," + without_proof;
  const Digest salted = pbkdf2_hmac_sha256(password, *from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
  Digest proof = hmac_sha256(as_text(salted), "Client Key");
  const Digest signature = hmac_sha256(as_text(sha256(as_text(proof))), text);
  for (std::size_t i = 0; i < proof.size(); ++i) proof[i] = static_cast<char>(proof[i] ^ signature[i]);
  return without_proof + ",p=" + to_base64(as_text(proof));
}

TEST(Plain, WithAndWithoutAnInitialResponse) {
  const std::string message = with_nuls("|user|pencil");
  const ServerExchange at_once(Mechanism::plain, false, message);
  EXPECT_EQ(at_once.step(), Step::password);
  EXPECT_EQ(at_once.user(), "user");
  EXPECT_EQ(at_once.password(), "pencil");
  ServerExchange asked(Mechanism::plain, false, std::nullopt);
  ASSERT_EQ(asked.step(), Step::challenge);
  EXPECT_EQ(asked.challenge(), "");
  asked.on_response(message);
  EXPECT_EQ(asked.step(), Step::password);
}

TEST(Plain, MessagesThatAreNone) {
  for (const std::string_view text :
       {"", "|", "user", "user|pencil", "||pencil", "|us\ter|pencil", "|user|pen|cil", "|\xFF|pencil"}) {
    EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls(std::string(text))).step(), Step::malformed) << text;
  }
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("|" + std::string(256, 'u') + "|pencil")).step(),
            Step::malformed);
}

TEST(Plain, NobodyActsForAnother) {
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("user|user|pencil")).step(), Step::password);
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("root|user|pencil")).step(), Step::failed);
}

TEST(Plain, PasswordsThatNobodyHasFail) {
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("|user|")).step(), Step::failed);
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("|user|" + std::string(512, 'p'))).step(), Step::failed);
  EXPECT_EQ(ServerExchange(Mechanism::plain, false, with_nuls("|user|" + std::string(511, 'p'))).step(),
            Step::password);
}

TEST(Login, AsksTwice) {
  ServerExchange exchange(Mechanism::login, false, std::nullopt);
  ASSERT_EQ(exchange.step(), Step::challenge);
  EXPECT_EQ(exchange.challenge(), "Username:");
  exchange.on_response("user");
  ASSERT_EQ(exchange.step(), Step::challenge);
  EXPECT_EQ(exchange.challenge(), "Password:");
  exchange.on_response("pencil");
  EXPECT_EQ(exchange.step(), Step::password);
  EXPECT_EQ(exchange.user(), "user");
  EXPECT_EQ(exchange.password(), "pencil");
}

TEST(Login, TakesTheNameAtOnce) {
  ServerExchange exchange(Mechanism::login, false, "user");
  ASSERT_EQ(exchange.step(), Step::challenge);
  EXPECT_EQ(exchange.challenge(), "Password:");
  EXPECT_EQ(ServerExchange(Mechanism::login, false, "").step(), Step::malformed);
}

TEST(Scram, TheExample) {  // [RFC 7677 §3]
  ServerExchange exchange(Mechanism::scram_sha_256, false, "n,,n=user,r=" + std::string(client_nonce));
  ASSERT_EQ(exchange.step(), Step::credentials);
  EXPECT_EQ(exchange.user(), "user");
  EXPECT_EQ(exchange.binding_name(), "");
  exchange.on_credentials(pencil(), server_nonce, "");
  ASSERT_EQ(exchange.step(), Step::challenge);
  EXPECT_EQ(exchange.challenge(), server_first);
  exchange.on_response(client_final);
  ASSERT_EQ(exchange.step(), Step::challenge);
  EXPECT_EQ(exchange.challenge(), server_final);
  exchange.on_response("");
  EXPECT_EQ(exchange.step(), Step::proven);
}

TEST(Scram, AnEmptyAcknowledgementIsAllThatMayFollow) {
  ServerExchange exchange(Mechanism::scram_sha_256, false, "n,,n=user,r=" + std::string(client_nonce));
  exchange.on_credentials(pencil(), server_nonce, "");
  exchange.on_response(client_final);
  exchange.on_response("more");
  EXPECT_EQ(exchange.step(), Step::malformed);
}

Step after(std::string_view first, std::string_view final_text, const ScramVerifier& verifier = pencil(),
           bool plus_offered = false) {
  ServerExchange exchange(Mechanism::scram_sha_256, plus_offered, first);
  if (exchange.step() != Step::credentials) return exchange.step();
  exchange.on_credentials(verifier, server_nonce, "");
  exchange.on_response(final_text);
  return exchange.step();
}

TEST(Scram, WhatProvesNothingFails) {
  const std::string first = "n,,n=user,r=" + std::string(client_nonce);
  EXPECT_EQ(after(first, client_final), Step::challenge);
  std::string wrong(client_final);
  wrong[wrong.find("p=") + 2] = 'e';
  EXPECT_EQ(after(first, wrong), Step::failed) << "another proof";
  EXPECT_EQ(after("n,,n=usee,r=" + std::string(client_nonce), client_final), Step::failed) << "another user";
  wrong = client_final;
  wrong.replace(wrong.find("$k0"), 3, "$k1");
  EXPECT_EQ(after(first, wrong), Step::failed) << "another nonce";
  wrong = client_final;
  wrong.replace(wrong.find("biws"), 4, "eSws");
  EXPECT_EQ(after(first, wrong), Step::failed) << "it bound to what it did not say";
  const ScramVerifier other = make_scram_verifier("Pencil", *from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
  EXPECT_EQ(after(first, client_final, other), Step::failed) << "another password";
}

TEST(Scram, TheNonceOfASessionIsSigned) {
  // Even when the client signs what we did not send.
  const std::string bare = "n=user,r=" + std::string(client_nonce);
  std::string challenge(server_first);
  challenge.replace(challenge.find("$k0"), 3, "$k1");
  EXPECT_EQ(after("n,," + bare, final_message(bare, challenge, "n,,", "")), Step::failed);
}

TEST(Scram, MessagesThatAreNone) {
  const std::string nonce(client_nonce);
  for (const std::string& first :
       {std::string(), std::string("n"), std::string("n,"), std::string("n,,"), "n,,r=" + nonce,
        std::string("n,,n=user"), std::string("n,,n=user,r="), "n,,n=,r=" + nonce, "n,,n=us=er,r=" + nonce,
        "n,,n=us=2c,r=" + nonce, "n,,m=x,n=user,r=" + nonce, "x,,n=user,r=" + nonce, "N,,n=user,r=" + nonce,
        "n,user,n=user,r=" + nonce, "n,a=,n=user,r=" + nonce, "p=tls-unique,,n=user,r=" + nonce,
        std::string("n,,n=user,r=a b"), "n,,n=user,r=" + std::string(513, 'a'), "n,,r=" + nonce + ",n=user"}) {
    EXPECT_EQ(after(first, client_final), Step::malformed) << first;
  }
  const std::string first = "n,,n=user,r=" + nonce;
  for (const std::string_view last :
       {"", "c=biws", "c=biws,r=x", "c=biws,p=AAAA", "c=biws,r=x,p=AAAA", "c=biws,r=x,p=", "c=!,r=x,p=AAAA",
        "r=x,c=biws,p=AAAA", ",p=", "c=,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="}) {
    EXPECT_EQ(after(first, last), Step::malformed) << last;
  }
}

TEST(Scram, NamesMayHoldCommasAndEqualsSigns) {
  ServerExchange exchange(Mechanism::scram_sha_256, false, "n,a=a=2Cb=3Dc,n=a=2Cb=3Dc,r=x");
  ASSERT_EQ(exchange.step(), Step::credentials);
  EXPECT_EQ(exchange.user(), "a,b=c");
}

TEST(Scram, NobodyActsForAnother) {
  const std::string bare = "n=user,r=" + std::string(client_nonce);
  EXPECT_EQ(after("n,a=user," + bare, final_message(bare, server_first, "n,a=user,", "")), Step::challenge);
  EXPECT_EQ(after("n,a=root," + bare, final_message(bare, server_first, "n,a=root,", "")), Step::failed);
}

TEST(Scram, AClientThatWasToldWeCannotBindIsWarned) {
  const std::string bare = "n=user,r=" + std::string(client_nonce);
  EXPECT_EQ(after("y,," + bare, final_message(bare, server_first, "y,,", ""), pencil(), false), Step::challenge);
  EXPECT_EQ(after("y,," + bare, final_message(bare, server_first, "y,,", ""), pencil(), true), Step::failed);
  EXPECT_EQ(after("n,," + bare, final_message(bare, server_first, "n,,", ""), pencil(), true), Step::challenge);
}

TEST(Scram, ExtensionsMayStandBeforeTheProof) {
  const std::string bare = "n=user,r=" + std::string(client_nonce) + ",x=ignored";
  EXPECT_EQ(after("n,," + bare, final_message(bare, server_first, "n,,", "", "pencil", ",y=ignored")), Step::challenge);
}

Step after_bound(std::string_view name, std::string_view ours, std::string_view theirs) {
  const std::string header = "p=" + std::string(name) + ",,";
  const std::string bare = "n=user,r=" + std::string(client_nonce);
  ServerExchange exchange(Mechanism::scram_sha_256_plus, true, header + bare);
  if (exchange.step() != Step::credentials) return exchange.step();
  EXPECT_EQ(exchange.binding_name(), name);
  exchange.on_credentials(pencil(), server_nonce, ours);
  exchange.on_response(final_message(bare, exchange.challenge(), header, theirs));
  return exchange.step();
}

TEST(ScramPlus, IsBoundToItsChannel) {
  EXPECT_EQ(after_bound("tls-exporter", "channel", "channel"), Step::challenge);
  EXPECT_EQ(after_bound("tls-exporter", "channel", "another"), Step::failed);
  EXPECT_EQ(after_bound("tls-exporter", "channel", ""), Step::failed);
  EXPECT_EQ(after_bound("tls-unknown", "", ""), Step::failed) << "a binding that we do not have proves nothing";
  EXPECT_EQ(after_bound("", "", ""), Step::malformed);
  EXPECT_EQ(after_bound("tls exporter", "x", "x"), Step::malformed);
}

TEST(ScramPlus, WithoutABindingIsNone) {
  for (const std::string_view flag : {"n", "y"}) {
    const std::string first = std::string(flag) + ",,n=user,r=" + std::string(client_nonce);
    EXPECT_EQ(ServerExchange(Mechanism::scram_sha_256_plus, true, first).step(), Step::malformed);
  }
}

TEST(Mechanisms, AreNamed) {
  EXPECT_EQ(mechanism_named("plain"), Mechanism::plain);
  EXPECT_EQ(mechanism_named("SCRAM-SHA-256"), Mechanism::scram_sha_256);
  EXPECT_EQ(mechanism_named("scram-sha-256-plus"), Mechanism::scram_sha_256_plus);
  EXPECT_EQ(mechanism_named("CRAM-MD5"), std::nullopt);
  EXPECT_EQ(mechanism_named(""), std::nullopt);
}

}  // namespace
}  // namespace postern::sasl
