"""Models on persistent volume claims, which Kubernetes mounts into the pod; type ``pvc``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.puller.failure import Code, PullFailure
from mesh.puller.links import LinkedSource, measure_inside, resolve_inside, storage_failure
from mesh.puller.names import check_name, split_path
from mesh.puller.provider import Workshop, required


class PvcProvider:
    """One claim, ``<pvc_mounts_dir>/<name>``."""

    def __init__(self, config: Mapping[str, Any], workshop: Workshop) -> None:
        self._workshop = workshop
        self._claim = check_name(required(config, "pvc", "name"), "persistent volume claim")
        self._base = workshop.settings.pvc_mounts_dir

    async def find(self, path: str) -> LinkedSource:
        """Finds a file or directory, and checks that no link leads out."""
        source, size = await self._workshop.run(self._look_up, path)
        return LinkedSource(source, size, self._workshop)

    def _look_up(self, path: str) -> tuple[Path, int]:
        if not self._base.is_dir():
            raise PullFailure(
                Code.FAILED_PRECONDITION,
                f"the PVC mount base '{self._base}' doesn't exist; mount claim '{self._claim}' below it",
            )
        mount = self._base / self._claim
        if not mount.is_dir():
            raise PullFailure(
                Code.NOT_FOUND,
                f"claim '{self._claim}' is not mounted below '{self._base}'; add it to the runtime's volumes",
            )
        place = f"claim '{self._claim}'"
        try:
            source = resolve_inside(mount, split_path(path, "model path"))
            return source, measure_inside(mount, source)
        except OSError as error:
            raise storage_failure(error, place, path) from error
        except PullFailure as error:
            raise PullFailure(error.code, f"{place}: {error.message}") from None
