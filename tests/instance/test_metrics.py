"""The Prometheus endpoint and the probes."""

import asyncio
import urllib.error
import urllib.request

from mesh.instance import MetricsSettings
from tests.instance.meshes import Mesh, eventually


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_metrics_have_the_names_and_labels_that_dashboards_know(
    mesh: Mesh, unused_tcp_port: int
) -> None:
    client = await mesh.add(metrics=MetricsSettings(port=unused_tcp_port, per_model=True))
    await client.register("m", load=True, sync=True)
    await client.infer("m")
    await eventually(lambda: mesh.instances[0].registry.election.leading)
    status, text = await asyncio.to_thread(_get, unused_tcp_port, "/metrics")
    assert status == 200
    assert (
        'modelmesh_api_request_milliseconds_count{method="Call",code="OK",modelId="m",vModelId=""} 1\n'
        in text
    )
    assert (
        'modelmesh_invoke_model_milliseconds_count{method="Call",code="OK",modelId="m",vModelId=""} 1\n'
        in text
    )
    assert 'modelmesh_loadmodel_milliseconds_count{modelId="m",vModelId=""} 1\n' in text
    assert "modelmesh_instance_models_total 1.0" in text
    assert "modelmesh_models_managed_total 1.0" in text
    assert "modelmesh_loadmodel_failure 0.0" in text
    assert "modelmesh_instance_ready 1.0" in text
    assert (await asyncio.to_thread(_get, unused_tcp_port, "/other"))[0] == 404
    assert 'le="0.5"' in text
    assert 'le="300000.0"' in text


async def test_probes_follow_the_instance(mesh: Mesh, unused_tcp_port: int) -> None:
    await mesh.add(probe_port=unused_tcp_port)
    assert (await asyncio.to_thread(_get, unused_tcp_port, "/ready"))[0] == 200
    assert (await asyncio.to_thread(_get, unused_tcp_port, "/live/"))[0] == 200
    assert (await asyncio.to_thread(_get, unused_tcp_port, "/other"))[0] == 404
    await mesh.instances[0].drain()
    assert await asyncio.to_thread(_get, unused_tcp_port, "/ready") == (
        503,
        "the instance is leaving the mesh\n",
    )


async def test_how_long_the_registry_has_been_away_is_told(mesh: Mesh, unused_tcp_port: int) -> None:
    await mesh.add(metrics=MetricsSettings(port=unused_tcp_port))

    async def lag_s() -> float:
        _, text = await asyncio.to_thread(_get, unused_tcp_port, "/metrics")
        (line,) = [line for line in text.splitlines() if line.startswith("modelmesh_registry_lag_seconds ")]
        return float(line.split()[1])

    before = await lag_s()
    mesh.registry.stop()
    await asyncio.sleep(0.5)
    assert await lag_s() >= max(before, 0.5)
