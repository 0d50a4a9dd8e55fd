"""One frame of ``mesh top``."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from mesh.cli import words
from mesh.cli.views.decisions import decision_line
from mesh.cli.views.instances import instances_table
from mesh.cli.views.models import STYLES, model_size, model_state, plain_table
from mesh.protos import admin_pb2, peer_pb2

#: Lines of a frame that are no instance, model, load or decision: titles, table headings and gaps.
_FIXED_LINES = 12
#: States in which a copy is on its way in.
_UNDER_WAY = (
    peer_pb2.COPY_STATE_QUEUED,
    peer_pb2.COPY_STATE_WAITING,
    peer_pb2.COPY_STATE_LOADING,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one frame is made of.

    Attributes:
        address: of the instance that was asked.
        instances: of the mesh.
        models: those with a copy, in any order.
        decisions: newest first.
        now_ms: when these were asked for.
    """

    address: str
    instances: admin_pb2.ListInstancesReply
    models: tuple[admin_pb2.Model, ...]
    decisions: tuple[peer_pb2.Decision, ...]
    now_ms: int


def top_frame(snapshot: Snapshot, height: int | None = None) -> RenderableType:
    """The whole screen: instances, the hottest models, loads under way, the newest decisions.

    Args:
        snapshot: what is shown.
        height: lines of the screen; models get two thirds of what the instances leave, decisions the rest.
            None shows everything.
    """
    reply, now_ms = snapshot.instances, snapshot.now_ms
    loads = [(model, copy) for model in snapshot.models for copy in model.copies if copy.state in _UNDER_WAY]
    model_lines = decision_lines = load_lines = None
    if height is not None:
        left = max(6, height - _FIXED_LINES - len(reply.instances))
        load_lines = min(len(loads), max(1, left // 4))
        model_lines = max(3, (left - load_lines) * 2 // 3)
        decision_lines = max(2, left - load_lines - model_lines)
    return Group(
        _headline(snapshot),
        Text(),
        instances_table(reply.instances, reply.leader, now_ms),
        Text(),
        _hottest(snapshot, model_lines),
        Text(),
        _loads(loads[:load_lines], len(loads), now_ms),
        Text(),
        Text("Decisions", style="bold"),
        *(_one_line(decision_line(decision, now_ms)) for decision in snapshot.decisions[:decision_lines]),
        *([] if snapshot.decisions else [Text("  none yet", style="dim")]),
    )


def _headline(snapshot: Snapshot) -> Text:
    reply = snapshot.instances
    rpm = sum(instance.requests_per_minute for instance in reply.instances)
    return Text.assemble(
        ("mesh ", "bold"),
        f"at {snapshot.address}: {words.count(len(reply.instances), 'instance')}, ",
        f"{words.count(reply.models_registered, 'model')}, {len(snapshot.models):,} loaded, ",
        f"{rpm:,} requests/min",
    )


def _hottest(snapshot: Snapshot, lines: int | None) -> RenderableType:
    def heat(model: admin_pb2.Model) -> tuple[int, int, int, str]:
        rpm = sum(copy.requests_per_minute for copy in model.copies)
        in_flight = sum(copy.in_flight for copy in model.copies)
        last_used = max((model.last_used_ms, *(copy.last_used_ms for copy in model.copies)))
        return -in_flight, -rpm, -last_used, model.model_id

    table = plain_table(
        "hottest models",
        "state",
        "on",
        "size",
        "in flight",
        "req/min",
        "last used",
        numeric=("size", "in flight", "req/min"),
    )
    for model in sorted(snapshot.models, key=heat)[:lines]:
        negative_in_flight, negative_rpm, negative_last_used, _ = heat(model)
        table.add_row(
            model.model_id,
            model_state(model),
            ", ".join(copy.instance_id for copy in model.copies),
            words.size(model_size(model)) if model_size(model) else "-",
            str(-negative_in_flight),
            str(-negative_rpm),
            words.ago(-negative_last_used, snapshot.now_ms),
        )
    if not snapshot.models:
        return Group(table, Text("  none loaded", style="dim"))
    return table


def _loads(loads: list[tuple[admin_pb2.Model, admin_pb2.Copy]], total: int, now_ms: int) -> RenderableType:
    if not total:
        return Text("No loads in flight", style="dim")
    lines = [Text(f"{words.count(total, 'load')} in flight", style="bold")]
    for model, copy in loads:
        lines.append(
            Text.assemble(
                "  ",
                (model.model_id, "bold"),
                f" on {copy.instance_id}: ",
                (words.state(copy.state), STYLES.get(copy.state, "")),
                f" for {words.duration(now_ms - copy.since_ms)}",
            )
        )
    return Group(*lines)


def _one_line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
