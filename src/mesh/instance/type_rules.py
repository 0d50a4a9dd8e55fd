"""Keeps the placer's type constraints as the settings have them, also while a mounted file changes."""

from collections.abc import Callable

from mesh.instance.mounted import MountedFile
from mesh.instance.settings import PlacementSettings
from mesh.placement import TypeConstraints


class TypeRules:
    """The rules of ``MM_TYPE_CONSTRAINTS``, or of the file that ``MM_TYPE_CONSTRAINTS_PATH`` names.

    Without either every type may live on every instance.
    """

    def __init__(self, settings: PlacementSettings) -> None:
        self._constraints = settings.type_constraints or TypeConstraints()
        self._file = (
            MountedFile("MM_TYPE_CONSTRAINTS_PATH", settings.type_constraints_path, TypeConstraints.parse)
            if settings.type_constraints_path
            else None
        )

    async def read(self) -> None:
        """Reads the file, where there is one.

        Raises:
            MountedFileError: it is not there or cannot be used.
        """
        if self._file is not None:
            self._constraints = await self._file.first()

    def apply(self, take: Callable[[TypeConstraints], None]) -> None:
        """Hands the rules over."""
        take(self._constraints)

    async def follow(self, take: Callable[[TypeConstraints], None]) -> None:
        """Hands the rules over whenever the file changes, until cancelled; at once done where there is none."""
        if self._file is not None:
            await self._file.follow(take)
