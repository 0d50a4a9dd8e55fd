"""The entry point: what commands there are, and where each is found."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is not imported yet.

    Attributes:
        location: ``module:function``.
        summary: what ``mesh --help`` says of it, so that listing the commands imports none of them.
    """

    location: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "up": Entry("mesh.cli.up:up", "Run a mesh on this machine: several instances, each with a model server."),
    "models": Entry("mesh.cli.inspect:models", "List the models and where they are loaded."),
    "status": Entry("mesh.cli.inspect:status", "Show the instances of the mesh, or one model."),
    "explain": Entry(
        "mesh.cli.inspect:explain", "Tell why a model is where it is, or what the mesh decided."
    ),
    "top": Entry("mesh.cli.top:top", "Watch instances, models and decisions live."),
    "infer": Entry("mesh.cli.infer:infer", "Ask a model."),
    "register": Entry("mesh.cli.manage:register", "Make a model known to the mesh."),
    "unregister": Entry("mesh.cli.manage:unregister", "Remove a model from the mesh."),
    "load": Entry("mesh.cli.manage:load", "Load a model now, before anybody asks it."),
    "policy": Entry("mesh.cli.policy:policy", "Say how many copies a model is to have."),
    "simulate": Entry(
        "mesh.cli.simulate:simulate", "Try a mesh of any size on a made or recorded load, in simulated time."
    ),
    "vmodels": Entry(
        "mesh.cli.vmodels:vmodels", "Let names stand for models: move them, try canaries and shadows."
    ),
    "payloads": Entry(
        "mesh.cli.payloads:payloads", "Say who gets the payloads of requests, and see how they do."
    ),
    "dump": Entry("mesh.cli.dump:dump", "Print the whole state of an instance, for finding faults."),
    "serve": Entry("mesh.cli.serve:serve", "Run one instance beside a model server, as in a pod."),
    "controller": Entry(
        "mesh.cli.controller:controller",
        "Run meshes in a Kubernetes cluster, for annotated InferenceServices.",
    ),
    "migrate": Entry(
        "mesh.cli.migrate:migrate", "Tell what a move from an installation of KServe ModelMesh means."
    ),
    "puller": Entry(
        "mesh.cli.puller:puller",
        "Run the puller as a process of its own, beside a model server that cannot pull.",
    ),
    "runtime": Entry("mesh.cli.runtime:runtime", "Run the built-in model server."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of `COMMANDS`, which is that of a first encounter."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command; None where there is none of the name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, function = entry.location.partition(":")
        command = getattr(import_module(module), function)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is wrong otherwise
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="model-mesh", prog_name="mesh")
def main() -> None:
    """Thousands of models share a few model servers.

    Start here: `mesh up`, then `mesh infer digits-forest` in another terminal.
    """
