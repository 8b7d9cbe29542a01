// A file of secrets that is read, and replaced as a whole: whoever reads it meanwhile has the old one or the new one,
// and two who change it do so one after the other.
#pragma once

#include <string>
#include <string_view>

#include <postern/base/status.h>

namespace postern::passwd {

class SecureFile {
 public:
  // Waits until nobody else changes it. An absent one is made, empty, when `make`. `path` may be a symbolic link: what
  // it leads to is changed. kNotFound: absent; kInvalidArgument: no ordinary file; kUnavailable: all else.
  [[nodiscard]] static StatusOr<SecureFile> open(const std::string& path, bool make);
  SecureFile(SecureFile&& other) noexcept;
  SecureFile& operator=(SecureFile&&) = delete;
  ~SecureFile();

  [[nodiscard]] const std::string& text() const { return text_; }
  // Durable when it returns. Owner and permissions stay what they were; those of a new file are 0640.
  [[nodiscard]] Status replace(std::string_view text) const;

 private:
  SecureFile() = default;

  std::string path_;  // without symbolic links
  std::string text_;
  int descriptor_ = -1;  // holds the lock
};

}  // namespace postern::passwd
