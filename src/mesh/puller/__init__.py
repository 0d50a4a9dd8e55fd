"""Model data from storage to a local directory, safely."""

from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import PullerSettings
from mesh.puller.puller import Progress, Pulled, Puller
from mesh.puller.turns import Turns

__all__ = ["Code", "Progress", "PullFailure", "Pulled", "Puller", "PullerSettings", "Turns"]
