#include <algorithm>
#include <array>
#include <cstring>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/hash.h>
#include <postern/base/text.h>
#include <postern/policy/recipient_table.h>
#include <postern/route/domain.h>

namespace postern::policy {
namespace {

constexpr std::size_t address_bytes_max = 512;  // twice what a path may have [RFC 5321 §4.5.3.1.3]
constexpr std::string_view postmaster = "postmaster";

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// [RFC 5321 §4.1.2]: dot-string or quoted string, in ASCII.
bool is_local_part(std::string_view text) {
  constexpr std::string_view special = "()<>[]:;@\\,\" ";
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
    for (std::size_t i = 1; i + 1 < text.size(); ++i) {
      if (text[i] < ' ' || text[i] > '~' || text[i] == '"') return false;
      if (text[i] != '\\') continue;
      ++i;  // what it quotes
      if (i + 1 == text.size()) return false;
    }
    return true;
  }
  if (text.empty() || text.starts_with('.') || text.ends_with('.') || text.find("..") != std::string_view::npos) {
    return false;
  }
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return c > ' ' && c <= '~' && special.find(c) == std::string_view::npos; });
}

struct Address {
  std::string key;   // as it is looked up
  std::string path;  // as it is delivered to
};

Status wrong(std::string_view address, std::string_view why) {
  return error(StatusCode::kInvalidArgument, "\"" + log_escaped(address, 100) + "\" " + std::string(why));
}

// "user@domain", or with `catch_all` "@domain".
StatusOr<Address> parse_address(std::string_view text, bool catch_all) {
  const std::size_t at = text.rfind('@');
  if (at == std::string_view::npos) return wrong(text, "has no domain; write user@example.net");
  const std::string_view local = text.substr(0, at);
  if (!(catch_all && local.empty()) && !is_local_part(local)) {
    return wrong(text, "is no address; write user@example.net, in ASCII");
  }
  const StatusOr<std::string> domain = route::normalise_domain(text.substr(at + 1));
  if (!domain.ok()) return wrong(text, "has no domain behind its @; write user@example.net");
  Address address;
  address.key = to_lower(route::unquote_local_part(local)) + "@" + *domain;
  address.path = std::string(local) + "@" + *domain;
  if (address.path.size() > address_bytes_max / 2) return wrong(text, "is longer than a path may be");
  return address;
}

}  // namespace

// --- the table -------------------------------------------------------------------------------------------------------

std::uint16_t RecipientTable::number(Offset at) const {
  std::uint16_t value = 0;
  std::memcpy(&value, arena_.data() + at, sizeof value);
  return value;
}

std::string_view RecipientTable::key(Offset entry) const {
  return std::string_view(arena_).substr(entry + 4, number(entry));
}

template <class Visit>
void RecipientTable::for_each_target(Offset entry, Visit visit) const {
  std::size_t at = entry + std::size_t{4} + number(entry);
  for (std::size_t left = target_count(entry); left > 0; --left) {
    const std::uint16_t size = number(static_cast<Offset>(at));
    if (!visit(std::string_view(arena_).substr(at + 2, size))) return;
    at += 2u + size;
  }
}

// Where to begin to look for `key`, and its tag.
std::pair<std::size_t, std::uint32_t> RecipientTable::place_of(std::string_view key) const {
  const std::uint64_t hash = hash_bytes(as_bytes(key), seed_);
  const auto high = static_cast<std::uint32_t>(hash >> 32);
  return {static_cast<std::size_t>(std::uint64_t{high} * slots_.size() >> 32), static_cast<std::uint32_t>(hash)};
}

RecipientTable::Offset RecipientTable::find_key(std::string_view key) const {
  if (slots_.empty()) return none;
  auto [at, tag] = place_of(key);
  for (;; at = at + 1 == slots_.size() ? 0 : at + 1) {
    const Slot& slot = slots_[at];
    if (slot.entry == none) return none;
    if (slot.tag == tag && this->key(slot.entry) == key) return slot.entry;
  }
}

