"""A report as a page for a browser, with its charts drawn into it: one file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import log10

from mesh.simulation.report import Report

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 64, 30, 12
_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")

Points = Sequence[tuple[float, float]]


def page(report: Report, title: str) -> str:
    """Writes a report as HTML with charts in SVG."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in report.rows()
    )
    charts = "".join(
        f"<h2>{escape(name)}</h2>{_chart(lines, unit, logarithmic=logarithmic)}"
        for name, lines, unit, logarithmic in _charts(report)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>body{{font:15px system-ui,sans-serif;margin:2rem auto;max-width:44rem}}"
        "td{padding:.15rem 1.5rem .15rem 0;vertical-align:top}h2{font-size:1rem;margin:2rem 0 .3rem}"
        "text{font:11px system-ui,sans-serif;fill:#555}</style></head><body>"
        f"<h1>{escape(title)}</h1><table>{rows}</table>{charts}</body></html>\n"
    )


def _charts(report: Report) -> list[tuple[str, dict[str, Points], str, bool]]:
    moments = report.timeline
    charts: list[tuple[str, dict[str, Points], str, bool]] = []
    if len(moments) > 1:
        steps = list(pairwise(moments))
        charts.append(
            (
                "Requests that found a loaded copy, and memory in use, % over seconds",
                {
                    "found a copy": [
                        (
                            after.time_s,
                            100 * (1 - (after.cold - before.cold) / (after.served - before.served)),
                        )
                        for before, after in steps
                        if after.served > before.served
                    ],
                    "memory in use": [(moment.time_s, 100 * moment.used_share) for moment in moments],
                },
                "s",
                False,
            )
        )
        charts.append(
            (
                "Loads, evictions and failed requests in a second",
                {
                    name: [
                        (after.time_s, (counts[1] - counts[0]) / (after.time_s - before.time_s))
                        for before, after in steps
                        for counts in ((getattr(before, name), getattr(after, name)),)
                    ]
                    for name in ("loads", "evictions", "failed")
                },
                "s",
                False,
            )
        )
    if report.latencies.count:
        charts.append(
            (
                "Share of the requests, %, that were served within so many milliseconds",
                {"all": _shares(report.latencies.distribution())}
                | ({"cold": _shares(report.cold_latencies.distribution())} if report.cold else {}),
                "ms",
                True,
            )
        )
    spread = sorted(report.loads_by_instance.values(), reverse=True)
    requests = sorted(report.requests_by_instance.values(), reverse=True)
    charts.append(
        (
            "Loads and requests of each instance, % of the busiest one's, the busiest first",
            {
                name: [(rank, 100 * count / counts[0]) for rank, count in enumerate(counts, 1)]
                for name, counts in (("loads", spread), ("requests", requests))
                if counts and counts[0]
            },
            "",
            False,
        )
    )
    return charts


def _shares(distribution: list[tuple[int, int]]) -> Points:
    total, seen, points = sum(count for _, count in distribution), 0, []
    for upper_us, count in distribution:
        seen += count
        points.append((upper_us / 1_000, 100 * seen / total))
    return points


def _chart(lines: dict[str, Points], unit: str, *, logarithmic: bool) -> str:
    def place(value: float) -> float:
        return log10(max(value, 1e-3)) if logarithmic else value

    points = [point for line in lines.values() for point in line]
    if not points:
        return "<p>none</p>"
    left = min(place(x) for x, _ in points)
    right = max([left + 1e-9, *(place(x) for x, _ in points)])
    top = max([1e-9, *(y for _, y in points)])

    def at(x: float, y: float) -> str:
        across = _LEFT + (place(x) - left) / (right - left) * (_WIDTH - _LEFT - 8)
        return f"{across:.1f},{_HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP):.1f}"

    drawn = []
    for step in range(5):
        value = top * step / 4
        _, _, down = at(points[0][0], value).partition(",")
        drawn.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{down}" y2="{down}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{float(down) + 4:.1f}" text-anchor="end">{value:,.4g}</text>'
        )
        where = left + (right - left) * step / 4
        shown = 10**where if logarithmic else where
        across = _LEFT + step / 4 * (_WIDTH - _LEFT - 8)
        drawn.append(
            f'<text x="{across:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{shown:,.3g} {escape(unit)}</text>'
        )
    for number, (name, line) in enumerate(lines.items()):
        color = _COLORS[number % len(_COLORS)]
        path = " ".join(at(x, y) for x, y in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        drawn.append(
            f'<text x="{_LEFT + 10 + 130 * number}" y="{_TOP + 2}" style="fill:{color}">{escape(name)}</text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(drawn)}</svg>'
