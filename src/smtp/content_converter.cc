// Each conversion changes bytes only at line ends: what lies between is found by memchr and copied whole.
#include <algorithm>
#include <cstring>

#include <postern/smtp/content_converter.h>

namespace postern::smtp {

void ContentConverter::reset(Kind kind) {
  kind_ = kind;
  place_ = Place::line_start;
}

ContentConverter::Progress ContentConverter::convert(Bytes in, MutableBytes out) {
  constexpr std::byte cr{'\r'};
  constexpr std::byte lf{'\n'};
  constexpr std::byte dot{'.'};
  std::size_t from = 0;
  std::size_t to = 0;
  while (from < in.size()) {
    switch (place_) {
      case Place::line_start:
        if (in[from] == dot) {
          if (kind_ == Kind::stuff) {
            if (to == out.size()) return {from, to};
            out[to++] = dot;
          } else if (kind_ != Kind::plain_to_lf) {
            ++from;
          }
        }
        place_ = Place::inside;
        break;
      case Place::after_cr:
        if (in[from] == lf) {
          if (to == out.size()) return {from, to};
          out[to++] = lf;
          ++from;
          place_ = Place::line_start;
        } else {
          if (to_lf()) {
            if (to == out.size()) return {from, to};
            out[to++] = cr;
          }
          place_ = Place::inside;
        }
        break;
      case Place::inside: {
        const std::size_t room = std::min(in.size() - from, out.size() - to);
        if (room == 0) {
          // A CR that is not written needs no room.
          if (!to_lf() || in[from] != cr) return {from, to};
          ++from;
          place_ = Place::after_cr;
          break;
        }
        const void* found = std::memchr(in.data() + from, '\r', room);
        std::size_t size = room;
        if (found != nullptr)
          size = static_cast<std::size_t>(static_cast<const std::byte*>(found) - (in.data() + from));
        const std::size_t cr_size = found != nullptr ? 1 : 0;
        const std::size_t copied = size + (to_lf() ? 0 : cr_size);
        std::memcpy(out.data() + to, in.data() + from, copied);
        from += size + cr_size;
        to += copied;
        if (found != nullptr) place_ = Place::after_cr;
        break;
      }
    }
  }
  return {from, to};
}

void ContentConverter::append(Bytes in, std::string& out) {
  while (!in.empty()) {
    // Room for dots that ordinary text needs; worse text takes another turn.
    const std::size_t size = out.size();
    out.resize(size + in.size() + in.size() / 32 + 16);
    const Progress progress = convert(in, {reinterpret_cast<std::byte*>(out.data()) + size, out.size() - size});
    out.resize(size + progress.produced);
    in = in.subspan(progress.consumed);
  }
}

std::string_view ContentConverter::finish(bool complete_line) {
  const Place place = place_;
  place_ = Place::line_start;
  switch (place) {
    case Place::line_start:
      return {};
    case Place::inside:
      if (!complete_line) return {};
      return to_lf() ? "\n" : "\r\n";
    case Place::after_cr:
      if (to_lf()) return complete_line ? "\r\n" : "\r";
      return complete_line ? "\n" : "";
  }
  return {};
}

}  // namespace postern::smtp