RecipientTable::Offset RecipientTable::find_address(std::string_view address, bool& is_postmaster) const {
  const std::size_t at = address.rfind('@');
  is_postmaster = address.substr(0, at) == postmaster;
  Offset found = find_key(address);
  if (found == none && separator_ != '\0') {
    // From the left: what stands before the first separator is the user.
    const std::size_t tag = address.substr(0, at).find(separator_);
    if (tag != std::string_view::npos && tag > 0) {
      std::array<char, address_bytes_max> user;
      const auto end = std::copy_n(address.begin(), tag, user.begin());
      const auto last = std::copy(address.begin() + static_cast<std::ptrdiff_t>(at), address.end(), end);
      found = find_key({user.data(), static_cast<std::size_t>(last - user.begin())});
    }
  }
  if (found == none) found = find_key(address.substr(at));
  return found;
}

RecipientTable::Found RecipientTable::find(const mail::PathView& forward_path,
                                           std::vector<std::string_view>& targets) const {
  targets.clear();
  const std::string_view local = forward_path.local_part();
  const std::string_view domain = forward_path.domain();
  std::array<char, address_bytes_max> buffer;
  std::string_view address;
  std::string rare;  // quotes, U-labels, address literals, a final dot
  if (is_ascii(domain) && !domain.starts_with('[') && !domain.ends_with('.') && !local.starts_with('"') &&
      local.size() + 1 + domain.size() <= buffer.size()) {
    auto end = std::transform(local.begin(), local.end(), buffer.begin(), to_ascii_lower);
    *end++ = '@';
    end = std::transform(domain.begin(), domain.end(), end, to_ascii_lower);
    address = {buffer.data(), static_cast<std::size_t>(end - buffer.begin())};
  } else {
    const StatusOr<std::string> normal = route::normalise_domain(domain);
    if (!normal.ok()) return Found::unknown;
    rare = to_lower(route::unquote_local_part(local)) + "@" + *normal;
    if (rare.size() > buffer.size()) return Found::unknown;
    address = rare;
  }
  bool is_postmaster = false;
  const Offset found = find_address(address, is_postmaster);
  if (found == none) return is_postmaster ? Found::exists : Found::unknown;
  if (target_count(found) == 0) return Found::exists;
  expand(found, targets);
  return Found::alias;
}

// The builder has seen to it that this ends: no circle but of one, bounded depth and number.
void RecipientTable::expand(Offset entry, std::vector<std::string_view>& targets) const {
  for_each_target(entry, [&](std::string_view target) {
    bool is_postmaster = false;
    const StatusOr<Address> address = parse_address(target, false);
    const Offset next = address.ok() ? find_address(address->key, is_postmaster) : none;
    if (next != none && next != entry && target_count(next) != 0) {
      expand(next, targets);
    } else if (std::find(targets.begin(), targets.end(), target) == targets.end()) {
      targets.push_back(target);
    }
    return true;
  });
}

// --- making it -------------------------------------------------------------------------------------------------------

