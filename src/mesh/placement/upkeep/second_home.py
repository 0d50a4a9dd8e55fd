"""Whether an evicted copy is worth having elsewhere."""

from mesh.placement.ranking import ClusterStats

#: With a smaller share of memory free, another instance would have to evict for it; as KServe ModelMesh has it.
_FREE_SHARE = 0.05


def deserves_second_home(loaded_for_ms: int, loading_timeout_ms: int, stats: ClusterStats) -> bool:
    """Tells whether a copy that was evicted here is to be loaded on another instance.

    As KServe ModelMesh has it: where others have room, that one instance was full is no reason for the mesh to lose a
    model. One that was here for a short time only is not sent around.

    Args:
        loaded_for_ms: how long the copy was here.
        loading_timeout_ms: of the model server.
        stats: of the instances where the model's type can live, this one included.
    """
    return loaded_for_ms > 2 * loading_timeout_ms and stats.instances > 1 and stats.free_share >= _FREE_SHARE
