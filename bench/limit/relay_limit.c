// Question: what does relaying a message over SMTP cost at the least on this machine? An SMTP relay without mail logic,
// disk and queue, in plain C on liburing: what a real relay's figure is divided by.
//
//   relay_limit PORT NEXT_HOP_ADDRESS:PORT [CONNECTIONS [GATHER_US]]    (IPv4; 20 connections to the next hop)
//
// Takes mail exactly as smtp-source gives it (one command at a time, every content ends its packet), holds it in
// memory, answers 250 at once, and sends it on over connections that stay open: MAIL, RCPT and DATA in one piece, then
// the content. It parses nothing but the first letter of a command, looks for the end of data only at the end of what
// arrived, and treats everything unexpected as a reason to stop. Not a mail server.
//
// What is cheapest of all that was measured: one ring, SINGLE_ISSUER and DEFER_TASKRUN, one io_uring_enter a turn that
// submits everything and waits; one-shot receives with POLL_FIRST, into a buffer ring for commands and replies, into
// the message's own memory for content, which is thus never copied.
//
// GATHER_US (Linux 6.12 or later): having nothing to do, it sleeps until 16 completions are there, or until one is and
// so many microseconds have passed: fewer wake-ups and larger turns, paid with latency.
//
// SIGUSR1: prints `messages=… enters=… sends=… receives=…`, all since the start. SIGTERM ends it.
#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
  connections_max = 4096,  // in and out together
  messages_max = 256,      // held at once; beyond, 250 waits: more would only measure page faults
  buffers = 1024,          // of the buffer ring
  buffer_bytes = 4096,
  line_bytes = 512,
  content_bytes_first = 16 << 10,
  content_bytes_max = 64 << 20,
  gather_count = 16,
};

struct message {
  struct message* next;
  char envelope[2 * line_bytes + 8];  // MAIL, RCPT and DATA lines, as they will be sent
  unsigned envelope_bytes;
  char* content;  // with the final dot's line
  size_t size, capacity;
};

enum operation { operation_receive, operation_send, operation_accept };
enum outbound_state { awaits_greeting, awaits_hello, idle, awaits_group, awaits_end };

struct connection {
  int descriptor;
  bool outbound;
  bool in_content;       // inbound: behind 354
  bool socket_has_more;  // as the last receive said
  enum outbound_state state;
  unsigned replies_due;
  unsigned held;  // bytes of an unfinished line
  char line[line_bytes];
  struct message* message;
  struct connection* next;  // in a list of waiters
} __attribute__((aligned(64)));

static struct io_uring ring;
static struct io_uring_buf_ring* buffer_ring;
static char* buffer_memory;
static struct connection connections[connections_max];
static unsigned connections_used;
static struct message* messages_free;
static struct message *queue_head, **queue_tail = &queue_head;  // accepted, not yet under way
static struct connection* outbound_idle;
static struct connection *starved_head, **starved_tail = &starved_head;  // said DATA, and no message is free
static uint64_t messages_done, enters, sends, receives;
static unsigned gather_us;
static volatile sig_atomic_t asked_to_report, asked_to_end;

static void die(const char* what) {
  fprintf(stderr, "relay_limit: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void stop(const char* what, const char* line) {
  fprintf(stderr, "relay_limit: %s: %.80s\n", what, line);
  exit(1);
}

static void on_signal(int number) {
  if (number == SIGUSR1) {
    asked_to_report = 1;
  } else {
    asked_to_end = 1;
  }
}

static void report(void) {
  asked_to_report = 0;
  printf("messages=%llu enters=%llu sends=%llu receives=%llu\n", (unsigned long long)messages_done,
         (unsigned long long)enters, (unsigned long long)sends, (unsigned long long)receives);
  fflush(stdout);
}

// --- operations ------------------------------------------------------------------------------------------------------

// Submits everything and, `wait`, waits: one system call. By hand, because old versions of liburing have no word for
// the time to gather; the queue's array was filled once in set_up_ring().
static int enter(bool wait) {
  const struct __kernel_timespec long_time = {.tv_sec = 3600};
  // `pad` is min_wait_usec since Linux 6.12.
  const struct io_uring_getevents_arg argument = {
      .sigmask_sz = _NSIG / 8, .pad = wait ? gather_us : 0, .ts = (uint64_t)(uintptr_t)&long_time};
  const unsigned tail = ring.sq.sqe_tail;
  io_uring_smp_store_release(ring.sq.ktail, tail);
  ring.sq.sqe_head = tail;
  ++enters;
  return io_uring_enter2((unsigned)ring.enter_ring_fd, tail - io_uring_smp_load_acquire(ring.sq.khead),
                         !wait           ? 0
                         : gather_us > 0 ? gather_count
                                         : 1,
                         IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | IORING_ENTER_REGISTERED_RING,
                         (sigset_t*)&argument, sizeof argument);
}

static struct io_uring_sqe* entry(struct connection* connection, enum operation operation) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(&ring);
  if (sqe == NULL) {
    enter(false);
    sqe = io_uring_get_sqe(&ring);
    if (sqe == NULL) stop("the submission queue stays full", "");
  }
  sqe->user_data = (uint64_t)(uintptr_t)connection | operation;  // connections are aligned: low bits are free
  return sqe;
}

