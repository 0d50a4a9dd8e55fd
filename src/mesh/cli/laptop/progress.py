"""What ``mesh up`` says while it works."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text


class Progress:
    """Steps under way on one moving line of a terminal, each ended one on a line that stays.

    Where the output is no terminal there are only the lines that stay.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._under_way: dict[str, str] = {}

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Shows steps until the end of the block."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("starting") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def under_way(self, step: str, text: str) -> None:
        """A step has begun or got on; ``text`` tells how far."""
        self._under_way[step] = text
        self._refresh()

    def done(self, step: str, text: str) -> None:
        """A step has ended."""
        self._under_way.pop(step, None)
        self._console.print(Text.assemble(("✓ ", "green"), text))
        self._refresh()

    def tell(self, text: str, style: str = "") -> None:
        """A line about something that happened."""
        self._console.print(Text(text, style=style))

    def show(self, renderable: RenderableType) -> None:
        """More than a line."""
        self._console.print(renderable)

    def _refresh(self) -> None:
        if self._status is not None:
            self._status.update(Text("; ".join(self._under_way.values())))
