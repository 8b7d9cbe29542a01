#include "daemon/config_text.h"

#include <string>

#include <gtest/gtest.h>

namespace postern::daemon {
namespace {

TEST(ConfigText, StringsAndCommentsMayHoldAnything) {
  EXPECT_FALSE(line_of_stray_character(""));
  EXPECT_FALSE(line_of_stray_character("\xEF\xBB\xBFhostname = \"x\"\n"));
  EXPECT_FALSE(
      line_of_stray_character("# gr\xC3\xB6\xC3\x9F"
                              "e\na = \"\xC3\xBC\"\nb = '\xC3\xBC'\n"));
  EXPECT_FALSE(line_of_stray_character("a = \"\\\"\xC3\xBC\""));
  EXPECT_FALSE(line_of_stray_character("a = \"\"\"\n\xC3\xBC\n\"\xC3\xBC\"\"\"\"\nb = 1"));
  EXPECT_FALSE(line_of_stray_character("a = '''\n\xC3\xBC'\n''' # \xC3\xBC"));
}

TEST(ConfigText, NamesTheLineOfWhatStandsOutside) {
  EXPECT_EQ(line_of_stray_character("\xC3\xBC = 1"), 1u);
  EXPECT_EQ(line_of_stray_character("a = 1\n\xC2\xA0"
                                    "b = 2"),
            2u);
  EXPECT_EQ(line_of_stray_character("a = \"\"\"\n\n\"\"\"\nb = \xC3\xBC"), 4u);
  EXPECT_EQ(line_of_stray_character("a = 'unended\n\xC3\xBC = '"), 2u);
  EXPECT_EQ(line_of_stray_character("a = '\\' \xC3\xBC"), 1u);
}

TEST(ConfigText, AnEscapeAtTheEndIsTheEnd) {
  EXPECT_FALSE(line_of_stray_character("a = \"\\"));
}

}  // namespace
}  // namespace postern::daemon
