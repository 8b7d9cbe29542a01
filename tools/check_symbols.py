#!/usr/bin/env python3
"""Holds the compiled rooms to what src/README.md promises: time, chance, files, sockets and threads come from io::Loop alone.

Looks at the undefined symbols of the rooms' static libraries: what tools/check_layers.py cannot see, a call through a header
that is allowed, shows here. One seed of the simulator is one run only as long as this holds.

  tools/check_symbols.py BUILD_FOLDER     prints OBJECT: what it calls; exits 1 when there is anything
  tools/check_symbols.py --self-test
"""
import os
import re
import subprocess
import sys

ROOMS = ("base", "mail", "sasl", "smtp", "dns", "spool", "queue", "route", "policy", "dsn", "io", "net", "resolver", "ingress",
         "egress", "shard")
# Objects that may: those of io that are the kernel's side (the simulator has its own), and what only daemons run.
MAY = {
    "io": r"src_io_(uring_.*|record_trace|blocking_file|descriptors|event_waker|sockets|task_pool)\.cc\.o",
    # The threads and the folder of a real process; the simulator makes the shards itself, in one thread.
    "shard": r"src_shard_(server|event_log)\.cc\.o",
}
# Of what is forbidden, single functions that know nothing but their arguments.
CALLS = {"sasl": ("CRYPTO_memcmp", "EVP_sha256", "OPENSSL_cleanse")}
FORBIDDEN = re.compile(
    r"^(accept4?|access|bind|chdir|chmod|chown|close|connect|creat(64)?|dup[23]?|epoll_\w+|eventfd\w*|execv\w*|fallocate(64)?|"
    r"fchmod|fcntl(64)?|fdatasync|flock|fopen(64)?|fork|fsync|ftruncate(64)?|getaddrinfo|getpeername|getsockname|ioctl|"
    r"kill|link|listen|lseek(64)?|mkdir(at)?|mmap(64)?|open(64|at|at64|dir)?|pipe2?|poll|ppoll|pread(v|64)?|pselect|"
    r"pwrite(v|64)?|read(v|dir|dir64|link)?|recv(from|m?msg)?|rename(at2?)?|rmdir|select|send(to|m?msg|file)?|shutdown|"
    r"signal|sigaction|socket(pair)?|stat(x|vfs|fs)?(64)?|fstat(64)?|lstat(64)?|syscall|unlink(at)?|write(v)?|"
    r"clock(_\w+)?|gettimeofday|time|ftime|localtime(_r)?|mktime|nanosleep|usleep|sleep|timer\w+|"
    r"pthread_(create|cond_\w+|set\w+)|sched_\w+|sem_\w+|"
    r"arc4random\w*|getentropy|getrandom|lrand48|drand48|mrand48|rand(om)?(_r)?|srand(om)?|RAND_\w+|"
    r"getenv|secure_getenv|gethostname|uname|"
    # BoringSSL has chance and clocks of its own: only the room `tls` calls it, which the simulator does not link; and
    # `sasl`, of it, what computes and nothing else.
    r"(SSL|EVP|CRYPTO|BIO|X509|PEM|HMAC|OPENSSL|ERR)_\w+)$"
    r"|^std::(_V2::|chrono::_V2::|chrono::)(system|steady|high_resolution)_clock::now"
    r"|^std::(thread::(_M_start_thread|join|detach)|condition_variable|random_device|filesystem::|this_thread::|__basic_file)"
    r"|^std::basic_(i|o)?fstream|^std::basic_filebuf")


def calls_of(listing):
    """[(object, symbol)] of what `nm -C -u` printed for an archive."""
    found, member = [], ""
    for line in listing.splitlines():
        if line.endswith(":"):
            member = os.path.basename(line[:-1].split("[")[-1].rstrip("]"))
        elif line.strip().startswith("U "):
            found.append((member, line.strip()[2:].split("@")[0]))
    return found


def troubles_of(room, listing):
    may = re.compile(MAY.get(room, r"(?!)"))
    return [f"{room}: {member} calls {symbol}" for member, symbol in calls_of(listing)
            if FORBIDDEN.search(symbol) and not may.fullmatch(member) and symbol not in CALLS.get(room, ())]


def check(folder):
    troubles = []
    for room in ROOMS:
        archive = os.path.join(folder, f"libpostern_{room}.a")
        if not os.path.exists(archive):
            troubles.append(f"{archive} is not there: build it first")
            continue
        listing = subprocess.run(["nm", "-C", "-u", archive], stdout=subprocess.PIPE, check=True).stdout.decode()
        if not calls_of(listing) and room != "mail":
            troubles.append(f"{archive}: no symbols seen")
        troubles += troubles_of(room, listing)
    return troubles


CASES = [
    ("dns", "src_dns_cache.cc.o:\n                 U clock_gettime@GLIBC_2.17\n", 1),
    ("dns", "src_dns_cache.cc.o:\n                 U std::chrono::_V2::steady_clock::now()\n", 1),
    ("shard", "src_shard_owner.cc.o:\n                 U std::thread::join()\n", 1),
    ("shard", "src_shard_server.cc.o:\n                 U std::thread::join()\n", 0),
    ("io", "src_io_sim_world.cc.o:\n                 U getrandom\n", 1),
    ("io", "src_io_uring_uring_loop.cc.o:\n                 U getrandom\n", 0),
    ("spool", "src_spool_log.cc.o:\n                 U memcpy\n                 U postern::spool::Log::write()\n", 0),
    ("net", "libpostern_net.a[src_net_connection_tls.cc.o]:\n                 U SSL_read\n", 1),
    ("sasl", "src_sasl_digest.cc.o:\n                 U CRYPTO_memcmp\n                 U RAND_bytes\n", 1),
    ("net", "libpostern_net.a[src_net_listener.cc.o]:\n                 U accept4\n", 1),
]


def self_test():
    failed = 0
    for room, listing, count in CASES:
        found = troubles_of(room, listing)
        if len(found) != count:
            failed += 1
            print(f"self-test: wanted {count} of {listing!r}, found {found}", file=sys.stderr)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    troubles = check(sys.argv[1])
    for line in troubles:
        print(line)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
