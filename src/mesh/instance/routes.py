"""Keeps the data plane's routes in step with the registry and the copies of this instance."""

import asyncio
import logging
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from mesh.dataplane import DataPlane
from mesh.instance.peers import Peer, Peers
from mesh.placement import CopySeen, Usable, usable_copies
from mesh.registry import InstanceRecord, ModelRecord, Registry

log = logging.getLogger(__name__)

#: A peer's word that it has loaded a model counts for so long without the registry showing it, seconds.
WORD_TTL_S = 10.0
#: A peer that did not answer is avoided for so long, seconds; a dead one's session ends soon after.
SUSPICION_TTL_S = 5.0


@dataclass(slots=True)
class LocalCopies:
    """What routes need to know of this instance's own copies.

    Attributes:
        endpoint: of the model server in the data plane; None for a pure router.
        is_serving: whether a model's copy is loaded here.
        is_loading: whether a copy is on its way here.
        max_concurrency: requests that a copy takes at once; 0 for any number.
        max_queued: requests that may wait where so many are taken at once.
    """

    endpoint: int | None = None
    is_serving: Callable[[str], bool] = field(default=lambda _: False)
    is_loading: Callable[[str], bool] = field(default=lambda _: False)
    max_concurrency: Callable[[str], int] = field(default=lambda _: 0)
    max_queued: Callable[[int], int] = field(default=lambda _: -1)


