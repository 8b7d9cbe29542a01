#!/usr/bin/env python3
"""Question: what does a long queue cost? Mail for many domains whose next hop is down is taken through the real door and
waits; then memory per waiting recipient, the rate of taking mail and of draining it against those with a short queue,
and the start with all of it in the spool.

  bench/deferred_queue.py [--posternd BINARY] [--messages N] [--recipients R] [--domains D] [--size BYTES] [--shards S]
                          [--retry SECONDS] [--drain SECONDS] [--folder DIR]

Needs nsd (a wildcard zone: each domain is a site of its own) and postern-bench beside posternd. What it prints:

  relay      messages a second, 1 KiB, accepted and delivered to a next hop that is up, while 1,000 and while N wait
  accept     messages a second while the queue grows
  memory     anonymous memory of posternd that the waiting recipients cost, each; behind a start no content is in memory
  start      kill -9, then: until the first 220, and until all is in the queue
  drain      started again with next hops that are up and a short schedule, so that all is due: recipients a second, until
             the queue is empty or for --drain seconds

Room: about (SIZE + 700 bytes) × N of disk. `--retry` must be longer than taking and deferring all of it.
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
HOP = "127.0.0.2"
DEADLINE = 3600  # seconds for anything that is waited for
FEW = 1000  # messages of a short queue
FAST = 20_000  # messages of one measurement of the relay


def free_port(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def wait_for(condition, what, process, every=0.05):
    until = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"{what}: " + ("timed out" if process.poll() is None else "the process has ended"))
        time.sleep(every)


class Names:
    """nsd with one wildcard address."""

    def __init__(self, folder):
        self.port = free_port()
        (folder / "zone").write_text("$ORIGIN hop.test.\n$TTL 86400\n@ SOA ns.hop.test. host.hop.test. 1 3600 600 86400 60\n"
                                     f"@ NS ns.hop.test.\nns A 127.0.0.1\n* A {HOP}\n", encoding="ascii")
        (folder / "nsd.conf").write_text(f"""server:
  ip-address: 127.0.0.1
  port: {self.port}
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  zonelistfile: "{folder}/zone.list"
  xfrdfile: "{folder}/xfrd.state"
  xfrdir: "{folder}"
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "hop.test"
  zonefile: "zone"
""", encoding="ascii")
        self.process = subprocess.Popen(["nsd", "-d", "-c", folder / "nsd.conf"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)


class Relay:
    def __init__(self, options, folder, dns_port):
        self.binary = str(options.posternd.resolve())
        self.port, self.admin = free_port(), free_port()
        self.hop, self.fast = free_port(HOP), free_port(HOP)
        self.folder = folder
        self.config = folder / "postern.toml"
        self.log = folder / "log"
        self.config.write_text(f"""hostname = "relay.example.test"
