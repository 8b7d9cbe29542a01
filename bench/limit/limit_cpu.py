#!/usr/bin/env python3
"""Question: how near to the least possible does posternd come? CPU per relayed message of posternd and of relays without
mail logic, in one run, in turn (A B C A B C …), so that what else the machine does falls on all alike.

  bench/limit/limit_cpu.py NAME=COMMAND…  [--sizes 1024,10240,102400] [--messages 20000,20000,4000] [--rounds 3]
                          [--sink PROGRAM]

COMMAND is a posternd binary (recognised by its name; with a number behind it that many shards, else one; it gets the
configuration of bench/relay_cpu.sh) or a program that takes PORT NEXT_HOP CONNECTIONS and what stands behind its name,
prints `messages=… enters=…` at SIGUSR1 and ends at SIGTERM (relay_limit, speed_of_light). The job is smtp-source -d (20
sessions, unpipelined) → relay → smtp-sink, or `PROGRAM sink` when that is named (postern-bench, which takes mail faster
than a relay sends it), all on this machine. CPU is that of all threads of the relay, in nanoseconds from
/proc/PID/task/*/schedstat; the split is that of /proc/PID/stat.
"""
import argparse
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

CONFIG = """hostname = "relay.example.test"
data_dir = "{data}"
shards = {shards}
[[listener]]
address = "127.0.0.1:{port}"
[limits]
connections_per_peer = 1000
[spool]
min_free = "64MiB"
[[route]]
match = "*"
via = "smtp:[127.0.0.1]:{hop}"
[admin]
listen = "127.0.0.1:{admin}"
"""
WARM = 1000
DEADLINE = 120  # seconds for anything that is waited for


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition, what, process):
    until = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{what}: " + ("timed out" if process.poll() is None else "the process has ended"))
        time.sleep(0.02)


def accepts(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Limit:
    """relay_limit or speed_of_light."""

    def __init__(self, command, folder, port, hop):
        self.output = folder / "output"
        words = shlex.split(command)
        words[0] = os.path.abspath(words[0])
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([*words[:1], str(port), f"127.0.0.1:{hop}", "20", *words[1:]],
                                            stdout=output, stderr=output, cwd=folder)
        wait_for(lambda: accepts(port), "start", self.process)

    def counts(self):
        """(messages relayed, io_uring_enter calls, durable writes)"""
        lines = self.lines()
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(self.lines()) > len(lines), "report", self.process)
        said = dict(re.findall(r"(\w+)=(\d+)", self.lines()[-1]))
        return int(said["messages"]), int(said["enters"]), int(said.get("writes", 0))

    def lines(self):
        complete = self.output.read_text().rpartition("\n")[0]
        return [line for line in complete.splitlines() if line.startswith("messages=")]


class Posternd:
    def __init__(self, command, folder, port, hop):
        self.admin = free_port()
        config = folder / "postern.toml"
        program, shards = (*shlex.split(command), "1")[:2]
        config.write_text(CONFIG.format(data=folder / "data", port=port, hop=hop, admin=self.admin, shards=shards))
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen([program, "--config", str(config)], stderr=log)
        wait_for(lambda: "is ready" in (folder / "log").read_text(), "start", self.process)

    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()

        def value(name):
            found = re.search("^" + re.escape(name) + r" (\S+)", text, re.M)
            return int(float(found[1])) if found else 0

        return (value('postern_recipients_total{outcome="relayed"}'), value("postern_system_calls_total"),
                value("postern_spool_batches_total"))


def cpu_ns(pid):
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]), int(fields[12])


def send(port, messages, size):
    subprocess.run(["smtp-source", "-d", "-s", "20", "-m", str(messages), "-l", str(size), "-f", "sender@client.test",
                    "-t", "user@hop.test", f"127.0.0.1:{port}"], check=True, stdout=subprocess.DEVNULL)


def measure(command, size, messages, sink_program):
    hop, port = free_port(), free_port()
    sink = subprocess.Popen([sink_program, "sink", f"127.0.0.1:{hop}"] if sink_program else
                            ["smtp-sink", "-u", "nobody", "-c", f"127.0.0.1:{hop}", "1000"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    relay = None
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            wait_for(lambda: accepts(hop), "the next hop", sink)
            is_postern = pathlib.Path(shlex.split(command)[0]).name == "posternd"
            relay = (Posternd if is_postern else Limit)(command, folder, port, hop)
            warm = min(WARM, messages)
            send(port, warm, size)
            wait_for(lambda: relay.counts()[0] >= warm, "warming up", relay.process)
            before, split_before, counts_before = cpu_ns(relay.process.pid), ticks(relay.process.pid), relay.counts()
            begin = time.monotonic()
            send(port, messages, size)
            accepted = time.monotonic() - begin
            wait_for(lambda: relay.counts()[0] >= warm + messages, "draining", relay.process)
            drained = time.monotonic() - begin
            after, split_after, counts_after = cpu_ns(relay.process.pid), ticks(relay.process.pid), relay.counts()
        except RuntimeError as trouble:
            said = [(folder / file).read_text() for file in ("output", "log") if (folder / file).exists()]
            sys.exit(f"{command}: {trouble}\n" + "".join(said))
        finally:
            for process in (relay and relay.process, sink):
                if process:
                    process.terminate()
                    process.wait()
    user, system = (b - a for a, b in zip(split_before, split_after))
    return {"cpu": (after - before) / messages / 1000, "user_share": user / max(1, user + system),
            "enters": (counts_after[1] - counts_before[1]) / messages,
            "writes": (counts_after[2] - counts_before[2]) / messages,
            "accepted": messages / accepted, "drained": messages / drained}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("relays", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--sizes", default="1024,10240,102400")
    parser.add_argument("--messages", default="20000,20000,4000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sink", metavar="PROGRAM")
    options = parser.parse_args()
    relays = [relay.split("=", 1) for relay in options.relays]
    if any(len(relay) != 2 for relay in relays):
        parser.error("relays are given as NAME=COMMAND")
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"surroundings: Linux {os.uname().release}, {os.cpu_count()} CPUs ({model[1] if model else '?'}), "
          f"load {os.getloadavg()[0]:.2f}, {time.strftime('%F %T')}")
    print(f"CPU in µs a message; 20 sessions; smtp-source -d and {options.sink or 'smtp-sink'} beside the relay")
    print(f"{'relay':16} {'bytes':>7} {'CPU':>7} {'user':>6} {'system':>7} {'enters':>7} {'writes':>7} {'accepted/s':>10} "
          f"{'drained/s':>10} {'load':>5}")
    for size, messages in zip(options.sizes.split(","), options.messages.split(",")):
        for _ in range(options.rounds):
            for name, command in relays:
                got = measure(command, int(size), int(messages), options.sink)
                user = got["cpu"] * got["user_share"]
                print(f"{name:16} {size:>7} {got['cpu']:7.1f} {user:6.1f} {got['cpu'] - user:7.1f} {got['enters']:7.2f} "
                      f"{got['writes']:7.3f} {got['accepted']:10.0f} {got['drained']:10.0f} {os.getloadavg()[0]:5.2f}",
                      flush=True)


if __name__ == "__main__":
    main()