static void start_send(struct connection* connection, const void* data, size_t size) {
  struct io_uring_sqe* sqe = entry(connection, operation_send);
  const uint64_t user_data = sqe->user_data;
  io_uring_prep_send(sqe, connection->descriptor, data, size, MSG_WAITALL | MSG_NOSIGNAL);
  sqe->user_data = user_data;
  ++sends;
}

static void start_receive(struct connection* connection) {
  struct io_uring_sqe* sqe = entry(connection, operation_receive);
  const uint64_t user_data = sqe->user_data;
  if (connection->in_content) {
    struct message* message = connection->message;
    io_uring_prep_recv(sqe, connection->descriptor, message->content + message->size, message->capacity - message->size,
                       0);
  } else {
    io_uring_prep_recv(sqe, connection->descriptor, NULL, buffer_bytes, 0);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
  }
  if (!connection->socket_has_more) sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
  sqe->user_data = user_data;
  ++receives;
}

static void say(struct connection* connection, const char* literal) {
  start_send(connection, literal, strlen(literal));
}

static struct connection* new_connection(int descriptor, bool outbound) {
  if (connections_used == connections_max) stop("too many connections", "");
  struct connection* connection = &connections[connections_used++];
  connection->descriptor = descriptor;
  connection->outbound = outbound;
  return connection;
}

// --- messages --------------------------------------------------------------------------------------------------------

static void make_room(struct message* message) {
  if (message->size < message->capacity) return;
  if (message->capacity >= content_bytes_max) stop("content too large", "");
  message->capacity = message->capacity == 0 ? content_bytes_first : 4 * message->capacity;
  message->content = realloc(message->content, message->capacity);
  if (message->content == NULL) die("memory");
}

static void append_line(struct message* message, const char* line, size_t size) {
  if (message->envelope_bytes + size > sizeof message->envelope) stop("envelope too large", line);
  memcpy(message->envelope + message->envelope_bytes, line, size);
  message->envelope_bytes += (unsigned)size;
}

static void send_on(struct connection* out, struct message* message) {
  out->message = message;
  out->state = awaits_group;
  out->replies_due = 3;
  start_send(out, message->envelope, message->envelope_bytes);
}

static void give_message(struct connection* in) {
  in->message = messages_free;
  messages_free = in->message->next;
  in->message->envelope_bytes = 0;
  in->message->size = 0;
}

static void accepted(struct connection* in) {
  struct message* message = in->message;
  in->message = NULL;
  in->in_content = false;
  say(in, "250 2.0.0 Ok\r\n");
  append_line(message, "DATA\r\n", 6);
  if (outbound_idle != NULL) {
    struct connection* out = outbound_idle;
    outbound_idle = out->next;
    send_on(out, message);
    return;
  }
  message->next = NULL;
  *queue_tail = message;
  queue_tail = &message->next;
}

static void relayed(struct connection* out) {
  struct message* done = out->message;
  ++messages_done;
  if (queue_head != NULL) {
    struct message* message = queue_head;
    queue_head = message->next;
    if (queue_head == NULL) queue_tail = &queue_head;
    send_on(out, message);
  } else {
    out->state = idle;
    out->next = outbound_idle;
    outbound_idle = out;
  }
  done->next = messages_free;
  messages_free = done;
  if (starved_head != NULL) {
    struct connection* in = starved_head;
    starved_head = in->next;
    if (starved_head == NULL) starved_tail = &starved_head;
    give_message(in);
    append_line(in->message, in->line, in->held);
    in->held = 0;
    say(in, "250 2.1.0 Ok\r\n");
    start_receive(in);
  }
}

// --- dialogue --------------------------------------------------------------------------------------------------------

