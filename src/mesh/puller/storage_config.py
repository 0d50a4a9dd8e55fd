"""Storage configurations, as Kubernetes mounts them: a directory with one JSON file for each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.puller.failure import Code, PullFailure


def read_storage_config(directory: Path, name: str) -> Mapping[str, Any] | None:
    """Reads the configuration ``name`` anew, so that credentials changed meanwhile count.

    Args:
        directory: where the secret is mounted; it may be missing.
        name: of the configuration; one that can be no plain file name there has no configuration.

    Returns:
        Its fields, or None where there is no such file.

    Raises:
        PullFailure: FAILED_PRECONDITION, the file is there but unreadable or no JSON object.
    """
    # Kubernetes keeps the mounted files in directories that begin with "..".
    if name in {"", "."} or name.startswith("..") or "/" in name or "\0" in name:
        return None
    try:
        text = (directory / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise _unusable(name, f"Could not read storage configuration: {error.strerror}") from None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        # The parser's own message could quote a credential.
        raise _unusable(name, "Could not parse storage configuration: it is not valid JSON") from None
    if not isinstance(parsed, dict):
        raise _unusable(name, "Could not parse storage configuration: it is not a JSON object")
    return parsed


def _unusable(name: str, why: str) -> PullFailure:
    return PullFailure(Code.FAILED_PRECONDITION, f"Did not find storage config for key {name}: {why}")
