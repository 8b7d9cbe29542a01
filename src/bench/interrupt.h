// SIGINT and SIGTERM as a question: a run asked to end finishes what is under way and reports; asked twice, it reports
// at once. One per process.
#pragma once

namespace postern::bench {

void catch_interrupts();
[[nodiscard]] int interrupts();  // so far

}  // namespace postern::bench
