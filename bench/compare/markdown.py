"""The report as Markdown."""
from summary import number, ranged, summarize

COLUMNS = (("relay", None), ("delivered a second", "rate"), ("CPU a message, µs", "cpu"),
           ("rate ÷ limit's", "rate_share"), ("limit's CPU ÷ its", "cpu_share"), ("context switches", "switches"),
           ("device flushes", "flushes"), ("device writes", "writes"), ("memory held, MiB", "memory"))


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def surroundings_lines(result):
    around, settings = result["surroundings"], result["settings"]
    sync = around["sync"]
    return [f"{around['time']}; {around['processor']}, {around['cpus']} CPUs, {around['memory_gib']} GiB; "
            f"Linux {around['kernel']}, {around['system']}",
            f"spools on {around['file_system']} ({around['device']}, {around['mount_options']}); a write of 4 KiB and fdatasync: "
            f"median {sync['median_ms']} ms, p99 {sync['p99_ms']} ms of {sync['syncs']}",
            f"load average before: {', '.join(str(load) for load in around['load'])}; during the runs {load_of_runs(result)}; "
            f"commit {around['commit']}",
            f"{settings['rounds_done']} rounds in turn, {settings['seconds']} s of load each, then up to {settings['drain']} s for "
            f"what was still queued; {settings['minutes_taken']} minutes"]


def load_of_runs(result):
    loads = [run["load"] for run in result["runs"]]
    return f"{min(loads)}–{max(loads)}" if loads else "–"


def marked(row):
    """The name, with a mark for what is not durable and for what went wrong."""
    return row["title"] + ("" if row["durability"] == "synced" else " †") + (" ‡" if row["troubles"] else "")


def figure(row, name):
    value = row[name]
    if name.endswith("_share"):
        return "–" if value is None else f"{value:.0%}"
    if value is not None and name == "memory":
        value = {part: amount / 2**20 for part, amount in value.items()}
    return ranged(value)


def render(result):
    lines = ["# Relays compared", ""]
    lines += [f"* {line}" for line in surroundings_lines(result)]
    if result["settings"].get("notes"):
        lines += [f"* **{note}**" for note in result["settings"]["notes"]]
    lines += ["", "## Relays", ""]
    lines += table(("relay", "version", "before its 250", "because"),
                   [(relay["title"], relay["version"], relay["durability"], relay["why"]) for relay in result["relays"]])
    lines += ["", "† not all of what it answered 250 survives a power cut. ‡ see below the table.",
              "Figures are medians of the rounds, with the lowest and the highest.", ""]
    for job in summarize(result):
        lines += [f"## {job['title']}", ""]
        lines += table([title for title, _ in COLUMNS],
                       [[marked(row)] + [figure(row, name) for _, name in COLUMNS[1:]] for row in job["relays"]])
        lines += [""]
        lines += table(("time to the 250, ms", "p50", "p90", "p99", "p99.9", "250 to delivery, ms: p50", "p99"),
                       [[marked(row)] + [number((row["latency"] or {}).get(name)) for name in ("p50", "p90", "p99", "p99.9")] +
                        [number((row["transit"] or {}).get(name)) for name in ("p50", "p99")] for row in job["relays"]])
        troubled = [row for row in job["relays"] if row["troubles"]]
        if troubled:
            lines += [""] + [f"* ‡ {row['title']}: {'; '.join(row['troubles'])}" for row in troubled]
        lines += [""]
    return "\n".join(lines)
