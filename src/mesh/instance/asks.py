"""Answers the data plane's asks: requests for which it has no usable copy."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

import grpc

from mesh.dataplane import Ask, DataPlane
from mesh.instance import logs
from mesh.instance.errors import MeshError, Reason, status_from_number
from mesh.instance.loader import Loader
from mesh.instance.metrics import Metrics
from mesh.instance.outcomes import RETRY_AFTER_S, error_of_record
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.routes import Routes
from mesh.instance.vmodels import VModelRequests
from mesh.placement import (
    AwaitLoad,
    FailRequest,
    GiveHeldAnswer,
    GiveUp,
    PlaceLoad,
    RequestCaps,
    RequestView,
    Trouble,
    UseCopies,
    next_step,
)
from mesh.registry import Registry
from mesh.tracing import Spans, enter

log = logging.getLogger(__name__)

#: A request that waited longer for a load counts as a cache miss, milliseconds; as KServe ModelMesh has it.
MISS_MS = 10
#: A model server beside this process takes a connection within this, seconds.
CONNECT_TIMEOUT_S = 1.0


class Asks:
    """Takes asks from one data plane and answers each, by a task of its own.

    Args:
        vmodel_requests: finds the models of requests for vmodels.
        loader: None for a pure router.
        runtime_endpoint: the model server's number in the data plane; None for a pure router.
        serving_address: where the model server takes requests.
        now_ms: epoch milliseconds.
        caps: how much is done for one request.
        spans: takes what is traced.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        dataplane: DataPlane,
        routes: Routes,
        peers: Peers,
        placer: Placer,
        vmodel_requests: VModelRequests,
        loader: Loader | None,
        runtime_endpoint: int | None,
        serving_address: str,
        metrics: Metrics,
        now_ms: Callable[[], int],
        caps: RequestCaps,
        spans: Spans,
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._vmodel_requests = vmodel_requests
        self._dataplane = dataplane
        self._routes = routes
        self._peers = peers
        self._placer = placer
        self._loader = loader
        self._runtime_endpoint = runtime_endpoint
        self._serving_address = serving_address
        self._metrics = metrics
        self._now_ms = now_ms
        self._caps = caps
        self._spans = spans
        self._answering: set[asyncio.Task[None]] = set()

    def take(self) -> None:
        """Begins to answer what has come in."""
        loop = asyncio.get_running_loop()
        for ask in self._dataplane.take_events():
            task = loop.create_task(self._answer(ask))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def close(self) -> None:
        """Answers no more; open asks are left to the end of the data plane."""
        tasks = tuple(self._answering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, ask: Ask) -> None:
        # This task's alone.
        logs.request_context.set(ask.context)
        enter(self._spans, ask.traceparent)
        try:
            await self._decide(ask)
        except MeshError as error:
            self._dataplane.answer_status(ask.token, error.status_number, error.message, error.details())
        except Exception:
            log.exception("request not decided", extra={"model": ask.model_id, "reason": ask.reason})
            bug = MeshError(
                grpc.StatusCode.INTERNAL,
                Reason.INTERNAL,
                "the mesh failed to bring the request to a copy; its log has the details",
                ask.model_id,
            )
            self._dataplane.answer_status(ask.token, bug.status_number, bug.message, bug.details())

    async def _decide(self, ask: Ask) -> None:
        self._learn(ask)
        if ask.is_vmodel:
            await self._vmodel_requests.bring(
                ask.model_id, ask.resolved_id, fresh=ask.attempt == 0, serve=partial(self._decide_for, ask)
            )
        else:
            await self._decide_for(ask, ask.model_id)

    def _learn(self, ask: Ask) -> None:
        """Takes in what the attempt that failed tells of the copy that was tried."""
        model_id = ask.resolved_id or ask.model_id
        peer = self._peers.at(ask.endpoint)
        match ask.reason:
            case "not_here" if peer is not None:
                self._routes.note_absent(model_id, peer)
            case "unreachable" | "broken" if peer is not None:
                self._routes.note_unreachable(peer)
            case "lost" if self._loader is not None:
                self._loader.lost(model_id, sent_ms_ago=ask.sent_ms_ago)
            case _:
                pass

    async def _decide_for(self, ask: Ask, model_id: str) -> None:
        if ask.from_peer:
            await self._decide_here(ask, model_id)
        else:
            await self._decide_anywhere(ask, model_id)

    async def _decide_here(self, ask: Ask, model_id: str) -> None:
        """A peer sent the request to the copy here: serve it here or say that there is none."""
        if ask.reason in _TROUBLE:
            # The peer knows the other copies, and another place if the server here is going away.
            if ask.reason == "unavailable" and await self._server_is_gone():
                self._dataplane.answer_not_here(ask.token)
            else:
                self._dataplane.answer_held(ask.token)
            return
        loading = None if self._loader is None else self._loader.waiting(model_id)
        if self._loader is not None and loading is not None:
            self._loader.hurry(model_id)
            outcome = await asyncio.shield(loading)
            if outcome.loaded:
                self._dataplane.answer_route(ask.token, model_id)
                return
        elif self._loader is not None and self._loader.is_serving(model_id) and ask.attempt == 0:
            self._dataplane.answer_route(ask.token, model_id)
            return
        self._dataplane.answer_not_here(ask.token)

    async def _decide_anywhere(self, ask: Ask, model_id: str) -> None:
        trouble = _TROUBLE.get(ask.reason, Trouble.NO_COPY)
        if trouble is Trouble.UNAVAILABLE and ask.endpoint == self._runtime_endpoint:
            # A server that stops answers its last requests so; then the model needs another place.
            gone = await self._server_is_gone()
        else:
            gone = ask.endpoint == self._runtime_endpoint and ask.reason in {"unreachable", "broken"}
        tried = self._instances(ask.tried)
        record = self._registry.models.get(model_id)
        request = RequestView(
            model_id,
            Trouble.NO_COPY if gone else trouble,
            attempts=ask.attempt,
            exhausted=ask.attempt if trouble is Trouble.EXHAUSTED else 0,
            tried=tried,
        )
        failures = (
            [(time, record.failure_message(name)) for name, time in record.failures.items()] if record else []
        )
        match next_step(request, self._routes.usable(model_id), failures, self._now_ms(), self._caps):
            case UseCopies():
                # What was decided by must be what the data plane has, or it would ask again at once.
                self._routes.refresh(model_id)
                self._dataplane.answer_route(ask.token, model_id)
            case AwaitLoad(instance_id) if instance_id != self._instance_id:
                self._answer_endpoint(ask, model_id, instance_id)
            case GiveHeldAnswer():
                self._dataplane.answer_held(ask.token)
            case FailRequest(reason=GiveUp.LOAD_FAILED) if record is not None:
                raise error_of_record(model_id, record)
            case FailRequest(message=message):
                raise _unserved(model_id, message, ask)
            case AwaitLoad() | PlaceLoad():
                await self._place(ask, model_id, tried, server_gone=gone)

    def _instances(self, endpoints: list[int]) -> frozenset[str]:
        found = {peer.instance_id for endpoint in endpoints if (peer := self._peers.at(endpoint)) is not None}
        if self._runtime_endpoint in endpoints:
            found.add(self._instance_id)
        return frozenset(found)

    def _answer_endpoint(self, ask: Ask, model_id: str, instance_id: str) -> None:
        endpoint = self._routes.endpoint_of(instance_id)
        if endpoint is None:
            raise _unserved(model_id, f"Instance {instance_id} left while it loaded model {model_id}", ask)
        self._dataplane.answer_endpoint(ask.token, endpoint, model_id)

    async def _server_is_gone(self) -> bool:
        """Whether the model server takes no connections: one that stops answers its last requests so."""
        address = self._serving_address
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if address.startswith("unix:"):
                    _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
                else:
                    host, _, port = address.rpartition(":")
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return True
        writer.close()
        return False

    async def _place(self, ask: Ask, model_id: str, tried: frozenset[str], *, server_gone: bool) -> None:
        if not server_gone:
            # That it lost the model does not keep this instance from loading it again.
            tried -= {self._instance_id}
        began = time.monotonic()
        found = await self._placer.ensure_copy(
            model_id,
            last_used_ms=self._now_ms(),
            urgent=True,
            balanced=ask.balanced,
            tried=tried,
        )
        elapsed_ms = (time.monotonic() - began) * 1_000
        if elapsed_ms > MISS_MS:
            self._metrics.observe("cache_miss_milliseconds", elapsed_ms, model_id)
        self._answer_endpoint(
            ask, model_id, self._instance_id if found.peer is None else found.peer.instance_id
        )


#: What an ask says of the copy that was tried; all else is the want of one.
_TROUBLE = {"unavailable": Trouble.UNAVAILABLE, "exhausted": Trouble.EXHAUSTED}


def _unserved(model_id: str, message: str, ask: Ask) -> MeshError:
    if ask.message:
        message += f"; the last answer was {status_from_number(ask.code).name}: {ask.message}"
    return MeshError(grpc.StatusCode.UNAVAILABLE, Reason.UNREACHABLE, message, model_id, RETRY_AFTER_S)
