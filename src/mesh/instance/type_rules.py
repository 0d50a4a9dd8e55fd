"""Keeps the placer's type constraints as the settings have them, also while a mounted file changes."""

from mesh.instance.candidates import Candidates
from mesh.instance.mounted import MountedFile
from mesh.instance.self_view import SelfView
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

    def apply(self, candidates: Candidates, own: SelfView) -> None:
        """Makes the rules those by which models are placed, and lets the others know which they are."""
        candidates.set_constraints(self._constraints)
        own.type_rules = self._constraints.digest

    async def follow(self, candidates: Candidates, own: SelfView) -> None:
        """Applies the file whenever it changes, until cancelled; at once done where there is none."""

        def changed(constraints: TypeConstraints) -> None:
            self._constraints = constraints
            self.apply(candidates, own)

        if self._file is not None:
            await self._file.follow(changed)

    @property
    def trouble(self) -> str:
        """Why the file as it is now is not in effect; empty where it is."""
        return "" if self._file is None else self._file.trouble
