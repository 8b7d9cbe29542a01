"""The report as one HTML page that needs nothing else: tables as in the Markdown report, and plots drawn as inline SVG."""
import html
import math

from markdown import COLUMNS, figure, marked, surroundings_lines
from summary import QUANTILES, number, summarize

COLOURS = ("#0b6e4f", "#1f77b4", "#6baed6", "#d9822b", "#8e44ad", "#c0392b", "#7f8c8d", "#b8860b")
BAR, GAP, LEFT, WIDTH = 20, 8, 150, 620
CURVE_HEIGHT, CURVE_LEFT = 230, 60

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem }
h3 { font-size: 1rem; margin: .6rem 0 .2rem } table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child, td.text, th.text { text-align: left } .plots { display: flex; flex-wrap: wrap; gap: 1.5rem }
.note { background: #fff6dd; border-left: 4px solid #d9822b; padding: .4rem .8rem; margin: .4rem 0 } ul.plain { padding-left: 1.1rem }
svg text { font: 12px system-ui, sans-serif; fill: #1c1c1c } svg .faint { fill: #666 } svg .grid { stroke: #e3e3e3 } svg .spread { stroke: #1c1c1c }
"""


def escaped(text):
    return html.escape(str(text), quote=True)


def table(header, rows, text_columns=(0,)):
    def cells(tag, row):
        return "".join(f'<{tag}{" class=text" if at in text_columns else ""}>{escaped(cell)}</{tag}>' for at, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', header)}</tr>{body}</table>"


def bars(title, rows, name, colours):
    """Medians as bars, with a line from the lowest to the highest round."""
    high = max((row[name]["high"] for row in rows if row[name]), default=0)
    scale = (WIDTH - LEFT - 150) / high if high else 0
    parts, top = [], 4
    for row in rows:
        middle = top + BAR / 2
        parts.append(f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escaped(marked(row))}</text>')
        if row[name]:
            median, low, most = (row[name][part] * scale for part in ("median", "low", "high"))
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{max(median, 1):.1f}" height="{BAR}" fill="{colours[row["name"]]}"/>')
            if most > low:
                parts.append(f'<path class="spread" fill="none" d="M{LEFT + low:.1f} {middle - 5}v10M{LEFT + low:.1f} {middle}'
                             f'H{LEFT + most:.1f}M{LEFT + most:.1f} {middle - 5}v10"/>')
            parts.append(f'<text x="{LEFT + max(median, most) + 6:.1f}" y="{middle + 4}">{number(row[name]["median"])}</text>')
        else:
            parts.append(f'<text class="faint" x="{LEFT + 4}" y="{middle + 4}">no figure</text>')
        top += BAR + GAP
    return (f'<div><h3>{escaped(title)}</h3><svg role="img" aria-label="{escaped(title)}" width="{WIDTH}" height="{top}" '
            f'viewBox="0 0 {WIDTH} {top}">{"".join(parts)}</svg></div>')


def curves(title, rows, name, colours):
    """Latency by quantile, one line a relay; milliseconds on a logarithmic scale."""
    drawn = [row for row in rows if row[name]]
    values = [value for row in drawn for value in row[name].values()]
    if not values:
        return ""
    floor = 0.01
    bottom = math.floor(math.log10(max(min(values), floor)))
    top = max(math.ceil(math.log10(max(max(values), floor))), bottom + 1)
    right = WIDTH - 150

    def x(at):
        return CURVE_LEFT + 20 + at * (right - CURVE_LEFT - 40) / (len(QUANTILES) - 1)

    def y(value):
        return 10 + (top - math.log10(max(value, floor))) / (top - bottom) * (CURVE_HEIGHT - 40)

    parts = []
    for power in range(bottom, top + 1):
        parts.append(f'<path class="grid" d="M{CURVE_LEFT} {y(10 ** power):.1f}H{right}"/>'
                     f'<text x="{CURVE_LEFT - 6}" y="{y(10 ** power) + 4:.1f}" text-anchor="end">{10 ** power:g}</text>')
    for at, quantile in enumerate(QUANTILES):
        parts.append(f'<text x="{x(at):.1f}" y="{CURVE_HEIGHT - 10}" text-anchor="middle">{quantile}</text>')
    for at, row in enumerate(drawn):
        points = [(x(QUANTILES.index(quantile)), y(value)) for quantile, value in row[name].items()]
        colour = colours[row["name"]]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="' +
                     " ".join(f"{left:.1f},{height:.1f}" for left, height in points) + '"/>')
        parts += [f'<circle cx="{left:.1f}" cy="{height:.1f}" r="3" fill="{colour}"/>' for left, height in points]
        parts.append(f'<rect x="{right + 10}" y="{10 + at * 20}" width="12" height="12" fill="{colour}"/>'
                     f'<text x="{right + 28}" y="{20 + at * 20}">{escaped(marked(row))}</text>')
    return (f'<div><h3>{escaped(title)}</h3><svg role="img" aria-label="{escaped(title)}" width="{WIDTH}" height="{CURVE_HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {CURVE_HEIGHT}">{"".join(parts)}</svg></div>')


def job_section(job, colours):
    rows = job["relays"]
    parts = [f"<h2 id=\"{escaped(job['name'])}\">{escaped(job['title'])}</h2>"]
    for row in rows:
        if row["troubles"]:
            parts.append(f"<p class=note>‡ {escaped(row['title'])}: {escaped('; '.join(row['troubles']))}</p>")
    parts.append('<div class=plots>' + bars("Delivered a second (more is better)", rows, "rate", colours) +
                 bars("CPU of the relay a message, µs (less is better)", rows, "cpu", colours) +
                 curves("Time to the 250, ms", rows, "latency", colours) +
                 curves("From the 250 to the delivery, ms", rows, "transit", colours) + "</div>")
    parts.append(table([title for title, _ in COLUMNS],
                       [[marked(row)] + [figure(row, name) for _, name in COLUMNS[1:]] for row in rows]))
    return "".join(parts)


def render(result):
    colours = {relay["name"]: COLOURS[at % len(COLOURS)] for at, relay in enumerate(result["relays"])}
    summary = summarize(result)
    parts = ["<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">"
             f"<title>Relays compared</title><style>{STYLE}</style></head><body><h1>Relays compared</h1><ul class=plain>"]
    parts += [f"<li>{escaped(line)}</li>" for line in surroundings_lines(result)]
    parts.append("</ul>")
    parts += [f"<p class=note>{escaped(note)}</p>" for note in result["settings"].get("notes", [])]
    parts.append(table(("relay", "version", "before its 250", "because"),
                       [(relay["title"], relay["version"], relay["durability"], relay["why"]) for relay in result["relays"]],
                       text_columns=(0, 1, 2, 3)))
    parts.append("<p>† not all of what it answered 250 survives a power cut. ‡ something went wrong: it is said above the figures. "
                 "Figures are medians of the rounds; the lines over the bars go from the lowest round to the highest.</p><ul class=plain>")
    parts += [f"<li><a href=\"#{escaped(job['name'])}\">{escaped(job['title'])}</a></li>" for job in summary]
    parts.append("</ul>")
    parts += [job_section(job, colours) for job in summary]
    return "".join(parts) + "</body></html>\n"
