"""What happens around loads and copies, counted as it happens."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.dataplane import HistogramSample
from mesh.instance.metrics.families import (
    COUNTERS,
    COUNTERS_BY,
    DATA_PLANE_HISTOGRAMS,
    LOCAL_HISTOGRAMS,
    PREFIX,
    CounterFamily,
    gauges,
)


class _Histogram:
    """One family of observations made in Python, by model where per-model series are wanted.

    Series are bounded in number and expire, since models come and go.
    """

    def __init__(self, bounds: tuple[float, ...], max_series: int, idle_s: float) -> None:
        self._bounds = bounds
        self._max_series = max_series
        self._idle_s = idle_s
        self._series: OrderedDict[str, _Series] = OrderedDict()

    def observe(self, value: float, model_id: str, now_s: float) -> None:
        series = self._series.get(model_id)
        if series is None:
            if len(self._series) >= self._max_series:
                self._series.popitem(last=False)
            series = self._series[model_id] = _Series([0] * (len(self._bounds) + 1))
        series.add(value, self._bounds, now_s)
        self._series.move_to_end(model_id)

    def collect(self, now_s: float) -> Iterator[tuple[str, list[int], float]]:
        for model_id, series in list(self._series.items()):
            if model_id and now_s - series.touched_s > self._idle_s:
                del self._series[model_id]
            else:
                yield model_id, series.buckets, series.sum


class _Series:
    __slots__ = ("buckets", "sum", "touched_s")

    def __init__(self, buckets: list[int]) -> None:
        self.buckets = buckets
        self.sum = 0.0
        self.touched_s = 0.0

    def add(self, value: float, bounds: tuple[float, ...], now_s: float) -> None:
        index = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        self.buckets[index] += 1
        self.sum += value
        self.touched_s = now_s


class Metrics:
    """The metrics of one instance.

    Args:
        per_model: label histograms with the model.
        full_method_names: label methods with their package and service.
        max_series: series of one local histogram, at most.
        idle_s: after which a model's series is dropped, seconds.
    """

    def __init__(
        self,
        *,
        per_model: bool = False,
        full_method_names: bool = False,
        max_series: int = 10_000,
        idle_s: float = 3_600,
    ) -> None:
        self.per_model = per_model
        self.full_method_names = full_method_names
        self._local = {
            name: _Histogram(tuple(bounds), max_series, idle_s)
            for name, (_, bounds) in LOCAL_HISTOGRAMS.items()
        }
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._misjudged: Counter[tuple[str, str]] = Counter()
        self._counters_by = {
            name: Counter(dict.fromkeys(map(str, values), 0)) for name, (_, _, values) in COUNTERS_BY.items()
        }
        self._shown: dict[str, tuple[str, Callable[[], float | None]]] = {}
        self._collectors: list[Collector] = []

    def observe(self, name: str, value: float, model_id: str) -> None:
        """Adds to the local histogram ``name`` (without prefix), in the unit that the name says."""
        self._local[name].observe(value, model_id if self.per_model else "", time.monotonic())

    def count(self, name: str) -> None:
        """Adds one to the counter ``name`` (without prefix)."""
        self._counters[name] += 1

    def count_misjudged_size(self, source: str, *, low: bool) -> None:
        """Adds one model whose size was not what it was taken for.

        Args:
            source: of the estimate: declared, learned, predicted or default.
            low: the model takes more.
        """
        self._misjudged[source, "low" if low else "high"] += 1

    def count_by(self, name: str, label: str, number: int = 1) -> None:
        """Adds to the series of the counter ``name`` (without prefix) that has this label."""
        self._counters_by[name][label] += number

    def show(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """Has a gauge shown, read at each scrape; left out where it reads None."""
        self._shown[name] = (text, read)

    def register(self, collector: Collector) -> None:
        """Has each scrape show the families that ``collector`` yields; see the package's documentation."""
        self._collectors.append(collector)

    def collect_registered(self) -> Iterator[Metric]:
        """The families of other parts."""
        for collector in self._collectors:
            yield from collector.collect()

    def collect_local(self) -> Iterator[Metric]:
        """The families counted here."""
        now_s = time.monotonic()
        for name, (text, bounds) in LOCAL_HISTOGRAMS.items():
            labels = ["modelId", "vModelId"] if self.per_model else []
            family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
            for model_id, buckets, total in self._local[name].collect(now_s):
                family.add_metric(
                    [model_id, ""] if self.per_model else [], _cumulative(buckets, bounds), total
                )
            yield family
        for name, text in COUNTERS.items():
            counter = CounterFamily(PREFIX + name, text)
            counter.add((), self._counters[name])
            yield counter
        name = PREFIX + "model_size_misjudged"
        misjudged = CounterFamily(name, "Models whose size was not as estimated", ["source", "estimate"])
        for pair, count in dict(self._misjudged).items():
            misjudged.add(pair, count)
        yield misjudged
        for name, (text, label, _) in COUNTERS_BY.items():
            counter = CounterFamily(PREFIX + name, text, [label])
            # A copy: counting goes on meanwhile, in another thread.
            for value, number in dict(self._counters_by[name]).items():
                counter.add([value], number)
            yield counter
        values = {name: (text, read()) for name, (text, read) in self._shown.items()}
        yield from gauges(
            {name: (text, value) for name, (text, value) in values.items() if value is not None}
        )

    def collect_data_plane(self, samples: Iterable[HistogramSample]) -> Iterator[Metric]:
        """The families that the data plane counts."""
        labels = ["method", "code", *(("modelId", "vModelId") if self.per_model else ())]
        families = {
            name: HistogramMetricFamily(PREFIX + name, text, labels=labels)
            for name, (text, _) in DATA_PLANE_HISTOGRAMS.items()
        }
        for sample in samples:
            method = sample.method if self.full_method_names else sample.method.rpartition("/")[2]
            values = [method, sample.code, *((sample.model_id, sample.vmodel_id) if self.per_model else ())]
            _, bounds = DATA_PLANE_HISTOGRAMS[sample.name]
            families[sample.name].add_metric(values, _cumulative(sample.buckets, bounds), sample.sum)
        yield from families.values()


def _cumulative(buckets: list[int], bounds: Iterable[float]) -> list[tuple[str, float]]:
    total = 0
    result: list[tuple[str, float]] = []
    for count, bound in zip(
        buckets, (*(f"{b:g}" if b < 1 else str(float(b)) for b in bounds), "+Inf"), strict=True
    ):
        total += count
        result.append((bound, total))
    return result
