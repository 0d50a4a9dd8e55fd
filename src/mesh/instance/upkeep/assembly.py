"""Puts the parts of an instance's upkeep together."""

from collections.abc import Callable

from mesh.instance.candidates import Candidates
from mesh.instance.chronicle import Chronicle
from mesh.instance.loader import Loader
from mesh.instance.metrics import Metrics
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.registration import Registration
from mesh.instance.routes import Routes
from mesh.instance.settings import Settings
from mesh.instance.upkeep.janitor import Janitor
from mesh.instance.upkeep.leases import LeaselessInstances
from mesh.instance.upkeep.reaper import Reaper
from mesh.instance.upkeep.second_homes import SecondHomes
from mesh.instance.upkeep.sources import Sources
from mesh.instance.upkeep.upkeep import Upkeep
from mesh.placement import DecisionRing
from mesh.placement.upkeep import TidyingFigures
from mesh.registry import Registry
from mesh.runtimes import ModelRuntime


def make_upkeep(
    settings: Settings,
    registry: Registry,
    peers: Peers,
    routes: Routes,
    registration: Registration,
    loader: Loader | None,
    candidates: Candidates,
    placer: Placer,
    chronicle: Chronicle,
    ring: DecisionRing,
    runtime: ModelRuntime | None,
    metrics: Metrics,
    *,
    loading_timeout_ms: int,
    is_leaving: Callable[[], bool],
    now_ms: Callable[[], int],
) -> Upkeep:
    """Makes the loops of one instance.

    Args:
        loader: None for a pure router.
        runtime: the model server; None for a pure router.
        loading_timeout_ms: of the model server.
        is_leaving: whether copies here are being handed over.
        now_ms: epoch milliseconds; never goes back.
    """
    own_id, read_only = settings.instance_id, settings.lifecycle.read_only
    reaper = Reaper(
        registry,
        candidates,
        placer,
        routes,
        ring,
        prunes=not read_only,
        preloads=settings.upkeep.preload,
        dead_after_ms=settings.upkeep.dead_after_s * 1_000,
        idle_ttl_ms=settings.copies.idle_ttl_s * 1_000,
        now_ms=now_ms,
    )
    janitor: Janitor | None = None
    second_homes: SecondHomes | None = None
    if loader is not None:
        figures = TidyingFigures(failure_expiry_ms=settings.eviction.load_failure_expiry_ms)
        janitor = Janitor(own_id, registry, registration, loader, is_leaving, now_ms, figures)
        if settings.upkeep.reload_evicted:
            second_homes = SecondHomes(
                own_id,
                registry,
                routes,
                candidates,
                placer,
                ring,
                loading_timeout_ms=loading_timeout_ms,
                is_leaving=is_leaving,
                now_ms=now_ms,
            )
            chronicle.watch_evictions(second_homes.evicted)
    sources: Sources | None = None
    if runtime is not None and settings.upkeep.source_interval_s:
        sources = Sources(runtime, chronicle)
        text = "Models here whose data in storage is not what was loaded any more"
        metrics.show("instance_changed_models", text, sources.changed)
    leaseless = None if read_only else LeaselessInstances(own_id, registry, peers)
    return Upkeep(settings.upkeep, registry.election, reaper, janitor, second_homes, leaseless, sources)