// False: the next receive waits until a message is free.
static bool on_command(struct connection* in, const char* line, size_t size) {
  switch (line[0] | 0x20) {
    case 'h':
    case 'e':
      say(in, "250 limit.test\r\n");
      return true;
    case 'm':
      if (messages_free == NULL) {
        memmove(in->line, line, size);
        in->held = (unsigned)size;
        in->next = NULL;
        *starved_tail = in;
        starved_tail = &in->next;
        return false;
      }
      give_message(in);
      append_line(in->message, line, size);
      say(in, "250 2.1.0 Ok\r\n");
      return true;
    case 'r':
      append_line(in->message, line, size);
      say(in, "250 2.1.5 Ok\r\n");
      return true;
    case 'd':
      in->in_content = true;
      make_room(in->message);
      say(in, "354 End data with <CR><LF>.<CR><LF>\r\n");
      return true;
    case 'q':
      say(in, "221 2.0.0 Bye\r\n");
      return true;
    default:
      stop("unexpected command", line);
      return false;
  }
}

static void on_reply(struct connection* out, const char* line) {
  if (line[3] == '-') return;
  if (line[0] != '2' && line[0] != '3') stop("the next hop refuses", line);
  switch (out->state) {
    case awaits_greeting:
      out->state = awaits_hello;
      say(out, "EHLO limit.test\r\n");
      break;
    case awaits_hello:
      out->state = idle;
      out->next = outbound_idle;
      outbound_idle = out;
      break;
    case awaits_group:
      if (--out->replies_due > 0) break;
      out->state = awaits_end;
      start_send(out, out->message->content, out->message->size);
      break;
    case awaits_end:
      relayed(out);
      break;
    case idle:
      stop("the next hop speaks unasked", line);
  }
}

// Complete lines go to the dialogue where they lie; the unfinished rest is kept. False: do not receive now.
static bool on_lines(struct connection* connection, char* bytes, size_t size) {
  bool go_on = true;
  if (connection->held > 0) {
    if (connection->held + size > line_bytes) stop("line too long", connection->line);
    memcpy(connection->line + connection->held, bytes, size);
    bytes = connection->line;
    size += connection->held;
    connection->held = 0;
  }
  while (size > 0) {
    char* const end = memchr(bytes, '\n', size);
    if (end == NULL) break;
    const size_t length = (size_t)(end + 1 - bytes);
    if (length < 5) stop("line too short", bytes);
    if (connection->outbound) {
      on_reply(connection, bytes);
    } else {
      go_on = on_command(connection, bytes, length);
      if (length < size) stop("pipelined input", bytes);
    }
    bytes += length;
    size -= length;
  }
  if (size > 0) {
    if (size > line_bytes) stop("line too long", bytes);
    memmove(connection->line, bytes, size);
    connection->held = (unsigned)size;
  }
  return go_on;
}

static void on_content(struct connection* in, size_t size) {
  struct message* message = in->message;
  message->size += size;
  if (message->size >= 5 && memcmp(message->content + message->size - 5, "\r\n.\r\n", 5) == 0) {
    accepted(in);
  } else {
    make_room(message);
  }
}

