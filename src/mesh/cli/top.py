"""``mesh top``: the mesh at a glance, live."""

import asyncio
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from rich.live import Live

from mesh.cli.client import Mesh, address_option, ask, connect, now_ms, run
from mesh.cli.screen import console, show
from mesh.cli.views import Snapshot, top_frame


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end, for scripts.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between frames.",
)
@address_option
def top(*, once: bool, interval: float, address: str) -> None:
    """Watch instances with their memory, the hottest models, loads, failures, decisions. q or Ctrl-C ends it."""
    if once:
        show(top_frame(ask(address, take_snapshot)))
        return
    if not sys.stdout.isatty():
        raise click.UsageError("the output is no terminal: `mesh top --once` prints one frame")
    with suppress(KeyboardInterrupt):
        run(address, _live(address, interval))


async def take_snapshot(mesh: Mesh) -> Snapshot:
    """Asks the mesh for everything that a frame shows."""
    return Snapshot(mesh.address, await mesh.overview(), now_ms())


async def _live(address: str, interval: float) -> None:
    quit_pressed = asyncio.Event()
    async with connect(address) as mesh:
        snapshot = await take_snapshot(mesh)
        with (
            _keys({"q": quit_pressed}),
            Live(console=console(), screen=True, auto_refresh=False) as live,
        ):
            while not quit_pressed.is_set():
                live.update(top_frame(snapshot, live.console.height), refresh=True)
                try:
                    await asyncio.wait_for(quit_pressed.wait(), interval)
                except TimeoutError:
                    snapshot = await take_snapshot(mesh)


@contextmanager
def _keys(events: dict[str, asyncio.Event]) -> Iterator[None]:
    """Sets the event of a key that is pressed, without waiting for Enter, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        event = events.get(sys.stdin.read(1).lower())
        if event is not None:
            event.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
