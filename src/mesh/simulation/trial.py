"""One trial of the mesh: a small world, a load and faults, all drawn from a seed, and what must hold."""

from collections import deque
from dataclasses import dataclass, field
from random import Random

from mesh.placement import EvictionPolicy, EvictionRanking
from mesh.simulation.faults import SECOND_US, Fault, Faults, draw_faults
from mesh.simulation.generate import Workload, generate
from mesh.simulation.instance import Instance
from mesh.simulation.invariants import ACCEPTED, LONGEST_LOAD_US, Broken, Invariants
from mesh.simulation.models import Model
from mesh.simulation.report import Report
from mesh.simulation.scenario import Scenario
from mesh.simulation.world import SETTLE_US, World

MIB = 1 << 20
#: Faults are over then.
CALM_US = 60 * SECOND_US
#: And some time after that all is in step again: a session's end, a failed write's next try, a failed load's expiry.
IN_STEP_US = 60 * SECOND_US
#: Loads that were put off until then are known to everybody after this.
AFTER_LOADS_US = 40 * SECOND_US


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial went.

    Attributes:
        seed: of the trial.
        broken: the invariant that did not hold; empty where all did.
        faults: that befell it.
        journal: what happened, the newest last; empty where nothing is to be remembered.
    """

    seed: int
    broken: str
    faults: tuple[Fault, ...]
    report: Report
    journal: tuple[str, ...] = field(default=())


def try_seed(seed: int, *, remember: int = 0) -> Verdict:
    """Runs the trial of a seed; the same seed always gives the same.

    Args:
        seed: any number.
        remember: so many lines of the journal are kept.
    """
    random = Random(seed)  # noqa: S311 - a trial is to be repeatable
    instances = random.randrange(2, 7)
    models = random.randrange(10, 60)
    fits = random.choice((0.5, 0.9, 1.5))
    size = 64 * MIB
    workload = Workload(
        seed=random.getrandbits(32),
        models=models,
        requests=int(random.choice((8, 15)) * (CALM_US + 15 * SECOND_US) / SECOND_US),
        rate=random.choice((8, 15)),
        cold_at_once=random.choice((0, 0, models)),
        size_bytes=size,
        load_ms=random.choice((100, 1_000, 4_000)),
        service_ms=random.choice((5, 100)),
    )
    scenario = Scenario(
        seed=random.getrandbits(32),
        instances=instances,
        capacity_bytes=max(4 * size, int(models * size * 1.2 * fits / instances)),
        default_model_bytes=size,
        loader_threads=random.choice((1, 2, 4)),
        min_churn_age_ms=random.choice((None, 0, 1_000)),
        balanced=random.random() < 0.5,
        lag_us=random.choice((1_000, 20_000, 200_000)),
        store_latency_us=random.choice((1_000, 5_000, 30_000)),
        policy=EvictionPolicy(tuple(EvictionRanking)[seed % 2]),
        own_views=True,
    )
    faults = draw_faults(random, random.randrange(1, 9), SETTLE_US, CALM_US)
    world = World(scenario, generate(workload))
    if remember:
        world.journal = deque(maxlen=remember)
    invariants = Invariants(world)
    world.on_failure = invariants.failed
    world.on_event = invariants.look
    Faults(world, random).enter(faults)
    try:
        world.run(until_us=CALM_US + IN_STEP_US)
        _finish_loads(world)
        invariants.settled()
        _probe(world, invariants)
    except Broken as broken:
        return Verdict(seed, str(broken), tuple(faults), world.finished(), tuple(world.journal or ()))
    return Verdict(seed, "", tuple(faults), world.finished(), tuple(world.journal or ()))


def _finish_loads(world: World) -> None:
    """Lets the loads end that faults have put off; one that never ends is an invariant's to find."""
    while world.agenda.now_us < CALM_US + LONGEST_LOAD_US and any(
        instance.loader.wanted for instance in world.instances.values() if instance.alive
    ):
        world.go_on(world.agenda.now_us + SECOND_US)
    world.go_on(world.agenda.now_us + AFTER_LOADS_US)


def _probe(world: World, invariants: Invariants) -> None:
    """Asks an instance for each model: a mesh that has settled refuses only for want of room.

    Raises:
        Broken: a request failed for another reason, or got no answer.
    """

    def failed(ingress: Instance, model: Model, arrived_us: int, reason: str) -> None:
        invariants.failed(ingress, model, arrived_us, reason)
        record = world.store.models.current(model.model_id)
        remembered = reason in {"load_failed", "all_excluded"} and (
            model.misjudged
            or model.units > world.scenario.limits().capacity * 0.9
            or (record is not None and bool(record.failures))
        )
        if reason not in ACCEPTED and not remembered:
            raise Broken(f"a settled mesh failed a request for {model.model_id}: {reason}")

    world.on_failure = failed
    instances = [instance for instance in world.instances.values() if instance.alive]
    for number, model in enumerate(world.models):
        world.take(instances[number % len(instances)], model, world.agenda.now_us)
        world.go_on(world.agenda.now_us + SECOND_US)
    _finish_loads(world)
    if any(instance.open_requests for instance in instances):
        raise Broken("a settled mesh left requests without an answer")
