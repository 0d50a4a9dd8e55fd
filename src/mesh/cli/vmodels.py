"""``mesh vmodels``: names that stand for models, which one is next, and which are on trial."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from mesh.cli import answers, views
from mesh.cli.client import QUESTION_TIMEOUT_S, Mesh, address_option, ask, now_ms
from mesh.cli.inspect import unknown_vmodel
from mesh.cli.manage import json_option
from mesh.cli.screen import show, show_json
from mesh.protos import model_mesh_pb2, vmodels_pb2

_Status = model_mesh_pb2.VModelStatusInfo
Reply = TypeVar("Reply")

#: A mesh tells after four minutes that a transition goes on; the caller waits a little longer for that answer.
WAIT_TIMEOUT_S = 250.0

owner_option = click.option("--owner", default="", help="Only if the vmodel has this owner.")
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=WAIT_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait, where this waits.",
)


class Share(click.ParamType[float]):
    """A share of requests, as a fraction or in percent."""

    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads ``0.05`` or ``5%``."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(
                f"{value!r} is no share of the requests: write 0.05 or 5%, at most 1 or 100%", param, ctx
            )
        return share


@click.group(invoke_without_command=True)
@click.option("--prefix", default="", help="Only vmodels whose id starts so.")
@click.option("--owner", default="", help="Only those of this owner.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.  [default: all]")
@json_option
@address_option
@click.pass_context
def vmodels(
    ctx: click.Context, *, prefix: str, owner: str, limit: int | None, as_json: bool, address: str
) -> None:
    """List the vmodels, or set, move and try them: see the commands below.

    A vmodel is a name that clients ask for while the model behind it changes. Without a command: lists them.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = ask(address, lambda mesh: mesh.list_vmodels(prefix=prefix, owner=owner, limit=limit))
    if as_json:
        show_json(answers.vmodels(found))
    else:
        show(views.vmodels_table(found))


@vmodels.command("set")
@click.argument("vmodel")
@click.argument("model")
@click.option("--type", "model_type", default="", help="Of the model, to register it if it is not there.")
@click.option("--path", default="", help="Where the model server, or the mesh for it, finds the model.")
@click.option("--key", default="", help="More for the model server; a JSON object by convention.")
@click.option(
    "--auto-delete", is_flag=True, help="The model, if registered by this, goes when nothing refers to it."
)
@click.option("--update-only", is_flag=True, help="Only if there is such a vmodel.")
@click.option("--expect", default="", metavar="MODEL", help="Only if the vmodel's target is MODEL now.")
@click.option("--force", is_flag=True, help="Move at once, whether the model is loaded or not.")
@click.option("--load", is_flag=True, help="Load the model, also where the one before it is not loaded.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the vmodel has moved.")
@click.option("--owner", default="", help="That the vmodel has, or gets if it is made.")
@timeout_option
@json_option
@address_option
def set_(
    *,
    vmodel: str,
    model: str,
    model_type: str,
    path: str,
    key: str,
    auto_delete: bool,
    update_only: bool,
    expect: str,
    force: bool,
    load: bool,
    no_wait: bool,
    owner: str,
    timeout: float,
    as_json: bool,
    address: str,
) -> None:
    """Let VMODEL stand for MODEL, and make it if it is not there.

    It moves when MODEL has as many copies loaded as the model before it; until then that one answers.
    """
    request = model_mesh_pb2.SetVModelRequest(
        vModelId=vmodel,
        targetModelId=model,
        modelInfo=model_mesh_pb2.ModelInfo(type=model_type, path=path, key=key),
        autoDeleteTargetModel=auto_delete,
        updateOnly=update_only,
        expectedTargetModelId=expect,
        force=force,
        loadNow=load,
        sync=not no_wait,
        owner=owner,
    )
    reply = ask(address, lambda mesh: mesh.management.setVModel(request, timeout=timeout))
    _show_status(vmodel, reply, as_json=as_json)
    if reply.status == _Status.TRANSITION_FAILED:
        raise click.ClickException(
            f"{vmodel} stays with {reply.activeModelId}: {model} could not be loaded:"
            f" {'; '.join(reply.targetModelStatus.errors) or 'no reason was given'}"
        )


