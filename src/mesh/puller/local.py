"""Models on the file system of the host, below directories that the operator has allowed; type ``local``."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mesh.puller.failure import Code, PullFailure
from mesh.puller.links import LinkedSource, measure_inside, storage_failure
from mesh.puller.names import split_path
from mesh.puller.provider import Workshop


class LocalProvider:
    """The allowed directories. An absolute path must lie below one; a relative one is looked for in each."""

    def __init__(self, config: Mapping[str, Any], workshop: Workshop) -> None:
        self._workshop = workshop
        self._roots = workshop.settings.local_roots
        if not self._roots:
            raise PullFailure(
                Code.FAILED_PRECONDITION,
                "storage of type 'local' is off; allow a directory of the host in the puller's settings",
            )

    async def find(self, path: str) -> LinkedSource:
        """Finds a file or directory, and checks that no link leads out."""
        source, size = await self._workshop.run(self._look_up, path)
        return LinkedSource(source, size, self._workshop)

    def _look_up(self, path: str) -> tuple[Path, int]:
        allowed = ", ".join(str(root) for root in self._roots)
        place = f"the local directories {allowed}"
        segments = split_path(path, "model path")
        try:
            if PurePosixPath(path).is_absolute():
                return self._below_a_root(Path("/", *segments), allowed)
            for root in self._roots:
                candidate = root.joinpath(*segments)
                if candidate.exists():
                    return self._below_a_root(candidate, allowed)
        except OSError as error:
            raise storage_failure(error, place, path) from error
        raise PullFailure(Code.NOT_FOUND, f"there is no '{path}' in {place}")

    def _below_a_root(self, candidate: Path, allowed: str) -> tuple[Path, int]:
        # Links are judged before what they lead to is looked at: the answer must not tell what lies outside.
        real = Path(os.path.realpath(candidate))
        for root in self._roots:
            base = root.resolve()
            if real == base or base in real.parents:
                return real, measure_inside(base, real)
        raise PullFailure(
            Code.PERMISSION_DENIED,
            f"'{candidate}' does not lie below an allowed local directory ({allowed})",
        )
