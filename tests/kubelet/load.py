"""Clients that ask a model all the time, at whichever pods the Service has."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from tests.kubelet.installation import PATIENCE_S, Namespace

_LOOK_S = 0.2
_CLIENTS = 4


class Load:
    """Asks until the end of the block; notes what was answered, and what failed.

    As clients of a Service do, it has a connection to each ready pod, and sends requests to them in turn.

    Args:
        namespace: where the mesh is.
        model: an InferenceService for ``examples/custom_runtime.py`` with the weights 2 and 3.

    Attributes:
        biases: of the model, as answers tell them, in the order of the answers.
        failures: what clients were told.
    """

    def __init__(self, namespace: Namespace, model: str) -> None:
        self._namespace = namespace
        self._model = model
        self._stop = asyncio.Event()
        self._clients: dict[str, tritonclient.grpc.aio.InferenceServerClient] = {}
        self._addresses: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.biases: list[float] = []
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        await self._look()
        self._tasks = [asyncio.create_task(self._follow())]
        self._tasks += [asyncio.create_task(self._ask_on()) for _ in range(_CLIENTS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        for client in self._clients.values():
            await client.close()

    async def go_on(self, answers: int = 20) -> None:
        """Waits for so many more answers."""
        enough = len(self.biases) + answers
        await self.until(lambda: len(self.biases) >= enough)

    async def until_bias(self, bias: float) -> None:
        """Waits for an answer of a model with this bias."""
        await self.until(lambda: bool(self.biases) and self.biases[-1] == bias)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                await asyncio.sleep(0.02)

    async def _follow(self) -> None:
        while not self._stop.is_set():
            await self._look()
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        ready = await asyncio.to_thread(self._namespace.addresses)
        for address in ready:
            if address not in self._clients:
                self._clients[address] = tritonclient.grpc.aio.InferenceServerClient(address)
        self._addresses = ready

    async def _ask_on(self) -> None:
        tensor = tritonclient.grpc.InferInput("x", [1, 2], "FP64")
        tensor.set_data_from_numpy(numpy.array([[1.0, 10.0]]))
        turn = 0
        while not self._stop.is_set():
            turn += 1
            address = self._addresses[turn % len(self._addresses)] if self._addresses else "nowhere"
            try:
                answer = await self._clients[address].infer(self._model, [tensor], client_timeout=30)
                found = answer.as_numpy("y")
                assert found is not None
                self.biases.append(float(found[0]) - 32.0)
            except (InferenceServerException, KeyError) as problem:
                self.failures.append(f"at {address}: {problem}")
            await asyncio.sleep(0.02)
