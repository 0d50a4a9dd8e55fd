"""What an instance looks after beside its requests. What is to be done is decided by `mesh.placement.upkeep`."""

from mesh.instance.upkeep.assembly import make_upkeep
from mesh.instance.upkeep.upkeep import Upkeep

__all__ = ["Upkeep", "make_upkeep"]
