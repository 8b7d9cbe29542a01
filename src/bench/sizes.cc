#include "bench/sizes.h"

#include <algorithm>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/base/units.h>

namespace postern::bench {
namespace {

// Shares, in thousandths, of messages up to each size and above the one before it. After a count over 18.6 million
// corporate messages (256stuff.com/gray/docs/misc/email_size_analysis), which gives sizes of parts: a message is taken
// to be as large as its largest part, and those whose parts are all below 2 KiB fill up the first row.
struct Band {
  std::uint32_t kib = 0;
  std::uint32_t share = 0;
};
constexpr Band real_bands[] = {{2, 183},  {4, 250},  {8, 189},  {16, 117},  {32, 84},  {64, 66},
                               {128, 41}, {256, 29}, {512, 17}, {1024, 12}, {2048, 8}, {4096, 4}};
// Each band is drawn from as four sizes, equally often: enough that sizes do not bunch, and few enough to prepare.
constexpr std::uint32_t eighths[] = {5, 6, 7, 8};

}  // namespace

Sizes::Sizes(std::vector<Choice> choices) : choices_(std::move(choices)) {
  std::uint64_t sum = 0;
  for (const Choice& choice : choices_) sums_.push_back(sum += choice.weight);
  POSTERN_CHECK(sum > 0 && sum < (std::uint64_t{1} << 32), "weights have a sum that Random::below() takes");
}

Sizes Sizes::real_mix() {
  std::vector<Choice> choices;
  for (const Band& band : real_bands) {
    for (const std::uint32_t eighth : eighths) {
      choices.push_back({.bytes = band.kib * 1024 / 8 * eighth, .weight = band.share});
    }
  }
  return Sizes(std::move(choices));
}

StatusOr<Sizes> Sizes::parse(std::string_view text) {
  if (text == "mix") return real_mix();
  std::vector<Choice> choices;
  while (!text.empty()) {
    const std::string_view item = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), item.size() + 1));
    const std::size_t colon = item.find(':');
    const StatusOr<std::uint64_t> bytes = parse_size(item.substr(0, colon));
    if (!bytes.ok()) return bytes.status();
    if (*bytes == 0 || *bytes > bytes_max) {
      return error(StatusCode::kInvalidArgument, "sizes are 1 byte to " + format_size(bytes_max));
    }
    const auto weight = colon == std::string_view::npos ? std::optional<std::uint32_t>(1)
                                                        : parse_uint<std::uint32_t>(item.substr(colon + 1), 1'000'000);
    if (!weight || *weight == 0) {
      return error(StatusCode::kInvalidArgument,
                   "'" + std::string(item) + "': SIZE:WEIGHT is wanted, a weight of 1 to 1000000");
    }
    choices.push_back({.bytes = static_cast<std::uint32_t>(*bytes), .weight = *weight});
    if (choices.size() > choices_max) return error(StatusCode::kInvalidArgument, "more than 1024 sizes");
  }
  if (choices.empty()) return error(StatusCode::kInvalidArgument, "a size is wanted: 10KiB, mix, or 1KiB:70,10KiB:30");
  return Sizes(std::move(choices));
}

std::size_t Sizes::draw(Random& random) const {
  if (choices_.size() == 1) return 0;
  const std::uint64_t point = random.below(sums_.back());
  return static_cast<std::size_t>(std::ranges::upper_bound(sums_, point) - sums_.begin());
}

double Sizes::mean_bytes() const {
  double sum = 0;
  for (const Choice& choice : choices_) sum += static_cast<double>(choice.bytes) * choice.weight;
  return sum / static_cast<double>(sums_.back());
}

}  // namespace postern::bench
