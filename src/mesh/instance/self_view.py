"""What an instance tells of itself: to its peers, to its own placer, and to metrics."""

from collections.abc import Callable

from mesh.instance.candidates import view_of
from mesh.instance.loader import Loader
from mesh.instance.metrics import InstanceGauges
from mesh.instance.settings import Settings
from mesh.instance.usage import Rates
from mesh.instance.versions import version_number
from mesh.placement import NEVER_USED_MS, UNIT_BYTES, InstanceView
from mesh.registry import EMPTY_CACHE, InstanceRecord


class SelfView:
    """An instance as others see it.

    Args:
        loader: None for a pure router.
        rates: of the requests to its copies.
        started_ms: epoch milliseconds.
        endpoint: ``host:port`` where peers reach it, once it is known.

    Attributes:
        leaving: it hands its models over and takes no more.
        runtime_up: its model server answers.
        type_rules: `TypeConstraints.digest` of the rules in effect.
    """

    def __init__(
        self,
        settings: Settings,
        loader: Loader | None,
        rates: Rates,
        started_ms: int,
        endpoint: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._loader = loader
        self._rates = rates
        self._started_ms = started_ms
        self._endpoint = endpoint
        self.leaving = False
        self.type_rules = ""
        self.runtime_up = loader is not None

    def record(self) -> InstanceRecord:
        """For the registry. An instance that cannot load tells no capacity, so that nobody chooses it."""
        settings = self._settings
        told = InstanceRecord(
            start_time=self._started_ms,
            version=version_number(settings.version),
            location=settings.location,
            zone=settings.zone,
            labels=settings.labels,
            actionable=True,
            oldest_use=EMPTY_CACHE,
            request_rate=self._rates.load,
            shutting_down=self.leaving,
            endpoint=self._endpoint(),
            type_rules=self.type_rules,
        )
        if self._loader is None or not self.runtime_up:
            return told
        cache = self._loader.cache
        return told.but(
            oldest_use=EMPTY_CACHE if cache.oldest_used_ms == NEVER_USED_MS else cache.oldest_used_ms,
            count=len(cache),
            capacity=cache.capacity_units,
            used=cache.used_units + cache.pending_units,
            loading_threads=cache.limits.loader_threads,
            loads_in_progress=cache.loads_in_progress,
        )

    def candidate(self) -> InstanceView | None:
        """As a place for a model; None where it takes none."""
        if self._loader is None or not self.runtime_up or self.leaving:
            return None
        return view_of(self._settings.instance_id, self.record())

    def gauges(self) -> InstanceGauges:
        """For metrics."""
        if self._loader is None:
            return InstanceGauges(None, 0, 0, 0)
        cache = self._loader.cache
        oldest_ms = cache.oldest_used_ms
        return InstanceGauges(
            oldest_used_ms=None if oldest_ms == NEVER_USED_MS else oldest_ms,
            capacity_bytes=cache.capacity_units * UNIT_BYTES,
            used_bytes=cache.used_units * UNIT_BYTES,
            models=len(cache),
            deficit_bytes=cache.deficit_units * UNIT_BYTES,
            loads_running=cache.loads_running,
            loads_waiting=cache.loads_in_progress - cache.loads_running,
        )
