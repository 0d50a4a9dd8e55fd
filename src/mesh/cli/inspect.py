"""``mesh models``, ``mesh status`` and ``mesh explain``: what is where, and why."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import click
from rich.console import RenderableType
from rich.live import Live

from mesh.cli import answers, views
from mesh.cli.client import Mesh, ModelList, address_option, ask, connect, now_ms, run
from mesh.cli.screen import console, show, show_json
from mesh.protos import admin_pb2

ListModels = Callable[[Mesh], Awaitable[ModelList]]
#: Seconds between two looks of ``mesh models --watch``.
WATCH_INTERVAL_S = 1.0


@click.command()
@click.option("--prefix", default="", help="Only models whose id starts so.")
@click.option("--loaded", is_flag=True, help="Only models with a copy.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Show the list anew each second until Ctrl-C.")
@address_option
def models(*, prefix: str, loaded: bool, limit: int | None, as_json: bool, watch: bool, address: str) -> None:
    """List the models and where they are loaded."""
    if watch and as_json:
        raise click.UsageError("--watch is for people and --json for scripts: leave one of them out")

    async def list_models(mesh: Mesh) -> ModelList:
        return await mesh.models(prefix=prefix, loaded_only=loaded, limit=limit)

    if watch:
        _watch(address, list_models)
        return
    found = ask(address, list_models)
    if as_json:
        show_json(answers.models(found.models, more=found.more, registered=found.registered))
    else:
        show(_table(found))


@click.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
def status(*, model: str | None, as_json: bool, address: str) -> None:
    """Show the instances of the mesh, or one MODEL with its copies and failures."""
    if model is None:
        reply = ask(address, lambda mesh: mesh.instances())
        if as_json:
            show_json(answers.instances(reply))
        else:
            show(views.mesh_status(reply, now_ms()))
        return
    described = ask(address, lambda mesh: mesh.model(model))
    if described is None:
        raise unknown_model(model)
    if as_json:
        show_json(answers.model(described))
    else:
        show(views.model_status(described, now_ms()))


@click.command()
@click.argument("model", required=False, default="")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many decisions."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
def explain(*, model: str, limit: int, as_json: bool, address: str) -> None:
    """Tell where MODEL is and why: each decision with its candidates, newest first.

    Without MODEL: the newest decisions about any model.
    """

    async def question(mesh: Mesh) -> tuple[admin_pb2.Model | None, admin_pb2.ExplainReply]:
        described = await mesh.model(model) if model else None
        return described, await mesh.explain(model, limit)

    described, reply = ask(address, question)
    if model and described is None and not reply.decisions:
        raise unknown_model(model)
    if as_json:
        show_json(answers.explanation(described, reply.decisions))
    else:
        show(views.explanation(model, described, reply.decisions, now_ms()))


def unknown_model(model_id: str) -> click.ClickException:
    """The error for a model that the mesh does not know."""
    return click.ClickException(
        f"no model {model_id!r} is registered: `mesh models` lists them, `mesh register` adds one"
    )


def unknown_vmodel(vmodel_id: str) -> click.ClickException:
    """The error for a vmodel that the mesh does not know."""
    return click.ClickException(
        f"there is no vmodel {vmodel_id!r}: `mesh vmodels` lists them, `mesh vmodels set` makes one"
    )


def _watch(address: str, list_models: ListModels) -> None:
    async def forever() -> None:
        async with connect(address) as mesh:
            with Live(console=console(), auto_refresh=False) as live:
                while True:
                    live.update(_table(await list_models(mesh)), refresh=True)
                    await asyncio.sleep(WATCH_INTERVAL_S)

    with suppress(KeyboardInterrupt):
        run(address, forever())


def _table(found: ModelList) -> RenderableType:
    return views.models_table(found.models, now_ms(), more=found.more, registered=found.registered)
