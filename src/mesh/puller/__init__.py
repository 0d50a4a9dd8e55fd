"""Model data from storage to a local directory, safely."""

from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import Advance, Provider, PullerSettings, Source, Workshop
from mesh.puller.puller import Progress, Pulled, Puller
from mesh.puller.turns import Turns

__all__ = [
    "Advance",
    "Code",
    "Progress",
    "Provider",
    "PullFailure",
    "Pulled",
    "Puller",
    "PullerSettings",
    "Source",
    "Turns",
    "Workshop",
]
