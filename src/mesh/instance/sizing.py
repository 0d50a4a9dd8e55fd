"""What a model's record tells of its size."""

from mesh.placement import CopyPolicy, KnownSize, to_units
from mesh.registry import ModelRecord


def known_size(record: ModelRecord, learned_units: int = 0) -> KnownSize:
    """What is known of a model's size.

    Args:
        record: of the model.
        learned_units: what is known beyond it, from a copy that is or was loaded lately; 0 for nothing.
    """
    declared_bytes = CopyPolicy.from_members(record.policy).declared_size_bytes
    return KnownSize(to_units(declared_bytes), learned_units or record.size_units)