data_dir = "{folder / 'data'}"
shards = {options.shards}
[[listener]]
address = "127.0.0.1:{self.port}"
[limits]
connections_per_peer = 1000
[dns]
servers = ["127.0.0.1:{dns_port}"]
[smtp_client]
port = {self.hop}
refuse_networks = []
[[route]]
match = "fast.test"
via = "smtp:[{HOP}]:{self.fast}"
[retry]
schedule = ["{options.retry}s"]
[admin]
listen = "127.0.0.1:{self.admin}"
""", encoding="ascii")
        self.process = None

    def start(self):
        """Seconds to the first 220, and to a complete queue."""
        self.log.write_bytes(b"")
        began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary, "--config", self.config], stderr=log)
        greeted = None

        def greets():
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as client:
                    return client.recv(64).startswith(b"220")
            except OSError:
                return False

        wait_for(greets, "the first 220", self.process, 0.01)
        greeted = time.monotonic() - began
        return began, greeted

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(120)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=60) as answer:
            found = re.search("^" + re.escape(name) + r" (\S+)", answer.read().decode(), re.M)
        return int(float(found[1])) if found else 0

    def taken_up(self):
        """Messages that have been read back from the spool, by the shards that are done."""
        return sum(int(count) for count in re.findall(r"(\d+) messages taken up from the spool", self.log.read_text()))

    def outcome(self, name):
        return self.metric(f'postern_recipients_total{{outcome="{name}"}}')

    def anonymous_bytes(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        return 1024 * int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.M)[1])

    def source(self, options, messages, *arguments):
        """Messages a second."""
        began = time.monotonic()
        subprocess.run([options.posternd.with_name("postern-bench"), "source", f"127.0.0.1:{self.port}", "--count",
                        str(messages), *arguments], check=True, stdout=subprocess.DEVNULL)
        return messages / (time.monotonic() - began)

    def send(self, options, messages):
        return self.source(options, messages, "--recipients", str(options.recipients), "--domains",
                           str(options.domains), "--size", options.size)

    def relay_rates(self, options):
        """Messages accepted and delivered a second."""
        sink = start_sink(options, self.fast)
        try:
            before, began = self.outcome("relayed"), time.monotonic()
            accepted = self.source(options, FAST, "--domain", "fast.test")
            wait_for(lambda: self.outcome("relayed") >= before + FAST, "the mail that can go", self.process)
            return accepted, FAST / (time.monotonic() - began)
        finally:
            sink.terminate()
            sink.wait()


def start_sink(options, port):
    return subprocess.Popen([options.posternd.with_name("postern-bench"), "sink", f"{HOP}:{port}"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def drain(relay, options, recipients):
    """Recipients a second, and how many."""
    relay.end()
    sink = start_sink(options, relay.hop)
    # A retry that is further off than the schedule can say is taken for the mistake of a clock.
    relay.config.write_text(relay.config.read_text().replace(f'"{options.retry}s"', '"10s"'), encoding="ascii")
    try:
        relay.start()
        wait_for(lambda: relay.outcome("relayed") > 0, "the first delivery", relay.process)
        before, began = relay.outcome("relayed"), time.monotonic()
        wait_for(lambda: relay.outcome("relayed") >= recipients or time.monotonic() > began + options.drain, "the drain",
                 relay.process, 0.1)
        done = relay.outcome("relayed") - before
        return done / (time.monotonic() - began), done
    finally:
        sink.terminate()
        sink.wait()


def defer(relay, options, messages, recipients):
    """Messages accepted a second; returns when all wait for another attempt."""
    rate = relay.send(options, messages)
    wait_for(lambda: relay.outcome("deferred") >= recipients, "deferring", relay.process, 0.5)
    return rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posternd", type=pathlib.Path, default=HERE.parent / "build/release/posternd")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--domains", type=int, default=20_000)
    parser.add_argument("--size", default="4KiB")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--retry", type=int, default=120)
    parser.add_argument("--drain", type=int, default=DEADLINE)
    parser.add_argument("--folder", type=pathlib.Path)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-deferred-", dir=options.folder))
    recipients = options.messages * options.recipients
    names = relay = None
    try:
        names = Names(folder)
        print(f"surroundings: Linux {os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}; {options.messages} messages "
              f"of {options.size} × {options.recipients} recipients over {options.domains} domains, {options.shards} shards", flush=True)

        relay = Relay(options, folder, names.port)
        relay.start()
        defer(relay, options, FEW, FEW * options.recipients)
        relay.relay_rates(options)  # warm
        empty = relay.anonymous_bytes()
        few = relay.relay_rates(options)
        rate = defer(relay, options, options.messages - FEW, recipients)
        print(f"accept: {rate:.0f} messages a second", flush=True)
        many = relay.relay_rates(options)
        print(f"relay: {few[0]:.0f} accepted, {few[1]:.0f} delivered a second with {FEW} messages waiting; {many[0]:.0f}, {many[1]:.0f} with "
              f"{options.messages}", flush=True)
        time.sleep(10)  # freed memory goes back to the system within seconds
        full = relay.anonymous_bytes()
        print(f"memory: {(full - empty) / recipients:.1f} bytes a recipient ({(full - empty) >> 20} MiB)", flush=True)
        relay.end(signal.SIGKILL)
        began, greeted = relay.start()
        wait_for(lambda: relay.taken_up() >= options.messages, "the queue", relay.process)
        print(f"start: first 220 after {greeted:.2f} s, complete queue after {time.monotonic() - began:.1f} s", flush=True)
        time.sleep(10)
        print(f"memory after the start: {(relay.anonymous_bytes() - empty) / recipients:.1f} bytes a recipient", flush=True)
        rate, done = drain(relay, options, recipients)
        print(f"drain: {rate:.0f} recipients a second, of {done}", flush=True)
        relay.end()
    finally:
        for process in (relay and relay.process, names and names.process):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
