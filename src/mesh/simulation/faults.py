"""What can befall a simulated mesh, and schedules of it drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING

from mesh.simulation.agenda import Steps
from mesh.simulation.departure import leave

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance
    from mesh.simulation.world import World

SECOND_US = 1_000_000


class FaultKind(StrEnum):
    """What happens."""

    #: An instance dies with its model server, and another one joins in its place.
    CRASH = "crash"
    #: An instance is told to end: it hands its models over.
    LEAVE = "leave"
    #: An instance joins.
    JOIN = "join"
    #: An instance stands still.
    PAUSE = "pause"
    #: An instance's model server dies and comes back empty.
    SERVER_RESTART = "server_restart"
    #: Nobody reaches the registry.
    REGISTRY_DOWN = "registry_down"
    #: The registry takes very long.
    REGISTRY_SLOW = "registry_slow"
    #: The registry takes writes and its answers are lost.
    LOST_ANSWERS = "lost_answers"
    #: An instance hears of no change.
    LOST_WATCH = "lost_watch"
    #: An instance and the registry do not reach each other.
    REGISTRY_CUT = "registry_cut"
    #: Some instances reach neither the others nor the registry.
    PARTITION = "partition"
    #: Loads take many times as long.
    SLOW_STORAGE = "slow_storage"
    #: Loads fail.
    FAILING_STORAGE = "failing_storage"
    #: Unloads fail.
    STUCK_UNLOADS = "stuck_unloads"
    #: Model servers predict a tenth or ten times the size of some models.
    WRONG_SIZES = "wrong_sizes"
    #: A model is unregistered, and registered again a moment later.
    REREGISTER = "reregister"
    #: Someone deletes what a record says of copies, as a restore of an older registry does.
    FORGOTTEN_COPIES = "forgotten_copies"


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them.

    Attributes:
        begin_us: when, simulated time.
        lasts_us: for how long, where it has an end.
        targets: which instances, as numbers that are taken modulo those that are there.
        amount: how much, as its kind understands it.
    """

    kind: FaultKind
    begin_us: int
    lasts_us: int = 0
    targets: tuple[int, ...] = (0,)
    amount: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_us / SECOND_US:g} s" if self.lasts_us else ""
        return (
            f"{self.kind.value} of {self.targets} at {self.begin_us / SECOND_US:g} s{lasts} ({self.amount:g})"
        )


def draw_faults(
    random: Random, count: int, begin_us: int, end_us: int, kinds: tuple[FaultKind, ...] = tuple(FaultKind)
) -> list[Fault]:
    """Draws a schedule: what begins and ends between two times.

    Args:
        random: draws.
        count: of faults.
        begin_us: none begins before.
        end_us: all have ended then.
        kinds: that may occur.
    """
    faults = []
    for _ in range(count):
        start_us = random.randrange(begin_us, end_us)
        # Short ones and ones that outlast sessions.
        longest = random.choice((2.0, 10.0, 40.0)) * SECOND_US
        lasts_us = min(int(random.uniform(0.05, 1.0) * longest), end_us - start_us)
        targets = tuple(random.randrange(1_000) for _ in range(random.choice((1, 1, 1, 2))))
        faults.append(Fault(random.choice(kinds), start_us, lasts_us, targets, random.random()))
    return sorted(faults, key=lambda fault: fault.begin_us)


