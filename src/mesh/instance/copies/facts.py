"""What is known of models' copies when it is decided how many there should be."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from mesh.instance.candidates import Candidates
from mesh.instance.loader import Loader
from mesh.instance.routes import Routes
from mesh.placement import ClusterStats, CopyPolicy, CopyState, InstanceView
from mesh.placement.copies import CopiesNow, CopyHere, Demands, ScalingFigures
from mesh.registry import ModelRecord, Registry


class Figures:
    """The figures of scaling, as the settings have them and as operators change them while the instance runs."""

    def __init__(self, configured: ScalingFigures) -> None:
        self._configured = self.now = configured

    def __call__(self) -> ScalingFigures:
        """As they are now."""
        return self.now

    def set_rpm_threshold(self, rpm: int | None) -> None:
        """Replaces the requests per minute of one copy; None for what the settings say."""
        self.now = replace(self._configured, rpm_threshold=rpm or self._configured.rpm_threshold)


class CopyFacts:
    """What one instance knows of models' copies.

    Args:
        loader: None for a pure router.
        own_view: this instance as a place for models; None where it takes none now.
        demands: what its copies are asked.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        routes: Routes,
        candidates: Candidates,
        loader: Loader | None,
        own_view: Callable[[], InstanceView | None],
        demands: Demands,
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._routes = routes
        self._candidates = candidates
        self._loader = loader
        self._demands = demands
        self.own_view = own_view

    def places(self) -> Mapping[str, InstanceView]:
        """Every instance that models can go to, by id."""
        self._candidates.refresh()
        return self._candidates.ranked.views

    def stats(self, model_type: str) -> ClusterStats:
        """How full the instances are on which a type can live."""
        return self._candidates.ranked.stats(model_type)

    def now(self, model_id: str, record: ModelRecord) -> CopiesNow:
        """The model's copies on instances that stay."""
        self._candidates.refresh()
        listed = {instance_id for instance_id in record.copies if self._routes.stays(instance_id)}
        loaded = len(listed.intersection(self._routes.usable(model_id).loaded))
        failed = sum(self._routes.stays(instance_id) for instance_id in record.failures.keys() - listed)
        return CopiesNow(
            loaded=loaded,
            loading=len(listed) - loaded,
            possible=self.stats(record.type).instances - failed,
            policy=CopyPolicy.from_members(record.policy),
        )

    def here(self, now_ms: int, *, lone: bool) -> list[CopyHere]:
        """The loaded copies of this instance that their records list.

        Args:
            now_ms: epoch milliseconds.
            lone: also those of models without a policy that have no other copy, which are most.
        """
        if self._loader is None:
            return []
        found = []
        stats: dict[str, ClusterStats] = {}
        for copy in self._loader.copies():
            record = self._registry.models.get(copy.model_id)
            if copy.state is not CopyState.LOADED or record is None or self._instance_id not in record.copies:
                continue
            if not lone and not record.policy and len(record.copies) == 1:
                continue
            if record.type not in stats:
                stats[record.type] = self.stats(record.type)
            found.append(
                CopyHere(
                    copy.model_id,
                    copy.units,
                    last_used_ms=copy.last_used_ms,
                    since_ms=record.copies[self._instance_id],
                    in_flight=copy.in_flight,
                    others={
                        other: since_ms
                        for other, since_ms in record.copies.items()
                        if other != self._instance_id and self._routes.stays(other)
                    },
                    last_unload_ms=record.last_unload,
                    policy=CopyPolicy.from_members(record.policy),
                    demand=self._demands.view(copy.model_id, now_ms),
                    stats=stats[record.type],
                )
            )
        return found
