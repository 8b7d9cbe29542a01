// A simulated machine and its surroundings: virtual time, a network, a disk, and the loops of one process on it.
//
// One seed is one run: everything happens in one thread, in an order that the seed decides. What is done by whom:
//
//   World     time, events in order of time, the table of descriptors, which loop takes its turn next, the crash
//   Network   streams and datagrams between addresses; programs that are not under test speak through Peer (peer.h)
//   Disk      files, what of them survives a crash, errors of the device
//   SimLoop   io::Loop on top of these
//
// Two ways to run: `stepped`, where run() lets programs and events take turns (the simulator of the whole server); and
// not, where a loop's own run_once() moves the time (the conformance suite, with one loop).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/time.h>

#include "io/loop.h"
#include "io/sim/disk.h"
#include "io/sim/network.h"
#include "io/sim/trace.h"

namespace postern::io::sim {

class SimLoop;

struct LoopOptions {
  std::size_t receive_buffers = 64;  // at most 65,535
  std::size_t receive_buffer_bytes = 4096;
  std::size_t completions_per_turn = 256;
  std::size_t tasks_queued = 64;
  bool refuse_direct = false;
  // In hundred: completions handed out in another order than they came; receives that take less than is there; good
  // accepts that end their multishot.
  unsigned disorder = 0;
  unsigned short_receives = 0;
  unsigned accepts_that_end = 0;
};

class World {
 public:
  struct Options {
    std::uint64_t seed = 1;
    bool stepped = false;
    Instant start{std::chrono::seconds(1000)};
    WallTime wall_start{std::chrono::seconds(1'700'000'000)};
    NetworkOptions network{};
    DiskOptions disk{};
    std::size_t descriptors_max = 65536;
    // The longest a program's turn may come behind its time, and the most time one turn takes.
    Duration lateness_max{0};
    Duration turn_max = std::chrono::microseconds(2);
  };

  // A program on a loop of this world, stepped by run(). due(): when its next turn must come at the latest. It is asked
  // once after each turn, as a thread asks before it sleeps: what makes an earlier turn necessary must wake the loop.
  class Program {
   public:
    [[nodiscard]] virtual Instant due() = 0;
    virtual void step() = 0;

   protected:
    ~Program() = default;
  };

  explicit World(const Options& options);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // --- time, chance, trace
  [[nodiscard]] Instant now() const { return now_; }
  [[nodiscard]] WallTime wall() const { return WallTime(now_.time_since_epoch() + wall_offset_); }
  void step_wall(Duration by);
  void set_lateness_max(Duration most) { options_.lateness_max = most; }
  [[nodiscard]] Random& random() { return random_; }
  [[nodiscard]] bool chance(unsigned in_hundred) { return in_hundred > 0 && random_.below(100) < in_hundred; }
  [[nodiscard]] Duration between(Duration least, Duration most);
  void note(std::string_view what, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0) {
    trace_.note(now_, what, a, b, c);
  }
  void say(std::string_view what, std::string_view words) { trace_.say(now_, what, words); }
  [[nodiscard]] Trace& trace() { return trace_; }
  // `what` happens at `when`, or now if that is past. Events of one instant keep their order.
  void at(Instant when, std::function<void()> what);

  [[nodiscard]] Network& network() { return network_; }
  [[nodiscard]] Disk& disk() { return disk_; }

  // --- the process
  [[nodiscard]] std::unique_ptr<Loop> make_loop(const LoopOptions& options);
  // `loop` is one of make_loop(); both stay until the process ends.
  void attach(Program& program, Loop& loop);
  void detach(Program& program);  // also from within its step()

  // Lets programs and events take turns until `until`, or until `enough` says so, or the process crashed. True: enough.
  bool run(Instant until, const std::function<bool()>& enough = nullptr);

  // The process dies at the n-th operation from now, whatever it is doing then: nothing that it starts, sends or
  // writes afterwards has any effect. 0: it does not. `power_cut`: the machine dies with it, and with its page cache.
  void crash_at(std::uint64_t operation, bool power_cut);
  // The same in the middle of the n-th durable write from now (0: of none): seldom met by counting operations.
  void crash_in_write(std::uint64_t write, bool power_cut);
  [[nodiscard]] bool crashed() const { return crashed_; }
  // Operations counted so far: the unit of crash_at().
  [[nodiscard]] std::uint64_t operations() const { return operations_; }
  // Ends the process that runs, or ran until a crash: what it held is closed by the kernel. Then a new one can begin.
  void end_process();
  // A breach of io::Loop's contract by the program under test; the first is kept.
  void breach(std::string_view what);
  [[nodiscard]] const std::optional<std::string>& first_breach() const { return breach_; }

  // --- the table of descriptors, for SimLoop
  struct Entry {
    enum class Kind : std::uint8_t { free, listener, stream, datagram, file };
    Kind kind = Kind::free;
    ListenerPtr listener{};
    StreamPtr stream{};
    DatagramSocketPtr datagram{};
    FilePtr file{};
    bool log_synced = false;
    bool log_direct = false;
  };
  // -1: none is free.
  [[nodiscard]] Descriptor add(Entry entry);
  [[nodiscard]] Entry* find(Descriptor descriptor);
  void remove(Descriptor descriptor);
  [[nodiscard]] std::size_t open_descriptors() const { return open_; }
  void set_descriptors_max(std::size_t most) { options_.descriptors_max = most; }
  [[nodiscard]] bool descriptors_left() const { return open_ < options_.descriptors_max; }

  // A durable write has begun; it ends in `takes` at the earliest.
  void on_write_begun(Duration takes);
  // Counts an operation, and crashes if it is the one. True: the process lives.
  bool tick();
  // For loops that run by themselves: events until `until`, or until enough() says so.
  void run_events(Instant until, const std::function<bool()>& enough);
  void pass(Duration time) { now_ += time; }
  [[nodiscard]] bool stepped() const { return options_.stepped; }

 private:
  friend class SimLoop;
  struct Event {
    Instant when;
    std::uint64_t order;
    std::shared_ptr<std::function<void()>> what;
    friend bool operator<(const Event& a, const Event& b) {
      return a.when != b.when ? a.when > b.when : a.order > b.order;
    }
  };
  struct Attached {
    Program* program;
    SimLoop* loop;
    Instant due{};      // as it said after its last turn
    Instant turn_at{};  // the same with lateness
  };
  bool run_one_event(Instant until);
  void crash();

  Options options_;
  Instant now_;
  Duration wall_offset_;
  Random random_;
  Trace trace_;
  std::priority_queue<Event> events_;
  std::uint64_t events_made_ = 0;
  Network network_;
  Disk disk_;
  std::vector<Entry> entries_;
  std::size_t open_ = 0;
  std::vector<SimLoop*> loops_;
  std::vector<Attached> attached_;
  std::uint64_t operations_ = 0;
  std::uint64_t crash_at_ = 0;
  std::uint64_t crash_in_write_ = 0;  // durable writes to go
  std::uint64_t crash_plan_ = 0;      // one that has been replaced, or whose process has ended, is void
  bool power_cut_ = false;
  bool crashed_ = false;
  std::optional<std::string> breach_;
};

}  // namespace postern::io::sim
