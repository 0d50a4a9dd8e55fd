"""Where in the store what is kept: the layout of KServe ModelMesh, so that its registry is taken over."""

from dataclasses import dataclass

DEFAULT_PREFIX = "tas-runtime"
"""Default of ``MM_KVSTORE_PREFIX``."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one service, without the store's root prefix, which the store puts in front verbatim.

    Each prefix ends with a slash; a record's key is the prefix and its id.

    Attributes:
        service: name of the service, one mesh.
        prefix: the setting ``MM_KVSTORE_PREFIX``.
    """

    service: str
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        _check("MM_KVSTORE_PREFIX", self.prefix)
        _check("the service name", self.service)

    @property
    def models(self) -> str:
        """Prefix of the model records."""
        return self._below("registry")

    @property
    def vmodels(self) -> str:
        """Prefix of the vmodel records."""
        return self._below("vmodels")

    @property
    def instances(self) -> str:
        """Prefix of the instance records, each under its instance's session lease."""
        return self._below("instances")

    @property
    def candidates(self) -> str:
        """Prefix of the candidates for leadership, each under its instance's session lease."""
        return self._below("leaderLatch")

    @property
    def config(self) -> str:
        """Prefix of the settings that operators change while the mesh runs; values are plain text."""
        return self._below("config")

    @property
    def registrations(self) -> str:
        """Prefix of the pod registrations of KServe ModelMesh."""
        return f"/litelinks/{self.service}/"

    def _below(self, table: str) -> str:
        return f"/{self.prefix}/{self.service}/{table}/"


def _check(what: str, value: str) -> None:
    if not value or "/" in value or any(character.isspace() for character in value):
        raise ValueError(
            f"{what} is {value!r}: it becomes one part of a key, so give it at least one character and"
            " neither whitespace nor '/'"
        )