@vmodels.command()
@click.argument("vmodel")
@owner_option
@address_option
def delete(*, vmodel: str, owner: str, address: str) -> None:
    """Delete VMODEL. Its models stay, but for those that were to go with it."""
    request = model_mesh_pb2.DeleteVModelRequest(vModelId=vmodel, owner=owner)
    ask(address, lambda mesh: mesh.management.deleteVModel(request, timeout=QUESTION_TIMEOUT_S))
    click.echo(
        f"{vmodel} is not there any more" if not owner else f"{vmodel} of {owner} is not there any more"
    )


@vmodels.command()
@click.argument("vmodel")
@json_option
@address_option
def status(*, vmodel: str, as_json: bool, address: str) -> None:
    """Show VMODEL with its models, and how far a transition has come."""
    request = model_mesh_pb2.GetVModelStatusRequest(vModelId=vmodel)
    reply = ask(address, lambda mesh: mesh.management.getVModelStatus(request, timeout=QUESTION_TIMEOUT_S))
    if reply.status == _Status.NOT_FOUND:
        raise unknown_vmodel(vmodel)
    _show_status(vmodel, reply, as_json=as_json)


@vmodels.command()
@click.argument("vmodel")
@click.argument("model", required=False)
@click.argument("share", type=Share(), required=False)
@click.option("--off", is_flag=True, help="All requests go to the active model again.")
@owner_option
@timeout_option
@json_option
@address_option
def canary(
    *,
    vmodel: str,
    model: str | None,
    share: float | None,
    off: bool,
    owner: str,
    timeout: float,
    as_json: bool,
    address: str,
) -> None:
    """Let MODEL answer a SHARE of the requests for VMODEL, such as 5%.

    It does while it has a loaded copy. `mesh vmodels set VMODEL MODEL` lets it answer all; --off ends it.
    """
    request = vmodels_pb2.SetCanaryRequest(
        vmodel_id=vmodel, canary=_portion(model, share, off), owner=owner, sync=True
    )
    _share(address, lambda mesh: mesh.vmodels.SetCanary(request, timeout=timeout), as_json=as_json)


@vmodels.command()
@click.argument("vmodel")
@click.argument("model", required=False)
@click.argument("share", type=Share(), required=False)
@click.option("--off", is_flag=True, help="Copy no requests any more.")
@owner_option
@timeout_option
@json_option
@address_option
def shadow(
    *,
    vmodel: str,
    model: str | None,
    share: float | None,
    off: bool,
    owner: str,
    timeout: float,
    as_json: bool,
    address: str,
) -> None:
    """Send copies of a SHARE of the requests for VMODEL, such as 5%, to MODEL.

    Clients notice nothing of it. `mesh vmodels compare VMODEL` tells how the answers differ; --off ends it.
    """
    request = vmodels_pb2.SetShadowRequest(
        vmodel_id=vmodel, shadow=_portion(model, share, off), owner=owner, sync=True
    )
    _share(address, lambda mesh: mesh.vmodels.SetShadow(request, timeout=timeout), as_json=as_json)


@vmodels.command()
@click.argument("vmodel")
@click.option("--shadow", default="", metavar="MODEL", help="A shadow that it had before.")
@json_option
@address_option
def compare(*, vmodel: str, shadow: str, as_json: bool, address: str) -> None:
    """Tell how the answers of VMODEL's shadow differ from those that clients got."""
    request = vmodels_pb2.CompareShadowRequest(vmodel_id=vmodel, shadow_model_id=shadow)
    reply = ask(address, lambda mesh: mesh.vmodels.CompareShadow(request, timeout=QUESTION_TIMEOUT_S))
    if as_json:
        show_json(answers.comparison(reply))
    else:
        show(views.comparison(reply, now_ms()))


def _portion(model: str | None, share: float | None, off: bool) -> vmodels_pb2.Portion | None:
    if off:
        if model is not None:
            raise click.UsageError("--off ends it for whatever model it is: leave MODEL and SHARE out")
        return None
    if model is None or share is None:
        raise click.UsageError(
            "name the MODEL and its SHARE of the requests, such as 5%, or end it with --off"
        )
    return vmodels_pb2.Portion(model_id=model, share=share)


def _share(address: str, question: Callable[[Mesh], Awaitable[vmodels_pb2.VModel]], *, as_json: bool) -> None:
    reply = ask(address, question)
    if as_json:
        show_json(answers.vmodel(reply))
    else:
        show(views.vmodels_table([reply]))


def _show_status(vmodel: str, reply: _Status, *, as_json: bool) -> None:
    if as_json:
        show_json(answers.vmodel_status(vmodel, reply))
    else:
        show(views.vmodel_status(vmodel, reply, now_ms()))
