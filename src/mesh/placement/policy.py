"""How many copies one model is to have, and how they are treated, as its owner wishes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: Neither a name for "all of them" nor reachable by accident; the largest meshes known have a thousand instances.
MOST_COPIES = 10_000
#: Bounds of `CopyPolicy.priority`.
PRIORITIES = (-100, 100)

_NO_MEMBERS: Mapping[str, Any] = MappingProxyType({})


class InvalidPolicy(ValueError):
    """A policy cannot be as it was asked for. The message names the member, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class CopyPolicy:
    """One model's policy. What is not set leaves the mesh to decide.

    Attributes:
        min_copies: so many copies are kept loaded, used or not; fewer only while there are not enough instances
            that can take it.
        max_copies: no copy is added beyond so many; 0 for any number. A copy on an instance that is leaving does
            not count, so that it can serve until its successor is ready.
        pinned: its copies are not evicted to make room for others, and one is kept loaded.
        priority: models of lower priority are evicted first; 0 unless set.
        idle_ttl_ms: copies beyond those to be kept are unloaded when unused for so long, milliseconds; 0 for never.
        declared_size_bytes: memory of one copy as its owner knows it; 0 where unknown.
    """

    min_copies: int = 0
    max_copies: int = 0
    pinned: bool = False
    priority: int = 0
    idle_ttl_ms: int = 0
    declared_size_bytes: int = 0

    @property
    def kept_copies(self) -> int:
        """Copies to be there at all times."""
        return max(self.min_copies, int(self.pinned))

    def allows(self, copies: int) -> bool:
        """Whether a copy may be added to so many."""
        return self.max_copies == 0 or copies < self.max_copies

    def check(self) -> None:
        """Checks that the members are in range and agree.

        Raises:
            InvalidPolicy: they are not or do not.
        """
        for name, least, most in (
            ("min_copies", 0, MOST_COPIES),
            ("max_copies", 0, MOST_COPIES),
            ("priority", *PRIORITIES),
            ("idle_ttl_ms", 0, 2**53),
            ("declared_size_bytes", 0, 2**53),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidPolicy(f"{name} is {value}: it must be {least} to {most}")
        if not self.allows(self.kept_copies - 1) and self.kept_copies:
            raise InvalidPolicy(
                f"max_copies is {self.max_copies}, less than min_copies, {self.min_copies}: raise max_copies, or set "
                "it to 0 for any number"
            )

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> "CopyPolicy":
        """Reads a policy from a model's record; members unknown to this release, or not of their type, do not count.

        They can only have been written by another release or by hand, and a model must not become unusable by that.
        """
        if not members:
            return DEFAULT_POLICY
        usable: dict[str, Any] = {
            attribute: members[name]
            for attribute, name in _MEMBERS.items()
            if type(members.get(name)) is type(getattr(DEFAULT_POLICY, attribute))
        }
        return cls(**usable)

    @staticmethod
    def member_names() -> tuple[str, ...]:
        """The names of all members in a model's record."""
        return tuple(_MEMBERS.values())

    def members(self, others: Mapping[str, Any] = _NO_MEMBERS) -> dict[str, Any]:
        """Returns: what a model's record is to hold; defaults are left out.

        Args:
            others: the record's members so far; what this release does not know of them is kept.
        """
        known = {name: getattr(self, attribute) for attribute, name in _MEMBERS.items()}
        kept = {name: value for name, value in others.items() if name not in known}
        return kept | {name: value for name, value in known.items() if value}


_MEMBERS = {
    "min_copies": "minCopies",
    "max_copies": "maxCopies",
    "pinned": "pinned",
    "priority": "priority",
    "idle_ttl_ms": "idleTtlMs",
    "declared_size_bytes": "sizeBytes",
}

DEFAULT_POLICY = CopyPolicy()
