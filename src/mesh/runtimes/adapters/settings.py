"""What an adapter is told about its server, from the environment variables of KServe ModelMesh's adapters."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mesh.runtimes.interface import RuntimeParameters
from mesh.runtimes.status import UNIT_BYTES, minimum_capacity_bytes

T = TypeVar("T", int, float)

_MAX_INT32 = (1 << 31) - 1
_MAX_INT64 = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Settings of the adapter of one server in the same pod.

    Attributes:
        capacity_bytes: memory for models: ``CONTAINER_MEM_REQ_BYTES`` less ``MEM_BUFFER_BYTES`` (256 MiB).
        root: ``ROOT_MODEL_DIR``; the server's own repository is a directory below it.
        runtime_port: ``RUNTIME_PORT``, of the server's gRPC services on loopback.
        max_loading_concurrency: ``LOADING_CONCURRENCY``, loads at once.
        loading_timeout_ms: ``LOADTIME_TIMEOUT``; also the deadline of a call to the server.
        default_model_size_bytes: ``DEFAULT_MODELSIZE``, where the size of the files is not known.
        size_multiplier: ``MODELSIZE_MULTIPLIER``, memory in multiples of the size of the files.
        runtime_version: ``RUNTIME_VERSION``, where the server does not tell its own.
        concurrency_limit: ``LIMIT_PER_MODEL_CONCURRENCY``, requests at once for one model; 0 for any number.
        start_limit_s: how long the server may take to get ready, in seconds.
        status_timeout_s: deadline of a call that asks the server how it is, in seconds.
        poll_interval_s: between such calls while the server starts, in seconds.
    """

    capacity_bytes: int
    root: Path = Path("/models")
    runtime_port: int = 8001
    max_loading_concurrency: int = 1
    loading_timeout_ms: int = 30_000
    default_model_size_bytes: int = 1_000_000
    size_multiplier: float = 1.25
    runtime_version: str = "v1"
    concurrency_limit: int = 0
    start_limit_s: float = 180.0
    status_timeout_s: float = 5.0
    poll_interval_s: float = 0.5

    def __post_init__(self) -> None:
        least = minimum_capacity_bytes(self.default_model_size_bytes)
        if self.capacity_bytes < least:
            raise ValueError(
                f"CONTAINER_MEM_REQ_BYTES less MEM_BUFFER_BYTES leaves {self.capacity_bytes} bytes for models; "
                f"with DEFAULT_MODELSIZE={self.default_model_size_bytes} at least {least} are needed: "
                "give the server's container more memory or set a smaller buffer"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "AdapterSettings":
        """Reads and checks the variables.

        Raises:
            ValueError: one is missing, no number or out of range; names it, its value and the remedy.
        """
        memory = number(environment, "CONTAINER_MEM_REQ_BYTES", -1, int, 0, _MAX_INT64)
        buffer = number(environment, "MEM_BUFFER_BYTES", 256 << 20, int, 0, _MAX_INT64)
        return cls(
            capacity_bytes=memory - buffer,
            root=Path(environment.get("ROOT_MODEL_DIR", "/models")),
            runtime_port=number(environment, "RUNTIME_PORT", 8001, int, 1, 65_535),
            max_loading_concurrency=number(environment, "LOADING_CONCURRENCY", 1, int, 1, _MAX_INT32),
            loading_timeout_ms=number(environment, "LOADTIME_TIMEOUT", 30_000, int, 100, _MAX_INT32),
            default_model_size_bytes=number(
                environment, "DEFAULT_MODELSIZE", 1_000_000, int, UNIT_BYTES, _MAX_INT64
            ),
            size_multiplier=number(environment, "MODELSIZE_MULTIPLIER", 1.25, float, 0.01, 1000.0),
            runtime_version=environment.get("RUNTIME_VERSION", "v1"),
            concurrency_limit=number(environment, "LIMIT_PER_MODEL_CONCURRENCY", 0, int, 0, _MAX_INT32),
        )

    def size_bytes(self, on_disk_bytes: int | None) -> int:
        """Estimates a model's memory from the size of its files, where that is known."""
        if on_disk_bytes is None:
            return self.default_model_size_bytes
        return max(1, int(on_disk_bytes * self.size_multiplier))

    def parameters(self, version: str, methods: Mapping[str, tuple[int, ...]]) -> RuntimeParameters:
        """What the mesh is told of a server of this version whose requests have the model's name at these paths."""
        return RuntimeParameters(
            capacity_bytes=self.capacity_bytes,
            max_loading_concurrency=self.max_loading_concurrency,
            loading_timeout_ms=self.loading_timeout_ms,
            default_model_size_bytes=self.default_model_size_bytes,
            version=version,
            methods=methods,
            limit_model_concurrency=self.concurrency_limit > 0,
        )


def number(
    environment: Mapping[str, str], name: str, default: T, kind: Callable[[str], T], least: T, most: T
) -> T:
    """Reads a number from ``least`` to ``most``.

    Raises:
        ValueError: it is none; names the variable, its value and the remedy.
    """
    raw = environment.get(name)
    if raw is None:
        value = default
    else:
        try:
            value = kind(raw)
        except ValueError:
            raise ValueError(f"{name}={raw!r} is no number; give one from {least} to {most}") from None
    if not least <= value <= most or math.isnan(value):
        shown = f"{name} is not set" if raw is None else f"{name}={raw} is out of range"
        raise ValueError(f"{shown}; give a number from {least} to {most}")
    return value
