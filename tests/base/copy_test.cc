#include <cstddef>
#include <string>

#include <gtest/gtest.h>

#include <postern/base/bytes.h>
#include <postern/base/copy.h>

namespace postern {
namespace {

TEST(CopyBytes, CopiesAllAndNothingBesideForEverySizeAndAlignment) {
  std::string from(5000, '\0');
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<char>(i % 251);
  for (const std::size_t size : {0u, 1u, 15u, 1023u, 1024u, 1025u, 2047u, 2048u, 2049u, 4000u}) {
    for (const std::size_t at : {0u, 1u, 5u, 63u}) {
      std::string to(5000, '?');
      copy_bytes(reinterpret_cast<std::byte*>(to.data()) + at, as_bytes(from).data() + 7, size);
      EXPECT_EQ(to.substr(at, size), from.substr(7, size)) << size << " at " << at;
      EXPECT_EQ(to.substr(0, at) + to.substr(at + size), std::string(5000 - size, '?')) << size << " at " << at;
    }
  }
}

}  // namespace
}  // namespace postern
