// The model of the disk: what a crash may take, and what it may not.
#include "tests/crash/history.h"

#include <cstdint>
#include <deque>
#include <fcntl.h>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

namespace postern::crash {
namespace {

using io::record::Entry;
using What = Entry::What;
using Kind = io::FileRequest::Kind;

constexpr int images_tried = 400;

// A run, told step by step.
class Disk {
 public:
  explicit Disk(Lie lie = Lie::none) : history_(lie) {}

  std::uint64_t begin(Entry entry) {
    entry.operation = ++operations_;
    entry.length = std::max<std::uint64_t>(entry.length, entry.data.size());
    entries_.push_back(std::move(entry));
    history_.apply(entries_.back());
    return operations_;
  }
  void end(std::uint64_t operation, std::int64_t result = 0) {
    entries_.push_back({.what = What::end, .operation = operation, .result = result});
    history_.apply(entries_.back());
  }
  void whole(Entry entry, std::int64_t result = 0) { end(begin(std::move(entry)), result); }

  void create(const std::string& path, int descriptor) {
    whole({.what = What::file, .kind = Kind::open, .open_flags = O_CREAT | O_RDWR, .path = path}, descriptor);
  }
  void sync_folder(const std::string& path) {
    whole({.what = What::file, .kind = Kind::open, .open_flags = O_RDONLY | O_DIRECTORY, .path = path}, 99);
    whole({.what = What::file, .kind = Kind::sync, .descriptor = 99});
  }
  static Entry durable(int descriptor, std::uint64_t offset, std::size_t size, char fill) {
    return {.what = What::write, .descriptor = descriptor, .offset = offset, .data = bytes(size, fill)};
  }
  static Entry buffered(int descriptor, std::uint64_t offset, std::size_t size, char fill) {
    return {
        .what = What::file, .kind = Kind::write, .descriptor = descriptor, .offset = offset, .data = bytes(size, fill)};
  }
  static Entry sync(int descriptor) { return {.what = What::file, .kind = Kind::sync, .descriptor = descriptor}; }

  // How many of many images fulfil `what`.
  int count(const std::function<bool(const Image&)>& what) {
    int found = 0;
    for (std::uint64_t seed = 0; seed < images_tried; ++seed) {
      Random random(seed);
      found += what(history_.image(random)) ? 1 : 0;
    }
    return found;
  }

 private:
  static std::vector<std::byte> bytes(std::size_t size, char fill) {
    return std::vector<std::byte>(size, static_cast<std::byte>(fill));
  }

