"""Instances that records name and that are no more."""

from collections.abc import Iterable, Mapping


class Absences:
    """Since when instances are away.

    An instance of which nothing was known counts as away from the moment in which it was first missed.
    """

    def __init__(self) -> None:
        self._since_ms: dict[str, int] = {}

    def left(self, instance_id: str, now_ms: int) -> None:
        """Its record is gone."""
        self._since_ms.setdefault(instance_id, now_ms)

    def came(self, instance_id: str) -> None:
        """Its record is there."""
        self._since_ms.pop(instance_id, None)

    def dead(
        self,
        copies: Mapping[str, int],
        failures: Mapping[str, int],
        present: Mapping[str, object],
        now_ms: int,
        age_ms: int,
    ) -> list[str]:
        """Looks which instances a model's record is to forget.

        Args:
            copies: as the record lists them, instance to when its load began.
            failures: instance to when a load failed there.
            present: the instances that are there.
            now_ms: epoch milliseconds.
            age_ms: for so long an instance must have been away, and the beginning of its load lie back.
        """
        found = []
        for instance_id in {**copies, **failures}:
            if instance_id in present:
                continue
            since_ms = self._since_ms.setdefault(instance_id, now_ms)
            if now_ms - since_ms >= age_ms and now_ms - copies.get(instance_id, 0) >= age_ms:
                found.append(instance_id)
        return found

    def forget(self, named: Iterable[str]) -> None:
        """Forgets all but some, which records still name."""
        kept = set(named)
        self._since_ms = {name: since for name, since in self._since_ms.items() if name in kept}

    def __len__(self) -> int:
        return len(self._since_ms)
