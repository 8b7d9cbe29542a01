#include "admin/admin_server.h"

#include <cerrno>
#include <cstring>
#include <microhttpd.h>
#include <string>
#include <string_view>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>

#include <postern/base/check.h>

#include "admin/exposition.h"

namespace postern::admin {
namespace {

constexpr int backlog = 16;

Status system_error(StatusCode code, const io::Address& address, int reason) {
  return error(code, address.to_string() + ": " + std::strerror(reason));
}

const char* socket_path(const io::Address& address) {
  return reinterpret_cast<const sockaddr_un*>(address.kernel())->sun_path;
}

// A socket file that nobody listens on is left by a process that died.
void remove_stale_socket(const io::Address& address) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return;
  if (connect(probe, address.kernel(), address.kernel_size()) < 0 && errno == ECONNREFUSED) {
    unlink(socket_path(address));
  }
  close(probe);
}

MHD_Result answer(MHD_Connection* connection, unsigned status, std::string_view content_type, std::string text,
                  std::string_view allow = {}) {
  MHD_Response* response = MHD_create_response_from_buffer(text.size(), text.data(), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, std::string(content_type).c_str());
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (!allow.empty()) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, std::string(allow).c_str());
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

MHD_Result on_request(void* source_pointer, MHD_Connection* connection, const char* url, const char* method,
                      const char* /*version*/, const char* /*body*/, std::size_t* body_size, void** state) {
  // The first call comes with the header; what a body brings later is swallowed.
  static int header_seen = 0;
  if (*state == nullptr) {
    *state = &header_seen;
    return MHD_YES;
  }
  if (*body_size != 0) {
    *body_size = 0;
    return MHD_YES;
  }
  constexpr std::string_view plain = "text/plain; charset=utf-8";
  auto& source = *static_cast<shard::MetricsSource*>(source_pointer);
  const std::string_view path = url;
  const bool known = path == "/metrics" || path == "/healthz";
  if (!known) return answer(connection, MHD_HTTP_NOT_FOUND, plain, "There are /metrics and /healthz.\n");
  if (std::string_view(method) != MHD_HTTP_METHOD_GET && std::string_view(method) != MHD_HTTP_METHOD_HEAD) {
    return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, "GET or HEAD.\n", "GET, HEAD");
  }
  if (path == "/metrics") return answer(connection, MHD_HTTP_OK, exposition_content_type, exposition(source.metrics()));
  if (source.healthy()) return answer(connection, MHD_HTTP_OK, plain, "ok\n");
  return answer(connection, MHD_HTTP_SERVICE_UNAVAILABLE, plain, "not ready\n");
}

}  // namespace

StatusOr<std::unique_ptr<AdminServer>> AdminServer::bind(const io::Address& address) {
  const int listener = socket(address.kernel()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return system_error(StatusCode::kResourceExhausted, address, errno);
  auto server = std::unique_ptr<AdminServer>(new AdminServer(listener, address));
  if (address.is_unix()) {
    remove_stale_socket(address);
  } else {
    const int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  const mode_t mask = umask(0117);
  const int bound = ::bind(listener, address.kernel(), address.kernel_size());
  const int reason = errno;
  umask(mask);
  if (bound < 0) {
    const bool taken = reason == EADDRINUSE;
    return system_error(taken ? StatusCode::kAlreadyExists : StatusCode::kUnavailable, address, reason);
  }
  server->bound_ = true;
  if (listen(listener, backlog) < 0) return system_error(StatusCode::kAlreadyExists, address, errno);
  return server;
}

AdminServer::~AdminServer() {
  if (daemon_ != nullptr) {
    MHD_stop_daemon(daemon_);  // closes the listener
  } else {
    close(listener_);
  }
  if (bound_ && address_.is_unix()) unlink(socket_path(address_));
}

Status AdminServer::serve(shard::MetricsSource& source) {
  POSTERN_CHECK(daemon_ == nullptr);
  daemon_ = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, nullptr, nullptr, &on_request, &source,
                             MHD_OPTION_LISTEN_SOCKET, listener_, MHD_OPTION_CONNECTION_LIMIT, connections_max,
                             MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(connection_timeout.count()),
                             MHD_OPTION_CONNECTION_MEMORY_LIMIT, connection_memory_bytes, MHD_OPTION_END);
  if (daemon_ == nullptr) return error(StatusCode::kInternal, "the admin listener's thread could not be started");
  return OkStatus();
}

io::Address AdminServer::local_address() const {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (getsockname(listener_, reinterpret_cast<sockaddr*>(&storage), &size) < 0) return {};
  return io::Address::from_kernel(reinterpret_cast<const sockaddr*>(&storage), size);
}

}  // namespace postern::admin
