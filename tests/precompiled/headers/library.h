// Headers of others that most files of src/ read, parsed once for all of them (option `pch`; ../meson.build
// makes it). None of ours, so that a change to one of ours rebuilds no more than before. Nobody includes this by name:
// every file includes what it needs, and release builds, which have no precompiled header, hold them to that.
#ifndef POSTERN_TESTS_PRECOMPILED_HEADERS_LIBRARY_H_  // `#pragma once` is an error in a file that is compiled by itself
#define POSTERN_TESTS_PRECOMPILED_HEADERS_LIBRARY_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/container/inlined_vector.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <fmt/format.h>

#endif
