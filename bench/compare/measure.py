"""One measurement: a relay started in its root, postern-bench around it, everything removed afterwards. And the place for
all of them: a network of our own, in which nothing but this machine can be reached."""
import ctypes
import glob
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

import jobs
import relays

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
END_SECONDS = 30  # of patience with postern-bench, which itself has 10 with the relay
WARM_UP = 100     # messages


class PlaceError(Exception):
    """The surroundings that a measurement needs cannot be had; the text says why."""


def enter_own_network():
    """From here on this process and its children have a network namespace that leads nowhere, where 198.18.0.0/15 are
    addresses of this machine, and mounts that nobody else sees."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise PlaceError(f"no network namespace of our own: {os.strerror(ctypes.get_errno())}; this needs root")
    for command in (["mount", "--make-rprivate", "/"], ["ip", "link", "set", "lo", "up"],
                    ["ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo"],
                    # With loopback alone OpenSMTPD finds no host to have an address (AI_ADDRCONFIG): one end of a pair whose
                    # other end is down and in the same namespace.
                    ["ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "nobody"],
                    ["ip", "address", "add", "198.19.255.254/32", "dev", "nowhere"], ["ip", "link", "set", "nowhere", "up"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PlaceError(f"{' '.join(command)}: {done.stderr.strip()}")


def end(process, patience):
    """SIGTERM, a second one (with which postern-bench waits for nothing more), patience, SIGKILL; to this process alone."""
    for wait, send in ((1, process.terminate), (patience, process.terminate), (None, process.kill)):
        if process.poll() is not None:
            return
        send()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue


def ends_with_us():
    """In a child before it executes: SIGTERM when the parent is gone, whatever ended it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class NameServer:
    """nsd with the zone of the jobs, at 127.0.0.1:53 of our own network."""

    def __init__(self, roots, relay, folder):
        zones = os.path.join(folder, "zones")
        os.makedirs(zones)
        with open(os.path.join(zones, "test.zone"), "w", encoding="ascii") as file:
            file.write(jobs.zone())
        self.log = open(os.path.join(folder, "nsd.log"), "wb")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(roots.enter(relay, ["nsd", "-d", "-c", "/relay/nsd.conf"], [(zones, "/zones")]),
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=ends_with_us)
        until = time.monotonic() + 20
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise PlaceError("nsd does not answer: " + relays.read(os.path.join(folder, "nsd.log"))[-500:])

    @staticmethod
    def answers():
        name = b"".join(bytes([len(label)]) + label for label in (b"hop", b"test")) + b"\0"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question:
            question.settimeout(0.2)
            try:
                question.sendto(struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1), ("127.0.0.1", 53))
                return question.recv(512)[3] & 15 == 0
            except OSError:
                time.sleep(0.05)
                return False

    def stop(self):
        end(self.process, 10)
        self.log.close()


class Bench:
    """Measures; `work` is a folder on the disk that the spools are to be on."""

    def __init__(self, program, roots, work, seconds, drain):
        self.program, self.roots, self.work, self.seconds, self.drain = program, roots, work, seconds, drain
        self.log_folder = os.path.join(work, "logs")
        os.makedirs(self.log_folder)
        resolv = os.path.join(work, "resolv.conf")
        with open(resolv, "w", encoding="ascii") as file:
            file.write("nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
        hosts = os.path.join(work, "hosts")
        with open(hosts, "w", encoding="ascii") as file:
            file.write("127.0.0.1 localhost relay.example.test\n")
        self.binds = [(resolv, "/etc/resolv.conf"), (hosts, "/etc/hosts")]

    def run(self, relay, job, number):
        """A dictionary with relay, job, round, load, and either report and exit, or error."""
        run = {"relay": relay.name, "job": job.name, "round": number, "load": round(os.getloadavg()[0], 2)}
        spool, logs = os.path.join(self.work, "spool"), os.path.join(self.work, "var-log")
        for folder in (spool, logs):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        inside = self.roots.enter(relay, ["/relay/start"], [*self.binds, (spool, relay.spool), (logs, "/var/log")])
        command = [self.program, "relay", jobs.LISTEN, "--sink", jobs.NEXT_HOP, "--command", "exec " + relays.shell(inside),
                   "--spool", self.work, "--warm-up", str(WARM_UP), "--duration", f"{self.seconds}s", "--drain", f"{self.drain}s",
                   "--json", *job.arguments()]
        log = os.path.join(self.log_folder, f"{job.name}.{relay.name}.{number}.log")
        # Starting takes up to 60 s, the warm-up as long as a measurement, each drain what is given.
        limit = 90 + 2 * (self.seconds + self.drain) + END_SECONDS
        with open(log, "wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                       preexec_fn=ends_with_us)
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                end(process, END_SECONDS)
                output = process.stdout.read()
                run["late"] = True
            finally:
                end(process, END_SECONDS)
                remove_groups(process.pid)
        for folder in (spool, logs):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            run["report"] = json.loads(output)
            run["exit"] = process.returncode
        except ValueError:
            said = relays.read(log).strip().splitlines()
            run["error"] = f"postern-bench ended with {process.returncode}: " + " / ".join(said[-3:])[-600:]
        return run


def remove_groups(pid):
    """postern-bench removes its cgroups; one that had to be killed does not, and leaves the relay in them."""
    patterns = [f"/sys/fs/cgroup{below}/postern-bench.{pid}{more}" for below in ("", "/*") for more in ("", ".*")]
    for folder in (folder for pattern in patterns for folder in glob.glob(pattern)):
        try:
            until = time.monotonic() + 5
            while processes := relays.read(os.path.join(folder, "cgroup.procs")).split():
                for process in processes:
                    os.kill(int(process), signal.SIGKILL)
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
            os.rmdir(folder)
        except OSError:
            continue
