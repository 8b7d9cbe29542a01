// How fast is the one pass over received content, and how fast are the conversions?
// Expected: scanner ≥ 8 GB/s on ordinary text (lines of 76 characters) that lies in the level 2 cache; the header
// section about half of that. The 1 KiB mail is what a relay sees most: header, body and the end of data, found from a
// fresh scanner, within 0.3 µs. Conversions ≥ 1 GB/s: they cost a few ns a line, and mail that goes out in the form in
// which it came needs none. Surroundings: one thread; the label names the vector target in use.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <hwy/targets.h>

#include <postern/base/random.h>
#include <postern/smtp/content_converter.h>
#include <postern/smtp/content_scanner.h>

namespace postern::smtp {
namespace {

// Lines of 76 characters, or of 0 to 76 where `ragged`, as people write them.
std::string text_of(std::size_t size, bool ragged) {
  Random random(1);
  std::string text;
  while (text.size() < size) {
    const std::size_t length = ragged ? random.below(77) : 76;
    for (std::size_t i = 0; i < length; ++i) text += static_cast<char>(i == 0 ? 'x' : 'a' + random.below(26));
    text += "\r\n";
  }
  return text;
}

std::string header_of(std::size_t size) {
  std::string header;
  while (header.size() < size) {
    header +=
        "Received: from mx1.example.net (mx1.example.net [192.0.2.1])\r\n\tby mx2.example.net with ESMTPS id 01J\r\n"
        "\tfor <somebody@example.org>; Mon, 6 Jul 2026 10:00:00 +0000\r\nSubject: The quick brown fox\r\n"
        "From: A <a@example.net>\r\nTo: B <b@example.org>\r\nMessage-ID: <1234567890@example.net>\r\n";
  }
  return header;
}

void scan(benchmark::State& state, const std::string& content, mail::ContentForm form) {
  ContentScanner scanner(form);
  for (auto _ : state) {
    scanner.reset(form);
    benchmark::DoNotOptimize(scanner.scan(as_bytes(content)));
    benchmark::DoNotOptimize(scanner.facts());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * content.size()));
  state.SetLabel(hwy::TargetName(static_cast<std::int64_t>(hwy::SupportedTargets() & -hwy::SupportedTargets())));
}

void scan_text(benchmark::State& state) {
  scan(state, "\r\n" + text_of(256 * 1024, false) + ".\r\n", mail::ContentForm::dot_stuffed);
}
BENCHMARK(scan_text);

void scan_ragged_text(benchmark::State& state) {
  scan(state, "\r\n" + text_of(256 * 1024, true) + ".\r\n", mail::ContentForm::dot_stuffed);
}
BENCHMARK(scan_ragged_text);

void scan_header(benchmark::State& state) {
  scan(state, header_of(32 * 1024), mail::ContentForm::plain);
}
BENCHMARK(scan_header);

void scan_mail_of_1_kib(benchmark::State& state) {
  scan(state, header_of(300) + "\r\n" + text_of(500, false) + ".\r\n", mail::ContentForm::dot_stuffed);
}
BENCHMARK(scan_mail_of_1_kib);

void scan_dot_cr_lines(benchmark::State& state) {  // the worst that a peer can send
  std::string content = "\r\n";
  for (int i = 0; i < 20'000; ++i) content += ".\rx\r\n";
  scan(state, content, mail::ContentForm::dot_stuffed);
}
BENCHMARK(scan_dot_cr_lines);

void convert(benchmark::State& state, ContentConverter::Kind kind) {
  const std::string content = text_of(256 * 1024, true);
  std::string out;
  for (auto _ : state) {
    out.clear();
    ContentConverter converter(kind);
    converter.append(as_bytes(content), out);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * content.size()));
}

void convert_stuff(benchmark::State& state) {
  convert(state, ContentConverter::Kind::stuff);
}
BENCHMARK(convert_stuff);

void convert_unstuff(benchmark::State& state) {
  convert(state, ContentConverter::Kind::unstuff);
}
BENCHMARK(convert_unstuff);

void convert_stuffed_to_lf(benchmark::State& state) {
  convert(state, ContentConverter::Kind::stuffed_to_lf);
}
BENCHMARK(convert_stuffed_to_lf);

}  // namespace
}  // namespace postern::smtp

BENCHMARK_MAIN();
