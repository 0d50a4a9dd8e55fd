"""Puts the parts of an instance together. What they do is theirs; who knows whom is written here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mesh.dataplane import DataPlane
from mesh.instance import logs
from mesh.instance.admin_service import AdminService
from mesh.instance.asks import Asks
from mesh.instance.calls import Calls
from mesh.instance.candidates import Candidates
from mesh.instance.catalog import Catalog
from mesh.instance.census import Census
from mesh.instance.chronicle import Chronicle
from mesh.instance.clock import SteadyClock
from mesh.instance.control import ControlServer, ServerAnswers
from mesh.instance.copies import CopyControl, Policies
from mesh.instance.dump import Dump, State
from mesh.instance.dynamic import DynamicSettings
from mesh.instance.first_loads import FirstLoads
from mesh.instance.health import Health
from mesh.instance.inbox import Inbox
from mesh.instance.loader import Loader
from mesh.instance.management import ManagementService
from mesh.instance.metrics import InstanceCollector, Metrics
from mesh.instance.model_server import Restarts, cache_limits, connect
from mesh.instance.overview import Overview
from mesh.instance.payloads import KEYS, Payloads, PayloadService, Processors
from mesh.instance.peer_service import PeerService, Pulls
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.publisher import Publisher
from mesh.instance.reconciliation import Reconciliation
from mesh.instance.recorder import Recorder
from mesh.instance.registration import Registration
from mesh.instance.request_log import RequestLog
from mesh.instance.routes import LocalCopies, Routes
from mesh.instance.self_view import SelfView
from mesh.instance.server_calls import ServerCalls
from mesh.instance.settings import Settings
from mesh.instance.settings.fields import boolean
from mesh.instance.tracing import Tracing, make_tracing
from mesh.instance.upkeep import Upkeep, make_upkeep
from mesh.instance.usage import Rates
from mesh.instance.vmodels import VModelParts, assemble_vmodels
from mesh.placement import (
    Bootstrap,
    DecisionRing,
    LoadTimes,
    LocalCache,
    RequestCaps,
    is_significant_change,
    to_units,
)
from mesh.registry import Registry
from mesh.runtimes import ModelInfo, ModelRuntime, OpenChannel, RuntimeParameters
from mesh.tracing import Spans

#: What a pure router assumes, having no model server to tell: model size in bytes, load time in milliseconds.
ROUTER_DEFAULT_MODEL_BYTES = 1 << 20
ROUTER_LOADING_TIMEOUT_MS = 90_000


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """An instance's parts, made and not yet started."""

    dataplane: DataPlane
    peers: Peers
    routes: Routes
    registration: Registration
    loader: Loader | None
    reconciliation: Reconciliation | None
    self_view: SelfView
    publisher: Publisher
    candidates: Candidates
    restarts: Restarts | None
    placer: Placer
    catalog: Catalog
    copies: CopyControl
    upkeep: Upkeep
    vmodels: VModelParts
    management: ManagementService
    admin: AdminService
    inbox: Inbox
    control: ControlServer
    collector: InstanceCollector
    dynamic: DynamicSettings
    request_log: RequestLog
    recorder: Recorder | None
    tracing: Tracing | None
    payloads: Payloads


def make_dataplane(settings: Settings) -> DataPlane:
    """The data plane, with the limits of the settings."""
    return DataPlane(
        shards=settings.shards,
        max_message_bytes=settings.max_message_bytes,
        max_metadata_bytes=settings.max_metadata_bytes,
        max_payload_bytes=settings.payloads.max_bytes,
        multi_parallelism=settings.multi_parallelism,
        max_connection_age_ms=settings.max_connection_age_s * 1_000,
        max_connection_age_grace_ms=settings.max_connection_age_grace_s * 1_000,
        per_model_metrics=settings.metrics.per_model,
        max_model_series=settings.metrics_options.max_model_series,
        model_series_idle_ms=settings.metrics_options.idle_ms,
    )


