"""``mesh runtime``: the built-in model server."""

import sys

import click


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def runtime(*, arguments: tuple[str, ...]) -> None:
    """Run the built-in model server; `mesh runtime --help` lists its options."""
    from mesh.runtimes.builtin.__main__ import main

    sys.exit(main(list(arguments), prog_name="mesh runtime"))
