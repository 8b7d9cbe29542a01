"""From runs to what the reports say: for each job and relay, medians with their spread, latencies, and what went wrong.

A pure function of the result, which is what `run --json` prints: {"surroundings", "settings", "relays": [description],
"jobs": [{"name", "title"}], "runs": [...]} with runs as measure.Bench.run makes them.
"""
import statistics

LIMIT = "limit"  # the name of the relay without mail logic
QUANTILES = ("p50", "p90", "p99", "p99.9", "max")

# Figures of a run: name in the summary, and where postern-bench's report has it.
FIGURES = {
    "rate": ("end_to_end_per_second",),
    "accepted": ("source", "accepted_per_second"),
    "cpu": ("relay", "cpu_us_per_message"),
    "user": ("relay", "user_cpu_us_per_message"),
    "switches": ("relay", "context_switches_per_message"),
    "calls": ("relay", "system_calls_per_message"),
    "writes": ("relay", "device_writes_per_message"),
    "bytes": ("relay", "device_bytes_per_message"),
    "flushes": ("relay", "device_flushes_per_message"),
    "memory": ("relay", "peak_anonymous_bytes"),
    "own_cpu": ("own_cpu_us_per_message",),
}


def at(report, path):
    for name in path:
        if not isinstance(report, dict) or report.get(name) is None:
            return None
        report = report[name]
    return report


def spread(values):
    """{"median", "low", "high"}, or None without values."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def latencies(reports, name):
    """Median over the runs of each quantile, in ms; None when nothing was counted."""
    found = {}
    for quantile in QUANTILES:
        values = [report[name][quantile] for report in reports if at(report, (name, "count"))]
        if values:
            found[quantile] = statistics.median(values)
    return found or None


def troubles(runs, drain):
    """What a reader must know before the figures, as sentences; all runs together."""
    said = []
    reports = [run["report"] for run in runs if "report" in run]

    def total(*path):
        return sum(at(report, path) or 0 for report in reports)

    sent = total("source", "accepted")
    if undelivered := total("sink", "undelivered"):
        said.append(f"not delivered within {drain} s: {undelivered} of {sent} messages accepted")
    if twice := total("sink", "twice"):
        said.append(f"delivered twice: {twice} of {sent}")
    if changed := total("sink", "changed"):
        said.append(f"content changed: {changed} of {sent}")
    if refused := total("source", "refused"):
        said.append(f"refused: {refused}")
    if unanswered := total("source", "unanswered"):
        said.append(f"not answered: {unanswered}")
    if failed := total("source", "connections_failed"):
        said.append(f"connections that failed, or were not greeted while there was load: {failed}")
    if late := sum(1 for run in runs if run.get("late")):
        said.append(f"had to be stopped in {late} of {len(runs)} runs")
    for run in runs:
        if "error" in run:
            said.append(f"round {run['round']}: {run['error']}")
    return said


def add_shares(rows):
    """Adds "rate_share" and "cpu_share" to each row: how near it comes to the limit's medians, 1 being there; None without."""
    limit = next((row for row in rows if row["name"] == LIMIT), None)
    for row in rows:
        for name in ("rate", "cpu"):
            both = limit and row is not limit and limit[name] and row[name]
            ours, least = (row[name]["median"], limit[name]["median"]) if both else (0, 0)
            if name == "cpu":
                ours, least = least, ours
            row[f"{name}_share"] = ours / least if least else None


def summarize(result):
    """[{"name", "title", "relays": [{"name", "title", "durability", figures…, shares of the limit, "latency", "transit",
    "troubles", "runs"}]}]"""
    drain = result["settings"]["drain"]
    made = []
    for job in result["jobs"]:
        rows = []
        for relay in result["relays"]:
            runs = [run for run in result["runs"] if run["job"] == job["name"] and run["relay"] == relay["name"]]
            if not runs:
                continue
            reports = [run["report"] for run in runs if "report" in run and at(run["report"], ("source", "accepted"))]
            row = {"name": relay["name"], "title": relay["title"], "durability": relay["durability"], "runs": len(runs)}
            for name, path in FIGURES.items():
                row[name] = spread([at(report, path) for report in reports])
            row["latency"] = latencies([report["source"] for report in reports], "latency_ms")
            row["transit"] = latencies(reports, "transit_ms")
            row["troubles"] = troubles(runs, drain)
            rows.append(row)
        add_shares(rows)
        if rows:
            made.append({"name": job["name"], "title": job["title"], "relays": rows})
    return made


def number(value):
    """Three digits that count; thousands set apart."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.3g}"


def ranged(figure):
    """`1,234 (1,200–1,300)`; the range is left out when all runs agree."""
    if figure is None:
        return "–"
    text = number(figure["median"])
    low, high = number(figure["low"]), number(figure["high"])
    return text if low == high else f"{text} ({low}–{high})"
