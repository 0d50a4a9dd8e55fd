"""``mesh payloads``: who gets the payloads of requests."""

import json
from typing import Any

import click

from mesh.cli import answers, views
from mesh.cli.client import QUESTION_TIMEOUT_S, Mesh, address_option, ask
from mesh.cli.manage import json_option
from mesh.cli.screen import show, show_json
from mesh.cli.vmodels import Share
from mesh.protos import payloads_pb2


@click.group(invoke_without_command=True)
@json_option
@address_option
@click.pass_context
def payloads(ctx: click.Context, *, as_json: bool, address: str) -> None:
    """Show who gets the payloads of requests, or change it: see the commands below.

    Without a command: lists the processors, with what the instance that answers has given them.
    """
    if ctx.invoked_subcommand is None:
        _list(address, as_json=as_json)


@payloads.command("list")
@json_option
@address_option
def list_processors(*, as_json: bool, address: str) -> None:
    """List the processors, and how they do on the instance that answers."""
    _list(address, as_json=as_json)


@payloads.command("set")
@click.argument("name")
@click.argument("uri")
@click.option(
    "--model", "models", multiple=True, metavar="ID", help="Only calls of this model or vmodel; repeatable."
)
@click.option(
    "--method", "methods", multiple=True, metavar="PKG.SERVICE/METHOD", help="Only this method; repeatable."
)
@click.option("--sample", type=Share(), metavar="SHARE", help="Only this share of the calls, as 0.05 or 5%.")
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other member, such as batch_size=500 or timeout_ms=2000; repeatable.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="One of the processor's own options; VALUE is JSON, or text; repeatable.",
)
@address_option
def set_processor(
    *,
    name: str,
    uri: str,
    models: tuple[str, ...],
    methods: tuple[str, ...],
    sample: float | None,
    members: tuple[str, ...],
    options: tuple[str, ...],
    address: str,
) -> None:
    """Have all instances give payloads to the processor at URI, under NAME. It takes effect at once.

    What NAME was before is replaced as a whole. docs/payloads.md tells of the schemes and members there are.
    """
    definition = _pairs("--member", members) | {"uri": uri}
    if models:
        definition["models"] = models
    if methods:
        definition["methods"] = methods
    if sample is not None:
        definition["sample"] = sample
    if options:
        definition["options"] = _pairs("--option", options)
    request = payloads_pb2.SetProcessorRequest(name=name, definition=json.dumps(definition))

    async def question(mesh: Mesh) -> payloads_pb2.SetProcessorReply:
        return await mesh.payloads.Set(request, timeout=QUESTION_TIMEOUT_S)

    click.echo(f"{name} is set: {ask(address, question).definition}")


@payloads.command("remove")
@click.argument("name")
@address_option
def remove_processor(*, name: str, address: str) -> None:
    """Give no payloads to the processor NAME any more."""

    async def question(mesh: Mesh) -> None:
        request = payloads_pb2.RemoveProcessorRequest(name=name)
        await mesh.payloads.Remove(request, timeout=QUESTION_TIMEOUT_S)

    ask(address, question)
    click.echo(f"{name} is removed")


def _list(address: str, *, as_json: bool) -> None:
    async def question(mesh: Mesh) -> payloads_pb2.ListProcessorsReply:
        return await mesh.payloads.List(payloads_pb2.ListProcessorsRequest(), timeout=QUESTION_TIMEOUT_S)

    reply = ask(address, question)
    if as_json:
        show_json(answers.processors(reply))
    else:
        show(views.processors_table(reply))


def _pairs(option: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{pair!r} is no NAME=VALUE", param_hint=option)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
