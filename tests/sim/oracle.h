// What became of every message of a run, as seen from outside, and whether that is what a mail transfer agent owes.
//
// Clients, next hops and Maildirs tell it what they saw; it knows nothing of Postern's inside. A message belongs to the
// relay once its client has read 250 after the content. Then each recipient is delivered, or reported to the sender in
// exactly one DSN, or (in the end) still waits, or was lost to a flipped bit.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/time.h>

namespace postern::sim {

struct Rcpt {
  std::string address;
  bool accepted = false;  // its RCPT was answered 250
  bool refused = false;   // its RCPT was answered otherwise
  // NOTIFY as the client gives it: "", "NEVER", "SUCCESS", "FAILURE", "SUCCESS,FAILURE".
  std::string notify{};
  [[nodiscard]] bool wants_failure() const { return notify.empty() || notify.ends_with("FAILURE"); }
  [[nodiscard]] bool wants_success() const { return notify.starts_with("SUCCESS"); }
  // What explains that it is never delivered.
  bool refused_for_good = false;  // a next hop answered 5xx, or its domain does not exist
  // Deliveries, in order: when, and whether the relay is known to have read the 250.
  struct Delivery {
    Instant at{};
    bool confirmed = false;
  };
  std::vector<Delivery> deliveries{};
  std::set<std::string> reports{};    // Message-IDs of DSNs that name it as failed
  std::set<std::string> successes{};  // as relayed or delivered
};

struct Mail {
  enum class Fate : std::uint8_t {
    unsent,    // its content never left the client whole
    unknown,   // the client did not learn what became of it
    refused,   // 4xx or 5xx
    accepted,  // 250: the relay's
  };
  std::uint32_t number = 0;
  std::string sender;   // empty: null
  std::string content;  // CRLF lines, not dot-stuffed
  std::vector<Rcpt> recipients;
  Fate fate = Fate::unsent;
  Instant accepted_at{};
  std::string queue_id;
};

class Oracle {
 public:
  struct Rules {
    Duration give_up_after = std::chrono::hours(1);
    bool hours_may_jump = false;  // the wall clock was stepped, and a restart took due times from it
    // A crash loses settlements that are not yet durable: so old they can be, a restart delivers again.
    Duration unsettled_max = std::chrono::seconds(30);
    // From MAIL, when the relay's count begins, to the 250 that the client hears.
    Duration transaction_max = std::chrono::minutes(10);
    bool answers_may_lie = false;  // a failed write was reported to the client, and reached the disk all the same
  };
  Rules rules;
  std::function<void(std::string_view)> on_violation;  // at once; for the trace

  // --- from clients. The reference stays valid.
  Mail& add(std::string sender, std::string content, std::vector<std::string> recipients);
  void on_fate(Mail& mail, Mail::Fate fate, std::string_view queue_id, Instant now);

  // --- from next hops and Maildirs
  // A content was answered 250 (or lies in a Maildir) for these recipients. Returns what confirm() needs.
  using Ticket = std::uint64_t;
  Ticket on_delivered(std::string_view reverse_path, const std::vector<std::string>& recipients,
                      std::string_view content, Instant now);
  void confirm(Ticket ticket);
  // 5xx for one recipient, or for all of a sender's.
  void on_refused(const std::string& recipient);
  void on_sender_refused(const std::string& reverse_path);

  // --- from the world
  void on_crash(Instant now) { crashes_.push_back(now); }
  void on_flipped_bit() { flipped_ = true; }
  void violation(std::string text);

  // --- at the end
  // `drained`: faults are healed and time has passed: nothing waits any more.
  void judge(bool drained, Instant now);
  [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }

  struct Counts {
    std::size_t accepted = 0, refused = 0, unknown = 0, unsent = 0;
    std::size_t delivered = 0, reported = 0, successes = 0, doubled = 0, silent = 0, lost_to_flips = 0;
  };
  [[nodiscard]] Counts counts() const;

 private:
  struct Place {
    std::size_t mail;
    std::size_t recipient;
    std::size_t delivery;
  };
  [[nodiscard]] bool explained_by_crash(Instant delivered_at, Instant again_at) const;
  void check_content(const Mail& mail, std::string_view content);
  void on_report(std::string_view recipient, std::string_view content, Instant now);
  [[nodiscard]] Rcpt* find(std::string_view address, Mail** mail);

  std::vector<std::unique_ptr<Mail>> mails_;
  std::map<std::string, std::pair<std::size_t, std::size_t>, std::less<>> by_address_;
  std::map<std::string, std::size_t, std::less<>> by_sender_;
  std::set<std::string> queue_ids_;
  std::vector<std::vector<Place>> tickets_;
  std::vector<Instant> crashes_;
  std::set<std::string> refused_;
  bool flipped_ = false;
  std::vector<std::string> violations_;
};

}  // namespace postern::sim
