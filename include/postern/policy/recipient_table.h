// Who exists in the accepted domains, and to whom else their mail goes: addresses, catch-alls and aliases.
//
// A table is made once by a builder, off the shards' threads, and then immutable and shared by all of them; a look-up
// allocates nothing for an address that is plain ASCII. It reads no file itself. An entry is one of
//
//   user@example.net                   this address exists
//   @example.net                       so does every other one of the domain: a catch-all
//   sales@example.net: a@x.test, b@y.test    an alias: its mail goes to these, which may be aliases in turn
//   @example.net: box@x.test           a catch-all that is an alias
//
// Case: that of ASCII letters does not matter, in local parts neither; what is delivered to keeps the sender's
// spelling. Sub-addressing: "user+tag" is looked up as it stands, then as "user"; an alias's targets do not get the
// tag. A target that leads back to its own alias is an address and no alias there: "me@x.test: me@x.test, copy@y.test".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>

namespace postern::policy {

class RecipientTable {
 public:
  // What one address may become, over all aliases on the way; and how many of these may stand behind one another. A
  // table that holds more is not made.
  static constexpr std::size_t targets_max = 100;
  static constexpr std::size_t depth_max = 10;
  static constexpr std::size_t arena_bytes_max = std::size_t{1} << 31;  // about 80 million addresses

  enum class Found : std::uint8_t {
    unknown,  // nobody
    exists,   // the address itself
    alias,    // `targets`
  };

  // `targets` is cleared, and filled for an alias: 1 … targets_max paths, each once, without angle brackets; they live
  // as long as the table. The postmaster of every domain exists [RFC 5321 §4.5.1], unless he is an alias.
  [[nodiscard]] Found find(const mail::PathView& forward_path, std::vector<std::string_view>& targets) const;

  [[nodiscard]] std::size_t size() const { return entries_; }
  [[nodiscard]] std::size_t aliases() const { return aliases_; }
  [[nodiscard]] std::size_t memory_bytes() const {
    return arena_.capacity() + slots_.capacity() * sizeof(Slot) + sizeof(*this);
  }

 private:
  friend class RecipientTableBuilder;
  // Of an entry in the arena: key size (2 bytes), number of targets (2), key, then each target with its size (2)
  // before.
  using Offset = std::uint32_t;
  static constexpr Offset none = UINT32_MAX;
  struct Slot {
    Offset entry = none;
    std::uint32_t tag = 0;  // of the hash: a look-up reads no other entry's bytes
  };

  explicit RecipientTable(char separator) : separator_(separator) {}
  [[nodiscard]] std::uint16_t number(Offset at) const;
  [[nodiscard]] std::string_view key(Offset entry) const;
  [[nodiscard]] std::size_t target_count(Offset entry) const { return number(entry + 2); }
  // Calls visit(target) for each; stops when it returns false.
  template <class Visit>
  void for_each_target(Offset entry, Visit visit) const;
  [[nodiscard]] std::pair<std::size_t, std::uint32_t> place_of(std::string_view key) const;
  [[nodiscard]] Offset find_key(std::string_view key) const;
  // As a look-up does it: as it stands, without its tag, the catch-all. `address` is a key.
  [[nodiscard]] Offset find_address(std::string_view address, bool& postmaster) const;
  void expand(Offset entry, std::vector<std::string_view>& targets) const;

  std::string arena_;
  std::vector<Slot> slots_;  // open addressing, a quarter free
  std::size_t entries_ = 0;
  std::size_t aliases_ = 0;
  std::uint64_t seed_ = 0;
  char separator_;  // '\0': no sub-addressing
};

class RecipientTableBuilder {
 public:
  static constexpr std::size_t line_bytes_max = 64u << 10;

  // `separator`: between user and tag; '\0': no sub-addressing. `seed`: of the table's hash.
  explicit RecipientTableBuilder(char separator, std::uint64_t seed = 0) : table_(separator) { table_.seed_ = seed; }

  // One entry. kInvalidArgument says what is wrong with it and what would be right. A repeated address is taken once;
  // one that is an alias, too, is an error. `line`: for messages of finish().
  [[nodiscard]] Status add(std::string_view entry, std::string_view source, unsigned line);
  // A file's text: an entry a line, blank lines, comments from '#' at a line's start or behind white space.
  // Messages begin with "SOURCE:LINE: ".
  [[nodiscard]] Status add_lines(std::string_view text, std::string_view source);
  // The same from a constant database (cdb, of 32 bits): a key is an address or "@domain", a value is empty or an
  // alias's targets; a NUL at the end of either, as Postfix writes them, is not looked at. Its records are read in
  // their order and its hash tables not at all: the entries become part of this table, because their aliases must be
  // checked, and because a shard that looked into a mapped file would wait for the disk. kDataLoss: it is none, or a
  // piece of one. Messages begin with "SOURCE:N: ", N being a record's number.
  [[nodiscard]] Status add_cdb(Bytes file, std::string_view source);
  // Checks what the aliases come to: no circle, targets_max, depth_max. Messages as above.
  [[nodiscard]] StatusOr<RecipientTable> finish() &&;

 private:
  struct Alias {
    RecipientTable::Offset entry;
    std::uint32_t source;  // index
    unsigned line;
    enum class State : std::uint8_t { fresh, open, done } state = State::fresh;
    std::size_t depth = 0;    // aliases from here to the farthest address
    std::size_t targets = 0;  // at most so many addresses
  };
  void insert(RecipientTable::Offset entry);
  void resize(std::size_t slots);
  [[nodiscard]] Status check(std::size_t alias);
  [[nodiscard]] Status fault(const Alias& alias, std::string_view what) const;
  [[nodiscard]] Status add_placed(std::string_view entry, std::string_view source, unsigned line);

  RecipientTable table_;
  std::vector<Alias> alias_list_;
  std::vector<std::string> sources_;
};

}  // namespace postern::policy
