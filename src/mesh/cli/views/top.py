"""One frame of ``mesh top``."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from mesh.cli import words
from mesh.cli.views.decisions import decision_line
from mesh.cli.views.instances import instances_table
from mesh.cli.views.models import STYLES, model_size, model_state, plain_table, pulled
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
        overview: of the mesh.
        now_ms: when it was asked for.
    """

    address: str
    overview: admin_pb2.OverviewReply
    now_ms: int


def top_frame(snapshot: Snapshot, height: int | None = None) -> RenderableType:
    """The whole screen: instances, the hottest models, loads under way, failed loads, the newest decisions.

    Args:
        snapshot: what is shown.
        height: lines of the screen; models get two thirds of what instances, loads and failures leave, decisions
            the rest. None shows everything.
    """
    overview, now_ms = snapshot.overview, snapshot.now_ms
    reply, decisions, failures = overview.instances, overview.decisions, overview.failures
    models = _by_model(overview)
    loads = [(model, copy) for model in models for copy in model.copies if copy.state in _UNDER_WAY]
    loads.sort(key=lambda load: load[1].since_ms)
    model_lines = decision_lines = load_lines = failure_lines = None
    if height is not None:
        left = max(6, height - _FIXED_LINES - len(reply.instances) - (2 if failures else 0))
        load_lines = min(len(loads), max(1, left // 4))
        failure_lines = min(len(failures), max(1, left // 6))
        left -= load_lines + failure_lines
        model_lines = max(3, left * 2 // 3)
        decision_lines = max(2, left - model_lines)
    return Group(
        _headline(snapshot),
        Text(),
        instances_table(reply.instances, reply.leader, now_ms),
        Text(),
        _hottest(models, now_ms, model_lines),
        Text(),
        _loads(loads[:load_lines], len(loads), now_ms),
        Text(),
        *_failures(overview, now_ms, failure_lines),
        Text("Decisions", style="bold"),
        *(_one_line(decision_line(decision, now_ms)) for decision in decisions[:decision_lines]),
        *([] if decisions else [Text("  none yet", style="dim")]),
    )


def _by_model(overview: admin_pb2.OverviewReply) -> list[admin_pb2.Model]:
    """The models of the copies that the overview tells of."""
    models: dict[str, admin_pb2.Model] = {}
    for instance in overview.copies:
        for copy in instance.copies:
            model = models.setdefault(copy.model_id, admin_pb2.Model(model_id=copy.model_id))
            model.last_used_ms = max(model.last_used_ms, copy.last_used_ms)
            model.copies.add(
                instance_id=instance.instance_id,
                state=copy.state,
                size_bytes=copy.size_bytes,
                since_ms=copy.since_ms,
                last_used_ms=copy.last_used_ms,
                in_flight=copy.in_flight,
                requests_per_minute=copy.requests_per_minute,
                pulled_bytes=copy.pulled_bytes,
                to_pull_bytes=copy.to_pull_bytes,
            )
    return list(models.values())


def _headline(snapshot: Snapshot) -> Text:
    reply = snapshot.overview.instances
    rpm = sum(instance.requests_per_minute for instance in reply.instances)
    return Text.assemble(
        ("mesh ", "bold"),
        f"at {snapshot.address}: {words.count(len(reply.instances), 'instance')}, ",
        f"{words.count(reply.models_registered, 'model')}, {snapshot.overview.models_loaded:,} loaded, ",
        f"{rpm:,} requests/min",
        (f", {failed:,} cannot be loaded" if (failed := snapshot.overview.models_failed) else "", "red"),
    )


def _hottest(models: Sequence[admin_pb2.Model], now_ms: int, lines: int | None) -> RenderableType:
    def heat(model: admin_pb2.Model) -> tuple[int, int, int, str]:
        rpm = sum(copy.requests_per_minute for copy in model.copies)
        in_flight = sum(copy.in_flight for copy in model.copies)
        return -in_flight, -rpm, -model.last_used_ms, model.model_id

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
    for model in sorted(models, key=heat)[:lines]:
        negative_in_flight, negative_rpm, negative_last_used, _ = heat(model)
        table.add_row(
            model.model_id,
            model_state(model),
            ", ".join(copy.instance_id for copy in model.copies),
            words.size(model_size(model)) if model_size(model) else "-",
            str(-negative_in_flight),
            str(-negative_rpm),
            words.ago(-negative_last_used, now_ms),
        )
    if not models:
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
                f", {progress}" if (progress := pulled(copy)) else "",
            )
        )
    return Group(*lines)


def _failures(overview: admin_pb2.OverviewReply, now_ms: int, most: int | None) -> Sequence[RenderableType]:
    if not overview.failures:
        return ()
    lines = [
        _one_line(
            Text.assemble(
                "  ",
                (failed.model_id, "bold"),
                f" on {failed.failure.instance_id} {words.ago(failed.failure.time_ms, now_ms)}: ",
                (failed.failure.message, "red"),
            )
        )
        for failed in overview.failures[:most]
    ]
    return (Text("Failed loads", style="bold"), *lines, Text())


def _one_line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
