"""Gives the payloads of requests to those who are configured to process them."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from mesh.dataplane import DataPlane, PayloadQueue
from mesh.instance.mounted import MountedFile
from mesh.instance.payloads.thread import LoopThread
from mesh.instance.settings.payloads import PayloadSettings
from mesh.payload import (
    Definition,
    Event,
    InvalidProcessor,
    Named,
    Pipeline,
    Status,
    Tap,
    check_name,
    parse_string,
    read_definition_text,
    read_file,
)
from mesh.placement import Decision, DecisionKind, DecisionRing
from mesh.registry import Registry

log = logging.getLogger(__name__)

#: Names of config keys that hold a processor each begin so.
KEYS = "payload_processors/"
#: For the first processors to be opened, seconds; they take no longer unless one blocks.
START_WITHIN_S = 10.0
#: Part of the time for ending that the thread has for itself.
_THREAD_S = 0.5


class Origin(StrEnum):
    """Where a processor is configured."""

    ENVIRONMENT = "environment"
    FILE = "file"
    REGISTRY = "registry"


class Payloads:
    """The processors of one instance.

    They are configured in the environment, in a file and in the registry; of one name the registry's is used, then the
    file's. Nothing is done, and no thread started, while there is none.

    Args:
        ring: takes what processors tell of models.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        settings: PayloadSettings,
        instance_id: str,
        registry: Registry,
        dataplane: DataPlane,
        ring: DecisionRing,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._dataplane = dataplane
        self._ring = ring
        self._now_ms = now_ms
        self._pipeline = Pipeline(
            instance_id, settings.ca_file, dataplane.payload_queue, self._set_taps, self._on_event
        )
        self._of_environment = parse_string(
            settings.processors, capacity=settings.capacity, consumers=settings.consumers
        )
        self._of_file: Mapping[str, Named] = {}
        self._of_registry: dict[str, Named] = {}
        self._file = (
            MountedFile("MESH_PAYLOAD_PROCESSORS_PATH", settings.file, read_file) if settings.file else None
        )
        self._thread: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = False
        self._queues: list[PayloadQueue] = []

    async def start(self) -> None:
        """Opens what is configured, and follows changes in the registry.

        Raises:
            MountedFileError: the file is not there or cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        if self._file is not None:
            self._of_file = await self._file.first()
        self._due = True
        self._registry.config.subscribe(self._config_changed, replay=True)
        self._due = False
        wanted = self.wanted()
        if not wanted:
            return
        try:
            async with asyncio.timeout(START_WITHIN_S):
                await self._running().run(self._applied({name: named for name, (_, named) in wanted.items()}))
        except TimeoutError:
            log.error(
                "payload processors are not ready after %g s; requests do not wait for them", START_WITHIN_S
            )

    async def follow_file(self) -> None:
        """Follows changes of the file, if there is one, until cancelled."""
        if self._file is not None:
            await self._file.follow(self._file_changed)

    def wanted(self) -> dict[str, tuple[Origin, Named]]:
        """What is configured, by name, with where."""
        origins = (
            (Origin.ENVIRONMENT, self._of_environment),
            (Origin.FILE, self._of_file),
            (Origin.REGISTRY, self._of_registry),
        )
        return {name: (origin, named) for origin, found in origins for name, named in found.items()}

    def statuses(self) -> dict[str, Status]:
        """How each is doing."""
        return {status.name: status for status in self._pipeline.statuses()}

    async def check(self, name: str, definition: Definition) -> None:
        """Opens a processor, and closes it at once.

        Raises:
            InvalidProcessor: it cannot be opened as it is configured.
        """
        await self._running().run(self._pipeline.check(name, definition))

    def take(self) -> None:
        """Wakes those whose queues have something for them."""
        ready = self._dataplane.take_ready_queues()
        if ready and self._thread is not None:
            self._thread.loop.call_soon_threadsafe(self._pipeline.wake, ready)

    def collect(self) -> Iterator[Metric]:
        """Families of processors; of `mesh.instance.metrics.Metrics.register`."""
        yield GaugeMetricFamily(
            "modelmesh_payload_bytes",
            "Bytes of messages kept for payload processors, or by them",
            value=self._dataplane.totals().payload_bytes,
        )
        yield from self._pipeline.collect()

    async def close(self) -> None:
        """Delivers what waits, within `PayloadSettings.flush_ms`, and closes all processors."""
        thread, self._thread, self._loop = self._thread, None, None
        if thread is None:
            return
        timeout_s = self._settings.flush_ms / 1_000
        closing = asyncio.ensure_future(thread.run(self._pipeline.close(timeout_s)))
        _, late = await asyncio.wait([closing], timeout=timeout_s + _THREAD_S)
        if late or not await thread.close(_THREAD_S):
            lost = sum(queue.waiting for queue in self._queues)
            log.error("payload processors did not end in time; %d payloads that wait are lost", lost)
        elif (error := closing.exception()) is not None:
            log.error("payload processors could not be ended in order", exc_info=error)

    # Changes

    def _config_changed(self, key: str, _: str | None, text: str | None) -> None:
        if not key.startswith(KEYS):
            return
        name = key.removeprefix(KEYS)
        if text is None:
            self._of_registry.pop(name, None)
        else:
            self._of_registry[name] = _read(name, text)
        self._apply_soon()

    def _file_changed(self, found: Mapping[str, Named]) -> None:
        self._of_file = found
        self._apply_soon()

    def _apply_soon(self) -> None:
        """Once for many changes that come together."""
        if not self._due and self._loop is not None:
            self._due = True
            self._loop.call_soon(self._apply)

    def _apply(self) -> None:
        self._due = False
        wanted = {name: named for name, (_, named) in self.wanted().items()}
        if wanted or self._thread is not None:
            self._running().loop.call_soon_threadsafe(self._pipeline.apply, wanted)

    async def _applied(self, wanted: Mapping[str, Named]) -> None:
        self._pipeline.apply(wanted)

    def _running(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread("mesh-payloads")
        return self._thread

    # Of the pipeline, in its thread

    def _set_taps(self, taps: Sequence[Tap[PayloadQueue]]) -> None:
        wanted = [(tap.source, tap.definition) for tap in taps]
        self._queues = [source for source, _ in wanted] or self._queues
        self._dataplane.set_taps([(source, one.models, one.methods, one.sample) for source, one in wanted])

    def _on_event(self, name: str, event: Event) -> None:
        log.log(
            logging.WARNING if event.warning else logging.INFO,
            "%s",
            event.summary,
            extra={"processor": name, "model": event.model_id, **event.values},
        )
        loop = self._loop
        if event.model_id and loop is not None:
            decision = Decision(
                DecisionKind.OBSERVATION, self._now_ms(), event.model_id, f"{name}: {event.summary}"
            )
            loop.call_soon_threadsafe(self._ring.add, decision)


def _read(name: str, text: str) -> Named:
    try:
        check_name(name)
        return Named(read_definition_text(text), text=text)
    except InvalidProcessor as error:
        return Named(None, str(error), text)
