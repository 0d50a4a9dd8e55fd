"""``mesh register``, ``mesh unregister`` and ``mesh load``: the management API for people."""

import click

from mesh.cli import answers
from mesh.cli.client import QUESTION_TIMEOUT_S, Mesh, address_option, ask
from mesh.cli.inspect import unknown_model
from mesh.cli.screen import show_json
from mesh.protos import model_mesh_pb2

_Status = model_mesh_pb2.ModelStatusInfo

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the model to load.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("model")
@click.option(
    "--type", "model_type", required=True, help="Format, as the model server knows it: sklearn, onnx..."
)
@click.option("--path", default="", help="Where the model server, or the mesh for it, finds the model.")
@click.option("--key", default="", help="More for the model server; a JSON object by convention.")
@click.option("--load", is_flag=True, help="Load it now, and wait until it is loaded.")
@timeout_option
@json_option
@address_option
def register(
    *,
    model: str,
    model_type: str,
    path: str,
    key: str,
    load: bool,
    timeout: float,
    as_json: bool,
    address: str,
) -> None:
    """Make MODEL known to the mesh. Doing it again with the same attributes changes nothing."""
    info = model_mesh_pb2.ModelInfo(type=model_type, path=path, key=key)
    seconds = timeout if load else QUESTION_TIMEOUT_S
    reply = ask(address, lambda mesh: mesh.register(model, info, load=load, timeout_s=seconds))
    _report(model, reply, as_json=as_json, what="registered")


@click.command()
@click.argument("model")
@address_option
def unregister(*, model: str, address: str) -> None:
    """Remove MODEL from the mesh; its copies are unloaded. The model's data stays where it is."""

    async def question(mesh: Mesh) -> None:
        request = model_mesh_pb2.UnregisterModelRequest(modelId=model)
        await mesh.management.unregisterModel(request, timeout=QUESTION_TIMEOUT_S)

    ask(address, question)
    click.echo(f"{model} is not registered any more")


@click.command()
@click.argument("model")
@timeout_option
@json_option
@address_option
def load(*, model: str, timeout: float, as_json: bool, address: str) -> None:
    """Load MODEL now, and wait until it is loaded; nothing happens where it is."""

    async def question(mesh: Mesh) -> model_mesh_pb2.ModelStatusInfo | None:
        if await mesh.model(model) is None:
            return None
        request = model_mesh_pb2.EnsureLoadedRequest(modelId=model, sync=True)
        return await mesh.management.ensureLoaded(request, timeout=timeout)

    reply = ask(address, question)
    if reply is None:
        raise unknown_model(model)
    _report(model, reply, as_json=as_json, what="asked for")


def _report(model: str, reply: _Status, *, as_json: bool, what: str) -> None:
    """Prints the status, and ends with an error where the load failed."""
    if as_json:
        show_json(answers.management_status(model, reply))
    elif reply.status != _Status.LOADING_FAILED:
        click.echo(f"{model} is {what}: {_Status.ModelStatus.Name(reply.status).lower().replace('_', ' ')}")
    if reply.status == _Status.LOADING_FAILED:
        raise click.ClickException(
            f"{model} could not be loaded: {'; '.join(reply.errors) or 'no reason was given'}"
        )