def assemble(
    settings: Settings,
    registry: Registry,
    runtime: ModelRuntime | None,
    parameters: RuntimeParameters | None,
    peer_address: Callable[[], str],
    open_channel: OpenChannel,
    health: Health,
    state: Callable[[], State],
) -> Parts:
    """Makes the parts.

    Args:
        runtime: the model server, started; None for a pure router.
        parameters: what it told of itself.
        peer_address: ``host:port`` where peers reach this instance, once it listens.
        open_channel: to peers.
        health: is told what keeps this instance from serving.
        state: collects what a dump shows.
    """
    own_id = settings.instance_id
    dataplane = make_dataplane(settings)
    metrics = Metrics(dataplane)
    tracing = make_tracing(settings, dataplane)
    spans = Spans() if tracing is None else tracing.spans
    if tracing is not None:
        metrics.register(tracing)
    limited = parameters is not None and parameters.limit_model_concurrency
    ring, rates, peers = DecisionRing(), Rates(limited=limited), Peers(dataplane, open_channel)
    load_times = LoadTimes(parameters.loading_timeout_ms if parameters else ROUTER_LOADING_TIMEOUT_MS)
    local = LocalCopies(max_queued=settings.max_queued)
    routes = Routes(own_id, registry, dataplane, peers, local, load_times.assume_loaded_ms, now_ms)
    registration = Registration(registry, own_id, routes.live, routes.is_leaving, now_ms)
    loader: Loader | None = None
    chronicle = Chronicle(ring, metrics, now_ms)
    steady_ms = SteadyClock()

    def load_took(model: ModelInfo, elapsed_ms: float) -> None:
        load_times.add(model.model_type, elapsed_ms)
        if recorder is not None:
            recorder.loaded(model, elapsed_ms)

    def copy_changed(model_id: str) -> None:
        routes.refresh(model_id)
        if reconciliation is not None:
            reconciliation.copy_changed(model_id)

    if runtime is not None and parameters is not None:
        local.endpoint = connect(dataplane, runtime, parameters)
        loader = Loader(
            LocalCache(cache_limits(settings.eviction, parameters), settings.eviction.policy),
            ServerCalls(runtime, metrics, load_took, steady_ms),
            dataplane,
            registration,
            chronicle,
            rates,
            on_copy_changed=copy_changed,
            # The publisher is made after the loader, whose figures it tells.
            on_change=lambda: publisher.changed(),  # noqa: PLW0108
            now_ms=steady_ms,
        )
        local.is_serving, local.is_loading = loader.is_serving, loader.is_loading
        local.max_concurrency = loader.max_concurrency
        if settings.lifecycle.fail_fast:
            clearance_ms = settings.lifecycle.clearance_ms
            first_loads = FirstLoads(
                Bootstrap(now_ms(), clearance_ms, parameters.loading_timeout_ms),
                own_id,
                registry,
                loader.loads_in_progress,
                lambda reason: health.fail("first loads", reason),
                now_ms,
            )
            chronicle.watch_loads(first_loads.ended)
    recorder: Recorder | None = None
    if settings.recording.path is not None and loader is not None:
        recorder = Recorder(settings.recording.path, own_id, loader.cache.copy)
        loader.watch_usage(recorder.note)
    self_view = SelfView(
        settings,
        loader,
        rates,
        now_ms(),
        peer_address,
    )
    reconciliation = (
        Reconciliation(own_id, registry, registration, loader, lambda: self_view.leaving, now_ms)
        if loader is not None
        else None
    )
    publisher = Publisher(registry, self_view.record, is_significant_change, steady_ms)
    candidates = Candidates(
        own_id,
        registry,
        self_view.candidate,
        default_model_units=to_units(
            parameters.default_model_size_bytes if parameters else ROUTER_DEFAULT_MODEL_BYTES
        ),
        now_ms=now_ms,
    )
    caps = RequestCaps(recent_ms=settings.eviction.load_failure_expiry_ms // 2)
    placer = Placer(
        own_id,
        registry,
        routes,
        peers,
        loader,
        ring,
        candidates,
        caps=caps,
        random=Random(),  # noqa: S311 - spreads load
        now_ms=now_ms,
    )
    upkeep = make_upkeep(
        settings,
        registry,
        peers,
        routes,
        registration,
        loader,
        candidates,
        placer,
        chronicle,
        ring,
        runtime,
        metrics,
        loading_timeout_ms=parameters.loading_timeout_ms if parameters else ROUTER_LOADING_TIMEOUT_MS,
        is_leaving=lambda: self_view.leaving,
        now_ms=steady_ms,
    )
    pulls: Pulls = (lambda: runtime.pulls) if runtime is not None else dict
    peer_service = PeerService(own_id, placer, loader, candidates, dataplane, ring, rates, pulls)
    catalog = Catalog(
        own_id,
        registry,
        placer,
        peers,
        peer_service,
        now_ms,
        read_only=settings.lifecycle.read_only,
    )
    vmodels = assemble_vmodels(
        settings,
        registry,
        dataplane,
        routes,
        peers,
        registration,
        placer,
        catalog,
        ring,
        now_ms=now_ms,
        steady_ms=steady_ms,
    )
    metrics.register(vmodels.comparisons)
    asks = Asks(
        own_id,
        registry,
        dataplane,
        routes,
        peers,
        placer,
        vmodels.requests,
        loader,
        local.endpoint,
        runtime.serving_address if runtime is not None else "",
        metrics,
        now_ms,
        caps,
        spans,
    )
    payloads = Payloads(settings.payloads, own_id, registry, dataplane, ring, now_ms)
    processors = Processors(registry, payloads, is_read_only=settings.lifecycle.read_only)
    metrics.register(payloads)
    census = Census(registry)
    overview = Overview(own_id, registry, peers, peer_service, census, now_ms, steady_ms)
    policies = Policies(registry, read_only=settings.lifecycle.read_only)
    admin = AdminService(own_id, registry, peers, peer_service, policies, overview)
    answers = ServerAnswers(settings.version)
    management = ManagementService(catalog, vmodels.api)
    rpcs = (
        management.rpcs()
        | admin.rpcs()
        | vmodels.service.rpcs()
        | PayloadService(own_id, payloads, processors).rpcs()
        | peer_service.rpcs()
        | answers.rpcs()
        | Dump(settings.dump_token, state).rpcs()
    )
    dynamic = DynamicSettings(registry.config)
    dynamic.leave_out(KEYS)
    logs.follow(dynamic, settings.log_level)
    copies = CopyControl(
        settings.copies,
        own_id,
        registry,
        routes,
        candidates,
        placer,
        peers,
        registration,
        loader,
        self_view.candidate,
        ring,
        chronicle,
        metrics,
        dynamic,
        now_ms,
    )
    # Of use only among instances of the Java process; accepted, so that it is no unknown key.
    dynamic.on("send_destination_id", boolean, lambda _: None)
    return Parts(
        dataplane=dataplane,
        peers=peers,
        routes=routes,
        registration=registration,
        loader=loader,
        reconciliation=reconciliation,
        self_view=self_view,
        publisher=publisher,
        candidates=candidates,
        restarts=Restarts(settings.eviction, dataplane, loader, candidates, load_times)
        if loader is not None
        else None,
        placer=placer,
        catalog=catalog,
        copies=copies,
        upkeep=upkeep,
        vmodels=vmodels,
        management=management,
        admin=admin,
        inbox=Inbox(dataplane, asks, Calls(dataplane, rpcs, spans), payloads),
        control=ControlServer(rpcs, answers, run_dir=settings.run_dir),
        collector=InstanceCollector(
            metrics,
            dataplane,
            self_view.gauges,
            census.gauges,
            lambda: health.ready,
            lambda: registry.models.lag,
            pulls,
            settings.metrics_options.info,
        ),
        dynamic=dynamic,
        request_log=RequestLog(dataplane, settings.request_log, dynamic),
        recorder=recorder,
        tracing=tracing,
        payloads=payloads,
    )
