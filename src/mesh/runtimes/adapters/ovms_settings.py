"""What the adapter of OpenVINO Model Server is told, by the environment variables of KServe ModelMesh's."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.runtimes.adapters.settings import AdapterSettings

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|ms|s|m|h))+")
_PART = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_REST_PORT = 8888


@dataclass(frozen=True, slots=True)
class OvmsSettings:
    """Settings of the adapter.

    Attributes:
        common: those of all adapters; ``RUNTIME_PORT`` is the server's REST port here, 8888 where it is not set.
        serving_port: ``INTERNAL_SERVING_GRPC_PORT``, of the server's gRPC service on loopback.
        config_file: ``MODEL_CONFIG_FILE``; the server's ``--config_path`` must be the same.
        batch_wait_s: ``BATCH_WAIT_TIME_MIN``, in seconds: what comes within it goes together.
        reload_timeout_s: ``OVMS_RELOAD_TIMEOUT``, in seconds.
    """

    common: AdapterSettings
    serving_port: int = 8001
    config_file: Path = field(default=Path("/models/model_config_list.json"))
    batch_wait_s: float = 0.1
    reload_timeout_s: float = 30.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "OvmsSettings":
        """Reads and checks the variables. ``BATCH_WAIT_TIME_MAX`` has no effect: unloads wait no longer than loads.

        Raises:
            ValueError: one is missing, malformed or out of range; names it, its value and the remedy.
        """
        common = AdapterSettings.from_environment({"RUNTIME_PORT": str(_REST_PORT), **environment})
        port = environment.get("INTERNAL_SERVING_GRPC_PORT", "8001")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
            raise ValueError(f"INTERNAL_SERVING_GRPC_PORT={port!r} must be a port number from 1 to 65535")
        return cls(
            common,
            serving_port=int(port),
            config_file=Path(environment.get("MODEL_CONFIG_FILE", "/models/model_config_list.json")),
            batch_wait_s=_seconds(environment, "BATCH_WAIT_TIME_MIN", 0.1),
            reload_timeout_s=_seconds(environment, "OVMS_RELOAD_TIMEOUT", 30.0),
        )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    """A duration as Go writes it, such as ``1m30s``; 0 is the default."""
    text = environment.get(name, "").strip()
    if text in {"", "0"}:
        return default
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{name}={text!r} is no duration; write 100ms, 3s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)) or default
