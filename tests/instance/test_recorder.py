"""What was asked of a mesh is recorded, so that it can be simulated."""

from pathlib import Path

from mesh.instance.settings import RecordingSettings
from mesh.simulation import Scenario, World, trace_of
from tests.instance.meshes import Mesh, eventually


async def test_what_was_asked_of_a_mesh_can_be_simulated(mesh: Mesh, tmp_path: Path) -> None:
    record = tmp_path / "usage"
    client = await mesh.add(recording=RecordingSettings(path=record))
    for name in ("often", "once"):
        await client.register(name)
    for _ in range(5):
        await client.infer("often")
    await client.infer("once")
    recorder = mesh.instances[0].parts.recorder
    assert recorder is not None

    def recorded() -> bool:
        recorder.write()
        return record.exists() and len(trace_of([record])) == 6

    await eventually(recorded)
    trace = trace_of([record])
    asked = [trace.traced[number].model_id for number in trace.numbers]
    assert (asked.count("often"), asked.count("once")) == (5, 1)
    assert all(model.size_bytes > 0 and model.load_us > 0 for model in trace.traced)
    report = World(Scenario(instances=2), trace).run()
    assert report.requests == 6
    assert report.loads == 2
