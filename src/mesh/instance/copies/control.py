"""All that one instance does about the number of copies, put together."""

from collections.abc import Awaitable, Callable

from mesh.instance.candidates import Candidates
from mesh.instance.chronicle import Chronicle
from mesh.instance.copies.facts import CopyFacts, Figures
from mesh.instance.copies.growing import Growing
from mesh.instance.copies.leaving import Leaving
from mesh.instance.copies.minimum import MinimumCopies
from mesh.instance.copies.reports import CopyReports
from mesh.instance.copies.scaling import Scaling
from mesh.instance.copies.thinning import Thinning
from mesh.instance.dynamic import DynamicSettings
from mesh.instance.loader import Loader
from mesh.instance.metrics import Metrics
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.registration import Registration
from mesh.instance.routes import Routes
from mesh.instance.settings import CopySettings
from mesh.placement import DecisionRing, InstanceView
from mesh.placement.copies import Demands
from mesh.registry import Registry

#: Models whose policies or copies changed are looked at this often, seconds.
CHANGED_S = 0.5


class CopyControl:
    """How many copies models have, as far as one instance sees to it.

    Args:
        own_view: this instance as a place for models; None where it takes none now.
        loader: None for a pure router, which sees only to the copies that policies ask for.
        now_ms: epoch milliseconds.

    Attributes:
        loops: what is to run again and again: name, interval in seconds, one run.
    """

    def __init__(
        self,
        settings: CopySettings,
        instance_id: str,
        registry: Registry,
        routes: Routes,
        candidates: Candidates,
        placer: Placer,
        peers: Peers,
        registration: Registration,
        loader: Loader | None,
        own_view: Callable[[], InstanceView | None],
        ring: DecisionRing,
        chronicle: Chronicle,
        metrics: Metrics,
        dynamic: DynamicSettings,
        now_ms: Callable[[], int],
    ) -> None:
        figures = Figures(settings.figures)
        dynamic.on("scaleup_rpm_threshold", _rpm_threshold, figures.set_rpm_threshold)
        demands = Demands(figures)
        facts = CopyFacts(instance_id, registry, routes, candidates, loader, own_view, demands)
        reports = CopyReports(ring, metrics, now_ms)
        self._growing = Growing(
            placer, reports, lambda model_id: demands.copies_changed(model_id, now_ms()), now_ms
        )
        self._minimum = MinimumCopies(registry, facts, self._growing, now_ms)
        metrics.show("copies_missing", "Copies that policies ask for and that are not there", self._missing)
        look_s = settings.look_interval_ms / 1_000
        self.loops: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("keeping minimum copies", CHANGED_S, self._minimum.look)
        ]
        self._scaling: Scaling | None = None
        self._registry = registry
        if loader is None:
            return
        self._scaling = Scaling(
            registry, facts, demands, self._growing, figures, peers, loader.max_concurrency, now_ms
        )
        loader.watch_usage(self._scaling.note)
        chronicle.watch_loads(self._scaling.load_ended)
        metrics.show(
            "busiest_copy_load_percent",
            "Of the copy here that was asked most in the last interval, in parts of what one copy is to take",
            lambda: demands.busiest_percent,
        )
        thinning = Thinning(
            registry,
            facts,
            placer,
            Leaving(peers, loader, registration),
            reports,
            figures,
            now_ms,
        )
        self.loops.append(("scaling", look_s, self._scaling.look))
        self.loops.append(("taking copies away", look_s, thinning.take_away))
        if settings.rebalance:
            self.loops.append(("rebalancing", look_s, thinning.rebalance))

    def start(self) -> None:
        """Follows the records."""
        self._minimum.start()
        if self._scaling is not None:
            self._scaling.start()

    async def close(self) -> None:
        """Ends what is under way."""
        if self._scaling is not None:
            await self._scaling.close()
        await self._growing.close()

    def _missing(self) -> float | None:
        return self._minimum.missing if self._registry.election.leading else None


def _rpm_threshold(text: str) -> int:
    """As KServe ModelMesh reads the key: at least 10."""
    rpm = int(text)
    if rpm < 10:
        raise ValueError("must be at least 10 requests per minute")
    return rpm
