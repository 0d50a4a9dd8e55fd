"""Models that are asked for before they are loaded."""

from mesh.simulation import Scenario, Trace, TracedModel, Workload, World, generate

MIB = 1 << 20


def test_a_thousand_cold_models_at_once_are_each_loaded_once_and_spread() -> None:
    trace = generate(
        Workload(models=1_000, requests=0, cold_at_once=1_000, size_bytes=32 * MIB, load_spread=4)
    )
    world = World(Scenario(instances=10, capacity_bytes=16 << 30), trace)
    report = world.run()
    assert report.loads == 1_000
    assert report.cold == 1_000
    assert report.failures == 0
    assert len(report.loads_by_instance) == 10
    assert all(80 <= loads <= 120 for loads in report.loads_by_instance.values()), report.loads_by_instance
    for instance in world.instances.values():
        assert instance.server.held_units <= instance.server.capacity


def test_a_thousand_calls_of_one_cold_model_are_one_load() -> None:
    trace = Trace([TracedModel("digits", "sklearn", 64 * MIB, 2_000_000, 5_000)])
    for call in range(1_000):
        trace.add(call * 1_000, 0)
    report = World(Scenario(instances=10), trace).run()
    assert report.loads == 1
    assert report.failures == 0
    assert report.hits + report.cold == 1_000


def test_cold_models_that_do_not_fit_never_push_an_instance_over_its_capacity() -> None:
    trace = generate(
        Workload(models=400, requests=4_000, rate=50, cold_at_once=400, size_bytes=64 * MIB, load_ms=200)
    )
    world = World(Scenario(instances=4, capacity_bytes=1 << 30, min_churn_age_ms=0), trace)
    over: list[str] = []

    def watch() -> None:
        over.extend(
            instance.instance_id
            for instance in world.instances.values()
            if instance.server.held_units > instance.server.capacity
        )
        world.agenda.after(10_000, watch)

    watch()
    report = world.run()
    assert not over
    assert report.evictions["room"] > 0