class Routes:
    """Decides each model's route from its record and sets it in the data plane.

    A route holds the copies that are believed to be loaded: a record lists an instance from the start of its load
    on, so a copy counts after the time that loads of its type take, or at once where its instance said so. Where no
    copy counts yet, the one whose load began first is the route: its instance lets requests wait.

    Args:
        assume_loaded_ms: how long loads of a type take, milliseconds.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        dataplane: DataPlane,
        peers: Peers,
        local: LocalCopies,
        assume_loaded_ms: Callable[[str], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._dataplane = dataplane
        self._peers = peers
        self._local = local
        self._assume_loaded_ms = assume_loaded_ms
        self._now_ms = now_ms
        self._models_at: dict[str, set[str]] = {}
        self._routed: set[str] = set()
        self._words: dict[str, dict[str, asyncio.TimerHandle]] = {}
        self._suspects: dict[str, asyncio.TimerHandle] = {}
        self._ripening: dict[str, asyncio.TimerHandle] = {}
        self._on_refreshed: tuple[Callable[[str], None], ...] = ()

    def start(self) -> None:
        """Makes routes for what is there, and follows every change."""
        self._registry.instances.subscribe(self._instance_changed, replay=True)
        self._registry.models.subscribe(self._model_changed, replay=True)

    def on_refreshed(self, callback: Callable[[str], None]) -> None:
        """Has a function called with a model's id whenever its copies may have changed; it must be quick."""
        self._on_refreshed = (*self._on_refreshed, callback)

    def live(self, instance_id: str) -> bool:
        """Whether an instance is there, this one included."""
        return instance_id == self._instance_id or self._peers.get(instance_id) is not None

    def stays(self, instance_id: str) -> bool:
        """Whether an instance is there and not about to go."""
        return self.live(instance_id) and not self.is_leaving(instance_id)

    def note_loaded(self, model_id: str, peer: Peer) -> None:
        """A peer said that it has the model loaded; the registry may show it only later."""
        self._take_back_word(model_id, peer.instance_id)
        self._hold_word(model_id, peer.instance_id, WORD_TTL_S)
        self.refresh(model_id)

    def note_absent(self, model_id: str, peer: Peer) -> None:
        """A peer said that it has no copy: its earlier word is void."""
        self._take_back_word(model_id, peer.instance_id)
        self.refresh(model_id)

    def note_unreachable(self, peer: Peer) -> None:
        """A peer does not answer: for a while its copies are the last choice, until its session ends or it is back."""
        known = self._suspects.get(peer.instance_id)
        if known is not None:
            known.cancel()
        self._suspects[peer.instance_id] = asyncio.get_running_loop().call_later(
            SUSPICION_TTL_S, self._trust_again, peer.instance_id
        )
        if known is None:
            log.warning("peer does not answer", extra={"peer": peer.instance_id, "address": peer.address})
            self._refresh_all_at(peer.instance_id)

    def suspects(self) -> Iterable[str]:
        """Peers that did not answer a short while ago."""
        return self._suspects.keys()

    def refresh(self, model_id: str) -> None:
        """Decides the model's route anew."""
        usable = self.usable(model_id)
        # Where nothing is loaded yet, requests may wait at the instance that began to load first.
        instances = usable.loaded or usable.loading[:1]
        if usable.ripens_ms is not None and usable.loading[0] != self._instance_id:
            # That a copy here is loaded is told by the loader.
            self._refresh_later(model_id, (usable.ripens_ms - self._now_ms()) / 1_000)
        endpoints = [
            endpoint
            for instance_id in instances
            if (endpoint := self._endpoint_in_route(model_id, instance_id)) is not None
        ]
        if endpoints:
            limit = self._local.max_concurrency(model_id)
            self._dataplane.set_route(
                model_id, endpoints, max_concurrency=limit, max_queued=self._local.max_queued(limit)
            )
            self._routed.add(model_id)
        elif model_id in self._routed:
            self._dataplane.remove_route(model_id)
            self._routed.discard(model_id)
        for callback in self._on_refreshed:
            callback(model_id)

    def _endpoint_in_route(self, model_id: str, instance_id: str) -> int | None:
        # The model server itself lets nobody wait: a copy here is in the route once it is loaded.
        if instance_id == self._instance_id and not self._local.is_serving(model_id):
            return None
        return self.endpoint_of(instance_id)

    def usable(self, model_id: str) -> Usable:
        """The copies to which requests may go, this instance's own among them."""
        record = self._registry.models.get(model_id)
        words = self._words.get(model_id, {})
        now_ms = self._now_ms()
        # A peer's word and the copy here count before the registry shows them.
        started = dict.fromkeys(words, now_ms)
        confirmed = set(words)
        if record is not None:
            started |= record.copies
            confirmed |= set(record.ready)
        if self._local.is_serving(model_id) or self._local.is_loading(model_id):
            started.setdefault(self._instance_id, now_ms)
        else:
            started.pop(self._instance_id, None)
        return usable_copies(
            (
                self._copy_seen(model_id, instance_id, started_ms, confirmed, now_ms)
                for instance_id, started_ms in started.items()
                if self.live(instance_id)
            ),
            self._assume_loaded_ms(record.type if record is not None else ""),
            now_ms,
        )

    def _copy_seen(
        self, model_id: str, instance_id: str, started_ms: int, confirmed: Container[str], now_ms: int
    ) -> CopySeen:
        if instance_id == self._instance_id:
            # What is on its way here is known to be, however long it takes.
            serving = self._local.is_serving(model_id)
            return CopySeen(instance_id, started_ms if serving else now_ms, confirmed=serving)
        return CopySeen(
            instance_id,
            started_ms,
            confirmed=instance_id in confirmed,
            doubtful=instance_id in self._suspects or self.is_leaving(instance_id),
        )

    def endpoint_of(self, instance_id: str) -> int | None:
        """An instance's number in the data plane; None where it is gone or has no model server."""
        if instance_id == self._instance_id:
            return self._local.endpoint
        peer = self._peers.get(instance_id)
        return None if peer is None else peer.endpoint

    def is_leaving(self, instance_id: str) -> bool:
        """Whether an instance is gone, or about to go."""
        record = self._registry.instances.get(instance_id)
        return record is None or record.shutting_down

    def _refresh_later(self, model_id: str, delay_s: float) -> None:
        if timer := self._ripening.pop(model_id, None):
            timer.cancel()

        def refresh() -> None:
            self._ripening.pop(model_id, None)
            self.refresh(model_id)

        self._ripening[model_id] = asyncio.get_running_loop().call_later(max(0.001, delay_s), refresh)

    def _forget_word(self, model_id: str, instance_id: str) -> None:
        self._take_back_word(model_id, instance_id)
        record = self._registry.models.get(model_id)
        if record is not None and instance_id in record.copies:
            # The record tells when the load began, not that it has ended: the word holds until it need not say so.
            ripens_ms = record.copies[instance_id] + self._assume_loaded_ms(record.type) - self._now_ms()
            if ripens_ms > 0:
                self._hold_word(model_id, instance_id, ripens_ms / 1_000)
        self.refresh(model_id)

    def _hold_word(self, model_id: str, instance_id: str, for_s: float) -> None:
        self._words.setdefault(model_id, {})[instance_id] = asyncio.get_running_loop().call_later(
            for_s, self._forget_word, model_id, instance_id
        )

    def _take_back_word(self, model_id: str, instance_id: str) -> None:
        words = self._words.get(model_id, {})
        if timer := words.pop(instance_id, None):
            timer.cancel()
        if not words:
            self._words.pop(model_id, None)

    def _trust_again(self, instance_id: str) -> None:
        del self._suspects[instance_id]
        self._refresh_all_at(instance_id)

    def _refresh_all_at(self, instance_id: str) -> None:
        for model_id in tuple(self._models_at.get(instance_id, ())):
            self.refresh(model_id)

    # What the mirrors tell

    def _model_changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        before = old.copies.keys() if old else set()
        after = new.copies.keys() if new else set()
        if not before and not after and model_id not in self._routed:
            return
        for instance_id in before - after:
            models = self._models_at.get(instance_id)
            if models is not None:
                models.discard(model_id)
                if not models:
                    del self._models_at[instance_id]
        for instance_id in after - before:
            self._models_at.setdefault(instance_id, set()).add(model_id)
        self.refresh(model_id)

    def _instance_changed(
        self, instance_id: str, old: InstanceRecord | None, new: InstanceRecord | None
    ) -> None:
        if instance_id == self._instance_id:
            return
        if new is None or not new.endpoint:
            self._peers.remove(instance_id)
        else:
            self._peers.add(instance_id, new.endpoint)
        moved = old is None or new is None or old.endpoint != new.endpoint
        if moved or (old and new and old.shutting_down != new.shutting_down):
            self._refresh_all_at(instance_id)

    def close(self) -> None:
        """Follows changes no more."""
        words = (timer for timers in self._words.values() for timer in timers.values())
        for timer in (*self._ripening.values(), *self._suspects.values(), *words):
            timer.cancel()
