"""The directories of models below a root; all of it blocks."""

import itertools
import json
from pathlib import Path

from mesh.puller.disk import remove
from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import directory_name
from mesh.puller.request import MARKER_NAME

WORK_NAME = ".mesh-puller"
"""Below the root: what is being written or removed. On the same file system, so that a rename is enough."""


class ModelDirectories:
    """Makes directories of models appear and vanish as a whole.

    Only what carries the puller's marker is ever replaced or removed; adapters and people may keep other
    things below the same root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._work = self._root / WORK_NAME
        self._numbers = itertools.count(1)

    @property
    def root(self) -> Path:
        """Absolute; made by `purge` where it is missing."""
        return self._root

    def path(self, model_id: str) -> Path:
        """Tells where the directory of a model is, or would be; raises `PullFailure` for an impossible id."""
        return self._root / directory_name(model_id)

    def new_staging(self) -> Path:
        """Thinks up a path for `stage`."""
        return self._work / f"pull-{next(self._numbers)}"

    def stage(self, staging: Path, model_id: str) -> None:
        """Makes an empty directory to be filled and published.

        Raises:
            PullFailure: FAILED_PRECONDITION, something that is not the puller's is in the place of the model.
            OSError: the disk refused.
        """
        self._check_own(self.path(model_id))
        staging.mkdir(parents=True)
        (staging / MARKER_NAME).write_text(json.dumps({"model_id": model_id}))

    def publish(self, staging: Path, model_id: str) -> None:
        """Makes a staged directory that of the model, in place of the one there may be."""
        self.delete(model_id)
        staging.rename(self.path(model_id))

    def delete(self, model_id: str) -> None:
        """Removes the directory of a model; a missing one is fine.

        Raises:
            PullFailure: FAILED_PRECONDITION, it is not the puller's.
            OSError: the disk refused.
        """
        directory = self.path(model_id)
        self._check_own(directory)
        self._remove(directory)

    def discard(self, staging: Path) -> None:
        """Removes a staged directory, however much of it there is."""
        remove(staging)

    def model_ids(self) -> list[str]:
        """The models that have a directory, by what its marker says.

        Raises:
            OSError: the disk refused.
        """
        if not self._root.is_dir():
            return []
        found = []
        for entry in filter(_is_own, self._root.iterdir()):
            try:
                found.append(str(json.loads((entry / MARKER_NAME).read_bytes())["model_id"]))
            except (ValueError, KeyError, TypeError):
                found.append(entry.name)
        return sorted(found)

    def purge(self) -> list[str]:
        """Removes all that earlier pullers left below the root, and makes the root where it is missing.

        Returns:
            The names of the directories removed.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        own = [entry for entry in self._root.iterdir() if _is_own(entry)]
        for entry in own:
            self._remove(entry)
        remove(self._work)
        return sorted(entry.name for entry in own)

    def _check_own(self, directory: Path) -> None:
        if not directory.is_symlink() and (not directory.exists() or _is_own(directory)):
            return
        raise PullFailure(
            Code.FAILED_PRECONDITION,
            f"'{directory}' is in the place of the model's directory but was not made by mesh; move it away",
        )

    def _remove(self, directory: Path) -> None:
        # Away in one step first: nobody must find half a model.
        trash = self._work / f"trash-{next(self._numbers)}"
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            directory.rename(trash)
        except FileNotFoundError:
            return
        remove(trash)


def _is_own(directory: Path) -> bool:
    try:
        return (directory / MARKER_NAME).is_file()
    except OSError:
        return False  # closed to this user, as the lost+found of a volume is
