// The client side of each mechanism, step by step, and against our own server side.
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/sasl/base64.h>
#include <postern/sasl/client_exchange.h>
#include <postern/sasl/server_exchange.h>

namespace postern::sasl {
namespace {

using Step = ClientExchange::Step;

// [RFC 7677 §3]
constexpr std::string_view our_nonce = "rOprNGfwEbeRWgbNEkqO";
constexpr std::string_view server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
constexpr std::string_view server_first =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
constexpr std::string_view client_final =
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
constexpr std::string_view server_final = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

MechanismSet every_mechanism() {
  MechanismSet set;
  for (const Mechanism mechanism : all_mechanisms) set.add(mechanism);
  return set;
}

Credentials credentials_of(std::string_view user = "user", std::string_view password = "pencil") {
  return {.user = std::string(user), .password = Secret(password), .mechanisms = every_mechanism()};
}

Digest salted_for(const ClientExchange& exchange, std::string_view password = "pencil") {
  return pbkdf2_hmac_sha256(password, exchange.salt(), exchange.iterations());
}

TEST(ClientPlain, SaysAllAtOnce) {
  const Credentials credentials = credentials_of();
  ClientExchange exchange(Mechanism::plain, credentials, {});
  ASSERT_EQ(exchange.step(), Step::respond);
  EXPECT_EQ(exchange.response(), std::string_view("\0user\0pencil", 12));
  exchange.on_success();
  EXPECT_EQ(exchange.step(), Step::complete);
}

TEST(ClientPlain, AnswersNoSecondQuestion) {
  const Credentials credentials = credentials_of();
  ClientExchange exchange(Mechanism::plain, credentials, {});
  exchange.on_challenge("and your card's number?");
  EXPECT_EQ(exchange.step(), Step::failed);
}

TEST(ClientLogin, AnswersTwoQuestionsWhateverTheySay) {
  const Credentials credentials = credentials_of();
  ClientExchange exchange(Mechanism::login, credentials, {});
  ASSERT_EQ(exchange.step(), Step::challenge);
  exchange.on_challenge("User Name");
  ASSERT_EQ(exchange.step(), Step::respond);
  EXPECT_EQ(exchange.response(), "user");
  exchange.on_challenge("");
  EXPECT_EQ(exchange.response(), "pencil");
  exchange.on_success();
  EXPECT_EQ(exchange.step(), Step::complete);
}

TEST(ClientLogin, TakesNoYesBeforeThePassword) {
  const Credentials credentials = credentials_of();
  ClientExchange exchange(Mechanism::login, credentials, {});
  exchange.on_challenge("Username:");
  exchange.on_success();
  EXPECT_EQ(exchange.step(), Step::failed);
}

TEST(ClientScram, TheExample) {  // [RFC 7677 §3]
  Credentials credentials = credentials_of();
  ClientExchange exchange(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
  ASSERT_EQ(exchange.step(), Step::respond);
  EXPECT_EQ(exchange.response(), "n,,n=user,r=" + std::string(our_nonce));
  exchange.on_challenge(server_first);
  ASSERT_EQ(exchange.step(), Step::salted_password);
  EXPECT_EQ(exchange.salt(), *from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="));
  EXPECT_EQ(exchange.iterations(), 4096u);
  exchange.on_salted_password(salted_for(exchange));
  ASSERT_EQ(exchange.step(), Step::respond);
  EXPECT_EQ(exchange.response(), client_final);
  exchange.on_challenge(server_final);
  ASSERT_EQ(exchange.step(), Step::respond);
  EXPECT_EQ(exchange.response(), "");
  exchange.on_success();
  EXPECT_EQ(exchange.step(), Step::complete);
}

TEST(ClientScram, CommasAndEqualsSignsInAName) {
  const Credentials credentials = credentials_of("a,b=c");
  const ClientExchange exchange(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
  EXPECT_EQ(exchange.response(), "n,,n=a=2Cb=3Dc,r=" + std::string(our_nonce));
}

TEST(ClientScram, OurServerTakesItWithAndWithoutBinding) {
  for (const bool plus : {false, true}) {
    const Credentials credentials = credentials_of("a,b=c@example.test", "correct horse");
    const std::string channel = "channel of 16 by";
    ClientExchange client(plus ? Mechanism::scram_sha_256_plus : Mechanism::scram_sha_256, credentials,
                          {.nonce = our_nonce,
                           .binding_name = plus ? "tls-exporter" : "",
                           .binding = plus ? std::string_view(channel) : std::string_view()});
    ServerExchange server(client.mechanism(), true, client.response());
    ASSERT_EQ(server.step(), ServerExchange::Step::credentials);
    EXPECT_EQ(server.user(), "a,b=c@example.test");
    EXPECT_EQ(server.binding_name(), plus ? "tls-exporter" : "");
    server.on_credentials(make_scram_verifier("correct horse", "salt of 16 bytes", 4096), server_nonce,
                          plus ? channel : "");
    ASSERT_EQ(server.step(), ServerExchange::Step::challenge);
    client.on_challenge(server.challenge());
    ASSERT_EQ(client.step(), Step::salted_password);
    client.on_salted_password(salted_for(client, "correct horse"));
    server.on_response(client.response());
    ASSERT_EQ(server.step(), ServerExchange::Step::challenge);
    client.on_challenge(server.challenge());
    ASSERT_EQ(client.step(), Step::respond);
    server.on_response(client.response());
    EXPECT_EQ(server.step(), ServerExchange::Step::proven);
    client.on_success();
    EXPECT_EQ(client.step(), Step::complete);
  }
}

// [RFC 5802 §6]
TEST(ClientScram, SaysThatItWouldBindWhereTheServerIsNotHeardToOfferIt) {
  Credentials credentials = credentials_of();
  const ClientExchange::Channel channel{.nonce = our_nonce, .binding_name = "tls-exporter", .binding = "bytes"};
  EXPECT_TRUE(ClientExchange(Mechanism::scram_sha_256, credentials, channel).response().starts_with("y,,"));
  EXPECT_TRUE(
      ClientExchange(Mechanism::scram_sha_256_plus, credentials, channel).response().starts_with("p=tls-exporter,,"));
  credentials.mechanisms.remove(Mechanism::scram_sha_256_plus);
  EXPECT_TRUE(ClientExchange(Mechanism::scram_sha_256, credentials, channel).response().starts_with("n,,"));
}

TEST(ClientScram, FirstMessagesThatItGoesNoFurtherWith) {
  const std::string nonce(our_nonce);
  const std::string good = nonce + "more";
  const Credentials credentials = credentials_of();
  for (const std::string& text : {
           std::string(),
           std::string("e=other-error"),
           "r=" + good,
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==",
           "r=" + good + ",i=4096,s=W22ZaJ0SNY7soEsUEjb6gQ==",
           "m=x,r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
           "r=" + good + ",s=,i=4096",
           "r=" + good + ",s=W22Z aJ0=,i=4096",
           "r=" + good + ",s=" + to_base64(std::string(257, 's')) + ",i=4096",
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0x1000",
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1",
           "r=" + good + std::string(512, 'n') + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
           "r=" + nonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",       // nothing of its own
           std::string("r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),  // not ours
           "r=x" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",       // ours, but not in front
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4095",        // easily guessed
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001",     // a bomb
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294971392",  // 4096 in 32 bits
           "r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999999999999999999",
       }) {
    ClientExchange exchange(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
    exchange.on_challenge(text);
    EXPECT_EQ(exchange.step(), Step::failed) << text;
    EXPECT_NE(exchange.failure(), "") << text;
  }
  ClientExchange exchange(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
  exchange.on_challenge("r=" + good + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000000,x=extension");
  EXPECT_EQ(exchange.step(), Step::salted_password);
}

TEST(ClientScram, AServerThatCannotProveThatItKnowsThePassword) {
  const Credentials credentials = credentials_of();
  const auto before_final = [&] {
    ClientExchange exchange(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
    exchange.on_challenge(server_first);
    exchange.on_salted_password(salted_for(exchange));
    return exchange;
  };
  for (const std::string_view text : {"", "e=invalid-proof", "v=", "v=6rriTRBi", "v=not base64",
                                      "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "x=y"}) {
    ClientExchange exchange = before_final();
    exchange.on_challenge(text);
    EXPECT_EQ(exchange.step(), Step::failed) << text;
  }
  ClientExchange at_once = before_final();
  at_once.on_success();
  EXPECT_EQ(at_once.step(), Step::failed);
  ClientExchange earlier(Mechanism::scram_sha_256, credentials, {.nonce = our_nonce});
  earlier.on_success();
  EXPECT_EQ(earlier.step(), Step::failed);
  ClientExchange more = before_final();
  more.on_challenge(server_final);
  more.on_challenge("");
  EXPECT_EQ(more.step(), Step::failed);
}

TEST(Mechanisms, TheStrongestOfASet) {
  MechanismSet set;
  EXPECT_EQ(set.strongest(), std::nullopt);
  set.add(Mechanism::login);
  EXPECT_EQ(set.strongest(), Mechanism::login);
  set.add(Mechanism::plain);
  EXPECT_EQ(set.strongest(), Mechanism::plain);
  set.add(Mechanism::scram_sha_256);
  EXPECT_EQ(set.strongest(), Mechanism::scram_sha_256);
  set.add(Mechanism::scram_sha_256_plus);
  EXPECT_EQ(set.strongest(), Mechanism::scram_sha_256_plus);
  EXPECT_EQ(set.to_text(), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
}

}  // namespace
}  // namespace postern::sasl
