"""Models: a list of them, and one in full."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mesh.cli import words
from mesh.protos import admin_pb2, peer_pb2

#: The states of a copy from the most to the least useful, with their colours.
STYLES = {
    peer_pb2.COPY_STATE_LOADED: "green",
    peer_pb2.COPY_STATE_SIZING: "green",
    peer_pb2.COPY_STATE_LOADING: "yellow",
    peer_pb2.COPY_STATE_WAITING: "yellow",
    peer_pb2.COPY_STATE_QUEUED: "yellow",
    peer_pb2.COPY_STATE_UNLOADING: "dim",
    peer_pb2.COPY_STATE_FAILED: "red",
    peer_pb2.COPY_STATE_ABSENT: "dim",
}


def pulled(copy: admin_pb2.Copy) -> str:
    """How much of a copy's data is here, while that is pulled; else empty."""
    if copy.to_pull_bytes:
        return f"{copy.pulled_bytes * 100 // copy.to_pull_bytes}% of {words.size(copy.to_pull_bytes)} pulled"
    return f"{words.size(copy.pulled_bytes)} pulled" if copy.pulled_bytes else ""


def _copy_state(copy: admin_pb2.Copy) -> str:
    return ": ".join(filter(None, (words.state(copy.state), pulled(copy))))


def model_state(model: admin_pb2.Model) -> Text:
    """The model's state in a word: that of its best copy, or why there is none."""
    for state, style in STYLES.items():
        if state is not peer_pb2.COPY_STATE_ABSENT and any(copy.state == state for copy in model.copies):
            return Text(words.state(state), style=style)
    if model.failures:
        return Text("failed", style="red")
    return Text("not loaded", style="dim")


def plain_table(*columns: str, numeric: Sequence[str] = ()) -> Table:
    """A table without lines, its headings in capitals; columns in ``numeric`` are aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column in numeric
        table.add_column(column.upper(), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def model_size(model: admin_pb2.Model) -> int:
    """Bytes of the largest copy; 0 where none is loaded."""
    return max((copy.size_bytes for copy in model.copies), default=0)


def models_table(
    models: Iterable[admin_pb2.Model], now_ms: int, *, more: bool = False, registered: int = 0
) -> RenderableType:
    """One line for each model.

    Args:
        models: in the order in which they are shown.
        now_ms: by which ages are reckoned.
        more: there are others that match.
        registered: all models of the mesh.
    """
    table = plain_table(
        "model", "type", "state", "on", "size", "req/min", "last used", numeric=("size", "req/min")
    )
    shown = 0
    for model in models:
        shown += 1
        rpm = sum(copy.requests_per_minute for copy in model.copies)
        table.add_row(
            model.model_id,
            model.type,
            model_state(model),
            ", ".join(copy.instance_id for copy in model.copies) or "-",
            words.size(model_size(model)) if model.copies else "-",
            str(rpm) if model.copies else "-",
            words.ago(model.last_used_ms, now_ms),
        )
    if not shown:
        return Text(f"None of {words.count(registered, 'model')}." if registered else "No models.")
    if more:
        note = f"{shown:,} shown, there are more; {words.count(registered, 'model')} in all"
        return Group(table, Text(note, style="dim"))
    return table


def model_status(model: admin_pb2.Model, now_ms: int) -> RenderableType:
    """One model in full: what it is, its copies, and where it failed to load."""
    parts: list[RenderableType] = [
        Text.assemble((model.model_id, "bold"), "  ", model_state(model)),
        _facts(model, now_ms),
    ]
    if model.copies:
        table = plain_table(
            "copy on",
            "state",
            "since",
            "size",
            "in flight",
            "req/min",
            "last used",
            numeric=("size", "in flight", "req/min"),
        )
        for copy in sorted(model.copies, key=lambda copy: copy.since_ms):
            table.add_row(
                copy.instance_id,
                Text(_copy_state(copy), style=STYLES.get(copy.state, "")),
                words.ago(copy.since_ms, now_ms),
                words.size(copy.size_bytes) if copy.size_bytes else "-",
                str(copy.in_flight),
                str(copy.requests_per_minute),
                words.ago(copy.last_used_ms, now_ms),
            )
        parts += [Text(), table]
    if model.failures:
        parts += [Text(), Text("Failed to load", style="bold red")]
        for failure in sorted(model.failures, key=lambda failure: -failure.time_ms):
            when = words.ago(failure.time_ms, now_ms)
            line = f"{failure.instance_id}, {when}: {failure.message or 'no message'}"
            parts.append(Padding(Text(line), (0, 0, 0, 2), expand=False))
    return Group(*parts)


def _facts(model: admin_pb2.Model, now_ms: int) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("  type", model.type)
    if model.path:
        facts.add_row("  path", Text(model.path, overflow="fold"))
    if model.size_bytes:
        facts.add_row("  size", f"{words.size(model.size_bytes)}, {model.size_source}")
    facts.add_row("  last used", words.ago(model.last_used_ms, now_ms))
    if asked_for := words.policy(model.policy):
        facts.add_row("  policy", asked_for)
    if model.references:
        facts.add_row("  vmodels", f"{model.references} refer to it")
    return facts
