"""The parts of an instance that have to do with vmodels, put together."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from mesh.dataplane import DataPlane
from mesh.instance.catalog import Catalog
from mesh.instance.peers import Peers
from mesh.instance.placer import Placer
from mesh.instance.registration import Registration
from mesh.instance.routes import Routes
from mesh.instance.settings import Settings
from mesh.instance.vmodels.aliases import Aliases
from mesh.instance.vmodels.comparisons import Comparisons
from mesh.instance.vmodels.records import VModelRecords
from mesh.instance.vmodels.references import ReferenceAudit
from mesh.instance.vmodels.requests import VModelRequests
from mesh.instance.vmodels.service import VModelService
from mesh.instance.vmodels.transitions import Transitions
from mesh.instance.vmodels.trials import Trials
from mesh.instance.vmodels.vmodels import VModels
from mesh.placement import DecisionRing
from mesh.registry import Registry

#: How often the data plane is asked what comparisons with shadows it has made, seconds: it keeps few of them.
COMPARISONS_INTERVAL_S = 5.0

Loop = tuple[str, float, Callable[[], Awaitable[None]]]
"""What is done, every how many seconds, and how."""


@dataclass(frozen=True, slots=True)
class VModelParts:
    """Made and not yet started.

    Attributes:
        api: what the management API asks for.
        service: ``mesh.vmodels.v1.VModels``.
        requests: finds models for requests that the data plane could not bring to a copy.
        comparisons: of shadows with the models whose requests they get.
        settings: of the instance.
        aliases: keeps those of the data plane.
        transitions: brings vmodels to their targets, where this instance leads.
        trials: keeps canaries and shadows loaded, where this instance leads.
        audit: mends counts of references, where this instance leads.
    """

    api: VModels
    service: VModelService
    requests: VModelRequests
    comparisons: Comparisons
    settings: Settings
    aliases: Aliases
    transitions: Transitions
    trials: Trials
    audit: ReferenceAudit

    def start(self) -> None:
        """Follows the vmodels of the registry, and leads where this instance is the leader; routes come before."""
        self.aliases.start()
        if not self.settings.lifecycle.read_only:
            self.transitions.start()

    def loops(self) -> Iterator[Loop]:
        """What is to be done again and again; what the leader does is nothing while another instance leads."""
        yield "comparing shadows", COMPARISONS_INTERVAL_S, self.comparisons.keep_reading
        if not self.settings.lifecycle.read_only:
            settings = self.settings.vmodels
            review_s = settings.review_interval_ms / 1_000
            yield "review of transitions", review_s, self.transitions.review
            yield "review of canaries and shadows", review_s, self.trials.review
            yield "audit of references", settings.audit_interval_ms / 1_000, self.audit.run

    async def close(self) -> None:
        """Ends what is under way."""
        await self.transitions.close()
        await self.trials.close()


def assemble_vmodels(
    settings: Settings,
    registry: Registry,
    dataplane: DataPlane,
    routes: Routes,
    peers: Peers,
    registration: Registration,
    placer: Placer,
    catalog: Catalog,
    ring: DecisionRing,
    *,
    now_ms: Callable[[], int],
    steady_ms: Callable[[], int],
) -> VModelParts:
    """Makes the parts.

    Args:
        now_ms: epoch milliseconds.
        steady_ms: the same, and never goes back.
    """
    records = VModelRecords(registry, read_only=settings.lifecycle.read_only)
    comparisons = Comparisons(settings.instance_id, registry, dataplane, now_ms)
    return VModelParts(
        api=VModels(registry, records, catalog, default_owner=settings.vmodels.default_owner, now_ms=now_ms),
        service=VModelService(registry, records, catalog, peers, comparisons, now_ms),
        requests=VModelRequests(records, routes),
        comparisons=comparisons,
        settings=settings,
        aliases=Aliases(settings.instance_id, registry, dataplane, routes, peers, registration),
        transitions=Transitions(
            registry,
            records,
            catalog,
            placer,
            ring,
            patience_ms=settings.vmodels.patience_ms,
            now_ms=steady_ms,
        ),
        trials=Trials(registry, placer, routes, now_ms),
        audit=ReferenceAudit(registry),
    )
