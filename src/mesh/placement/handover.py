"""What an instance that leaves has others load before it goes."""

from collections.abc import Iterable, Mapping

from mesh.placement.cache import CopyView
from mesh.placement.entries import CopyState

#: A model that was used longer ago than this is not awaited, milliseconds; as KServe ModelMesh has it. The leader
#: loads it again where there is room.
USED_WITHIN_MS = 3_600_000
#: What was refused everywhere is tried again while it was used within this, milliseconds.
IN_USE_MS = 10_000

_LOADED = frozenset({CopyState.LOADED, CopyState.SIZING})


def to_hand_over(
    copies: Iterable[CopyView],
    kept: Iterable[str],
    tried: Mapping[str, int],
    now_ms: int,
) -> list[CopyView]:
    """Chooses the copies that other instances are to load now.

    Args:
        copies: those here.
        kept: models of which copies are to be there at all times, used or not.
        tried: models that were tried before, and when they were last used then, epoch milliseconds.
        now_ms: epoch milliseconds.

    Returns: the copies, the newest use first. Those that were tried and refused are among them only where they have
        been used since, and lately.
    """
    kept = frozenset(kept)

    def wanted(copy: CopyView) -> bool:
        if copy.state not in _LOADED:
            return False
        if copy.in_flight:
            return True
        if copy.model_id in tried:
            return copy.last_used_ms > max(tried[copy.model_id], now_ms - IN_USE_MS)
        return copy.last_used_ms > now_ms - USED_WITHIN_MS or copy.model_id in kept

    return sorted(filter(wanted, copies), key=lambda copy: copy.last_used_ms, reverse=True)