class Faults:
    """Lets faults befall a world.

    Args:
        world: that has views of its own for each instance.
        random: draws what a fault leaves open.
    """

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random

    def enter(self, faults: list[Fault]) -> None:
        """Puts them on the agenda."""
        for fault in faults:
            self._world.agenda.at(fault.begin_us, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        self._world.note(f"fault: {fault}")
        _BEGIN[fault.kind](self, fault)

    def _later(self, fault: Fault, action: Callable[..., object], *arguments: object) -> None:
        self._world.agenda.after(max(1, fault.lasts_us), action, *arguments)

    def _targets(self, fault: Fault) -> list["Instance"]:
        """Instances that are there and to which nothing else is being done, the chosen ones of them."""
        free = [instance for instance in self._world.instances.values() if instance.healthy]
        chosen = {target % len(free): None for target in fault.targets} if free else {}
        return [free[number] for number in chosen]

    def _crash(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            self._world.crash(instance)
            self._later(fault, self._world.add_instance)

    def _leave(self, fault: Fault) -> None:
        if sum(instance.healthy for instance in self._world.instances.values()) > 1:
            for instance in self._targets(fault)[:1]:
                self._world.stop_entering(instance)
                instance.start(self._leaving(instance))

    def _leaving(self, instance: "Instance") -> Steps:
        yield from leave(instance)
        if not instance.world.entries:
            self._world.add_instance()

    def _join(self, _fault: Fault) -> None:
        self._world.add_instance()

    def _pause(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            self._world.trouble(instance)
            instance.pause()
            self._world.watch_session(instance)
            self._later(fault, self._resume, instance)

    def _resume(self, instance: "Instance") -> None:
        if instance.alive:
            instance.resume()
            instance.presence.return_from_silence()
            self._world.relieve(instance)

    def _restart_server(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            self._world.restart_server(instance)
            self._later(fault, self._server_returned, instance)

    def _server_returned(self, instance: "Instance") -> None:
        if instance.alive:
            instance.server_returned()

    def _registry_down(self, fault: Fault) -> None:
        cluster = self._world.store.cluster
        if not cluster.stopped:
            cluster.stop()
            self._later(fault, self._registry_back)

    def _registry_back(self) -> None:
        self._world.store.cluster.start()
        self._world.note("the registry is back")

    def _registry_slow(self, fault: Fault) -> None:
        self._world.store.latency_us = int(20_000 + fault.amount * 2_000_000)
        self._later(fault, self._registry_fast)

    def _registry_fast(self) -> None:
        self._world.store.latency_us = self._world.scenario.store_latency_us

    def _lose_answers(self, fault: Fault) -> None:
        self._world.store.cluster.lose_answers(1 + int(fault.amount * 5))
        self._later(fault, self._world.store.cluster.lose_answers, 0)

    def _lose_watch(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            self._world.trouble(instance)
            self._world.freeze(instance)
            self._later(fault, self._watch_again, instance)

    def _watch_again(self, instance: "Instance") -> None:
        if instance.alive:
            self._world.thaw(instance)
            self._world.relieve(instance)

    def _cut_registry(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            self._cut(instance)
            self._later(fault, self._join_up, instance)

    def _partition(self, fault: Fault) -> None:
        instances = self._targets(fault)
        for instance in instances:
            self._cut(instance)
            instance.island = 1 + fault.targets[0]
            self._later(fault, self._join_up, instance)

    def _cut(self, instance: "Instance") -> None:
        self._world.trouble(instance)
        instance.client.cut_off = True
        self._world.freeze(instance)
        self._world.watch_session(instance)

    def _join_up(self, instance: "Instance") -> None:
        instance.island = 0
        if instance.alive:
            instance.client.cut_off = False
            self._world.thaw(instance)
            instance.presence.return_from_silence()
            self._world.relieve(instance)

    def _slow_storage(self, fault: Fault) -> None:
        for instance in self._world.instances.values():
            instance.server.slowness = 1.0 + fault.amount * 100
        self._later(fault, self._storage_well)

    def _failing_storage(self, fault: Fault) -> None:
        for instance in self._world.instances.values():
            instance.server.failing = fault.amount
        self._later(fault, self._storage_well)

    def _storage_well(self) -> None:
        for instance in self._world.instances.values():
            instance.server.failing, instance.server.slowness = 0.0, 1.0

    def _stuck_unloads(self, fault: Fault) -> None:
        for instance in self._targets(fault):
            instance.server.stuck = fault.amount
            self._later(fault, self._unstuck, instance)

    def _unstuck(self, instance: "Instance") -> None:
        instance.server.stuck = 0.0

    def _wrong_sizes(self, fault: Fault) -> None:
        models = self._random.sample(
            self._world.models, max(1, int(len(self._world.models) * fault.amount / 2))
        )
        for model in models:
            model.misjudged = True
            model.told_units = max(1, model.units // 10 if self._random.random() < 0.5 else model.units * 10)
        self._later(fault, self._right_sizes)

    def _right_sizes(self) -> None:
        for model in self._world.models:
            model.told_units = model.units

    def _reregister(self, fault: Fault) -> None:
        model = self._random.choice(self._world.models)
        self._world.unregister(model)
        self._later(fault, self._world.register, model)

    def _forget_copies(self, _fault: Fault) -> None:
        self._world.forget_copies(self._random.choice(self._world.models))


_BEGIN: dict[FaultKind, Callable[[Faults, Fault], None]] = {
    FaultKind.CRASH: Faults._crash,
    FaultKind.LEAVE: Faults._leave,
    FaultKind.JOIN: Faults._join,
    FaultKind.PAUSE: Faults._pause,
    FaultKind.SERVER_RESTART: Faults._restart_server,
    FaultKind.REGISTRY_DOWN: Faults._registry_down,
    FaultKind.REGISTRY_SLOW: Faults._registry_slow,
    FaultKind.LOST_ANSWERS: Faults._lose_answers,
    FaultKind.LOST_WATCH: Faults._lose_watch,
    FaultKind.REGISTRY_CUT: Faults._cut_registry,
    FaultKind.PARTITION: Faults._partition,
    FaultKind.SLOW_STORAGE: Faults._slow_storage,
    FaultKind.FAILING_STORAGE: Faults._failing_storage,
    FaultKind.STUCK_UNLOADS: Faults._stuck_unloads,
    FaultKind.WRONG_SIZES: Faults._wrong_sizes,
    FaultKind.REREGISTER: Faults._reregister,
    FaultKind.FORGOTTEN_COPIES: Faults._forget_copies,
}
