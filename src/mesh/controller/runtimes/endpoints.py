"""Where a runtime listens, as its resource says: ``port:8085`` or ``unix:/path/of.sock``."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_PORT = re.compile(r"port:(\d{1,5})")
_UNIX = re.compile(r"unix:(?://)?(/.+)")


class InvalidEndpoint(ValueError):
    """An endpoint cannot be read. The message says so, with the text."""


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port on the pod's loopback interface."""

    number: int


@dataclass(frozen=True, slots=True)
class Socket:
    """A unix socket in a directory that the pod's containers share."""

    path: str

    @property
    def directory(self) -> str:
        """Where the shared volume is mounted."""
        return str(PurePosixPath(self.path).parent)


def parse_endpoint(text: str, field: str) -> Port | Socket:
    """Reads an endpoint.

    Args:
        text: as written.
        field: of the spec, for the message.

    Raises:
        InvalidEndpoint: it is neither of the two.
    """
    if (found := _PORT.fullmatch(text)) and 0 < int(found.group(1)) < 65_536:
        return Port(int(found.group(1)))
    if found := _UNIX.fullmatch(text):
        return Socket(found.group(1))
    raise InvalidEndpoint(f'{field} is "{text}": it must be port:<number> or unix:<path>')
