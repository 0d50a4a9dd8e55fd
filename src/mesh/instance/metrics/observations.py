"""What happens around loads and copies, counted as it happens."""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mesh.dataplane import DataPlane
from mesh.instance.metrics.families import (
    COUNTERS,
    COUNTERS_BY,
    HISTOGRAMS,
    PREFIX,
    CounterFamily,
    gauges,
)
from mesh.tracing import current


class Metrics:
    """The metrics of one instance.

    Args:
        dataplane: keeps histograms, its own and those observed here: by model where that is wanted, bounded in number.
    """

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane
        for name, family in HISTOGRAMS.items():
            dataplane.add_histogram(name, family.text, family.bounds, family.label)
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._counters_by = {
            name: Counter(dict.fromkeys(family.values, 0)) for name, family in COUNTERS_BY.items()
        }
        self._shown: dict[str, tuple[str, Callable[[], float | None]]] = {}
        self._collectors: list[Collector] = []

    def observe(self, name: str, value: float, model_id: str, label: str = "") -> None:
        """Adds to the histogram ``name`` (without prefix), in the unit that the name says.

        Where the current task works for a sampled request, that is the example of its bucket.
        """
        span = current()
        trace_id = 0 if span is None else span.trace_id
        self._dataplane.observe(name, value, model_id=model_id, label=label, trace_id=trace_id)

    def count(self, name: str) -> None:
        """Adds one to the counter ``name`` (without prefix)."""
        self._counters[name] += 1

    def count_by(self, name: str, *labels: str, number: int = 1) -> None:
        """Adds to the series of the counter ``name`` (without prefix) that has these values of its labels."""
        self._counters_by[name][labels] += number

    def show(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """Has a gauge shown, read at each scrape; left out where it reads None."""
        self._shown[name] = (text, read)

    def register(self, collector: Collector) -> None:
        """Has each scrape show the families that ``collector`` yields; see the package's documentation."""
        self._collectors.append(collector)

    def collect(self) -> Iterator[Metric]:
        """The families counted here, and those of other parts; histograms are the data plane's to give."""
        for name, text in COUNTERS.items():
            counter = CounterFamily(PREFIX + name, text)
            counter.add((), self._counters[name])
            yield counter
        for name, family in COUNTERS_BY.items():
            counter = CounterFamily(PREFIX + name, family.text, family.labels)
            # A copy: counting goes on meanwhile, in another thread.
            for values, number in dict(self._counters_by[name]).items():
                counter.add(values, number)
            yield counter
        shown = {name: (text, read()) for name, (text, read) in self._shown.items()}
        yield from gauges({name: (text, value) for name, (text, value) in shown.items() if value is not None})
        for collector in self._collectors:
            yield from collector.collect()

    def counts(self) -> dict[str, int]:
        """The counters without labels, by name without prefix."""
        return dict(self._counters)