Status RecipientTableBuilder::add(std::string_view entry, std::string_view source, unsigned line) {
  entry = trim(entry);
  // A quoted local part or an address literal may hold a colon: the one that counts stands behind the domain.
  const std::size_t at = entry.find('@', entry.starts_with('"') ? entry.find('"', 1) : 0);
  std::size_t from = at == std::string_view::npos ? 0 : at;
  if (entry.substr(from).starts_with("@[")) from = std::min(entry.find(']', from), entry.size());
  const std::size_t colon = entry.find(':', from);
  const StatusOr<Address> address = parse_address(trim(entry.substr(0, colon)), true);
  if (!address.ok()) return address.status();

  std::vector<std::string> targets;
  if (colon != std::string_view::npos) {
    std::string_view rest = entry.substr(colon + 1);
    for (;;) {
      const std::size_t comma = rest.find(',');
      StatusOr<Address> target = parse_address(trim(rest.substr(0, comma)), false);
      if (!target.ok()) return target.status();
      targets.push_back(std::move(target->path));
      if (targets.size() > RecipientTable::targets_max) {
        return error(StatusCode::kInvalidArgument, "an alias has at most 100 targets; a list manager is made for more");
      }
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }

  if (const RecipientTable::Offset known = table_.find_key(address->key); known != RecipientTable::none) {
    if (targets.empty() && table_.target_count(known) == 0) return OkStatus();
    return wrong(address->path, "stands there twice, and one of them is an alias; keep one");
  }
  std::size_t bytes = 4 + address->key.size();
  for (const std::string& target : targets) bytes += 2 + target.size();
  if (table_.arena_.size() + bytes > RecipientTable::arena_bytes_max) {
    return error(StatusCode::kResourceExhausted, "more addresses than fit into 2 GiB");
  }
  const auto offset = static_cast<RecipientTable::Offset>(table_.arena_.size());
  const auto put = [this](std::size_t value) {
    const auto number = static_cast<std::uint16_t>(value);
    table_.arena_.append(reinterpret_cast<const char*>(&number), sizeof number);
  };
  put(address->key.size());
  put(targets.size());
  table_.arena_ += address->key;
  for (const std::string& target : targets) {
    put(target.size());
    table_.arena_ += target;
  }
  if (!targets.empty()) {
    if (sources_.empty() || sources_.back() != source) sources_.emplace_back(source);
    alias_list_.push_back({.entry = offset, .source = static_cast<std::uint32_t>(sources_.size() - 1), .line = line});
    ++table_.aliases_;
  }
  ++table_.entries_;
  if (table_.entries_ * 4 > table_.slots_.size() * 3) resize(std::max<std::size_t>(16, table_.slots_.size() * 2));
  insert(offset);
  return OkStatus();
}

void RecipientTableBuilder::insert(RecipientTable::Offset entry) {
  auto [at, tag] = table_.place_of(table_.key(entry));
  while (table_.slots_[at].entry != RecipientTable::none) at = at + 1 == table_.slots_.size() ? 0 : at + 1;
  table_.slots_[at] = {.entry = entry, .tag = tag};
}

void RecipientTableBuilder::resize(std::size_t slots) {
  const std::vector<RecipientTable::Slot> before = std::exchange(table_.slots_, {});
  table_.slots_.resize(slots);
  for (const RecipientTable::Slot& slot : before) {
    if (slot.entry != RecipientTable::none) insert(slot.entry);
  }
}

Status RecipientTableBuilder::add_lines(std::string_view text, std::string_view source) {
  for (unsigned line = 1; !text.empty(); ++line) {
    const std::size_t end = text.find('\n');
    std::string_view content = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    for (std::size_t mark = content.find('#'); mark != std::string_view::npos; mark = content.find('#', mark + 1)) {
      if (mark != 0 && content[mark - 1] != ' ' && content[mark - 1] != '\t') continue;
      content = content.substr(0, mark);
      break;
    }
    if (content.ends_with('\r')) content.remove_suffix(1);
    content = trim(content);
    if (content.empty()) continue;
    POSTERN_RETURN_IF_ERROR(add_placed(content, source, line));
  }
  return OkStatus();
}

Status RecipientTableBuilder::add_cdb(Bytes file, std::string_view source) {
  constexpr std::size_t head_bytes =
      2048;  // 256 hash tables: position and number of slots, 4 bytes each, little-endian
  constexpr std::size_t slot_bytes = 8;
  const auto broken = [&](std::string_view why) {
    return error(StatusCode::kDataLoss,
                 std::string(source) + ":1: is no whole cdb file: " + std::string(why) + "; make it again");
  };
  const auto number = [file](std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i > 0; --i) value = value << 8 | std::to_integer<std::uint32_t>(file[at + i - 1]);
    return std::size_t{value};
  };
  if (file.size() < head_bytes) return broken("it is too short");
  std::size_t end = file.size();  // of the records: where the first table begins
  for (std::size_t at = 0; at < head_bytes; at += 8) {
    const std::size_t table = number(at);
    if (table < head_bytes || table > file.size() || number(at + 4) > (file.size() - table) / slot_bytes) {
      return broken("a table lies outside of it");
    }
    end = std::min(end, table);
  }
  const std::string_view text = as_text(file);
  const auto without_nul = [](std::string_view piece) {
    if (piece.ends_with('\0')) piece.remove_suffix(1);
    return trim(piece);
  };
  unsigned record = 0;
  for (std::size_t at = head_bytes; at < end;) {
    ++record;
    if (end - at < 8) return broken("its last record is cut off");
    const std::size_t key_bytes = number(at);
    const std::size_t value_bytes = number(at + 4);
    at += 8;
    if (key_bytes > end - at || value_bytes > end - at - key_bytes) return broken("a record reaches beyond its end");
    const std::string_view key = without_nul(text.substr(at, key_bytes));
    const std::string_view value = without_nul(text.substr(at + key_bytes, value_bytes));
    at += key_bytes + value_bytes;
    std::string entry(key.substr(0, line_bytes_max));
    if (!value.empty()) entry.append(": ").append(value.substr(0, line_bytes_max));
    POSTERN_RETURN_IF_ERROR(add_placed(entry, source, record));
  }
  return OkStatus();
}

