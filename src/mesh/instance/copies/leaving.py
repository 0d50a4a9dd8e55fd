"""Takes copies of this instance away while enough others serve."""

from mesh.instance.errors import MeshError
from mesh.instance.loader import Loader
from mesh.instance.peers import Peers
from mesh.instance.registration import Registration
from mesh.placement import RemovalReason
from mesh.protos import peer_pb2


class Leaving:
    """Copies here that the mesh can do without.

    A copy first leaves its model's record, by compare-and-swap and only while enough others are in it; then requests
    under way end, and it is unloaded.
    """

    def __init__(self, peers: Peers, loader: Loader, registration: Registration) -> None:
        self._peers = peers
        self._loader = loader
        self._registration = registration

    async def leave(
        self,
        model_id: str,
        others: list[str],
        *,
        keep: int,
        pause_ms: int = 0,
        unused_since_ms: int | None = None,
    ) -> bool:
        """Takes the copy here away.

        Args:
            others: instances that list a copy.
            keep: so many of them must have it loaded.
            pause_ms: no other copy may have been taken away within this, milliseconds.
            unused_since_ms: it stays where it was used after this, epoch milliseconds; None where use is no matter.

        Returns: whether it is on its way out.
        """
        if not await self._are_loaded(model_id, others, keep):
            return False
        if unused_since_ms is not None and self._is_used(model_id, unused_since_ms):
            return False
        if not await self._registration.resign_copy(model_id, keep=keep, pause_ms=pause_ms):
            return False
        self._loader.remove(model_id, RemovalReason.SCALE_DOWN)
        self._registration.resigned(model_id)
        return True

    def _is_used(self, model_id: str, since_ms: int) -> bool:
        copy = self._loader.cache.copy(model_id)
        return copy is not None and (copy.in_flight > 0 or copy.last_used_ms > since_ms)

    async def _are_loaded(self, model_id: str, others: list[str], wanted: int) -> bool:
        """Whether so many others say that they have it loaded; a record tells no more than that a load began."""
        for instance_id in others:
            if wanted <= 0:
                break
            peer = self._peers.get(instance_id)
            if peer is None:
                continue
            try:
                state = (await peer.copy_status(model_id)).state
            except MeshError:
                continue
            wanted -= state in {peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING}
        return wanted <= 0
