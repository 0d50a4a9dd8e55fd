"""All processors of one instance, as they are configured at this moment."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric

from mesh.payload.definition import Definition, Named
from mesh.payload.delivery import TIME_BOUNDS_MS, Delivery, Source
from mesh.payload.processor import Event, InvalidProcessor, Options, Report
from mesh.payload.schemes import open_processor
from mesh.payload.secrets import without_password

log = logging.getLogger(__name__)

#: Between two lines of the log about one processor's losses, seconds; as KServe ModelMesh has it.
TELL_EVERY_S = 60.0
#: For emptying the queue of a processor that was removed or changed, seconds.
REMOVAL_S = 30.0
#: Processors that are gone and whose counts are shown all the same.
MAX_GONE = 100
#: For closing a processor that was opened to see whether it can be, seconds.
_CHECK_S = 1.0


S = TypeVar("S", bound=Source)


@dataclass(frozen=True, slots=True)
class Tap(Generic[S]):
    """Which calls leave their payloads in a queue."""

    source: S
    definition: Definition


@dataclass(frozen=True, slots=True)
class Status:
    """How one processor is doing.

    Attributes:
        trouble: what went wrong last, or why it could not be opened; empty where nothing did.
        working: whether it takes payloads.
        waiting: payloads in its queue.
        in_flight: payloads that it has been given and not answered for.
        delivered: payloads.
        lost: payloads by reason.
    """

    name: str
    trouble: str
    working: bool
    waiting: int = 0
    in_flight: int = 0
    delivered: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


class Pipeline(Generic[S]):
    """Opens, feeds and closes processors. All but `statuses` and `collect` is called on one event loop.

    Args:
        instance_id: where it is.
        ca_file: certificates by which servers are trusted; empty for those of the system.
        make_source: makes a queue for so many payloads.
        set_taps: is told which calls are wanted, whenever that changes.
        on_event: is told of what processors report, with the processor's name; from any thread.
    """

    def __init__(
        self,
        instance_id: str,
        ca_file: str,
        make_source: Callable[[int], S],
        set_taps: Callable[[Sequence[Tap[S]]], None],
        on_event: Callable[[str, Event], None],
    ) -> None:
        self._instance_id = instance_id
        self._ca_file = ca_file
        self._make_source = make_source
        self._set_taps = set_taps
        self._on_event = on_event
        self._at_work: dict[str, Delivery[S]] = {}
        self._by_source: dict[int, Delivery[S]] = {}
        self._definitions: dict[str, Definition] = {}
        self._troubles: dict[str, str] = {}
        self._closing: dict[asyncio.Task[None], Delivery[S]] = {}
        #: Of the next two and `_at_work`, so that each count is in one of them.
        self._lock = threading.Lock()
        self._leaving: list[Delivery[S]] = []
        #: What processors counted that are not there any more, by name.
        self._gone: dict[str, tuple[int, Counter[str]]] = {}
        self._teller: asyncio.Task[None] | None = None

    def apply(self, wanted: Mapping[str, Named]) -> None:
        """Makes the processors those that are wanted; what stays as it is goes on undisturbed."""
        if self._teller is None:
            self._teller = asyncio.create_task(self._keep_telling(), name="losses of payloads")
        troubles: dict[str, str] = {}
        replaced = [self._take_out(name) for name in list(self._at_work) if name not in wanted]
        for name, named in wanted.items():
            definition, trouble = named.definition, named.trouble
            at_work = self._at_work.get(name)
            if definition is None:
                troubles[name] = trouble
            elif at_work is not None and definition.takes_as(at_work.definition):
                self._definitions[name] = definition
                continue
            if at_work is not None:
                replaced.append(self._take_out(name))
            if definition is not None and (why := self._open(name, definition)):
                troubles[name] = why
        for name, trouble in troubles.items():
            if self._troubles.get(name) != trouble:
                log.error("payload processor %s is not used: %s", name, trouble)
        self._troubles = troubles
        # Calls go to the new ones before the old ones are closed, so that none is missed.
        self._set_taps([Tap(one.source, self._definitions[name]) for name, one in self._at_work.items()])
        for delivery in replaced:
            self._let_go(delivery)

    async def check(self, name: str, definition: Definition) -> None:
        """Opens a processor that is not to work, and closes it.

        Raises:
            InvalidProcessor: it cannot be opened.
        """
        try:
            processor = open_processor(definition.uri, self._options(name, definition, _Unheard()))
            async with asyncio.timeout(_CHECK_S):
                await processor.close(_CHECK_S)
        except InvalidProcessor:
            raise
        except Exception as error:
            # Of a package that is not ours, too.
            log.exception("payload processor %s could not be tried", name)
            raise InvalidProcessor(f"payload processor {name!r} could not be opened: {error!r}") from error

    def _options(self, name: str, definition: Definition, report: Report) -> Options:
        return Options(
            name=name,
            report=report,
            members=definition.options,
            instance_id=self._instance_id,
            timeout_s=definition.timeout_ms / 1_000,
            ca_file=self._ca_file,
        )

    def _open(self, name: str, definition: Definition) -> str:
        """Returns: why it could not be opened, else nothing."""
        report = _Report(name, self._on_event)
        options = self._options(name, definition, report)
        try:
            processor = open_processor(definition.uri, options)
        except InvalidProcessor as error:
            return str(error)
        except Exception as error:
            log.exception("payload processor %s could not be opened", name)
            return f"it could not be opened: {error!r}"
        delivery = Delivery(name, definition, processor, self._make_source(definition.capacity))
        report.delivery = delivery
        with self._lock:
            self._at_work[name] = delivery
        self._definitions[name] = definition
        self._by_source[delivery.source.id] = delivery
        log.info("payload processor %s: %s", name, without_password(definition.uri))
        return ""

    def _take_out(self, name: str) -> Delivery[S]:
        del self._definitions[name]
        with self._lock:
            delivery = self._at_work.pop(name)
            self._leaving.append(delivery)
        return delivery

    def _let_go(self, delivery: Delivery[S]) -> None:
        task = asyncio.create_task(self._close(delivery), name=f"closing payloads for {delivery.name}")
        self._closing[task] = delivery
        task.add_done_callback(lambda task: self._closing.pop(task, None))

    async def _close(self, delivery: Delivery[S], timeout_s: float = REMOVAL_S) -> None:
        await delivery.close(timeout_s)
        self._by_source.pop(delivery.source.id, None)
        with self._lock:
            self._leaving.remove(delivery)
            delivered, lost = self._gone.pop(delivery.name, (0, Counter()))
            self._gone[delivery.name] = delivered + delivery.delivered, lost + delivery.losses
            if len(self._gone) > MAX_GONE:
                del self._gone[next(iter(self._gone))]

    def wake(self, sources: Iterable[int]) -> None:
        """These queues have what they were armed for."""
        for source in sources:
            if (delivery := self._by_source.get(source)) is not None:
                delivery.wake()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            for delivery in list(self._at_work.values()):
                delivery.tell_losses()

    async def close(self, timeout_s: float) -> None:
        """Delivers what waits and closes all processors, all at the same time; see `Delivery.close`."""
        self._set_taps(())
        for delivery in self._closing.values():
            delivery.hurry(timeout_s)
        left = [self._take_out(name) for name in list(self._at_work)]
        await asyncio.gather(*self._closing, *(self._close(delivery, timeout_s) for delivery in left))
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)

    def statuses(self) -> list[Status]:
        """How each configured processor is doing, in order of names. From any thread."""
        found = [
            Status(
                name,
                one.trouble,
                True,
                one.source.waiting,
                one.in_flight,
                one.delivered,
                dict(one.losses),
            )
            for name, one in list(self._at_work.items())
        ]
        found += [Status(name, trouble, False) for name, trouble in list(self._troubles.items())]
        return sorted(found, key=lambda status: status.name)

    def collect(self) -> Iterator[Metric]:
        """Families of all processors, and those of the processors' own. From any thread."""
        queued = GaugeMetricFamily(
            "modelmesh_payload_queued", "Payloads that wait for a processor", labels=["processor"]
        )
        delivered = Metric("modelmesh_payload_delivered", "Payloads that a processor took", "unknown")
        lost = Metric(
            "modelmesh_payload_lost", "Payloads that a processor did not get, or lost, by reason", "unknown"
        )
        times = HistogramMetricFamily(
            "modelmesh_payload_delivery_milliseconds",
            "Time of one attempt to have a processor take a batch, in milliseconds",
            labels=["processor"],
        )
        with self._lock:
            counts = dict(self._gone)
            for one in [*self._at_work.values(), *self._leaving]:
                before, losses = counts.get(one.name, (0, Counter()))
                counts[one.name] = before + one.delivered, losses + one.losses
        for name, one in list(self._at_work.items()):
            queued.add_metric([name], one.source.waiting)
            buckets, total = [], 0
            for most, count in zip((*TIME_BOUNDS_MS, float("inf")), one.times, strict=True):
                total += count
                buckets.append(("+Inf" if most == float("inf") else str(most), total))
            times.add_metric([name], buckets, one.time_ms)
        for name, (count, losses) in counts.items():
            delivered.add_sample(delivered.name, {"processor": name}, count)
            for reason, number in losses.items():
                lost.add_sample(lost.name, {"processor": name, "reason": reason}, number)
        yield from (queued, delivered, lost, times)
        yield from self._collect_own()

    def _collect_own(self) -> Iterator[Metric]:
        own: dict[str, Metric] = {}
        for one in list(self._at_work.values()):
            try:
                families = list(one.processor.collect())
            except Exception:
                log.exception("payload processor %s could not tell its metrics", one.name)
                continue
            for family in families:
                if (same := own.setdefault(family.name, family)) is not family:
                    same.samples.extend(family.samples)
        yield from own.values()


class _Report:
    """What one processor reports."""

    def __init__(self, name: str, on_event: Callable[[str, Event], None]) -> None:
        self._name = name
        self._on_event = on_event
        self.delivery: Delivery[Any] | None = None

    def lost(self, count: int, reason: str) -> None:
        if self.delivery is not None:
            self.delivery.lose(count, reason)

    def event(self, event: Event) -> None:
        self._on_event(self._name, event)


class _Unheard:
    """For a processor that is not to work."""

    def lost(self, count: int, reason: str) -> None:
        """It has been given nothing."""

    def event(self, event: Event) -> None:
        """It has seen nothing."""
