"""What an instance writes down for later."""

from dataclasses import dataclass
from pathlib import Path

from mesh.instance.settings.fields import setting


def _path(value: str) -> Path | None:
    return Path(value) if value else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """Of one instance. See `describe` for meanings."""

    path: Path | None = setting(
        "MESH_RECORD_PATH",
        _path,
        "file to which it is written what is asked of the copies here, for `mesh simulate trace`; grows without bound",
        default=None,
    )
