"""Brings the payloads of one queue to one processor, whatever that does."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from mesh.payload.definition import Definition
from mesh.payload.messages import NotReadable
from mesh.payload.payload import Payload
from mesh.payload.processor import NotDelivered, PayloadProcessor
from mesh.payload.redaction import Redaction

log = logging.getLogger(__name__)

#: Upper bounds of the buckets of delivery times, in milliseconds.
TIME_BOUNDS_MS = (1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 60_000.0)

#: Part of the time for closing that a processor has for itself once its queue has been emptied.
OWN_PART = 0.25
#: Which each processor has for being closed whatever else took long, seconds.
_LEAST_S = 0.2
#: While its queue empties, seconds.
_LOOK_EVERY_S = 0.01


class Source(Protocol):
    """A queue of payloads; see `PayloadQueue` of the data plane."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def waiting(self) -> int:
        """Payloads in it."""

    def arm(self, least: int) -> bool:
        """Has `Delivery.wake` called as soon as so many wait; false where they do, and nobody will call."""

    def take(self, most: int) -> Sequence[Payload]:
        """The oldest."""

    def close(self) -> None:
        """Takes nothing more."""

    def losses(self) -> Mapping[str, int]:
        """Payloads that it did not take, by reason."""


S = TypeVar("S", bound=Source)


