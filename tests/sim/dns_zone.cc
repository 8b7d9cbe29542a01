#include "tests/sim/dns_zone.h"

#include <optional>
#include <utility>

#include <postern/dns/message.h>

#include "tests/dns/message_builder.h"

namespace postern::sim {

using dns::testing::MessageBuilder;

class DnsZone::Session final : public io::sim::Peer {
 public:
  explicit Session(DnsZone& of) : Peer(of.world_), zone_(of) {}

 private:
  void on_bytes(std::string_view bytes) override {
    input_.append(bytes);
    if (input_.size() < 2) return;
    const std::size_t size =
        std::size_t{static_cast<unsigned char>(input_[0])} << 8 | static_cast<unsigned char>(input_[1]);
    if (input_.size() < 2 + size) return;
    const std::string response = zone_.answer(std::string_view(input_).substr(2, size), true);
    input_.clear();
    if (!response.empty()) send(MessageBuilder::u16(static_cast<unsigned>(response.size())) + response);
  }
  void on_end() override { close(); }
  void on_lost(int /*error*/) override {}

  DnsZone& zone_;
  std::string input_;
};

DnsZone::DnsZone(io::sim::World& world, const io::Address& address) : world_(world), address_(address) {
  world.network().answer_datagrams(address, [this](const io::Address& from, std::string_view query) {
    std::string response = answer(query, false);
    if (response.empty()) return;
    const Duration wait = world_.chance(mood_.slow)
                              ? world_.between(std::chrono::milliseconds(1), std::chrono::seconds(5))
                              : Duration::zero();
    world_.at(world_.now() + wait, [this, from, response = std::move(response)] {
      world_.network().send_datagram(address_, from, response);
    });
  });
  world.network().serve(address, [this](io::sim::StreamPtr stream) {
    std::erase_if(sessions_, [](const auto& session) { return session->closed(); });
    sessions_.push_back(std::make_unique<Session>(*this));
    sessions_.back()->take(std::move(stream));
  });
}

DnsZone::~DnsZone() = default;

std::string DnsZone::answer(std::string_view query, bool tcp) {
  const std::optional<dns::Message> message = dns::decode(as_bytes(query));
  if (!message || !message->question || world_.chance(mood_.silence)) return {};
  const std::string name = message->question->name.to_text();
  const bool fails = world_.chance(mood_.failures);
  const bool truncated = !tcp && world_.chance(mood_.truncated);
  const bool exists = mx_.contains(name) || a_.contains(name);
  const dns::ResponseCode code = fails    ? dns::ResponseCode::server_failure
                                 : exists ? dns::ResponseCode::no_error
                                          : dns::ResponseCode::no_such_name;
  MessageBuilder response(as_bytes(query), {.code = code, .truncated = truncated});
  constexpr std::uint32_t ttl = 60;
  if (!fails && !truncated) {
    bool any = false;
    if (message->question->type == dns::RecordType::mx) {
      if (const auto found = mx_.find(name); found != mx_.end()) {
        std::uint16_t preference = 10;
        for (const std::string& host : found->second) response.mx(name, ttl, preference++, host);
        any = true;
      }
    } else if (message->question->type == dns::RecordType::a) {
      if (const auto found = a_.find(name); found != a_.end()) {
        for (const std::string& address : found->second) response.a(name, ttl, address);
        any = true;
      }
    }
    if (!any) response.soa("test", ttl, ttl);
  }
  std::string text = response.text();
  // Somebody guesses: the id is another.
  if (world_.chance(mood_.lies)) text[0] = static_cast<char>(text[0] ^ 0x55);
  return text;
}

}  // namespace postern::sim
