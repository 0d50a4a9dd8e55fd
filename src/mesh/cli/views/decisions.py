"""Decisions: what the mesh did, and why."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mesh.cli import words
from mesh.cli.views.models import STYLES, model_state, plain_table
from mesh.protos import admin_pb2, peer_pb2

_KIND_STYLES = {
    "placement": "cyan",
    "load": "green",
    "eviction": "yellow",
    "refusal": "red",
    "unload": "dim",
    "failure": "red",
    "scale_up": "green",
    "scale_down": "yellow",
    "move": "cyan",
    "switch": "cyan",
}
#: The decisions that answer the question of why a copy is where it is.
_REASONS_OF_A_COPY = ("placement", "load")
#: The decisions that answer the question of why a model is not loaded.
_ENDINGS_OF_A_COPY = ("eviction", "scale_down", "move", "unload", "failure")
#: Of these, the ones that lead to an unload, which then does not say more.
_CAUSES_OF_AN_UNLOAD = ("eviction", "scale_down", "move")
#: One of these and the unload that it leads to are so close together at most, milliseconds.
_SAME_EVENT_MS = 1_000


def decision_line(decision: peer_pb2.Decision, now_ms: int, *, with_model: bool = True) -> Text:
    """One decision on one line: when, what kind, who decided, about which model, in a sentence."""
    line = Text.assemble(
        (f"{words.ago(decision.time_ms, now_ms):>12}", "dim"),
        "  ",
        (f"{decision.kind:<10}", _KIND_STYLES.get(decision.kind, "")),
        "  ",
        (decision.instance_id, "bold"),
        "  ",
    )
    if with_model:
        line.append(decision.model_id, "bold cyan").append("  ")
    line.append(decision.summary)
    if related := _related(decision):
        line.append(f" ({related})", "dim")
    if decision.trace_id:
        line.append(f" [trace {decision.trace_id}]", "dim")
    return line


def explanation(
    model_id: str, model: admin_pb2.Model | None, decisions: Sequence[peer_pb2.Decision], now_ms: int
) -> RenderableType:
    """Where a model is, why it is there, and what was decided about it, newest first.

    Args:
        model_id: the model that was asked for; all models where empty.
        model: None where it is not registered.
        decisions: newest first, as the mesh remembers them.
        now_ms: by which ages are reckoned.
    """
    if not model_id:
        lines = [decision_line(decision, now_ms) for decision in decisions]
        return Group(*lines) if lines else Text("No decisions yet: nobody has asked a model.")
    parts: list[RenderableType] = [_where(model_id, model, decisions, now_ms)]
    if not decisions:
        parts += [Text(), Text("The mesh remembers no decision about it.", style="dim")]
    for decision in decisions:
        parts += [Text(), decision_line(decision, now_ms, with_model=False)]
        if decision.candidates:
            parts.append(Padding(candidates_table(decision), (0, 0, 0, 14), expand=False))
    return Group(*parts)


def candidates_table(decision: peer_pb2.Decision) -> RenderableType:
    """Each instance that was weighed, the best first and the refused last, with its reason."""
    table = plain_table("rank", "instance", "why", numeric=("rank",))
    for candidate in sorted(
        decision.candidates, key=lambda one: (bool(one.refused), one.rank, one.instance_id)
    ):
        chosen = candidate.instance_id == decision.chosen
        table.add_row(
            "-" if candidate.refused else str(candidate.rank),
            Text(candidate.instance_id, style="bold green" if chosen else ""),
            Text(f"refused: {candidate.refused}", style="red")
            if candidate.refused
            else Text(f"chosen: {candidate.score}" if chosen else candidate.score),
        )
    return table


def _where(
    model_id: str, model: admin_pb2.Model | None, decisions: Sequence[peer_pb2.Decision], now_ms: int
) -> RenderableType:
    if model is None:
        return Text.assemble((model_id, "bold"), " is not registered")
    lines = [Text.assemble((model_id, "bold"), "  ", model_state(model), f"  type {model.type}")]
    for copy in sorted(model.copies, key=lambda copy: copy.since_ms):
        lines.append(
            Text.assemble(
                "  on ",
                (copy.instance_id, "bold"),
                ": ",
                (words.state(copy.state), STYLES.get(copy.state, "")),
                f" for {words.duration(now_ms - copy.since_ms)}",
                f", {words.size(copy.size_bytes)}" if copy.size_bytes else "",
                f", last used {words.ago(copy.last_used_ms, now_ms)}",
            )
        )
        reason = next(
            (
                decision
                for decision in decisions
                if decision.kind in _REASONS_OF_A_COPY
                and (decision.chosen or decision.instance_id) == copy.instance_id
            ),
            None,
        )
        if reason is not None:
            lines.append(Text(f"    because {reason.summary}", style="italic"))
    if not model.copies:
        last = _why_not_loaded(decisions)
        if last is not None:
            lines.append(Text(f"  not loaded because {last.summary}", style="italic"))
    lines += [
        Text(
            f"  failed on {failure.instance_id} {words.ago(failure.time_ms, now_ms)}: {failure.message}",
            style="red",
        )
        for failure in model.failures
    ]
    return Group(*lines)


def _why_not_loaded(decisions: Sequence[peer_pb2.Decision]) -> peer_pb2.Decision | None:
    """What took the last copy away; of an unload and what led to it, the latter."""
    endings = [decision for decision in decisions if decision.kind in _ENDINGS_OF_A_COPY]
    if not endings:
        return None
    newest = endings[0]
    return next(
        (
            decision
            for decision in endings
            if decision.kind in _CAUSES_OF_AN_UNLOAD
            and decision.instance_id == newest.instance_id
            and abs(newest.time_ms - decision.time_ms) < _SAME_EVENT_MS
        ),
        newest,
    )


def _related(decision: peer_pb2.Decision) -> str:
    """The other models of a decision that its summary does not name."""
    models = ", ".join(model_id for model_id in decision.related_models if model_id not in decision.summary)
    if not models:
        return ""
    return f"for {models}" if decision.kind == "eviction" else f"evicted {models}"
