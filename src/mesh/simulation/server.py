"""A simulated model server: what it really holds, how long it takes, and how it fails."""

from heapq import heapreplace
from random import Random

from mesh.simulation.agenda import Agenda
from mesh.simulation.models import Model

#: How long small calls of a model server take.
PREDICT_US = 2_000
MEASURE_US = 5_000
UNLOAD_US = 20_000


class Server:
    """The model server beside one instance. Memory in units of 8 KiB.

    Args:
        capacity: that it gives to models.
        concurrency: requests that it works on at a time; further ones queue.

    Attributes:
        held: memory that each model takes now, from the start of its load to the end of its unload.
        oversize: by how much models that it holds were larger than what was set aside for their loads.
        loaded: models that it can serve.
        loading: loads under way.
        slowness: how many times as long as usual loads take, as when storage is slow.
        failing: share of the loads that fail.
        stuck: share of the unloads that fail.
    """

    def __init__(self, agenda: Agenda, capacity: int, concurrency: int, random: Random) -> None:
        self._agenda = agenda
        self._random = random
        self.capacity = capacity
        self.concurrency = concurrency
        self.held: dict[str, int] = {}
        self.oversize: dict[str, int] = {}
        self.loaded: set[str] = set()
        self.loading: set[str] = set()
        self.held_units = 0
        self.slowness = 1.0
        self.failing = 0.0
        self.stuck = 0.0
        #: Changes when the server restarts: what it was doing before never ends.
        self.incarnation = 0
        self._free_us = [0] * concurrency

    def begin_load(self, model: Model, reserved: int) -> tuple[int, bool]:
        """Begins to load; returns how many microseconds that takes, and whether it is going to succeed.

        Args:
            reserved: what the mesh set aside; a model that is larger grows to its size at the end of the load.
        """
        self._hold(model.model_id, min(reserved, model.units))
        if model.units > reserved:
            self.oversize[model.model_id] = model.units - reserved
        self.loading.add(model.model_id)
        fails = self.failing > 0 and self._random.random() < self.failing
        return int(model.load_us * self.slowness), not fails

    def end_load(self, model: Model) -> None:
        """The model is loaded."""
        self._hold(model.model_id, model.units)
        self.loading.discard(model.model_id)
        self.loaded.add(model.model_id)

    def break_load(self, model_id: str) -> None:
        """The load ended otherwise; what it took stays until the unload."""
        self.loading.discard(model_id)

    def unload(self, model_id: str) -> bool:
        """Lets go of a model, also of one that it does not have; returns whether that went well."""
        if self.stuck > 0 and self._random.random() < self.stuck:
            return False
        self.held_units -= self.held.pop(model_id, 0)
        self.oversize.pop(model_id, None)
        self.loaded.discard(model_id)
        self.loading.discard(model_id)
        return True

    def restart(self) -> None:
        """Loses all that it holds."""
        self.incarnation += 1
        self.held.clear()
        self.oversize.clear()
        self.loaded.clear()
        self.loading.clear()
        self.held_units = 0
        self._free_us = [0] * self.concurrency

    def serve(self, begin_us: int, service_us: int) -> int:
        """Works on a request that comes in at a time; returns when it is done."""
        free_us = self._free_us[0]
        end_us = (max(begin_us, free_us)) + service_us
        heapreplace(self._free_us, end_us)
        return end_us

    def _hold(self, model_id: str, units: int) -> None:
        self.held_units += units - self.held.get(model_id, 0)
        self.held[model_id] = units
