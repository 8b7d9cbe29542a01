#include <gtest/gtest.h>

#include <postern/smtp/client_identity.h>

namespace postern::smtp {
namespace {

TEST(ClientIdentity, XclientReplacesWhatItNames) {
  ClientIdentity identity;
  EXPECT_TRUE(
      read_client_identity(IdentityCommand::xclient,
                           "NAME=spike.example.org ADDR=192.0.2.7 PORT=40312 proto=ESMTP HELO=host+2Bx LOGIN=joe "
                           "DESTADDR=198.51.100.1 DESTPORT=25",
                           identity));
  EXPECT_EQ(identity.address, IpAddress::v4({192, 0, 2, 7}));
  EXPECT_EQ(identity.port, 40312);
  EXPECT_EQ(identity.hello_name, "host+x");
  EXPECT_EQ(identity.login, "joe");
  EXPECT_EQ(identity.esmtp, true);
  // A second command keeps what it does not name.
  EXPECT_TRUE(read_client_identity(IdentityCommand::xclient, "ADDR=IPV6:2001:db8::7  LOGIN=[UNAVAILABLE]", identity));
  EXPECT_EQ(identity.address->to_string(), "2001:db8::7");
  EXPECT_EQ(identity.port, 40312);
  EXPECT_EQ(identity.login, "");
  EXPECT_TRUE(read_client_identity(IdentityCommand::xclient, "ADDR=[unavailable] PORT=[TEMPUNAVAIL]", identity));
  EXPECT_TRUE(identity.address_given);
  EXPECT_FALSE(identity.address);
  EXPECT_EQ(identity.port, 0);
}

TEST(ClientIdentity, XforwardHasItsOwnAttributes) {
  ClientIdentity identity;
  EXPECT_TRUE(read_client_identity(IdentityCommand::xforward,
                                   "NAME=[UNAVAILABLE] ADDR=192.0.2.7 IDENT=4XyZ SOURCE=LOCAL PROTO=SMTP", identity));
  EXPECT_EQ(identity.esmtp, false);
  EXPECT_FALSE(read_client_identity(IdentityCommand::xforward, "LOGIN=joe", identity));
  EXPECT_FALSE(read_client_identity(IdentityCommand::xclient, "IDENT=4XyZ", identity));
  EXPECT_FALSE(read_client_identity(IdentityCommand::xforward, "SOURCE=ELSEWHERE", identity));
}

TEST(ClientIdentity, WhatIsNoneIsRefused) {
  for (const char* bad : {"", "NAME", "NAME=", "=x", "COLOUR=red", "ADDR=host.example", "ADDR=192.0.2.7=",
                          "ADDR=192.0.2+00", "ADDR=192.0.2.7 NAME=a+b", "PORT=x", "PORT=65536", "PORT=-1", "PROTO=LMTP",
                          "PROTO=[UNAVAILABLE]", "HELO=a+20b", "LOGIN=a+0Ab", "DESTADDR=x", "DESTPORT=99999"}) {
    ClientIdentity identity;
    EXPECT_FALSE(read_client_identity(IdentityCommand::xclient, bad, identity)) << bad;
  }
}

}  // namespace
}  // namespace postern::smtp
