"""Vmodels: a list of them, one in full, and what came of a shadow."""

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mesh.cli import words
from mesh.cli.views.models import plain_table
from mesh.protos import model_mesh_pb2, vmodels_pb2

_Model = model_mesh_pb2.ModelStatusInfo
_VModel = model_mesh_pb2.VModelStatusInfo

_MODEL_STYLES = {
    _Model.LOADED: "green",
    _Model.LOADING: "yellow",
    _Model.LOADING_FAILED: "red",
    _Model.NOT_FOUND: "red",
}
_MOVING = Text("moving", style="yellow")
_STUCK = Text("cannot move", style="red")
_STEADY = Text("steady", style="green")
_STATES = {
    _VModel.DEFINED: _STEADY,
    _VModel.TRANSITIONING: _MOVING,
    _VModel.TRANSITION_FAILED: _STUCK,
}


def vmodels_table(vmodels: Iterable[vmodels_pb2.VModel]) -> RenderableType:
    """One line for each vmodel."""
    table = plain_table("vmodel", "state", "answers", "next", "canary", "shadow", "owner")
    shown = 0
    for vmodel in vmodels:
        shown += 1
        moving = vmodel.active_model_id != vmodel.target_model_id
        table.add_row(
            vmodel.vmodel_id,
            (_STUCK if vmodel.failed else _MOVING) if moving else _STEADY,
            vmodel.active_model_id,
            vmodel.target_model_id if moving else "-",
            _portion(vmodel.canary) if vmodel.HasField("canary") else "-",
            _portion(vmodel.shadow) if vmodel.HasField("shadow") else "-",
            vmodel.owner or "-",
        )
    return table if shown else Text("No vmodels.")


def _portion(portion: vmodels_pb2.Portion) -> str:
    return f"{portion.model_id} {words.percent(portion.share)}"


def vmodel_status(vmodel_id: str, status: model_mesh_pb2.VModelStatusInfo, now_ms: int) -> RenderableType:
    """One vmodel in full, as the management API tells of it."""
    state = _STATES.get(status.status, Text(f"state {status.status}"))
    parts: list[RenderableType] = [Text.assemble((vmodel_id, "bold"), "  ", state)]
    if status.owner:
        parts.append(Text(f"  owner  {status.owner}"))
    parts += _model("answers", status.activeModelId, status.activeModelStatus, now_ms)
    if status.HasField("targetModelStatus"):
        parts += _model("next", status.targetModelId, status.targetModelStatus, now_ms)
    return Group(*parts)


def _model(role: str, model_id: str, status: _Model, now_ms: int) -> Iterator[RenderableType]:
    name = _Model.ModelStatus.Name(status.status).lower().replace("_", " ")
    yield Text()
    yield Text.assemble(
        (f"{role}  ", "dim"), (model_id, "bold"), "  ", (name, _MODEL_STYLES.get(status.status, ""))
    )
    if status.modelCopyInfos:
        table = plain_table("copy on", "state", "since")
        for copy in status.modelCopyInfos:
            copy_state = _Model.ModelStatus.Name(copy.copyStatus).lower().replace("_", " ")
            style = _MODEL_STYLES.get(copy.copyStatus, "")
            table.add_row(copy.location, Text(copy_state, style=style), words.ago(copy.time, now_ms))
        yield Padding(table, (0, 0, 0, 2), expand=False)
    for error in status.errors:
        yield Padding(Text(error, style="red"), (0, 0, 0, 2), expand=False)


def comparison(found: vmodels_pb2.Comparison, now_ms: int) -> RenderableType:
    """What came of a shadow."""
    compared = found.equal + found.different
    sent = compared + found.shadow_failed
    facts = Table.grid(padding=(0, 2))
    facts.add_column(justify="right")
    for count, what in (
        (found.equal, _share("answers are equal", found.equal, sent)),
        (found.different, _share("differ", found.different, sent)),
        (found.shadow_failed, _share("failed at the shadow", found.shadow_failed, sent)),
        (found.primary_failed, "failed at the active model and were not copied"),
        (found.dropped, "were not compared: no room, or no unary call"),
    ):
        facts.add_row(f"{count:,}", what)
    parts: list[RenderableType] = [
        Text.assemble((found.vmodel_id, "bold"), "  with its shadow  ", (found.shadow_model_id, "bold")),
        facts,
    ]
    if compared:
        active_s, shadow_s = found.primary_ms / compared / 1_000, found.shadow_ms / compared / 1_000
        parts.append(
            Text(f"Mean time of an answer: {words.latency(active_s)}, the shadow's {words.latency(shadow_s)}")
        )
    if found.missing_instances:
        parts.append(
            Text(f"Without {', '.join(found.missing_instances)}: no answer from there", style="yellow")
        )
    if found.differences:
        table = plain_table(
            "when", "on", "method", "answered by", "bytes", "shadow's", "took", "shadow's", "what",
            numeric=("bytes",),
        )  # fmt: skip
        for one in found.differences:
            table.add_row(
                words.ago(one.time_ms, now_ms),
                one.instance_id,
                one.method,
                one.primary_model_id,
                str(one.primary_bytes),
                str(one.shadow_bytes),
                words.latency(one.primary_ms / 1_000),
                words.latency(one.shadow_ms / 1_000),
                Text(f"code {one.shadow_code}: {one.shadow_message}", style="red")
                if one.shadow_code
                else "differs",
            )
        parts += [Text(), table]
    return Group(*parts)


def _share(what: str, count: int, total: int) -> str:
    return f"{what}, {words.percent(count / total)}" if total else what