class Delivery(Generic[S]):
    """One processor at work.

    Args:
        name: of the processor.
        definition: how it wants its payloads.
        source: its queue.
    """

    def __init__(
        self,
        name: str,
        definition: Definition,
        processor: PayloadProcessor,
        source: S,
        random: Random | None = None,
    ) -> None:
        self.name = name
        self.definition = definition
        self.processor = processor
        self.source = source
        self._redaction = Redaction.of(definition.redact_tensors, definition.redact_headers)
        self.delivered = 0
        #: Times of batches, in the buckets of `TIME_BOUNDS_MS` and one more, and their sum in milliseconds.
        self.times = [0] * (len(TIME_BOUNDS_MS) + 1)
        self.time_ms = 0.0
        #: What went wrong last; empty where nothing did.
        self.trouble = ""
        self._lost: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._random = random or Random()  # noqa: S311 - spreads attempts
        self._woken = asyncio.Event()
        self._free = asyncio.Semaphore(definition.consumers)
        self._batches: dict[asyncio.Task[None], int] = {}
        self._failing = False
        #: When it is to have delivered all, by the clock of `time.monotonic`; None while it is not being closed.
        self._until: float | None = None
        #: Of what its end waits for at the moment.
        self._limit: asyncio.Timeout | None = None
        self._loop = asyncio.create_task(self._run(), name=f"payloads for {name}")

    def wake(self) -> None:
        """The queue has what it was armed for."""
        self._woken.set()

    def lose(self, count: int, reason: str) -> None:
        """Counts payloads as lost."""
        self._lost[reason] += count

    @property
    def losses(self) -> Counter[str]:
        """Lost payloads by reason."""
        return self._lost + Counter(self.source.losses())

    @property
    def in_flight(self) -> int:
        """Payloads that the processor has been given and not answered for."""
        return sum(self._batches.values())

    def tell_losses(self) -> None:
        """Logs how many payloads were lost since the last time, if any were."""
        lost = self.losses
        new = lost - self._told
        self._told = lost
        if not new:
            return
        by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(new.items()))
        log.warning(
            "payload processor %s lost %d payloads in the last minute (%s)%s",
            self.name,
            new.total(),
            by_reason,
            f"; last trouble: {self.trouble}" if self.trouble else "",
        )

    async def _run(self) -> None:
        definition = self.definition
        enough = max(1, min(definition.batch_size, definition.capacity // 2))
        while True:
            # Until a consumer is free, payloads are better off in the queue, which is bounded.
            await self._free.acquire()
            await self._wait_for(1, None)
            if enough > 1 and definition.batch_wait_ms and self._until is None:
                await self._wait_for(enough, definition.batch_wait_ms / 1_000)
            batch = self.source.take(definition.batch_size)
            if len(batch):
                self._begin(batch)
            else:
                self._free.release()
            # It would keep its bytes until there is a next one.
            del batch

    def _begin(self, batch: Sequence[Payload]) -> None:
        task = asyncio.create_task(self._deliver(batch))
        self._batches[task] = len(batch)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._batches[task]
        self._free.release()

    async def _wait_for(self, payloads: int, most_s: float | None) -> None:
        self._woken.clear()
        if not self.source.arm(payloads):
            return
        try:
            async with asyncio.timeout(most_s):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _deliver(self, batch: Sequence[Payload]) -> None:
        left = self._redacted(batch) if self._redaction else batch
        attempt = 0
        try:
            while len(left):
                attempt += 1
                began = time.monotonic()
                failure = await self._attempt(left)
                self._time((time.monotonic() - began) * 1_000)
                if failure is None:
                    self.delivered += len(left)
                    left = ()
                    self._failing = False
                    return
                refused = left if failure.payloads is None else failure.payloads
                self.delivered += len(left) - len(refused)
                left = refused
                if not left:
                    return
                self._complain(failure)
                last = not failure.retry or attempt >= self.definition.attempts
                if last:
                    self.lose(len(left), failure.reason)
                    left = ()
                if failure.retry:
                    # After the last attempt, too: what is down is not asked by one batch after the other.
                    await asyncio.sleep(self._pause_s(attempt, failure))
                if last:
                    return
        except asyncio.CancelledError:
            self.lose(len(left), "shutdown")
            raise

    def _redacted(self, batch: Sequence[Payload]) -> Sequence[Payload]:
        redacted = []
        for payload in batch:
            try:
                redacted.append(self._redaction.apply(payload))
            except NotReadable as error:
                # What is to be hidden may be anywhere in it.
                self.trouble = f"a payload cannot be redacted: {error}"
                self.lose(1, "redaction")
        return redacted

    async def _attempt(self, batch: Sequence[Payload]) -> NotDelivered | None:
        try:
            async with asyncio.timeout(self.definition.timeout_ms / 1_000):
                await self.processor.process(batch)
        except NotDelivered as failure:
            return failure
        except TimeoutError:
            return NotDelivered(f"not done within {self.definition.timeout_ms} ms", reason="timeout")
        except Exception as error:
            if not self._failing:
                log.warning("payload processor %s failed", self.name, exc_info=error)
            return NotDelivered(repr(error))
        return None

    def _complain(self, failure: NotDelivered) -> None:
        # Once for a time of trouble; how many payloads it costs is told every minute.
        if not self._failing:
            log.warning("payload processor %s does not deliver: %s", self.name, failure)
        self._failing = True
        self.trouble = str(failure)

    def _pause_s(self, attempt: int, failure: NotDelivered) -> float:
        if failure.retry_after_s is not None:
            return min(failure.retry_after_s, self.definition.max_backoff_ms / 1_000)
        return backoff_ms(self.definition, attempt, self._random.random()) / 1_000

    def _time(self, milliseconds: float) -> None:
        at = next((at for at, most in enumerate(TIME_BOUNDS_MS) if milliseconds <= most), len(TIME_BOUNDS_MS))
        self.times[at] += 1
        self.time_ms += milliseconds

    async def close(self, timeout_s: float) -> None:
        """Delivers what waits, as far as that gets in time, and closes the processor.

        What is not delivered is counted as lost for the reason ``shutdown``, and logged.
        """
        self.hurry(timeout_s)
        self.source.close()
        self._woken.set()
        while self._left_s() > OWN_PART * timeout_s and (self.source.waiting or self._batches):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        await self._end(max(self._left_s(), _LEAST_S))

    def hurry(self, timeout_s: float) -> None:
        """Has no more than this time left for being closed."""
        until = time.monotonic() + timeout_s
        self._until = until if self._until is None else min(until, self._until)
        if self._limit is not None:
            soon = asyncio.get_running_loop().time() + max(OWN_PART * timeout_s, _LEAST_S)
            self._limit.reschedule(min(soon, self._limit.when() or soon))

    def _left_s(self) -> float:
        return 0.0 if self._until is None else self._until - time.monotonic()

    async def _end(self, timeout_s: float) -> None:
        self._loop.cancel()
        for task in self._batches:
            task.cancel()
        # One that does not heed its cancellation is left behind, counted.
        with contextlib.suppress(TimeoutError):
            await self._within(timeout_s / 2, asyncio.wait([self._loop, *self._batches]))
        for task, payloads in self._batches.items():
            self.lose(0 if task.done() else payloads, "shutdown")
        while batch := self.source.take(10_000):
            self.lose(len(batch), "shutdown")
        try:
            own_s = max(min(timeout_s / 2, self._left_s()), _LEAST_S / 2)
            await self._within(own_s, self.processor.close(own_s))
        except Exception:
            log.exception("payload processor %s could not be closed in order", self.name)
        self.tell_losses()

    async def _within(self, timeout_s: float, work: Awaitable[object]) -> None:
        """Awaits that, but no longer than this, or than it is told by `hurry` meanwhile."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                self._limit = limit
                await work
        finally:
            self._limit = None


def backoff_ms(definition: Definition, attempt: int, draw: float) -> float:
    """How long to wait after so many attempts, milliseconds.

    Args:
        draw: at least 0 and below 1, by chance: it moves the wait by a half, so that those who failed together do not
            come back together.
    """
    whole = min(definition.backoff_ms * 2.0 ** min(attempt - 1, 30), definition.max_backoff_ms)
    return whole * (0.5 + draw / 2)
