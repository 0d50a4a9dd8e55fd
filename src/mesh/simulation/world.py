"""A simulated mesh: its instances, its registry, its requests."""

import gc
from collections.abc import Callable
from random import Random

from mesh.placement import CacheLimits
from mesh.registry import InstanceRecord, ModelRecord
from mesh.simulation.agenda import Agenda
from mesh.simulation.instance import Instance
from mesh.simulation.models import Copy, Model
from mesh.simulation.peers import PeersSeen
from mesh.simulation.report import Report
from mesh.simulation.scenario import Scenario
from mesh.simulation.store import SharedStore
from mesh.simulation.trace import Trace

#: The first moment of every simulation, epoch milliseconds.
START_MS = 1_800_000_000_000
#: Requests begin when the instances are there.
SETTLE_US = 2_000_000
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
        self._register()
        self.store.models.on_change = self._model_changed
        self.store.instances.on_change = self._instance_changed
        for _ in range(scenario.instances):
            self.add_instance()

    @property
    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return START_MS + self.agenda.now_us // 1_000

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

    def run(self, until_us: int | None = None) -> Report:
        """Lets all requests of the trace come, and what follows from them happen.

        Args:
            until_us: simulated time to go on to afterwards; None until every request has ended.
        """
        gc.collect()
        gc.freeze()
        try:
            self.agenda.run_until(SETTLE_US)
            self._requests()
            if until_us is not None:
                self.agenda.run_until(until_us)
            else:
                self._finish()
        finally:
            gc.unfreeze()
        return self.finished()

    def _finish(self) -> None:
        while any(instance.open_requests for instance in self.instances.values()):
            self.agenda.step()

    def finished(self) -> Report:
        """Returns: the report, with the figures that are worked out at the end."""
        report = self.report
        report.simulated_us = self.agenda.now_us
        report.events = self.agenda.happened
        report.registry_writes = self.store.writes
        alive = [instance for instance in self.instances.values() if instance.alive]
        capacity = sum(instance.loader.cache.capacity_units for instance in alive)
        used = sum(instance.loader.cache.used_units for instance in alive)
        report.used_share = used / capacity if capacity else 0.0
        for instance in self.instances.values():
            report.requests_by_instance[instance.instance_id] = instance.requests_served
            report.loads_by_instance[instance.instance_id] += 0
        return report

    def _requests(self) -> None:
        agenda, models, entries = self.agenda, self.models, self.entries
        random, hop_us, add = self.random.random, self.scenario.hop_us, self.report.latencies.add
        hits = 0
        for offset_us, number in self.trace.requests():
            now_us = offset_us + SETTLE_US
            due_us = agenda.next_us()
            if due_us is not None and due_us <= now_us:
                agenda.run_until(now_us)
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
            instance.loader.used[model.model_id] = START_MS + now_us // 1_000
            hits += 1
            add(done_us - now_us)
        self.report.hits += hits

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
            if copy is None or not instance.healthy or (len(record.copies) > 1 and started_ms > ripe_ms):
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

    def load_began(self, instance: Instance, _model: Model) -> None:
        """A model server begins to load."""
        self.report.loads += 1
        self.report.loads_by_instance[instance.instance_id] += 1

    def load_ended(self, instance: Instance, model: Model) -> None:
        """A copy is loaded."""
        self._assumed_ms = max(self._assumed_ms, instance.load_times.assume_loaded_ms(model.type))
        self.report.load_us += model.load_us

    # What the registry tells

    def _model_changed(self, model_id: str, before: ModelRecord | None, after: ModelRecord | None) -> None:
        model = self.model_of[model_id]
        model.warm = None
        model.settled_us = self.agenda.now_us + self.scenario.lag_us
        listed = dict(before.copies) if before is not None else {}
        if after is not None:
            listed.update(after.copies)
        for name in listed:
            instance = self.instances.get(name)
            if instance is not None and instance.alive:
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
