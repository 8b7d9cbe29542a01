#include <gtest/gtest.h>

#include <postern/route/maildir.h>

namespace postern::route {
namespace {

mail::PathView path(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {text, static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

TEST(ExpandMaildir, NamesKeepTheirCase) {
  EXPECT_EQ(*expand_maildir("/srv/{domain}/{local}/x", path("Jo.Doe@Example.Test")), "/srv/Example.Test/Jo.Doe/x");
  EXPECT_EQ(*expand_maildir("/srv/all", path("../../x@y")), "/srv/all") << "a name that is not used cannot hurt";
  EXPECT_EQ(*expand_maildir("/srv/{local}", path("\"john doe\"@x.test")), "/srv/john doe");
  EXPECT_EQ(*expand_maildir("/srv/{domain}", path("a@[192.0.2.1]")), "/srv/[192.0.2.1]");
}

TEST(ExpandMaildir, NamesThatCouldLeaveTheFolderAreRefused) {
  for (const std::string& local :
       {std::string(".."), std::string("."), std::string(".hidden"), std::string("a/b"), std::string("a..b"),
        std::string("\"../x\""), std::string("\"..\""), std::string("\"\\.\\.\""), std::string("\"a\\/b\""),
        std::string("a\0b", 3), std::string("a\nb"), std::string(201, 'a'), std::string("\"\"")}) {
    EXPECT_FALSE(expand_maildir("/srv/{local}", path(local + "@x.test")).ok()) << local;
  }
  EXPECT_TRUE(expand_maildir("/srv/{local}", path(std::string(200, 'a') + "@x.test")).ok());
  for (const char* const domain : {"../etc", "a/b", ".x", "a..b", ""}) {
    EXPECT_FALSE(expand_maildir("/srv/{domain}/{local}", path("user@" + std::string(domain))).ok()) << domain;
  }
  EXPECT_FALSE(expand_maildir("/srv/{domain}/{local}", path("postmaster")).ok()) << "no domain, no name for it";
}

}  // namespace
}  // namespace postern::route
