"""Measured figures as Markdown."""

from collections.abc import Mapping, Sequence

from bench.windows import Shape, Subject, Window


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    align = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))


def machine_lines(machine: Mapping[str, str]) -> str:
    """What was measured on, as a list."""
    return "\n".join(f"- {key}: {value}" for key, value in machine.items())


def request_tables(
    shapes: Sequence[Shape],
    figures: Mapping[str, Mapping[str, Window]],
    subjects: Mapping[str, Subject],
    rivals: Sequence[str],
) -> str:
    """One table for each shape of load; ``figures`` are by shape and subject."""
    parts = []
    for shape in shapes:
        of_shape = figures[shape.name]
        present = [rival for rival in rivals if rival in of_shape]
        head = [
            "",
            "requests/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "p50 over direct",
            "CPU ms per 1,000",
            "RSS MiB",
            "foreign CPU",
        ]
        head += [f"CPU against {rival}" for rival in present]
        rows = [
            _row(name, window, of_shape, present, proxied=bool(subjects[name].proxies))
            for name, window in of_shape.items()
        ]
        parts.append(f"### {shape.name}\n\n{table(head, rows)}\n")
    return "\n".join(parts)


def _row(
    name: str, window: Window, others: Mapping[str, Window], rivals: Sequence[str], *, proxied: bool
) -> list[str]:
    direct = others.get("direct")
    over = f"{window.p50 - direct.p50:+,.0f}" if proxied and direct else "-"
    row = [
        name,
        f"{window.rps:,.0f}",
        f"{window.p50:,.0f}",
        f"{window.p99:,.0f}",
        f"{window.p999:,.0f}",
        over,
    ]
    row += [f"{window.cpu:.1f}", f"{window.resident:.0f}"] if proxied else ["-", "-"]
    row.append(f"{window.foreign:.0%}")
    return row + [f"{window.cpu / others[rival].cpu:.2f}" if proxied else "-" for rival in rivals]
