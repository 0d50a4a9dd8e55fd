"""What is asked of a mesh: its models, and when which of them is requested."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.placement import to_units
from mesh.simulation.models import Model


@dataclass(frozen=True, slots=True)
class TracedModel:
    """One model of a trace.

    Attributes:
        model_id: unique in the trace.
        type: load times are learned by type.
        size_bytes: memory that it takes when it is loaded.
        load_us: that its load takes.
        service_us: that a request takes in the model server.
    """

    model_id: str
    type: str
    size_bytes: int
    load_us: int
    service_us: int


@dataclass(slots=True)
class Trace:
    """Models, and requests in the order in which they come.

    Attributes:
        traced: the models; a request names one by its place here.
        times_us: when each request comes, microseconds since the first moment; never falling.
        numbers: the model of each request.
    """

    traced: list[TracedModel] = field(default_factory=list)
    times_us: "array[int]" = field(default_factory=lambda: array("q"))
    numbers: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, time_us: int, number: int) -> None:
        """Appends a request.

        Raises:
            ValueError: it comes before the last one, or its model is not there.
        """
        if self.times_us and time_us < self.times_us[-1]:
            raise ValueError(
                f"a request at {time_us} us comes after one at {self.times_us[-1]} us: sort them"
            )
        if not 0 <= number < len(self.traced):
            raise ValueError(f"a request names model {number}, there are {len(self.traced)}")
        self.times_us.append(time_us)
        self.numbers.append(number)

    def requests(self) -> Iterator[tuple[int, int]]:
        """Each request: when it comes, and the place of its model."""
        return zip(self.times_us, self.numbers, strict=True)

    def models(self) -> list[Model]:
        """The models, for a simulation."""
        return [
            Model(
                number,
                model.model_id,
                model.type,
                to_units(model.size_bytes),
                model.load_us,
                model.service_us,
            )
            for number, model in enumerate(self.traced)
        ]

    @property
    def duration_us(self) -> int:
        """When the last request comes."""
        return self.times_us[-1] if self.times_us else 0

    def __len__(self) -> int:
        return len(self.times_us)
