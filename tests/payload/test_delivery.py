"""One processor at work, with a queue of plain Python."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric

from mesh.payload import Definition, NotDelivered, Payload
from mesh.payload.delivery import Delivery, backoff_ms
from mesh.payload.messages import parse, tensors_of
from tests.payload.inference import infer_request
from tests.payload.parts import request, response


class Queue:
    """As the data plane's."""

    id = 1

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.closed = False
        self.wanted = 0
        self.wake: Callable[[], None] = lambda: None

    def put(self, *payloads: Payload) -> None:
        self.payloads += payloads
        if self.wanted and len(self.payloads) >= self.wanted:
            self.wanted = 0
            self.wake()

    @property
    def waiting(self) -> int:
        return len(self.payloads)

    def arm(self, least: int) -> bool:
        self.wanted = least if len(self.payloads) < least else 0
        return bool(self.wanted)

    def take(self, most: int) -> Sequence[Payload]:
        taken, self.payloads = self.payloads[:most], self.payloads[most:]
        return taken

    def close(self) -> None:
        self.closed = True

    def losses(self) -> dict[str, int]:
        return {"queue_full": 0}


class Scripted:
    """Does with each batch what it is told to, in turn; takes all that come later."""

    def __init__(self, *outcomes: BaseException | float | None) -> None:
        self.outcomes = list(outcomes)
        self.batches: list[Sequence[Payload]] = []
        self.closed = False
        self.at_once = self.most_at_once = 0

    async def process(self, batch: Sequence[Payload]) -> None:
        self.batches.append(batch)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            match self.outcomes.pop(0) if self.outcomes else None:
                case float() as seconds:
                    await asyncio.sleep(seconds)
                case BaseException() as error:
                    raise error
        finally:
            self.at_once -= 1

    async def close(self, timeout_s: float) -> None:
        self.closed = True

    def collect(self) -> Iterable[Metric]:
        return ()


def _deliver(processor: Scripted, **members: object) -> tuple[Delivery[Queue], Queue]:
    definition = Definition(uri="test:", **{"batch_wait_ms": 1, "backoff_ms": 1} | members)  # type: ignore[arg-type]
    queue = Queue()
    delivery = Delivery("tested", definition, processor, queue)
    queue.wake = delivery.wake
    return delivery, queue


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_payloads_come_in_batches_in_order_and_none_is_lost() -> None:
    processor = Scripted()
    delivery, queue = _deliver(processor, batch_size=10, consumers=1)
    payloads = [request(str(number).encode()) for number in range(95)]
    queue.put(*payloads[:1])
    await _until(lambda: processor.batches)
    queue.put(*payloads[1:])
    await _until(lambda: delivery.delivered == 95)
    assert [payload for batch in processor.batches for payload in batch] == payloads
    assert max(map(len, processor.batches)) == 10
    await delivery.close(1)
    assert (processor.closed, queue.closed, delivery.losses) == (True, True, Counter())


async def test_a_batch_waits_for_others_but_not_for_long() -> None:
    processor = Scripted()
    delivery, queue = _deliver(processor, batch_size=10, batch_wait_ms=60_000)
    queue.put(*[request()] * 4)
    await asyncio.sleep(0.05)
    assert not processor.batches
    queue.put(*[request()] * 6)
    await _until(lambda: delivery.delivered == 10)
    queue.put(request())
    # Nobody waits for company at the end.
    await delivery.close(5)
    assert delivery.delivered == 11


async def test_what_is_to_be_hidden_is_hidden_before_it_is_delivered_or_not_delivered_at_all() -> None:
    processor = Scripted(NotDelivered("busy"))
    delivery, queue = _deliver(processor, redact_tensors=("card",), redact_headers=("authorization",))
    secret = infer_request(card=[4111.0], amount=[2.5]).SerializeToString()
    headers = (("authorization", "Bearer s"), ("x-a", "1"))
    queue.put(request(secret, metadata=headers), request(b"\xff secret"), response(None, status="INTERNAL"))
    await _until(lambda: delivery.delivered == 2)
    await delivery.close(5)
    for sent in processor.batches:
        assert len(sent) == 2
        assert sent[0].metadata == (("authorization", "[redacted]"), ("x-a", "1"))
        card, amount = tensors_of(parse(sent[0]))
        assert (card.array.tolist(), amount.array.tolist()) == ([0.0], [2.5])
    assert delivery.losses == Counter({"redaction": 1})


