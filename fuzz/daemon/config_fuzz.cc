// A configuration is good or it is not: never both, never neither, never a crash; and every fault has its place.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  postern::daemon::System system;
  system.hostname = "mx.example.org";
  system.cpus = 2;
  system.look_up_hosts = false;
  system.memory_bytes = std::uint64_t{4} << 30;
  const postern::daemon::LoadedConfig loaded = postern::daemon::parse_config(text, "fuzz.toml", system);
  if ((loaded.options != nullptr) != loaded.errors.empty()) std::abort();
  for (const std::string& error : loaded.errors) {
    if (!error.starts_with("fuzz.toml:")) std::abort();
  }
  return 0;
}
