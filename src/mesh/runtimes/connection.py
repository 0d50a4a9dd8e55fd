"""Connections to a server in the same pod, and noticing that it is gone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

OpenChannel = Callable[[str, Sequence[tuple[str, Any]]], aio.Channel]
"""Opens a plain-text channel with options, as `grpc.aio.insecure_channel` does."""

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Proxies of the environment are for the world outside the pod.
    ("grpc.enable_http_proxy", 0),
    # Without this a channel that starts anew inherits the back-off of one before it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A channel left alone disconnects by itself, which would look like a server that is gone.
    ("grpc.client_idle_timeout_ms", (1 << 31) - 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def open_channel(address: str, opener: OpenChannel = aio.insecure_channel) -> aio.Channel:
    """Opens a plain-text channel to ``host:port`` or ``unix:/path``; it connects when it is first used."""
    # What gRPC makes of a socket's path is no authority to servers that check it, such as those in Rust.
    authority = (("grpc.default_authority", "localhost"),) if address.startswith("unix:") else ()
    return opener(address, (*_OPTIONS, *authority))


class ConnectionWatch:
    """Notices that the server behind a channel is gone.

    A connection that ends is no proof: servers close old ones. It is proof where a new one is refused, or
    where the server's unix socket is another file than before. A server that is back on its TCP port within
    the instant that a connection takes is not noticed; it is found out by its not knowing the models.
    """

    def __init__(self, address: str, channel: aio.Channel) -> None:
        self._address = address
        self._channel = channel

    async def connected(self) -> None:
        """Waits until there is a connection, however long it takes."""
        await self._channel.channel_ready()

    async def lost(self) -> str:
        """Waits until the server is gone; there must be a connection.

        Returns: why it is taken for gone, for people.
        """
        listener = _listener(self._address)
        while True:
            state = self._channel.get_state(try_to_connect=True)
            match state:
                case grpc.ChannelConnectivity.TRANSIENT_FAILURE | grpc.ChannelConnectivity.SHUTDOWN:
                    return f"{self._address} refuses connections"
                case grpc.ChannelConnectivity.READY if _listener(self._address) != listener:
                    return f"{self._address} is a new socket: its server was started again"
            await self._channel.wait_for_state_change(state)


def _listener(address: str) -> tuple[int, int, int] | None:
    """Tells one unix socket from another of the same name; inodes are reused, so its time counts too."""
    path = address.removeprefix("unix:")
    if path == address:
        return None
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_ctime_ns)
