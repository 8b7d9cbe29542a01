#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/smtp/proxy_header.h>

namespace postern::smtp {
namespace {

using State = ProxyProgress::State;
using namespace std::string_literals;

const std::string signature = "\r\n\r\n\0\r\nQUIT\n"s;

std::string block(char command, char family, const std::string& rest) {
  return signature + command + family + static_cast<char>(rest.size() >> 8) + static_cast<char>(rest.size() & 0xFF) +
         rest;
}

// Whole, and with each number of bytes: more never changes an answer.
ProxyProgress parse(const std::string& text) {
  const ProxyProgress whole = parse_proxy_header(as_bytes(text));
  for (std::size_t size = 0; size < text.size(); ++size) {
    const ProxyProgress part = parse_proxy_header(as_bytes(std::string_view(text).substr(0, size)));
    if (whole.state == State::complete) {
      EXPECT_EQ(part.state, size < whole.consumed ? State::incomplete : State::complete) << size;
    } else if (part.state != State::incomplete) {
      EXPECT_EQ(part.state, whole.state) << size;
    }
  }
  return whole;
}

TEST(ProxyHeader, VersionOneNamesTheClient) {
  const ProxyProgress v4 = parse("PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\nEHLO x\r\n");
  ASSERT_EQ(v4.state, State::complete);
  EXPECT_EQ(v4.consumed, 44u);
  EXPECT_FALSE(v4.header.local);
  EXPECT_EQ(v4.header.source.to_string(), "192.0.2.7");
  EXPECT_EQ(v4.header.source_port, 40312);
  const ProxyProgress v6 = parse("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n");
  ASSERT_EQ(v6.state, State::complete);
  EXPECT_EQ(v6.header.source.to_string(), "2001:db8::7");
  for (const char* unknown : {"PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "PROXY UNKNOWN   x\r\n"}) {
    const ProxyProgress local = parse(unknown);
    EXPECT_EQ(local.state, State::complete) << unknown;
    EXPECT_TRUE(local.header.local) << unknown;
  }
}

TEST(ProxyHeader, VersionOneIsStrictAndBounded) {
  for (const char* bad :
       {"EHLO client.test\r\n", "proxy TCP4 192.0.2.7 198.51.100.1 1 25\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 9\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 1 25\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 01 25\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
        "PROXY TCP4 2001:db8::7 198.51.100.1 1 25\r\n", "PROXY TCP4 192.0.2 198.51.100.1 1 25\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\n", "PROXY \r\n",
        "PROXY \n", "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\r\n", "\r\nPROXY UNKNOWN\r\n"}) {
    EXPECT_EQ(parse(bad).state, State::malformed) << bad;
  }
  const std::string start = "PROXY UNKNOWN ";
  const std::string longest = start + std::string(proxy_line_bytes_max - start.size() - 2, 'x') + "\r\n";
  EXPECT_EQ(parse(longest).state, State::complete);
  EXPECT_EQ(parse(start + std::string(proxy_line_bytes_max - start.size() - 1, 'x') + "\r\n").state, State::malformed);
  EXPECT_EQ(parse(start + std::string(5000, 'x')).state, State::malformed);
}

TEST(ProxyHeader, VersionTwoNamesTheClient) {
  const ProxyProgress v4 = parse(block(0x21, 0x11, "\xC0\x00\x02\x07\xC6\x33\x64\x01\x9D\x78\x00\x19"s) + "EHLO");
  ASSERT_EQ(v4.state, State::complete);
  EXPECT_EQ(v4.consumed, 28u);
  EXPECT_FALSE(v4.header.local);
  EXPECT_EQ(v4.header.source.to_string(), "192.0.2.7");
  EXPECT_EQ(v4.header.source_port, 40312);
  const std::string address = "\x20\x01\x0D\xB8"s + std::string(11, '\0') + "\x07";
  const ProxyProgress v6 = parse(block(0x21, 0x21, address + address + "\x00\x01\x00\x19"s + "\x04\x00\x03tlv"s));
  ASSERT_EQ(v6.state, State::complete);
  EXPECT_EQ(v6.consumed, 16u + 36 + 6);
  EXPECT_EQ(v6.header.source.to_string(), "2001:db8::7");
  EXPECT_EQ(v6.header.source_port, 1);
}

TEST(ProxyHeader, VersionTwoOfItsOwnSpeaksForItself) {
  for (const std::string& local :
       {block(0x20, 0x00, ""), block(0x20, 0x11, std::string(12, 'x')), block(0x20, 0x77, "x"),
        block(0x21, 0x00, "tlv"), block(0x21, 0x31, std::string(216, '/'))}) {
    const ProxyProgress progress = parse(local);
    EXPECT_EQ(progress.state, State::complete);
    EXPECT_EQ(progress.consumed, local.size());
    EXPECT_TRUE(progress.header.local);
  }
}

TEST(ProxyHeader, VersionTwoIsStrictAndBounded) {
  for (const std::string& bad : {block(0x11, 0x11, std::string(12, 'x')), block(0x22, 0x11, std::string(12, 'x')),
                                 block(0x21, 0x12, std::string(12, 'x')), block(0x21, 0x11, std::string(11, 'x')),
                                 block(0x21, 0x21, std::string(35, 'x')), block(0x21, 0x31, std::string(215, 'x')),
                                 block(0x21, 0x41, ""), signature.substr(0, 11) + "X"}) {
    EXPECT_EQ(parse(bad).state, State::malformed);
  }
  EXPECT_EQ(parse(block(0x21, 0x00, std::string(proxy_block_bytes_max - 16, 't'))).state, State::complete);
  EXPECT_EQ(parse_proxy_header(as_bytes(signature + "\x21\x00\x08\x01"s)).state, State::malformed)
      << "too long to wait for";
}

}  // namespace
}  // namespace postern::smtp