  History history_;
  std::deque<Entry> entries_;  // the history looks into them
  std::uint64_t operations_ = 0;
};

bool has(const Image& image, const std::string& path) {
  return image.contains(path);
}

std::string text_of(const Image& image, const std::string& path) {
  const auto found = image.find(path);
  return found == image.end() ? std::string() : std::string(as_text(found->second.bytes));
}

// A file of 8 KiB of 'o', durable with its name.
Disk with_file(Lie lie = Lie::none) {
  Disk disk(lie);
  disk.create("/data/f", 5);
  disk.whole(Disk::durable(5, 0, 8192, 'o'));
  disk.sync_folder("/data");
  return disk;
}

TEST(History, WhatIsDurableIsInEveryImage) {
  Disk disk = with_file();
  EXPECT_EQ(disk.count([](const Image& image) { return text_of(image, "/data/f") == std::string(8192, 'o'); }),
            images_tried);
}

TEST(History, AWriteUnderWayLandsInAnyPart) {
  Disk disk = with_file();
  const std::uint64_t write = disk.begin(Disk::durable(5, 4096, 4096, 'n'));
  const auto new_sectors = [](const Image& image) {
    const std::string text = text_of(image, "/data/f");
    EXPECT_EQ(text.substr(0, 4096), std::string(4096, 'o'));
    std::size_t sectors = 0;
    for (std::size_t at = 4096; at < 8192; at += 512) {
      const std::string sector = text.substr(at, 512);
      EXPECT_TRUE(sector == std::string(512, 'o') || sector == std::string(512, 'n')) << "a sector is old or new";
      sectors += sector.front() == 'n' ? 1 : 0;
    }
    return sectors;
  };
  EXPECT_GT(disk.count([&](const Image& image) { return new_sectors(image) == 0; }), 20);
  EXPECT_GT(disk.count([&](const Image& image) { return new_sectors(image) == 8; }), 20);
  EXPECT_GT(disk.count([&](const Image& image) { return new_sectors(image) % 8 != 0; }), 20);
  disk.end(write, 4096);
  EXPECT_EQ(disk.count([&](const Image& image) { return new_sectors(image) == 8; }), images_tried);
}

TEST(History, AFailedWriteMayHaveLanded) {
  Disk disk = with_file();
  disk.whole(Disk::durable(5, 0, 512, 'n'), -EIO);
  const int landed = disk.count([](const Image& image) { return text_of(image, "/data/f").front() == 'n'; });
  EXPECT_GT(landed, 20);
  EXPECT_LT(landed, images_tried - 20);
}

TEST(History, ABufferedWriteNeedsASyncThatBeganBehindIt) {
  Disk disk = with_file();
  const auto landed = [&] {
    return disk.count(
        [](const Image& image) { return text_of(image, "/data/f").substr(0, 512) == std::string(512, 'n'); });
  };
  const std::uint64_t write = disk.begin(Disk::buffered(5, 0, 512, 'n'));
  const std::uint64_t early = disk.begin(Disk::sync(5));
  disk.end(write, 512);
  disk.end(early);
  EXPECT_LT(landed(), images_tried);
  const std::uint64_t failed = disk.begin(Disk::sync(5));
  disk.end(failed, -EIO);
  EXPECT_LT(landed(), images_tried);
}

TEST(History, ASyncMakesBytesAndSizeDurable) {
  Disk disk;
  disk.create("/data/f", 5);
  disk.sync_folder("/data");
  disk.whole({.what = What::file, .kind = Kind::allocate, .descriptor = 5, .length = 2048});
  disk.whole(Disk::buffered(5, 0, 1024, 'n'), 1024);
  const auto size_is = [&](std::size_t size) {
    return disk.count([&](const Image& image) { return text_of(image, "/data/f").size() == size; });
  };
  EXPECT_GT(size_is(0), 5) << "an unsynced size may be lost";
  EXPECT_GT(size_is(2048), 5);
  disk.whole(Disk::sync(5));
  EXPECT_EQ(disk.count([](const Image& image) {
    return text_of(image, "/data/f") == std::string(1024, 'n') + std::string(1024, '\0');
  }),
            images_tried);
}

TEST(History, ANameNeedsASyncOfItsFolder) {
  Disk disk;
  disk.create("/data/f", 5);
  disk.whole(Disk::sync(5));
  const int there = disk.count([](const Image& image) { return has(image, "/data/f"); });
  EXPECT_GT(there, 20);
  EXPECT_LT(there, images_tried - 20);
  disk.sync_folder("/other");
  EXPECT_LT(disk.count([](const Image& image) { return has(image, "/data/f"); }), images_tried);
  disk.sync_folder("/data");
  EXPECT_EQ(disk.count([](const Image& image) { return has(image, "/data/f"); }), images_tried);
}

TEST(History, ARenameIsWhole) {
  Disk disk = with_file();
  disk.whole({.what = What::file, .kind = Kind::rename, .path = "/data/f", .other_path = "/data/g"});
  int renamed = 0;
  EXPECT_EQ(disk.count([&](const Image& image) {
    renamed += has(image, "/data/g") ? 1 : 0;
    return has(image, "/data/f") != has(image, "/data/g");
  }),
            images_tried);
  EXPECT_GT(renamed, 20);
  EXPECT_LT(renamed, images_tried - 20);
}

TEST(History, UnsyncedNamesGoInOrderOrInNone) {
  Disk disk = with_file();
  disk.create("/data/first", 6);
  disk.create("/data/second", 7);
  const auto with = [&](bool first, bool second) {
    return disk.count(
        [=](const Image& image) { return has(image, "/data/first") == first && has(image, "/data/second") == second; });
  };
  EXPECT_GT(with(false, false), 20);
  EXPECT_GT(with(true, false), 20);
  EXPECT_GT(with(true, true), 20);
  EXPECT_GT(with(false, true), 5);
  EXPECT_LT(with(false, true), images_tried / 4);
}

TEST(History, WhatIsDurableCanBeReached) {
  Disk disk;
  disk.whole({.what = What::file, .kind = Kind::make_directory, .path = "/mail/box"});
  disk.whole({.what = What::file, .kind = Kind::make_directory, .path = "/mail/box/new"});
  disk.create("/mail/box/new/m", 5);
  EXPECT_LT(disk.count([](const Image& image) { return has(image, "/mail/box"); }), images_tried);
  disk.sync_folder("/mail/box/new");
  EXPECT_EQ(disk.count([](const Image& image) {
    return has(image, "/mail/box") && has(image, "/mail/box/new") && has(image, "/mail/box/new/m");
  }),
            images_tried);
}

TEST(History, EveryLieTakesWhatWasPromised) {
  const auto lost = [](Disk& disk) {
    return images_tried -
           disk.count([](const Image& image) { return text_of(image, "/data/f").starts_with(std::string(512, 'n')); });
  };
  for (const Lie lie : {Lie::lost_write, Lie::late_write, Lie::directory_sync}) {
    Disk disk = with_file(lie);
    // The twentieth durable write, with that of with_file().
    for (int i = 0; i < 18; ++i) disk.whole(Disk::durable(5, 0, 512, 'o'), 512);
    disk.whole(Disk::durable(5, 0, 512, 'n'), 512);
    EXPECT_GT(lost(disk), 20) << static_cast<int>(lie);
  }
  Disk disk = with_file(Lie::file_sync);
  disk.whole(Disk::buffered(5, 0, 512, 'n'), 512);
  disk.whole(Disk::sync(5));
  EXPECT_GT(lost(disk), 20);
}

}  // namespace
}  // namespace postern::crash
