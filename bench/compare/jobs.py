"""The jobs that every relay does: what is sent, how many sessions, where it goes. Data and words for postern-bench; nothing runs here."""
from dataclasses import dataclass

LISTEN = "127.0.0.1:2525"  # where every relay listens, in a network namespace of our own
NEXT_HOP = "0.0.0.0:25"    # the sink: smart host and all sites, each at an address of its own
SITES = 300
RATE = 100                 # messages a second of the open loop: about half of what the slowest relay here can do


@dataclass(frozen=True)
class Job:
    name: str
    title: str
    size: str = "1KiB"
    sessions: int = 20
    hop: str = "smart"  # smart, sites or slow
    rate: int = 0       # open loop when not 0

    def arguments(self):
        """Words for postern-bench relay, without time and place."""
        words = ["--size", self.size, "--sessions", str(self.sessions)]
        if self.hop == "sites":
            words += ["--domain", "sites.test", "--domains", str(SITES)]
        if self.hop == "slow":
            words += ["--delay", "end=100ms"]
        if self.rate:
            words += ["--rate", str(self.rate)]
        return words


HOPS = {"smart": "one smart host", "sites": f"{SITES} sites by MX", "slow": "a next hop that takes 100 ms for each message"}
SIZES = {"1KiB": "1 KiB", "10KiB": "10 KiB", "100KiB": "100 KiB", "mix": "sizes of real mail"}


def job(size="1KiB", sessions=20, hop="smart", rate=0):
    name = f"{size.lower()}-{sessions}-{hop}" + (f"-{rate}s" if rate else "")
    title = f"{SIZES[size]}, {sessions} sessions, {HOPS[hop]}" + (f", {rate} a second" if rate else "")
    return Job(name, title, size, sessions, hop, rate)


DEFAULT = (job(), job("10KiB"), job("100KiB"), job("mix"), job(sessions=200), job("mix", sessions=200), job(hop="sites"),
           job(hop="slow"), job(rate=RATE))
QUICK = (job(), job(hop="sites"), job("mix", sessions=200))
FULL = tuple(job(size, sessions, hop) for hop in HOPS for sessions in (20, 200) for size in SIZES) + (
    job(rate=RATE), job("mix", rate=RATE), job(hop="sites", rate=RATE))
ALL = {one.name: one for one in DEFAULT + QUICK + FULL}


def zone():
    """The zone "test" for all jobs. Addresses are of 198.18.0.0/15, which RFC 2544 sets aside for measurements."""
    lines = ["$ORIGIN test.", "$TTL 3600", "@ SOA ns hostmaster 1 3600 600 86400 60", "@ NS ns", "ns A 127.0.0.1",
             "relay.example A 127.0.0.1", "client A 127.0.0.1", "client MX 10 client", "hop A 198.18.0.1", "hop MX 10 hop"]
    for site in range(SITES):
        lines.append(f"d{site}.sites MX 10 mx{site}.sites")
        lines.append(f"mx{site}.sites A 198.18.{1 + site // 250}.{1 + site % 250}")
    return "\n".join(lines) + "\n"
