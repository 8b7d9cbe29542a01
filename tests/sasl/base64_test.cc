// Base64 as strictly as SMTP AUTH wants it.
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/sasl/base64.h>

namespace postern::sasl {
namespace {

TEST(Base64, OfTheStandard) {  // [RFC 4648 §10]
  const std::pair<std::string_view, std::string_view> vectors[] = {{"", ""},
                                                                   {"f", "Zg=="},
                                                                   {"fo", "Zm8="},
                                                                   {"foo", "Zm9v"},
                                                                   {"foob", "Zm9vYg=="},
                                                                   {"fooba", "Zm9vYmE="},
                                                                   {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, text] : vectors) {
    EXPECT_EQ(to_base64(bytes), text);
    EXPECT_EQ(from_base64(text), std::string(bytes));
  }
}

TEST(Base64, ReadsWhatItWrote) {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(from_base64(to_base64(bytes)), bytes) << i;
    bytes += static_cast<char>(i * 37);
  }
}

TEST(Base64, RefusesWhatNoEncoderWrites) {
  for (const std::string_view text :
       std::initializer_list<std::string_view>{"Z",         "Zg",   "Zg=",   "Zg===",    "Z===",
                                               "=",         "==",   "====",  "Zg==Zg==", "Zg=a",
                                               "Zh==",      "Zm9=", "Zm 9v", " Zm9v",    "Zm9v\r\n",
                                               "Zm9-",      "Zm9_", "Zm9v=", "*",        std::string_view("Zm9\0", 4),
                                               "Zm\xC3\xA4"}) {
    EXPECT_EQ(from_base64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace postern::sasl
