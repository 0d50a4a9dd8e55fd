import asyncio
import threading
from functools import partial

import grpc
import pytest

from mesh.runtimes import RuntimeFailure
from mesh.runtimes.python.workers import FairPool, run_in_ended_thread, run_in_own_thread


class Gate:
    """Work that goes on when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def work(self) -> str:
        self.entered.release()
        assert self.open.wait(10)
        return "done"

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


async def test_a_slow_model_leaves_threads_to_the_others() -> None:
    pool = FairPool(threads=2, per_model=1, max_waiting=100)
    gate = Gate()
    slow = [asyncio.create_task(pool.run("slow", gate.work)) for _ in range(5)]
    await gate.wait_entered()
    for number in range(10):
        assert await asyncio.wait_for(pool.run("quick", partial(int, number)), 10) == number
    gate.open.set()
    assert await asyncio.gather(*slow) == ["done"] * 5
    pool.close()


async def test_models_take_turns() -> None:
    pool = FairPool(threads=1, per_model=1, max_waiting=100)
    gate = Gate()
    order: list[str] = []
    first = asyncio.create_task(pool.run("a", gate.work))
    await gate.wait_entered()
    rest = [asyncio.create_task(pool.run(model, partial(order.append, model))) for model in "aaaabbc"]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, *rest)
    assert order.index("c") <= 2
    assert order[-1] == "a"
    pool.close()


async def test_too_many_waiting_for_one_model_are_refused_and_others_are_not() -> None:
    pool = FairPool(threads=2, per_model=1, max_waiting=2)
    gate = Gate()
    held = [asyncio.create_task(pool.run("a", gate.work)) for _ in range(3)]
    await gate.wait_entered()
    with pytest.raises(RuntimeFailure) as caught:
        await pool.run("a", gate.work)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await pool.run("b", lambda: 1) == 1
    gate.open.set()
    await asyncio.gather(*held)
    pool.close()


async def test_what_is_given_up_while_it_waits_is_never_run() -> None:
    pool = FairPool(threads=1, per_model=1, max_waiting=10)
    gate = Gate()
    ran = threading.Event()
    held = asyncio.create_task(pool.run("a", gate.work))
    await gate.wait_entered()
    waiting = asyncio.create_task(pool.run("a", ran.set))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open.set()
    await held
    assert await pool.run("a", lambda: 2) == 2
    assert not ran.is_set()
    pool.close()


async def test_what_is_given_up_while_it_runs_is_waited_for() -> None:
    """Else a model could be unloaded under it."""
    pool = FairPool(threads=1, per_model=1, max_waiting=10)
    gate = Gate()
    held = asyncio.create_task(pool.run("a", gate.work))
    await gate.wait_entered()
    held.cancel()
    done, _ = await asyncio.wait([held], timeout=0.1)
    assert not done
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await held
    pool.close()


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [SystemExit(3), StopIteration(), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_nothing_that_user_code_raises_ends_the_server(error: BaseException) -> None:
    pool = FairPool(threads=1, per_model=1, max_waiting=10)
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await pool.run("a", lambda: raise_(error))
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await run_in_own_thread("t", lambda: raise_(error))
    with pytest.raises(RuntimeError, match=type(error).__name__):
        run_in_ended_thread(lambda: raise_(error))
    assert await pool.run("a", lambda: 1) == 1
    pool.close()
