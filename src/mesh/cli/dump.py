"""``mesh dump``: all that one instance knows and does, for finding faults."""

import json

import click

from mesh.cli.client import QUESTION_TIMEOUT_S, Mesh, address_option, ask
from mesh.cli.screen import show_json
from mesh.protos import admin_pb2


@click.command()
@click.option(
    "--token",
    envvar="MESH_DUMP_TOKEN",
    show_envvar=True,
    required=True,
    help="The token that the instance was started with.",
)
@address_option
def dump(*, token: str, address: str) -> None:
    """Print the whole state of the instance at the address, as JSON: copies, registry, peers, tasks, settings."""

    async def question(mesh: Mesh) -> str:
        request = admin_pb2.DumpStateRequest(token=token)
        reply = await mesh.admin.DumpState(request, timeout=QUESTION_TIMEOUT_S)
        return reply.state_json

    show_json(json.loads(ask(address, question)))
