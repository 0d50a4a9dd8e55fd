"""Keeps what the data plane found when it compared shadows' answers with those that clients got."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mesh.dataplane import Comparison, DataPlane
from mesh.instance.metrics import PREFIX, CounterFamily
from mesh.instance.vmodels.records import vmodel_of
from mesh.protos import vmodels_pb2 as api
from mesh.registry import Registry, VModelRecord

#: Pairs of a vmodel and a shadow that are remembered; those that had no request for the longest time are forgotten.
MAX_PAIRS = 256
#: Differences kept of each pair.
MAX_DIFFERENCES = 20

_RESULTS = ("equal", "different", "shadow_failed", "primary_failed", "dropped")


@dataclass(slots=True)
class _Tally:
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_RESULTS, 0))
    primary_ms: float = 0.0
    shadow_ms: float = 0.0
    differences: deque[api.Difference] = field(default_factory=lambda: deque(maxlen=MAX_DIFFERENCES))


class Comparisons(Collector):
    """What this instance counted, by vmodel and shadow.

    Args:
        now_ms: epoch milliseconds.
    """

    def __init__(
        self, instance_id: str, registry: Registry, dataplane: DataPlane, now_ms: Callable[[], int]
    ) -> None:
        self._instance_id = instance_id
        self._dataplane = dataplane
        self._now_ms = now_ms
        self._tallies: OrderedDict[tuple[str, str], _Tally] = OrderedDict()
        registry.vmodels.subscribe(self._vmodel_changed)

    def of(self, vmodel_id: str, shadow_model_id: str) -> api.Comparison:
        """What is known of one vmodel and shadow; nothing but zeros where nothing is."""
        self.read()
        tally = self._tallies.get((vmodel_id, shadow_model_id)) or _Tally()
        return api.Comparison(
            vmodel_id=vmodel_id,
            shadow_model_id=shadow_model_id,
            equal=tally.counts["equal"],
            different=tally.counts["different"],
            shadow_failed=tally.counts["shadow_failed"],
            primary_failed=tally.counts["primary_failed"],
            dropped=tally.counts["dropped"],
            primary_ms=tally.primary_ms,
            shadow_ms=tally.shadow_ms,
            differences=reversed(tally.differences),
        )

    def collect(self) -> Iterator[Metric]:
        """The counts of all shadows that there are or were."""
        self.read()
        counter = CounterFamily(
            PREFIX + "shadow_requests",
            "Requests of vmodels that had a shadow, by result",
            ["vModelId", "modelId", "result"],
        )
        for (vmodel_id, shadow_model_id), tally in list(self._tallies.items()):
            for result, count in tally.counts.items():
                counter.add([vmodel_id, shadow_model_id, result], count)
        yield counter

    def read(self) -> None:
        """Takes in what the data plane counted since the last time."""
        for batch in self._dataplane.take_comparisons():
            pair = batch.vmodel_id, batch.model_id
            tally = self._tallies.setdefault(pair, _Tally())
            self._tallies.move_to_end(pair)
            if len(self._tallies) > MAX_PAIRS:
                self._tallies.popitem(last=False)
            for result in _RESULTS:
                tally.counts[result] += getattr(batch, result)
            tally.primary_ms += batch.primary_ms
            tally.shadow_ms += batch.shadow_ms
            tally.differences.extend(self._differences(batch))

    async def keep_reading(self) -> None:
        """See `read`; what the data plane has found would else be kept there, without a bound on its age."""
        self.read()

    def _differences(self, batch: Comparison) -> Iterator[api.Difference]:
        now_ms = self._now_ms()
        for difference in batch.differences:
            yield api.Difference(
                instance_id=self._instance_id,
                time_ms=now_ms,
                method=difference.method,
                primary_model_id=difference.model_id,
                shadow_code=difference.shadow_code,
                shadow_message=difference.shadow_message,
                primary_bytes=difference.primary_bytes,
                shadow_bytes=difference.shadow_bytes,
                primary_ms=difference.primary_ms,
                shadow_ms=difference.shadow_ms,
            )

    def _vmodel_changed(self, vmodel_id: str, old: VModelRecord | None, new: VModelRecord | None) -> None:
        before, after = (None if record is None else vmodel_of(record).shadow for record in (old, new))
        if after is not None and (before is None or before.model != after.model):
            # A model that becomes a shadow once more starts anew; what one was found to be stays while nobody takes
            # its place.
            self._tallies.pop((vmodel_id, after.model), None)
