"""Where the commands write."""

import json
from typing import Any

import click
from rich.console import Console, RenderableType

#: Columns where the output is no terminal: rows stay on one line, for people who page or grep.
WIDTH_WITHOUT_TERMINAL = 500


def console(*, stderr: bool = False) -> Console:
    """A console that prints model ids as they are: ``[red]`` or ``:tada:`` in one means nothing."""
    made = Console(markup=False, highlight=False, emoji=False, stderr=stderr)
    if not made.is_terminal:
        made.width = WIDTH_WITHOUT_TERMINAL
    return made


def show(renderable: RenderableType) -> None:
    """Prints for people."""
    console().print(renderable)


def show_json(value: Any) -> None:
    """Prints for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
