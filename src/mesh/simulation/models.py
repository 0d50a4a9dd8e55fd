"""The models of a simulated mesh, and their copies in simulated model servers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance


class Model:
    """What is true of a model, whatever the mesh believes.

    Attributes:
        number: in the trace.
        type: of the model; load times are learned by type.
        units: that it takes in the model server, of 8 KiB.
        told_units: that the model server predicts before it is loaded; 0 where it cannot tell.
        misjudged: a wrong size was predicted at some time.
        tampered: someone has changed what its record says of copies.
        load_us: that its load takes.
        service_us: that a request takes in the model server.
        warm: the copies that every instance knows and may send to at once; None where that has to be looked up.
        settled_us: from then on every instance that follows the registry knows the newest record.
    """

    __slots__ = (
        "load_us",
        "misjudged",
        "model_id",
        "number",
        "service_us",
        "settled_us",
        "tampered",
        "told_units",
        "type",
        "units",
        "warm",
    )

    def __init__(
        self, number: int, model_id: str, model_type: str, units: int, load_us: int, service_us: int
    ) -> None:
        self.number = number
        self.model_id = model_id
        self.type = model_type
        self.units = units
        self.told_units = units
        self.misjudged = False
        self.tampered = False
        self.load_us = load_us
        self.service_us = service_us
        self.warm: tuple[Copy, ...] | None = None
        self.settled_us = 0


class Copy:
    """A loaded copy that the data plane of its instance sends requests to.

    Attributes:
        since_us: when it was loaded.
        requests: begun since usage was last read.
        ends: requests in flight: when each ends, when it came, the instance that took it and whether it had waited
            for a load.
    """

    __slots__ = ("ends", "instance", "model", "requests", "since_us")

    def __init__(self, model: Model, instance: "Instance", since_us: int) -> None:
        self.since_us = since_us
        self.requests = 0
        self.model = model
        self.instance = instance
        self.ends: list[tuple[int, int, Instance, bool]] = []

    def in_flight(self, now_us: int) -> int:
        """Requests in flight now."""
        ends = self.ends
        if ends:
            self.ends = ends = [request for request in ends if request[0] > now_us]
        return len(ends)
