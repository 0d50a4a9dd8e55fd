"""Entries of a cache in an order that uses change all the time, at no cost for a use."""

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from mesh.placement.entries import Entry


class Order:
    """Entries by a key of theirs, the smallest first.

    Keys may grow at any time without a word: an entry that comes to the top with a key larger than the one it was
    filed under is filed anew. One whose key shrank has to be given to `add` again.

    Args:
        key: what an entry is filed under.
    """

    __slots__ = ("_filed", "_heap", "_key", "_tickets")

    def __init__(self, key: Callable[[Entry], Any]) -> None:
        self._key = key
        self._heap: list[tuple[Any, int, Entry]] = []
        #: Of each entry, which of its places in the heap counts.
        self._filed: dict[Entry, int] = {}
        self._tickets = count()

    def __len__(self) -> int:
        return len(self._filed)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._filed

    def add(self, entry: Entry) -> None:
        """Files an entry, or files it anew."""
        ticket = self._filed[entry] = next(self._tickets)
        heappush(self._heap, (self._key(entry), ticket, entry))

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Files some."""
        for entry in entries:
            self.add(entry)

    def discard(self, entry: Entry) -> None:
        """Drops an entry where it is filed; the heap lets go of it when it comes up, or when half of it is such."""
        if self._filed.pop(entry, None) is not None and len(self._heap) > 2 * len(self._filed) + 64:
            self._heap = [item for item in self._heap if self._filed.get(item[2]) == item[1]]
            heapify(self._heap)

    def first(self) -> Entry | None:
        """Returns: the entry with the smallest key, or None."""
        heap, filed = self._heap, self._filed
        while heap:
            key, ticket, entry = heap[0]
            if filed.get(entry) != ticket:
                heappop(heap)
            elif (current := self._key(entry)) != key:
                heapreplace(heap, (current, ticket, entry))
            else:
                return entry
        return None

    def pop(self) -> Entry | None:
        """Takes the first entry out."""
        entry = self.first()
        if entry is not None:
            heappop(self._heap)
            del self._filed[entry]
        return entry
