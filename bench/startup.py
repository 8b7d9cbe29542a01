#!/usr/bin/env python3
"""Question: how soon does posternd greet its first client, and how soon is its queue complete, with a million deferred
messages of 4 KiB in the spool? Expected: 220 within 5 seconds, all messages within 30.

  bench/startup.py [POSTERND [MESSAGES [BYTES [SHARDS [FOLDER]]]]]

Defaults: build/release/posternd 1000000 4096 1 and a temporary folder on the disk of TMPDIR. The spool is filled
through the real door: postern-bench sends every message, and a next hop answers each recipient 450. Then posternd is
started on it twice: after an orderly stop, and after kill -9. A FOLDER is kept, and found full by the next run.
Takes about 6.5 KiB of disk per message of 4 KiB; writes pass by the page cache, so that no start finds it warm.
Prints the surroundings, then for each start the seconds from exec to the first 220 and until the last message was taken up,
with the bytes read, the CPU and the memory that it took.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Relay:
    def __init__(self, binary, folder, shards, hop):
        self.binary, self.folder, self.shards = binary, folder, shards
        self.port, self.admin = free_port(), free_port()
        self.log_path = os.path.join(folder, "log")
        self.process = None
        with open(os.path.join(folder, "postern.toml"), "w", encoding="ascii") as file:
            file.write(f'hostname = "relay.example.test"\ndata_dir = "{folder}/data"\nshards = {shards}\n'
                       f'[[listener]]\naddress = "127.0.0.1:{self.port}"\n[domains]\naccept = ["hop.test"]\n'
                       f'[[route]]\nmatch = "*"\nvia = "smtp:[127.0.0.1]:{hop}"\n'
                       '[limits]\nconnections_per_peer = 10000\n[spool]\nmin_free = "1GiB"\n[event_log]\npath = ""\n'
                       f'[retry]\nschedule = ["12h"]\n[admin]\nlisten = "127.0.0.1:{self.admin}"\n')

    def start(self):
        self.log = open(self.log_path, "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.began = time.monotonic()
        self.process = subprocess.Popen([self.binary, "--config", os.path.join(self.folder, "postern.toml")],
                                        stderr=self.log)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(120)
        self.log.close()

    def said(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def seconds(self):
        return time.monotonic() - self.began

    def wait(self, condition, what, seconds):
        until = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{what}: not within {seconds} s, or posternd ended\n{self.said()[-3000:]}")
            time.sleep(0.005)

    def greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
                return client.recv(512).startswith(b"220")
        except ConnectionRefusedError:
            return False

    def taken_up(self):
        return sum(int(number) for number in re.findall(r"(\d+) messages taken up from the spool", self.said()))

    def metric(self, name):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.admin}/metrics", timeout=60) as reply:
            return sum(float(line.rsplit(" ", 1)[1]) for line in reply.read().decode().splitlines()
                       if line.startswith(name))

    def usage(self):
        """CPU seconds, resident MiB, MiB read from the disk"""
        pid = self.process.pid
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            read = next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), resident / 1024, read / (1 << 20)


def fill(relay, bench, messages, size):
    relay.start()
    relay.wait(relay.greets, "the first 220", 60)
    source = subprocess.Popen([bench, "source", f"127.0.0.1:{relay.port}", "--count", str(messages), "--size", f"{size}B",
                               "--sessions", "50", "--domain", "hop.test", "--domains", "1", "--json"],
                              stdout=subprocess.PIPE)
    shown = 0.0
    deferred, moved = 0, time.monotonic()
    while deferred < messages:
        now = time.monotonic()
        have = int(relay.metric('postern_recipients_total{outcome="deferred"}'))
        if have > deferred:
            deferred, moved = have, now
        if now - moved > 120 or relay.process.poll() is not None:
            sys.exit(f"filling stopped at {deferred}\n{relay.said()[-3000:]}")
        if sys.stderr.isatty() and now - shown > 1:
            print(f"\r\033[Kfilled {deferred} of {messages}", end="", file=sys.stderr)
            shown = now
        time.sleep(0.2)
    report = json.loads(source.communicate()[0])
    if report["accepted"] != messages:
        sys.exit(f"{report['accepted']} of {messages} messages were accepted")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(f"filled in {relay.seconds():.0f} s: accepted and tried once")


def measure(relay, messages, name):
    relay.start()
    relay.wait(relay.greets, "the first 220", 300)
    greeted = relay.seconds()
    cpu, _, read = relay.usage()
    print(f"{name}: first 220 after {greeted:.2f} s ({cpu:.2f} s CPU, {read:.0f} MiB read)", flush=True)
    relay.wait(lambda: relay.taken_up() >= messages, "the complete queue", 600)
    cpu, resident, read = relay.usage()
    print(f"{name}: queue complete after {relay.seconds():.2f} s ({cpu:.2f} s CPU, {read:.0f} MiB read, "
          f"{resident:.0f} MiB resident)", flush=True)


def main():
    arguments = sys.argv[1:] + [""] * 5
    binary = os.path.realpath(arguments[0] or os.path.join(ROOT, "build", "release", "posternd"))
    messages, size = int(arguments[1] or 1_000_000), int(arguments[2] or 4096)
    shards = int(arguments[3] or 1)
    kept = arguments[4]
    folder = os.path.abspath(kept) if kept else tempfile.mkdtemp(prefix="postern-startup-")
    os.makedirs(folder, exist_ok=True)
    bench = os.path.join(os.path.dirname(binary), "postern-bench")
    free = shutil.disk_usage(folder).free
    full = os.path.exists(os.path.join(folder, "full"))
    if not full and free < messages * (size + 2500) * 1.2 + (2 << 30):
        sys.exit(f"{folder} has {free >> 30} GiB free: too little for {messages} messages of {size} bytes")
    with open("/proc/loadavg", encoding="ascii") as file:
        print(f"{messages} messages of {size} bytes, {shards} shard(s); {os.cpu_count()} CPUs, kernel {os.uname().release}, "
              f"load {file.read().split()[0]}, {binary}", flush=True)
    hop = subprocess.Popen([bench, "sink", "127.0.0.1:0", "--reply", "rcpt=450 4.2.0 Come back later", "--json"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    relay = None
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", hop.stderr.readline())[1])
        relay = Relay(binary, folder, shards, port)
        if not full:
            fill(relay, bench, messages, size)
            relay.end(signal.SIGTERM)
            with open(os.path.join(folder, "full"), "w", encoding="ascii"):
                pass
        measure(relay, messages, "after an orderly stop")
        relay.end(signal.SIGKILL)
        measure(relay, messages, "after kill -9")
        relay.end(signal.SIGTERM)
    finally:
        if relay is not None and relay.process is not None and relay.process.poll() is None:
            relay.process.kill()
            relay.process.wait()
        hop.kill()
        hop.wait()
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
