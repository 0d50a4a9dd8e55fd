"""How many copies models have: carries out what `mesh.placement.copies` decides."""

from mesh.instance.copies.control import CopyControl
from mesh.instance.copies.policies import Policies, policy_in_key

__all__ = ["CopyControl", "Policies", "policy_in_key"]
