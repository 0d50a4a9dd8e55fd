"""Settings of the puller as a process of its own, by the names that KServe ModelMesh's puller has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.puller import PullerSettings

_PORT_ENDPOINT = re.compile(r"port:([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class StandaloneSettings:
    """What the environment says.

    Attributes:
        port: to listen on, on loopback.
        runtime: address of the model server's SPI, ``localhost:port`` or ``unix:/path``.
        log_level: as `logging` names it.
        storage: of the puller.
    """

    port: int
    runtime: str
    log_level: str
    storage: PullerSettings

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "StandaloneSettings":
        """Reads the variables that `mesh puller --help` lists.

        Raises:
            ValueError: names the variable, its value and the remedy.
        """
        defaults = PullerSettings()
        local = environment.get("MESH_LOCAL_MODEL_DIRS", "")
        return cls(
            port=_number(environment, "PORT", 8084, most=65_535),
            runtime=_endpoint(environment.get("MODEL_SERVER_ENDPOINT", "port:8085")),
            # Anything but "debug" is less talkative, as it was.
            log_level="DEBUG" if environment.get("LOG_LEVEL", "debug").lower() == "debug" else "INFO",
            storage=PullerSettings(
                root=Path(environment.get("ROOT_MODEL_DIR", str(defaults.root))),
                storage_config_dir=Path(
                    environment.get("STORAGE_CONFIG_DIR", str(defaults.storage_config_dir))
                ),
                pvc_mounts_dir=Path(environment.get("PVC_MOUNTS_DIR", str(defaults.pvc_mounts_dir))),
                local_roots=tuple(Path(name.strip()) for name in local.split(",") if name.strip()),
                max_idle_bytes=_number(environment, "MESH_KEPT_MODEL_BYTES", 0),
            ),
        )


def _number(environment: Mapping[str, str], name: str, default: int, most: int | None = None) -> int:
    text = environment.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit()) or (most is not None and int(text) > most):
        bound = f" up to {most}" if most is not None else ""
        raise ValueError(f"{name}={text!r}: must be a whole number{bound}")
    return int(text)


def _endpoint(text: str) -> str:
    if (found := _PORT_ENDPOINT.fullmatch(text)) and 1 <= int(found.group(1)) <= 65_535:
        return f"localhost:{found.group(1)}"
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    raise ValueError(f"Invalid Endpoint: MODEL_SERVER_ENDPOINT={text!r} must be port:<number> or unix:<path>")
