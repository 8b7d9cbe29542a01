"""What the figures were measured in: kernel, processor, memory, file system, how long its disk takes to sync, load."""
import os
import re
import statistics
import subprocess
import time

SYNCS = 200
BLOCK = 4096


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def mount_of(folder):
    """(device, file system, options) of the mount that holds a folder."""
    best, found = "", ("?", "?", "")
    for line in read("/proc/self/mounts").splitlines():
        device, point, kind, options = line.split()[:4]
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, (device, kind, options)
    return found


def sync_latency(folder):
    """Milliseconds of a write of 4 KiB at the end of a file and fdatasync, as an MTA does: median and 99th percentile."""
    path = os.path.join(folder, "sync-probe")
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(SYNCS):
            begin = time.monotonic()
            os.write(descriptor, b"x" * BLOCK)
            os.fdatasync(descriptor)
            took.append((time.monotonic() - begin) * 1000)
    finally:
        os.close(descriptor)
        os.unlink(path)
    took.sort()
    return {"median_ms": round(statistics.median(took), 3), "p99_ms": round(took[int(len(took) * 0.99)], 3), "syncs": SYNCS}


def commit_of(root):
    done = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False, text=True)
    return done.stdout.strip()


def gather(folder, root):
    model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", read("/proc/meminfo"))
    system = re.search(r'PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"))
    device, kind, options = mount_of(folder)
    return {"time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "kernel": os.uname().release,
            "system": system[1] if system else "", "cpus": os.cpu_count(), "processor": model[1].strip() if model else "",
            "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None, "file_system": kind, "device": device,
            "mount_options": options, "sync": sync_latency(folder), "load": [round(load, 2) for load in os.getloadavg()],
            "commit": commit_of(root)}
