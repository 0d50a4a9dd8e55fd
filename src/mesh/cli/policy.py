"""``mesh policy``: how many copies a model is to have, and how they are treated."""

from typing import Any

import click

from mesh.cli import answers, words
from mesh.cli.client import QUESTION_TIMEOUT_S, Mesh, address_option, ask
from mesh.cli.inspect import unknown_model
from mesh.cli.screen import show_json
from mesh.protos import admin_pb2


@click.command()
@click.argument("model")
@click.option(
    "--min-copies", type=click.IntRange(0), metavar="N", help="Keep so many copies loaded, used or not."
)
@click.option(
    "--max-copies", type=click.IntRange(0), metavar="N", help="Add none beyond so many; 0 for any number."
)
@click.option("--pin/--no-pin", "pinned", default=None, help="Never evict it, and keep a copy loaded.")
@click.option(
    "--priority", type=int, metavar="N", help="Models of lower priority are evicted first; -100 to 100."
)
@click.option(
    "--idle-ttl",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Unload copies that were not used for so long; 0 for what the instances' setting says.",
)
@click.option(
    "--size",
    type=click.FloatRange(0),
    metavar="MIB",
    help="Memory of one copy; 0 for what the mesh finds out.",
)
@click.option("--reset", is_flag=True, help="What is not named goes back to its default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
def policy(*, model: str, reset: bool, as_json: bool, address: str, **options: Any) -> None:
    """Show, or change, how many copies MODEL is to have and how they are treated."""
    idle_ttl, size = options.pop("idle_ttl"), options.pop("size")
    changes = {
        **options,
        "idle_ttl_ms": None if idle_ttl is None else round(idle_ttl * 1_000),
        "declared_size_bytes": None if size is None else round(size * words.MIB),
    }
    told = {name: value for name, value in changes.items() if value is not None}

    async def question(mesh: Mesh) -> admin_pb2.Policy | None:
        described = await mesh.model(model)
        if described is None:
            return None
        if not told and not reset:
            return described.policy
        request = admin_pb2.SetPolicyRequest(model_id=model, policy=admin_pb2.Policy(**told), replace=reset)
        return (await mesh.admin.SetPolicy(request, timeout=QUESTION_TIMEOUT_S)).policy

    reply = ask(address, question)
    if reply is None:
        raise unknown_model(model)
    if as_json:
        show_json({"model_id": model, **answers.policy(reply)})
    else:
        click.echo(f"{model}: {words.policy(reply) or 'as the mesh thinks fit'}")
