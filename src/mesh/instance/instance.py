"""One instance of the mesh, put together from its parts."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from random import Random
from typing import Any

import grpc

from mesh.dataplane import DataPlane
from mesh.instance.admin_service import AdminService
from mesh.instance.asks import Asks
from mesh.instance.catalog import Catalog
from mesh.instance.census import Census
from mesh.instance.control import ControlServer
from mesh.instance.errors import MeshError
from mesh.instance.http import HttpEndpoint
from mesh.instance.loader import Loader
from mesh.instance.management import ManagementService
from mesh.instance.metrics import InstanceCollector, InstanceGauges, Metrics, serve_metrics
from mesh.instance.peer_service import PeerService
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.probes import Probes
from mesh.instance.publisher import Publisher
from mesh.instance.registration import Registration
from mesh.instance.routes import LocalCopies, Routes
from mesh.instance.settings import Settings
from mesh.instance.usage import Rates
from mesh.placement import (
    NEVER_USED_MS,
    UNIT_BYTES,
    CacheLimits,
    CopyState,
    DecisionRing,
    InstanceView,
    LoadTimes,
    LocalCache,
    RemovalReason,
    is_significant_change,
    to_units,
)
from mesh.registry import EMPTY_CACHE, InstanceRecord, Keys, ModelRecord, Registry, RegistryError, Store
from mesh.runtimes import LOST_MODEL_RULES, ModelRuntime, RuntimeLost, RuntimeParameters, RuntimeReturned

log = logging.getLogger(__name__)

#: The registry must be mirrored within this at the start, seconds; as KServe ModelMesh has it.
REGISTRY_START_TIMEOUT_S = 300.0
#: Models handed over at a time when the instance leaves; as KServe ModelMesh has it.
HAND_OVER_AT_ONCE = 10
#: A model that was used longer ago than this is not handed over, milliseconds; as KServe ModelMesh has it.
HAND_OVER_USED_WITHIN_MS = 3_600_000
#: Part of the shutdown budget kept for what follows the handing over, seconds; as KServe ModelMesh has it.
AFTER_HAND_OVER_S = 5.0
#: Between leaving the registry and refusing connections, seconds: others and load balancers take notice in it.
LEAVE_PAUSE_S = 2.0
#: Assumed size of a model where this instance has no model server to tell, bytes.
ROUTER_DEFAULT_MODEL_BYTES = 1 << 20


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Instance:
    """A mesh instance: started once, then drained or not, then closed.

    Args:
        settings: of the instance.
        store: of the registry; stays the caller's to close.
        runtime: the model server beside it, or None for a pure router; stays the caller's to close.

    Attributes:
        address: ``host:port`` for requests and the management API, once started.
        peer_address: ``host:port`` for other instances, once started.
    """

    def __init__(self, settings: Settings, store: Store, runtime: ModelRuntime | None) -> None:
        self.settings = settings
        self.address = ""
        self.peer_address = ""
        self._runtime = runtime
        self._registry = Registry(
            store, Keys(settings.service_name, settings.kv_prefix), settings.instance_id
        )
        self._ring = DecisionRing()
        self._metrics = Metrics(
            per_model=settings.metrics.per_model, full_method_names=settings.metrics.full_method_names
        )
        self._started_ms = _now_ms()
        self._serving = False
        self._leaving = False
        self._runtime_up = runtime is not None
        self._loader: Loader | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoints: list[HttpEndpoint | Probes] = []

    @property
    def ready(self) -> bool:
        """Whether requests can be sent here."""
        return self._serving

    async def start(self) -> None:
        """Joins the mesh; the instance serves when this returns.

        Raises:
            TimeoutError: the registry could not be read in time.
            RuntimeFailure: the model server failed or told impossible values.
            OSError: a port cannot be bound.
        """
        settings = self.settings
        if settings.probe_port is not None:
            self._endpoints.append(Probes(settings.host, settings.probe_port, lambda: self._serving))
        parameters = await self._start_parts()
        self._dataplane = DataPlane(
            shards=settings.shards,
            max_message_bytes=settings.max_message_bytes,
            max_metadata_bytes=settings.max_metadata_bytes,
            max_connection_age_ms=settings.max_connection_age_s * 1_000,
            max_connection_age_grace_ms=settings.max_connection_age_grace_s * 1_000,
            per_model_metrics=settings.metrics.per_model,
        )
        self._build(parameters)
        await self._control.start(self._dataplane)
        self.peer_address = self._dataplane.listen(f"{settings.host}:{settings.peer_port}", peers=True)
        await self._publisher.publish()
        self._routes.start()
        self._placer.start()
        self._census = Census(self._registry)
        self._registry.models.subscribe(self._model_changed)
        self._forget_earlier_life()
        self._asks.start()
        await self._stand_for_election()
        self._run(self._publisher.run())
        if self._loader is not None:
            self._run(self._loader.keep_reading_usage())
            self._run(self._watch_runtime())
        if settings.metrics.port is not None:
            collector = InstanceCollector(self._metrics, self._dataplane, self._gauges, self._census.gauges)
            self._endpoints.append(serve_metrics(collector, settings.host, settings.metrics.port))
        self.address = self._dataplane.listen(f"{settings.host}:{settings.port}", peers=False)
        await self._control.set_ready(True)
        self._serving = True
        log.info("serving", extra={"address": self.address, "peer_address": self.peer_address})

    async def _stand_for_election(self) -> None:
        try:
            await self._registry.election.stand()
        except RegistryError as error:
            # The registry remembers the candidacy and writes it as soon as it can.
            log.warning("not a candidate for leadership yet: %s", error)

    async def _start_parts(self) -> RuntimeParameters | None:
        registry = asyncio.ensure_future(self._registry.start(REGISTRY_START_TIMEOUT_S))
        if self._runtime is None:
            await registry
            return None
        runtime = asyncio.ensure_future(self._runtime.start())
        try:
            await asyncio.gather(registry, runtime)
        except BaseException:
            registry.cancel()
            runtime.cancel()
            await asyncio.gather(registry, runtime, return_exceptions=True)
            raise
        return runtime.result()

    def _build(self, parameters: RuntimeParameters | None) -> None:
        settings, dataplane = self.settings, self._dataplane
        own_id = settings.instance_id
        default_bytes = parameters.default_model_size_bytes if parameters else ROUTER_DEFAULT_MODEL_BYTES
        self._load_times = LoadTimes(parameters.loading_timeout_ms if parameters else 90_000)
        self._peers = Peers(dataplane)
        self._runtime_endpoint = self._connect_runtime(parameters)
        local = LocalCopies(
            endpoint=self._runtime_endpoint,
            is_serving=lambda model_id: self._loader is not None and self._loader.is_serving(model_id),
            max_concurrency=lambda model_id: self._loader.max_concurrency(model_id) if self._loader else 0,
            max_queued=settings.max_queued,
        )
        self._routes = Routes(
            own_id, self._registry, dataplane, self._peers, local, self._load_times.assume_loaded_ms, _now_ms
        )
        self._registration = Registration(self._registry, own_id, self._routes.live, _now_ms)
        self._rates = Rates()
        if parameters is not None and self._runtime is not None:
            self._loader = self._make_loader(parameters, self._runtime)
        self._parameters = parameters
        self._publisher = Publisher(self._registry, self._record, is_significant_change, _now_ms)
        self._placer = Placer(
            own_id,
            self._registry,
            self._routes,
            self._peers,
            self._loader,
            self._ring,
            self._view,
            default_model_units=to_units(default_bytes),
            failure_expiry_ms=settings.load_failure_expiry_ms,
            random=Random(),  # noqa: S311 - spreads load
            now_ms=_now_ms,
        )
        own = PeerService(own_id, self._placer, self._loader, dataplane, self._ring, self._rates)
        self._catalog = Catalog(own_id, self._registry, self._placer, self._peers, own, _now_ms)
        self._asks = Asks(
            own_id,
            self._registry,
            dataplane,
            self._routes,
            self._peers,
            self._placer,
            self._loader,
            self._runtime_endpoint,
            self._runtime.serving_address if self._runtime is not None else "",
            self._metrics,
            _now_ms,
        )
        self._control = ControlServer(
            ManagementService(self._catalog),
            AdminService(own_id, self._registry, self._peers, own),
            own,
            version=settings.version,
            max_message_bytes=settings.max_message_bytes,
        )
        config = settings.dataplane_config or settings.dataplane_config_file
        if config is not None:
            dataplane.set_rpcs(
                {
                    method: (tuple(rpc.get("idExtractionPath") or ()), bool(rpc.get("vModelId", False)))
                    for method, rpc in config.get("rpcConfigs", {}).items()
                },
                allow_other=bool(config.get("allowOtherRpcs", False)),
            )

    def _connect_runtime(self, parameters: RuntimeParameters | None) -> int | None:
        if parameters is None or self._runtime is None:
            return None
        self._dataplane.set_runtime_methods(
            {method: tuple(path) for method, path in parameters.methods.items()},
            allow_any=parameters.allow_any_method,
        )
        self._dataplane.set_status_rules(
            [
                *((_number(code), prefix, suffix, "lost") for code, prefix, suffix in LOST_MODEL_RULES),
                (_number(grpc.StatusCode.UNAVAILABLE), "", "", "unavailable"),
                # What a server of gRPC's own answers to its last requests when it is stopped.
                (_number(grpc.StatusCode.CANCELLED), "", "", "unavailable"),
                (_number(grpc.StatusCode.RESOURCE_EXHAUSTED), "", "", "exhausted"),
            ]
        )
        return self._dataplane.add_endpoint(self._runtime.serving_address, "runtime", "runtime")

    def _make_loader(self, parameters: RuntimeParameters, runtime: ModelRuntime) -> Loader:
        limits = CacheLimits.from_runtime(
            capacity_bytes=parameters.capacity_bytes,
            default_model_size_bytes=parameters.default_model_size_bytes,
            max_loading_concurrency=parameters.max_loading_concurrency,
            loading_timeout_ms=parameters.loading_timeout_ms,
            min_churn_age_ms=self.settings.min_churn_age_ms,
            failure_expiry_ms=self.settings.load_failure_expiry_ms,
        )
        return Loader(
            LocalCache(limits),
            runtime,
            self._dataplane,
            self._registration,
            self._ring,
            self._metrics,
            self._rates,
            on_copy_changed=self._copy_changed,
            on_load_time=self._load_times.add,
            now_ms=_now_ms,
        )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_log_end)
        self._tasks.append(task)

    # What changes

    def _copy_changed(self, model_id: str) -> None:
        self._routes.refresh(model_id)
        self._publisher.changed()

    def _model_changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        if new is None and self._loader is not None and self._loader.cache.copy(model_id) is not None:
            self._loader.remove(model_id, RemovalReason.UNREGISTERED)

    def _forget_earlier_life(self) -> None:
        """Takes back what an earlier process of this id had registered: its model server starts empty."""
        own_id = self.settings.instance_id
        for model_id, record in self._registry.models.items():
            if own_id in record.copies:
                self._registration.remove_copy(model_id)

    async def _watch_runtime(self) -> None:
        if self._runtime is None or self._loader is None:
            return
        async for event in self._runtime.watch():
            match event:
                case RuntimeLost(reason=reason):
                    log.error("model server lost: %s", reason)
                    self._runtime_up = False
                    self._loader.set_available(False)
                    self._loader.lost_all()
                case RuntimeReturned():
                    log.info("model server is back")
                    self._runtime_up = True
                    self._loader.set_available(True)
            self._publisher.changed()

    # What this instance tells of itself

    def _record(self) -> InstanceRecord:
        settings = self.settings
        cache = self._loader.cache if self._loader is not None and self._runtime_up else None
        oldest_ms = cache.oldest_used_ms if cache is not None else NEVER_USED_MS
        return InstanceRecord(
            start_time=self._started_ms,
            location=settings.location,
            zone=settings.zone,
            labels=settings.labels,
            actionable=True,
            oldest_use=EMPTY_CACHE if oldest_ms == NEVER_USED_MS else oldest_ms,
            count=len(cache) if cache is not None else 0,
            capacity=cache.capacity_units if cache is not None else 0,
            used=cache.used_units + cache.pending_units if cache is not None else 0,
            loading_threads=self._parameters.max_loading_concurrency if self._parameters else 0,
            loads_in_progress=cache.loads_in_progress if cache is not None else 0,
            request_rate=self._rates.total,
            shutting_down=self._leaving,
            endpoint=f"{settings.address}:{self.peer_address.rpartition(':')[2]}",
        )

    def _view(self) -> InstanceView | None:
        if self._loader is None or not self._runtime_up or self._leaving:
            return None
        record = self._record()
        return InstanceView(
            self.settings.instance_id,
            capacity_units=record.capacity,
            used_units=record.used,
            oldest_used_ms=self._loader.cache.oldest_used_ms,
            models=record.count,
            loader_threads=record.loading_threads,
            loads_in_progress=record.loads_in_progress,
            requests_per_minute=record.request_rate,
            zone=record.zone,
            labels=frozenset(record.labels),
            start_time_ms=record.start_time,
        )

    def _gauges(self) -> InstanceGauges:
        if self._loader is None:
            return InstanceGauges(None, 0, 0, 0)
        cache = self._loader.cache
        oldest_ms = cache.oldest_used_ms
        return InstanceGauges(
            oldest_used_ms=None if oldest_ms == NEVER_USED_MS else oldest_ms,
            capacity_bytes=cache.capacity_units * UNIT_BYTES,
            used_bytes=cache.used_units * UNIT_BYTES,
            models=len(cache),
        )

    # Leaving

    async def drain(self) -> None:
        """Leaves the mesh without failing a request: hands models over, then lets requests under way end.

        Copies here serve until others have them (make before break). Takes at most ``shutdown_timeout_ms``.
        """
        budget_s = self.settings.shutdown_timeout_ms / 1_000
        self._leaving = True
        log.info("leaving")
        if self._loader is not None:
            self._loader.stop_loading()
        await self._publisher.publish()
        if self._others():
            try:
                async with asyncio.timeout(max(2.0, budget_s - AFTER_HAND_OVER_S)):
                    await self._hand_over()
            except TimeoutError:
                log.warning("not all models were handed over in time")
        self._serving = False
        await self._control.set_ready(False)
        await self._registration.settle(1.0)
        try:
            await self._registry.withdraw()
        except RegistryError as error:
            log.warning("the record of this instance is left to the end of its session: %s", error)
        if self._others():
            await asyncio.sleep(LEAVE_PAUSE_S)
        self._dataplane.start_drain()

    def _others(self) -> bool:
        return any(
            not record.shutting_down and record.capacity
            for instance_id, record in self._registry.instances.items()
            if instance_id != self.settings.instance_id
        )

    async def _hand_over(self) -> None:
        if self._loader is None:
            return
        self._loader.read_usage()
        oldest_ms = _now_ms() - HAND_OVER_USED_WITHIN_MS
        copies = [
            copy
            for copy in self._loader.copies()
            if copy.state in {CopyState.LOADED, CopyState.SIZING}
            and (copy.last_used_ms > oldest_ms or copy.in_flight)
        ]
        copies.sort(key=lambda copy: copy.last_used_ms, reverse=True)
        slots = asyncio.Semaphore(HAND_OVER_AT_ONCE)

        async def hand_over(model_id: str, last_used_ms: int) -> None:
            async with slots:
                try:
                    await self._placer.copy_elsewhere(model_id, last_used_ms=last_used_ms)
                except MeshError as error:
                    log.warning("not handed over: %s", error, extra={"model": model_id})
                    return
                self._registration.remove_copy(model_id)

        await asyncio.gather(*(hand_over(copy.model_id, copy.last_used_ms) for copy in copies))

    async def close(self) -> None:
        """Ends everything that `start` began; requests under way get a few seconds."""
        self._serving = False
        if hasattr(self, "_dataplane"):
            grace_ms = int(AFTER_HAND_OVER_S * 1_000)
            if not await asyncio.to_thread(self._dataplane.close, grace_ms):
                log.warning("requests were cut off after %d ms", grace_ms)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "_asks"):
            await self._asks.close()
            await self._catalog.close()
            await self._placer.close()
            if self._loader is not None:
                await self._loader.close()
            await self._registration.close()
            self._routes.close()
            await self._peers.close()
            await self._control.close(0.5)
        for endpoint in self._endpoints:
            endpoint.close()
        await self._registry.close()


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a task of the instance broke off", exc_info=error)
