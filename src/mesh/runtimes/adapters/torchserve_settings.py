"""What the adapter of TorchServe is told, by the environment variables of KServe ModelMesh's."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.runtimes.adapters.settings import AdapterSettings, number

_MAX_INT32 = (1 << 31) - 1
_DEFAULTS = {"RUNTIME_PORT": "7071", "MODELSIZE_MULTIPLIER": "2.75"}
_ENDPOINT = "port:"


@dataclass(frozen=True, slots=True)
class TorchServeSettings:
    """Settings of the adapter.

    Attributes:
        common: those of all adapters; ``RUNTIME_PORT`` is of the server's gRPC management. Where they are not set the
            port is 7071, and ``MODELSIZE_MULTIPLIER`` 2.75.
        serving_port: of ``RUNTIME_DATA_ENDPOINT``, the server's gRPC inference on loopback.
        batch_size: ``REQUEST_BATCH_SIZE``, requests that a worker takes together; 0 for the server's default.
        max_batch_delay_ms: ``MAX_BATCH_DELAY_SECS``, how long a batch waits to be full; 0 for the server's default. The
            name notwithstanding these are milliseconds, as KServe ModelMesh passes the number on unchanged.
        size_limit_s: how long the server may take to measure a model, in seconds; it does so every 10 s.
    """

    common: AdapterSettings
    serving_port: int = 7070
    batch_size: int = 0
    max_batch_delay_ms: int = 0
    size_limit_s: float = 16.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "TorchServeSettings":
        """Reads and checks the variables.

        Raises:
            ValueError: one is missing, malformed or out of range; names it, its value and the remedy.
        """
        return cls(
            AdapterSettings.from_environment({**_DEFAULTS, **environment}),
            serving_port=_port(environment.get("RUNTIME_DATA_ENDPOINT", "port:7070")),
            batch_size=number(environment, "REQUEST_BATCH_SIZE", 0, int, 0, _MAX_INT32),
            max_batch_delay_ms=number(environment, "MAX_BATCH_DELAY_SECS", 0, int, 0, _MAX_INT32),
        )


def _port(endpoint: str) -> int:
    port = endpoint.removeprefix(_ENDPOINT)
    if port == endpoint or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(
            f"RUNTIME_DATA_ENDPOINT={endpoint!r} must be '{_ENDPOINT}' and a port number from 1 to 65535, such as "
            "port:7070"
        )
    return int(port)
