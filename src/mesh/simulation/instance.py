"""One simulated instance: the shell around the decisions that a real one takes."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.placement import CacheLimits, EvictionPolicy, LoadTimes, LocalCache, RemovalReason
from mesh.registry import InstanceRecord, ModelRecord
from mesh.simulation.agenda import START_MS, Agenda, Process, Signal, Steps
from mesh.simulation.loader import Loader
from mesh.simulation.models import Copy
from mesh.simulation.peers import PeersSeen
from mesh.simulation.placer import Placer
from mesh.simulation.presence import Presence
from mesh.simulation.registration import Registration
from mesh.simulation.requests import Requests
from mesh.simulation.routes import SUSPICION_TTL_US, Routes
from mesh.simulation.scaling import Scaling
from mesh.simulation.server import Server
from mesh.simulation.store import StoreClient

if TYPE_CHECKING:
    from mesh.simulation.world import World

#: A peer that has fallen silent is noticed after so long: keepalives of the connections between instances.
SILENCE_US = 15_000_000


class Unreachable:
    """What a call gives whose peer does not answer."""


UNREACHABLE = Unreachable()


class Instance:
    """A process with its model server.

    Attributes:
        alive: it has not crashed or left.
        epoch: grows when it dies: what was begun before goes no further.
        healthy: it is alive, not paused, not leaving, and nothing is wrong between it and the others.
        troubled_us: when something last began or ended to be wrong with it.
        island: instances on different ones cannot reach each other; 0 has the registry.
        requests_served: by its model server.
        served_before: of those, before anything was counted.
        open_requests: that came to it and wait for a decision.
        calls: from peers, which fail when it dies.
    """

    def __init__(
        self,
        world: "World",
        instance_id: str,
        limits: CacheLimits,
        policy: EvictionPolicy | None,
        seen: PeersSeen,
        random: Random,
        *,
        zone: str = "",
        location: str = "",
        labels: tuple[str, ...] = (),
    ) -> None:
        self.world = world
        self.agenda: Agenda = world.agenda
        self.instance_id = instance_id
        self.zone = zone
        self.location = location
        self.labels = labels
        self.started_ms = world.now_ms
        self.random = random
        self.alive = True
        self.paused = False
        self.healthy = True
        self.island = 0
        self.troubled_us = -1
        self.requests_served = 0
        self.served_before = 0
        self.open_requests = 0
        self.calls: dict[Signal, None] = {}
        self.epoch = 0
        self._held_back: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._missed: set[str] = set()
        self._missed_instances: dict[str, InstanceRecord | None] = {}
        self.server = Server(self.agenda, limits.capacity, world.scenario.server_concurrency, random)
        self.client = StoreClient(world.store, self.agenda, seen.lag_us)
        self.seen = seen
        self.load_times = LoadTimes(limits.loading_timeout_ms)
        self.presence = Presence(self)
        self.registration = Registration(self)
        self.scaling = Scaling(self)
        self.loader = Loader(self, LocalCache(limits, policy))
        self.routes = Routes(self)
        self.placer = Placer(self)
        self.requests = Requests(self)

    @property
    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return START_MS + self.agenda.now_us // 1_000

    @property
    def registry_troubled(self) -> bool:
        """Writes may go unanswered for long."""
        return self.client.cut_off or self.client.frozen_us is not None or self.world.store.cluster.stopped

    def is_live(self, instance_id: str) -> bool:
        """Whether an instance is there, as this one knows."""
        return instance_id == self.instance_id or instance_id in self.seen.records

    def is_leaving(self, instance_id: str) -> bool:
        """Whether an instance is gone, or about to go, as this one knows."""
        if instance_id == self.instance_id:
            return self.presence.leaving
        record = self.seen.records.get(instance_id)
        return record is None or record.shutting_down

    def stays(self, instance_id: str) -> bool:
        """Whether an instance is there and not about to go, as this one knows."""
        return self.is_live(instance_id) and not self.is_leaving(instance_id)

    def untroubled_since(self, time_us: int) -> bool:
        """Whether nothing has been wrong with it since a time, nor in the seconds before that others may remember."""
        return self.healthy and self.troubled_us < time_us - SUSPICION_TTL_US - SILENCE_US

    def note(self, text: str) -> None:
        """It did something that people may want to read about."""
        if self.world.journal is not None:
            self.world.note(f"{self.instance_id} {text}")

    # Time

    def start(self, steps: Steps) -> Process:
        """Starts a process that ends with the instance and stands still while it is paused."""
        process = Process(self.agenda, steps, self, self.epoch)
        process.resume(None)
        return process

    def after(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Does something later, if the instance is there then."""
        self.agenda.after(delay_us, self._do, self.epoch, action, arguments)

    def _do(self, epoch: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if epoch != self.epoch:
            return
        if self.paused:
            self._held_back.append((action, arguments))
            return
        action(*arguments)

    def admits(self, epoch: int, process: Process, value: Any) -> bool:
        """See `Owner`."""
        if epoch != self.epoch:
            process.abandon()
            return False
        if self.paused:
            self._held_back.append((process.resume, (value,)))
            return False
        return True

    # Calls between instances

    def call(self, peer: "Instance | None", handler: Callable[["Instance"], Steps]) -> Signal:
        """Asks a peer; the signal's value is what the handler returns there, or `UNREACHABLE`."""
        answer = Signal()
        self.after(self.world.scenario.hop_us, self._deliver, peer, handler, answer)
        return answer

    def _deliver(
        self, peer: "Instance | None", handler: Callable[["Instance"], Steps], answer: Signal
    ) -> None:
        hop_us = self.world.scenario.hop_us
        if peer is None or not peer.alive:
            self.after(hop_us, answer.set, UNREACHABLE)
            return
        if peer.island != self.island:
            self.after(SILENCE_US, answer.set, UNREACHABLE)
            return
        if peer.paused:
            self.after(SILENCE_US, self._check_silence, peer, answer)
        peer.calls[answer] = None
        handling = peer.start(handler(peer))
        self.start(self._reply(peer, handling, answer))

    def _reply(self, peer: "Instance", handling: Process, answer: Signal) -> Any:
        result = yield handling
        peer.calls.pop(answer, None)
        if not peer.alive:
            return
        if peer.island != self.island:
            yield SILENCE_US
            answer.set(UNREACHABLE)
            return
        yield self.world.scenario.hop_us
        answer.set(result)

    def _check_silence(self, peer: "Instance", answer: Signal) -> None:
        if peer.paused:
            answer.set(UNREACHABLE)

    # What befalls it

    def crash(self) -> None:
        """Dies at once, with its model server."""
        self.epoch += 1
        self.alive = self.healthy = False
        self.paused = False
        self._held_back.clear()
        calls, self.calls = self.calls, {}
        for answer in calls:
            self.agenda.after(self.world.scenario.hop_us, answer.set, UNREACHABLE)

    def pause(self) -> None:
        """Stands still, as a process that is stopped or starved; its model server as well."""
        self.paused = True
        self.agenda.after(SILENCE_US, self._fall_silent, self.epoch)

    def _fall_silent(self, epoch: int) -> None:
        if self.paused and epoch == self.epoch:
            for answer in tuple(self.calls):
                answer.set(UNREACHABLE)

    def resume(self) -> None:
        """Goes on where it stood."""
        self.paused = False
        held_back, self._held_back = self._held_back, []
        for action, arguments in held_back:
            self.agenda.after(0, self._do, self.epoch, action, arguments)

    def restart_server(self) -> list[Copy]:
        """Its model server dies; returns the copies that were there."""
        copies = self.loader.all_copies()
        self.server.restart()
        self.loader.available = False
        self.loader.lost_all()
        self.presence.changed()
        return copies

    def server_returned(self) -> None:
        """Its model server is back."""
        self.loader.available = True
        self.presence.changed()

    # What the registry tells

    def model_changed(self, model_id: str) -> None:
        """A record that lists this instance, or listed it, has changed."""
        if self.client.frozen_us is not None:
            self._missed.add(model_id)
            return
        self._reconcile(model_id, self.client.model(model_id))

    def instance_changed(self, instance_id: str, record: InstanceRecord | None) -> None:
        """The record of an instance has changed."""
        if self.client.frozen_us is None:
            self.seen.delivered(instance_id, record, self.agenda.now_us)
        else:
            self._missed_instances[instance_id] = record

    def loaded(self, model_id: str) -> None:
        """A copy was loaded, of which the record may have lost sight meanwhile."""
        self._reconcile(model_id, self.client.model(model_id))

    def catch_up(self) -> None:
        """The watch follows again."""
        for instance_id, record in self._missed_instances.items():
            self.seen.delivered(instance_id, record, self.agenda.now_us)
        self._missed_instances = {}
        missed, self._missed = sorted(self._missed), set()
        for model_id in missed:
            self._reconcile(model_id, self.client.model(model_id))

    def _reconcile(self, model_id: str, record: ModelRecord | None) -> None:
        loader = self.loader
        if model_id in loader.serving:
            self.scaling.copies_changed(model_id)
        if record is None:
            if loader.cache.copy(model_id) is not None:
                loader.remove(model_id, RemovalReason.UNREGISTERED)
        elif self.presence.leaving:
            return
        elif model_id not in loader.cache:
            if self.instance_id in record.copies:
                self.registration.remove_copy(model_id)
        elif self.instance_id not in record.copies and model_id in loader.serving:
            self.registration.restore_copy(model_id, self.now_ms)