@pytest.mark.parametrize(
    ("outcome", "reason", "attempts"),
    [
        (NotDelivered("busy"), "failed", 3),
        (NotDelivered("never", retry=False), "refused", 1),
        (NotDelivered("slow", reason="timeout"), "timeout", 3),
        (RuntimeError("a bug"), "failed", 3),
        (60.0, "timeout", 3),
    ],
)
async def test_what_is_not_delivered_is_tried_again_and_then_counted(
    outcome: BaseException | float, reason: str, attempts: int
) -> None:
    processor = Scripted(*[outcome] * 3)
    delivery, queue = _deliver(processor, attempts=3, timeout_ms=50, consumers=1)
    queue.put(request(), request())
    await _until(lambda: delivery.losses)
    assert delivery.losses == {reason: 2}
    assert len(processor.batches) == attempts
    queue.put(request())
    await _until(lambda: delivery.delivered == attempts - 2 or delivery.delivered == 1 or attempts < 3)
    await delivery.close(1)


async def test_another_attempt_is_made_of_what_is_left_alone() -> None:
    first, second, third = request(b"1"), request(b"2"), request(b"3")
    processor = Scripted(NotDelivered("one", [second]), NotDelivered("one again", [second]))
    delivery, queue = _deliver(processor)
    queue.put(first, second, third)
    await _until(lambda: delivery.delivered == 3)
    assert [list(batch) for batch in processor.batches] == [[first, second, third], [second], [second]]
    assert not delivery.losses
    await delivery.close(1)


async def test_several_batches_are_under_way_at_once_and_no_more() -> None:
    processor = Scripted(*[0.05] * 6)
    delivery, queue = _deliver(processor, batch_size=1, consumers=3)
    queue.put(*[request()] * 6)
    await _until(lambda: delivery.delivered == 6)
    assert processor.most_at_once == 3
    await delivery.close(1)


async def test_an_end_delivers_what_waits() -> None:
    processor = Scripted(*[0.02] * 10)
    delivery, queue = _deliver(processor, batch_size=1, consumers=1)
    queue.put(*[request()] * 10)
    await delivery.close(10)
    assert (delivery.delivered, delivery.losses, processor.closed) == (10, Counter(), True)


async def test_an_end_in_time_counts_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    processor = Scripted(*[60.0] * 10)
    delivery, queue = _deliver(processor, batch_size=2, consumers=2)
    queue.put(*[request()] * 10)
    await _until(lambda: len(processor.batches) == 2)
    async with asyncio.timeout(2):
        await delivery.close(0.2)
    assert (delivery.delivered, delivery.losses) == (0, {"shutdown": 10})
    assert processor.closed
    assert "lost 10 payloads" in caplog.text


async def test_an_end_that_takes_its_time_can_be_hurried() -> None:
    class Slow(Scripted):
        async def close(self, timeout_s: float) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await super().close(timeout_s)

    processor = Slow()
    delivery, _ = _deliver(processor)
    closing = asyncio.create_task(delivery.close(50))
    await asyncio.sleep(0.05)
    delivery.hurry(0.1)
    async with asyncio.timeout(5):
        await closing
    assert processor.closed


async def test_trouble_is_told_once_and_losses_by_number(caplog: pytest.LogCaptureFixture) -> None:
    processor = Scripted(*[NotDelivered("no room") for _ in range(6)])
    delivery, queue = _deliver(processor, batch_size=1, attempts=1, consumers=1)
    queue.put(*[request()] * 6)
    await _until(lambda: delivery.losses.total() == 6)
    delivery.tell_losses()
    delivery.tell_losses()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "payload processor tested does not deliver: no room",
        "payload processor tested lost 6 payloads in the last minute (failed 6); last trouble: no room",
    ]
    await delivery.close(1)


@given(
    st.integers(1, 1_000), st.integers(1, 10_000), st.integers(1, 60_000), st.floats(0, 1, exclude_max=True)
)
def test_waits_double_up_to_their_bound(attempt: int, first_ms: int, most_ms: int, draw: float) -> None:
    definition = Definition(uri="test:", backoff_ms=first_ms, max_backoff_ms=most_ms)
    wait_ms = backoff_ms(definition, attempt, draw)
    whole_ms = min(first_ms * 2 ** min(attempt - 1, 30), most_ms)
    assert whole_ms / 2 <= wait_ms <= whole_ms