static void on_received(struct connection* connection, const struct io_uring_cqe* cqe) {
  if (cqe->res == -ENOBUFS) {
    start_receive(connection);
    return;
  }
  char* buffer = NULL;
  unsigned id = 0;
  if (cqe->flags & IORING_CQE_F_BUFFER) {
    id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    buffer = buffer_memory + (size_t)id * buffer_bytes;
  }
  connection->socket_has_more = (cqe->flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
  bool go_on = true;
  if (cqe->res <= 0) {
    if (connection->outbound) stop("the next hop hung up", "");
    close(connection->descriptor);
    go_on = false;
  } else if (buffer == NULL) {
    on_content(connection, (size_t)cqe->res);
  } else {
    go_on = on_lines(connection, buffer, (size_t)cqe->res);
  }
  if (buffer != NULL) {
    io_uring_buf_ring_add(buffer_ring, buffer, buffer_bytes, (unsigned short)id, io_uring_buf_ring_mask(buffers), 0);
    io_uring_buf_ring_advance(buffer_ring, 1);
  }
  if (go_on) start_receive(connection);
}

static void start_accept(struct connection* listener) {
  struct io_uring_sqe* sqe = entry(listener, operation_accept);
  const uint64_t user_data = sqe->user_data;
  io_uring_prep_multishot_accept(sqe, listener->descriptor, NULL, NULL, SOCK_CLOEXEC);
  sqe->user_data = user_data;
}

static void on_accepted(struct connection* listener, const struct io_uring_cqe* cqe) {
  if (cqe->res < 0) stop("accept", strerror(-cqe->res));
  struct connection* in = new_connection(cqe->res, false);
  say(in, "220 limit.test ESMTP\r\n");
  start_receive(in);
  if (!(cqe->flags & IORING_CQE_F_MORE)) start_accept(listener);
}

static void on_completion(const struct io_uring_cqe* cqe) {
  struct connection* connection = (struct connection*)(uintptr_t)(cqe->user_data & ~(uint64_t)7);
  switch (cqe->user_data & 7) {
    case operation_receive:
      on_received(connection, cqe);
      break;
    case operation_send:
      if (cqe->res < 0 && connection->outbound) stop("sending to the next hop", strerror(-cqe->res));
      break;
    default:
      on_accepted(connection, cqe);
      break;
  }
}

// --- start -----------------------------------------------------------------------------------------------------------

static void set_up_ring(void) {
  struct io_uring_params parameters = {
      .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
      .cq_entries = 8192};
  int code = io_uring_queue_init_params(512, &ring, &parameters);
  if (code < 0) stop("io_uring", strerror(-code));
  code = io_uring_register_ring_fd(&ring);
  if (code < 0) stop("registering the ring", strerror(-code));
  for (unsigned i = 0; i < ring.sq.ring_entries; ++i) ring.sq.array[i] = i;
  const size_t entries_bytes = buffers * sizeof(struct io_uring_buf);
  char* const mapping = mmap(NULL, entries_bytes + (size_t)buffers * buffer_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) die("memory");
  buffer_ring = (struct io_uring_buf_ring*)mapping;
  buffer_memory = mapping + entries_bytes;
  struct io_uring_buf_reg registration = {.ring_addr = (uint64_t)(uintptr_t)mapping, .ring_entries = buffers};
  code = io_uring_register_buf_ring(&ring, &registration, 0);
  if (code < 0) stop("buffer ring", strerror(-code));
  io_uring_buf_ring_init(buffer_ring);
  for (unsigned id = 0; id < buffers; ++id) {
    io_uring_buf_ring_add(buffer_ring, buffer_memory + (size_t)id * buffer_bytes, buffer_bytes, (unsigned short)id,
                          io_uring_buf_ring_mask(buffers), (int)id);
  }
  io_uring_buf_ring_advance(buffer_ring, buffers);
}

static void listen_on(uint16_t port) {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // inherited by what it accepts
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  if (bind(descriptor, (struct sockaddr*)&address, sizeof address) != 0 || listen(descriptor, 4096) != 0) {
    die("listening");
  }
  start_accept(new_connection(descriptor, false));
}

static void connect_to(char* next_hop, unsigned count) {
  char* const colon = strrchr(next_hop, ':');
  struct sockaddr_in address = {.sin_family = AF_INET};
  if (colon == NULL) stop("next hop: ADDRESS:PORT is wanted", next_hop);
  *colon = '\0';
  address.sin_port = htons((uint16_t)atoi(colon + 1));
  if (inet_pton(AF_INET, next_hop, &address.sin_addr) != 1) stop("next hop: not an IPv4 address", next_hop);
  for (unsigned i = 0; i < count; ++i) {
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (connect(descriptor, (struct sockaddr*)&address, sizeof address) != 0) die("connecting to the next hop");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    start_receive(new_connection(descriptor, true));
  }
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    fprintf(stderr, "usage: relay_limit PORT NEXT_HOP_ADDRESS:PORT [CONNECTIONS [GATHER_US]]\n");
    return 2;
  }
  struct sigaction action = {.sa_handler = on_signal};  // no SA_RESTART: it shall end the wait
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  for (unsigned i = 0; i < messages_max; ++i) {
    struct message* message = calloc(1, sizeof *message);
    if (message == NULL) die("memory");
    message->next = messages_free;
    messages_free = message;
  }
  set_up_ring();
  connect_to(argv[2], argc > 3 ? (unsigned)atoi(argv[3]) : 20);
  gather_us = argc > 4 ? (unsigned)atoi(argv[4]) : 0;
  listen_on((uint16_t)atoi(argv[1]));
  while (!asked_to_end) {
    const int result = enter(true);
    if (result < 0 && result != -EINTR && result != -EBUSY && result != -EAGAIN && result != -ETIME) {
      stop("io_uring_enter", strerror(-result));
    }
    if (asked_to_report) report();
    struct io_uring_cqe* cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&ring, head, cqe) {
      on_completion(cqe);
      ++count;
    }
    io_uring_cq_advance(&ring, count);
  }
  report();
  return 0;
}
