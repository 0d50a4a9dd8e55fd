"""A simulated mesh: its instances, its registry, its requests."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from random import Random

from mesh.placement import CacheLimits
from mesh.registry import InstanceRecord, ModelRecord, OutcomeUnknown
from mesh.simulation.agenda import START_MS, Agenda
from mesh.simulation.instance import Instance
from mesh.simulation.models import Copy, Model
from mesh.simulation.peers import PeersSeen
from mesh.simulation.presence import SESSION_TTL_US
from mesh.simulation.report import Report
from mesh.simulation.routes import SUSPICION_TTL_US
from mesh.simulation.scenario import Scenario
from mesh.simulation.store import SharedStore
from mesh.simulation.trace import Trace

#: Requests begin when the instances are there.
SETTLE_US = 2_000_000
#: Moments of a run at which the figures so far are kept.
MOMENTS = 200
#: Objects that the garbage collector looks at together; see `_seldom_collected`.
_COLLECT_AFTER = 200_000
#: Requests in flight that a copy remembers before it forgets those that have ended.
_REMEMBERED = 64


class World:
    """One run.

    Args:
        scenario: the mesh.
        trace: models and requests.

    Attributes:
        instances: by id, those that are gone included.
        entries: instances to which clients send.
        report: filled while it runs.
    """

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.agenda = Agenda()
        self.random = Random(scenario.seed)  # noqa: S311 - a simulation is to be repeatable
        self.report = Report()
        self.store = SharedStore(self.agenda, scenario.store_latency_us, scenario.lag_us)
        self.models = trace.models()
        self.model_of = {model.model_id: model for model in self.models}
        self.instances: dict[str, Instance] = {}
        self.entries: list[Instance] = []
        self._limits: CacheLimits = scenario.limits()
        self._everybody = PeersSeen(scenario.lag_us, self._limits.default_model)
        self._assumed_ms = 0.0
        self.on_failure: Callable[[Instance, Model, int, str], None] = lambda *_: None
        #: Called after each event, where anybody looks that closely.
        self.on_event: Callable[[], None] | None = None
        #: What happened, for people; None where nobody wants to know.
        self.journal: deque[str] | None = None
        self._register()
        self.store.models.on_change = self._model_changed
        self.store.instances.on_change = self._instance_changed
        for _ in range(scenario.instances):
            self.add_instance()

    @property
    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return self.agenda.now_ms

    def ms_at(self, time_us: int) -> int:
        """Epoch milliseconds of a simulated time."""
        return START_MS + time_us // 1_000

    def time_us(self, time_ms: int) -> int:
        """The simulated time of epoch milliseconds."""
        return (time_ms - START_MS) * 1_000

    def _register(self) -> None:
        records = self.store.models
        for model in self.models:
            self.store.transact(records, model.model_id, 0, ModelRecord(type=model.type, path=model.model_id))

    def add_instance(self) -> Instance:
        """An instance joins."""
        scenario, number = self.scenario, len(self.instances)
        seen = self._everybody
        if scenario.own_views:
            seen = self._everybody.copied()
        instance = Instance(
            self,
            f"instance-{number:04d}",
            self._limits,
            scenario.policy,
            seen,
            Random(self.random.getrandbits(64)),  # noqa: S311 - see above
            zone=f"zone-{number % scenario.zones}" if scenario.zones else "",
            location=f"node-{number}",
        )
        self.instances[instance.instance_id] = instance
        self.entries.append(instance)
        instance.presence.begin()
        return instance

    # Running

    def run(self, until_us: int | None = None, *, warm_up_us: int = 0) -> Report:
        """Lets all requests of the trace come, and what follows from them happen.

        Args:
            until_us: simulated time to go on to afterwards; None until every request has ended.
            warm_up_us: of the trace; what is before is not counted.
        """
        if warm_up_us:
            self.agenda.at(SETTLE_US + warm_up_us, self._begin_to_count)
        every_us = max(1, (self.trace.duration_us - warm_up_us) // MOMENTS)
        self.agenda.at(SETTLE_US + warm_up_us, self._note_moment, every_us)
        with _seldom_collected():
            self.go_on(SETTLE_US)
            self._requests()
            if until_us is not None:
                self.go_on(until_us)
            else:
                self._finish()
        return self.finished()

    def _finish(self) -> None:
        while any(instance.open_requests for instance in self.instances.values()):
            self.agenda.step()

    def go_on(self, time_us: int) -> None:
        """Lets everything happen that happens up to a time."""
        agenda, look = self.agenda, self.on_event
        if look is None:
            agenda.run_until(time_us)
            return
        while (due_us := agenda.next_us()) is not None and due_us <= time_us:
            agenda.step()
            look()
        agenda.run_until(time_us)

    def note(self, text: str) -> None:
        """Something happened that people may want to read about."""
        if self.journal is not None:
            self.journal.append(f"{self.agenda.now_us / 1e6:10.3f} s  {text}")

    def _begin_to_count(self) -> None:
        self.report.clear()
        for instance in self.instances.values():
            instance.served_before = instance.requests_served

    def _note_moment(self, every_us: int) -> None:
        now_us = self.agenda.now_us
        self.report.note_moment(now_us - SETTLE_US, self._used_share())
        if now_us - SETTLE_US < self.trace.duration_us:
            self.agenda.after(every_us, self._note_moment, every_us)

    def _used_share(self) -> float:
        alive = [instance.loader.cache for instance in self.instances.values() if instance.alive]
        capacity = sum(cache.capacity_units for cache in alive)
        return sum(cache.used_units for cache in alive) / capacity if capacity else 0.0

    def finished(self) -> Report:
        """Returns: the report, with the figures that are worked out at the end."""
        report = self.report
        report.simulated_us = self.agenda.now_us
        report.events = self.agenda.happened
        report.registry_writes = self.store.writes
        report.used_share = self._used_share()
        for instance in self.instances.values():
            report.requests_by_instance[instance.instance_id] = (
                instance.requests_served - instance.served_before
            )
            report.loads_by_instance[instance.instance_id] += 0
        return report

    def _requests(self) -> None:
        agenda, models, entries = self.agenda, self.models, self.entries
        random, hop_us, add = self.random.random, self.scenario.hop_us, self.report.latencies.add
        for offset_us, number in self.trace.requests():
            now_us = offset_us + SETTLE_US
            due_us = agenda.next_us()
            if due_us is not None and due_us <= now_us:
                self.go_on(now_us)
            agenda.now_us = now_us
            model = models[number]
            if not entries:
                self.report.failed["no_instance"] += 1
                continue
            ingress = entries[int(random() * len(entries))]
            copies = model.warm
            if copies is None or not ingress.healthy:
                copies = self._look_up(model) if ingress.healthy else None
                if copies is None:
                    self.take(ingress, model, now_us)
                    continue
            copy = copies[0] if len(copies) == 1 else self.pick(ingress, copies)
            instance = copy.instance
            if instance is ingress:
                end_us = done_us = instance.server.serve(now_us, model.service_us)
            else:
                end_us = instance.server.serve(now_us + hop_us, model.service_us)
                done_us = end_us + hop_us
            ends = copy.ends
            if len(ends) >= _REMEMBERED:
                copy.in_flight(now_us)
                ends = copy.ends
            ends.append((end_us, now_us, ingress, False))
            instance.requests_served += 1
            copy.requests += 1
            used = instance.loader.used
            if not used:
                instance.scaling.begin()
            used[model.model_id] = START_MS + now_us // 1_000
            add(done_us - now_us)

    def _look_up(self, model: Model) -> tuple[Copy, ...] | None:
        """The copies that every healthy instance knows of and takes to be loaded, if that is so."""
        if model.settled_us > self.agenda.now_us:
            return None
        record = self.store.models.current(model.model_id)
        if record is None or not record.copies:
            return None
        ripe_ms = self.now_ms - self._assumed_ms
        copies = []
        for name, started_ms in record.copies.items():
            instance = self.instances[name]
            copy = instance.loader.serving.get(model.model_id)
            if (
                copy is None
                or not instance.healthy
                or (len(record.copies) > 1 and started_ms > ripe_ms and name not in record.ready)
            ):
                return None
            copies.append(copy)
        model.warm = tuple(copies)
        return model.warm

    def pick(self, ingress: Instance, copies: "tuple[Copy, ...] | list[Copy]") -> Copy:
        """The copy with the fewest requests in flight from an instance: its own where equal, else any of the best."""
        now_us = self.agenda.now_us
        best: list[Copy] = []
        fewest = -1
        for copy in copies:
            copy.in_flight(now_us)
            own = sum(1 for request in copy.ends if request[2] is ingress) if copy.ends else 0
            if fewest < 0 or own < fewest:
                fewest, best = own, [copy]
            elif own == fewest:
                best.append(copy)
        if len(best) == 1:
            return best[0]
        for copy in best:
            if copy.instance is ingress:
                return copy
        return best[int(ingress.random.random() * len(best))]

    # Requests that a decision is needed for

    def take(
        self,
        ingress: Instance,
        model: Model,
        arrived_us: int,
        tried: frozenset[str] = frozenset(),
        *,
        waited: bool = False,
    ) -> None:
        """An instance is to bring a request to a copy."""
        ingress.open_requests += 1
        ingress.start(ingress.requests.take(model, arrived_us, tried, waited=waited))

    def serve(self, copy: Copy, ingress: Instance, arrived_us: int, *, waited: bool) -> int:
        """A model server works on a request; returns when it is done."""
        instance, now_us = copy.instance, self.agenda.now_us
        end_us = instance.server.serve(now_us, copy.model.service_us)
        copy.ends.append((end_us, arrived_us, ingress, waited))
        instance.requests_served += 1
        copy.requests += 1
        instance.scaling.begin()
        instance.loader.used[copy.model.model_id] = self.now_ms
        return end_us

    def request_served(self, ingress: Instance, arrived_us: int, done_us: int, *, waited: bool) -> None:
        """A request has got its answer, or is going to."""
        ingress.open_requests -= 1
        self.report.served(done_us - arrived_us, waited=waited)

    def request_failed(self, ingress: Instance, model: Model, arrived_us: int, reason: str) -> None:
        """A request ended in an error."""
        ingress.open_requests -= 1
        self.report.failed[reason] += 1
        self.note(f"{ingress.instance_id} fails a request for {model.model_id}: {reason}")
        self.on_failure(ingress, model, arrived_us, reason)

    def cut_off(self, copy: Copy) -> None:
        """The model server of a copy died under the requests in flight there: their instances send them again."""
        now_us, hop_us, instance = self.agenda.now_us, self.scenario.hop_us, copy.instance
        for end_us, arrived_us, ingress, waited in copy.ends:
            if end_us <= now_us:
                continue
            done_us = end_us if ingress is instance else end_us + hop_us
            self.report.take_back(done_us - arrived_us, waited=waited)
            if not ingress.alive:
                self.report.lost += 1
                continue
            self.report.retried += 1
            self.take(ingress, copy.model, arrived_us, frozenset({instance.instance_id}), waited=waited)
        copy.ends = []

    def load_began(self, instance: Instance, model: Model) -> None:
        """A model server begins to load."""
        self.note(f"{instance.instance_id} loads {model.model_id}")
        self.report.loads += 1
        self.report.loads_by_instance[instance.instance_id] += 1

    def load_ended(self, instance: Instance, model: Model) -> None:
        """A copy is loaded."""
        self._assumed_ms = max(self._assumed_ms, instance.load_times.assume_loaded_ms(model.type))
        self.report.load_us += model.load_us

    # What the registry tells

    def _model_changed(self, model_id: str, before: ModelRecord | None, after: ModelRecord | None) -> None:
        model = self.model_of[model_id]
        if self.journal is not None:
            self.note(f"record of {model_id}: {_told(before)} -> {_told(after)}")
        model.warm = None
        model.settled_us = self.agenda.now_us + self.scenario.lag_us
        listed: Iterable[str] = self.instances
        if not self.scenario.own_views:
            # Others have nothing to do with it.
            listed = {
                *(before.copies if before is not None else ()),
                *(after.copies if after is not None else ()),
            }
        for name in sorted(listed):
            instance = self.instances[name]
            if instance.alive:
                instance.after(instance.client.lag_us, instance.model_changed, model_id)

    def _instance_changed(
        self, instance_id: str, _before: InstanceRecord | None, after: InstanceRecord | None
    ) -> None:
        if not self.scenario.own_views:
            self.agenda.after(self.scenario.lag_us, self._deliver_to_all, instance_id, after)
            return
        for instance in self.instances.values():
            if instance.alive:
                instance.after(instance.client.lag_us, instance.instance_changed, instance_id, after)
        self._everybody.delivered(instance_id, after, self.agenda.now_us)

    def _deliver_to_all(self, instance_id: str, record: InstanceRecord | None) -> None:
        self._everybody.delivered(instance_id, record, self.agenda.now_us)

    # What befalls it

    def crash(self, instance: Instance) -> None:
        """An instance and its model server die."""
        self.note(f"{instance.instance_id} dies")
        self.trouble(instance)
        self.report.lost += instance.open_requests
        instance.open_requests = 0
        self.watch_session(instance)
        self.stop_entering(instance)
        copies = instance.loader.all_copies()
        instance.crash()
        for copy in copies:
            self.cut_off(copy)

    def gone(self, instance: Instance) -> None:
        """An instance has left in order."""
        self.note(f"{instance.instance_id} has left")
        copies = instance.loader.all_copies()
        # Where its record could not be taken out, it goes with the session.
        self.watch_session(instance)
        instance.crash()
        for copy in copies:
            self.cut_off(copy)

    def stop_entering(self, instance: Instance) -> None:
        """Clients send an instance no more requests."""
        if instance in self.entries:
            self.entries.remove(instance)

    def restart_server(self, instance: Instance) -> None:
        """An instance's model server dies and has lost all when it comes back."""
        self.note(f"the model server of {instance.instance_id} dies")
        for copy in instance.restart_server():
            self.cut_off(copy)

    def trouble(self, instance: Instance) -> None:
        """From now on something is wrong with an instance."""
        instance.healthy = False
        instance.troubled_us = self.agenda.now_us
        for copy in instance.loader.serving.values():
            copy.model.warm = None

    def relieve(self, instance: Instance) -> None:
        """Nothing is wrong with an instance any more."""
        self.note(f"{instance.instance_id} is well again")
        if not instance.presence.leaving:
            instance.healthy = True
        instance.troubled_us = self.agenda.now_us
        for copy in instance.loader.serving.values():
            # Others may avoid it for a while.
            copy.model.settled_us = self.agenda.now_us + SUSPICION_TTL_US

    def freeze(self, instance: Instance) -> None:
        """An instance hears of no change."""
        if instance.client.frozen_us is None:
            instance.client.frozen_us = instance.client.seen_us
            self.store.frozen_us[instance.client] = instance.client.frozen_us

    def thaw(self, instance: Instance) -> None:
        """It hears of changes again, those that it has missed included."""
        if instance.client.frozen_us is not None:
            instance.client.frozen_us = None
            del self.store.frozen_us[instance.client]
            instance.catch_up()

    def watch_session(self, instance: Instance) -> None:
        """An instance gives no signs of life: its session ends unless it does again in time."""
        lease = instance.presence.lease
        if lease:
            self.agenda.at(
                instance.presence.last_sign_us() + SESSION_TTL_US, self._end_session, instance, lease
            )

    def _end_session(self, instance: Instance, lease: int) -> None:
        if instance.alive and not instance.paused and not instance.client.cut_off:
            return
        if self.store.cluster.stopped:
            # No lease ends while the store is away, nor soon after.
            self.agenda.after(SESSION_TTL_US, self._end_session, instance, lease)
        elif instance.presence.lease == lease:
            self.note(f"the session of {instance.instance_id} ends")
            self.store.expire(lease, instance.instance_id)

    def unregister(self, model: Model) -> None:
        """Someone deletes a model's record, if the registry lets them."""
        if self.store.cluster.stopped:
            return
        self.note(f"{model.model_id} is unregistered")
        self._write(model, None)

    def register(self, model: Model) -> None:
        """Someone registers a model, if it is not, as soon as the registry lets them."""
        if self.store.cluster.stopped:
            self.agenda.after(SESSION_TTL_US, self.register, model)
            return
        self.note(f"{model.model_id} is registered")
        if self.store.models.current(model.model_id) is None:
            self._write(model, ModelRecord(type=model.type, path=model.model_id))

    def forget_copies(self, model: Model) -> None:
        """Someone takes all copies out of a model's record."""
        record = self.store.models.current(model.model_id)
        if record is not None and record.copies and not self.store.cluster.stopped:
            model.tampered = True
            self.note(f"the copies of {model.model_id} are forgotten")
            self._write(model, record.but(copies={}))

    def _write(self, model: Model, record: ModelRecord | None) -> None:
        # Whoever writes from outside does not mind that an answer is lost: it is written.
        with suppress(OutcomeUnknown):
            self.store.transact(self.store.models, model.model_id, None, record)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Keeps the cyclic garbage collector from looking at all that there is again and again.

    A simulation makes millions of objects, and next to no cycles.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 100, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _told(record: ModelRecord | None) -> str:
    if record is None:
        return "none"
    return f"copies {sorted(record.copies)} failures {sorted(record.failures)}"