Status RecipientTableBuilder::add_placed(std::string_view entry, std::string_view source, unsigned line) {
  Status status = entry.size() > line_bytes_max ? error(StatusCode::kInvalidArgument, "the entry is longer than 64 KiB")
                                                : add(entry, source, line);
  if (status.ok()) return status;
  return error(status.code(),
               std::string(source) + ":" + std::to_string(line) + ": " + std::string(message_of(status)));
}

Status RecipientTableBuilder::fault(const Alias& alias, std::string_view what) const {
  return error(StatusCode::kInvalidArgument, sources_[alias.source] + ":" + std::to_string(alias.line) + ": \"" +
                                                 log_escaped(table_.key(alias.entry), 100) + "\" " + std::string(what));
}

// Depth first, without recursion: a file may hold any chain.
Status RecipientTableBuilder::check(std::size_t index) {
  std::vector<std::size_t> way{index};  // aliases being looked at, each a target of the one before
  while (!way.empty()) {
    Alias& alias = alias_list_[way.back()];
    alias.state = Alias::State::open;
    alias.depth = 1;
    alias.targets = 0;
    std::optional<std::size_t> first;
    Status status;
    table_.for_each_target(alias.entry, [&](std::string_view target) {
      bool is_postmaster = false;
      const StatusOr<Address> address = parse_address(target, false);
      POSTERN_CHECK(address.ok(), "a target that add() had parsed");
      const RecipientTable::Offset next = table_.find_address(address->key, is_postmaster);
      if (next == RecipientTable::none || next == alias.entry || table_.target_count(next) == 0) {
        ++alias.targets;
        return true;
      }
      const auto found = std::ranges::lower_bound(alias_list_, next, {}, &Alias::entry);
      switch (found->state) {
        case Alias::State::fresh:
          first = static_cast<std::size_t>(found - alias_list_.begin());
          return false;
        case Alias::State::open:
          status = fault(alias, "leads back to itself through other aliases; break the circle");
          return false;
        case Alias::State::done:
          alias.targets += found->targets;
          alias.depth = std::max(alias.depth, found->depth + 1);
          return true;
      }
      return true;
    });
    if (!status.ok()) return status;
    if (first) {
      way.push_back(*first);
      continue;
    }
    if (alias.targets > RecipientTable::targets_max) return fault(alias, "comes to more than 100 addresses");
    if (alias.depth > RecipientTable::depth_max) return fault(alias, "is an alias of aliases, more than 10 deep");
    alias.state = Alias::State::done;
    way.pop_back();
  }
  return OkStatus();
}

StatusOr<RecipientTable> RecipientTableBuilder::finish() && {
  // add() has appended them in the order of their offsets: check() looks them up by that.
  for (std::size_t i = 0; i < alias_list_.size(); ++i) {
    if (alias_list_[i].state == Alias::State::fresh) POSTERN_RETURN_IF_ERROR(check(i));
  }
  resize(table_.entries_ * 4 / 3 + 1);
  table_.arena_.shrink_to_fit();
  return std::move(table_);
}

}  // namespace postern::policy
