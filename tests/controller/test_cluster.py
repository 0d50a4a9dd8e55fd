"""Objects of a real cluster, followed and written."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from mesh.controller.cluster import CONFIG_MAPS, DEPLOYMENTS, Cluster, ClusterError, Informer, covers
from mesh.controller.configuration import read_configuration
from mesh.controller.reconcilers import Writer
from mesh.controller.runtimes import Surroundings, read_runtime, runtime_deployment
from tests.controller.runtime_specs import CUSTOM, TRITON, resource
from tests.servers.kubernetes import ControlPlane

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def api(cluster: ControlPlane) -> AsyncIterator[Cluster]:
    configuration = Configuration()
    await config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    api = Cluster(ApiClient(configuration))
    yield api
    await api.close()


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def eventually(what: Any, within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not what():
            await asyncio.sleep(0.02)


async def test_an_informer_follows_what_comes_changes_and_goes(api: Cluster, namespace: str) -> None:
    informer = Informer(api, CONFIG_MAPS, namespace=namespace)
    seen: list[tuple[str | None, str | None]] = []

    def note(before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        if (before or after or {})["metadata"]["name"] == "m":
            seen.append(tuple(found and found["data"]["x"] for found in (before, after)))  # type: ignore[arg-type]

    informer.subscribe(note)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced.wait(), 20)
    await api.create(CONFIG_MAPS, config_map(namespace, "m", x="1"))
    await eventually(lambda: informer.get(namespace, "m"))
    await api.apply(CONFIG_MAPS, config_map(namespace, "m", x="2"))
    await api.delete(CONFIG_MAPS, namespace, "m")
    await eventually(lambda: seen and seen[-1] == ("2", None))
    assert seen == [(None, "1"), ("1", "2"), ("2", None)]
    task.cancel()


async def test_what_was_deleted_does_not_come_back_by_a_write_that_came_before(
    api: Cluster, namespace: str
) -> None:
    informer = Informer(api, CONFIG_MAPS, namespace=namespace)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced.wait(), 20)
    created = await api.create(CONFIG_MAPS, config_map(namespace, "m", x="1"))
    informer.note(created)
    assert informer.get(namespace, "m") is not None
    written = await api.apply(CONFIG_MAPS, config_map(namespace, "m", x="2"))
    await api.delete(CONFIG_MAPS, namespace, "m")
    await eventually(lambda: informer.get(namespace, "m") is None)
    informer.note(written)
    assert informer.get(namespace, "m") is None
    task.cancel()


async def test_fields_of_others_stay_when_an_object_is_applied(api: Cluster, namespace: str) -> None:
    await api.apply(CONFIG_MAPS, config_map(namespace, "m", ours="1", old="1"))
    theirs = {"metadata": {"annotations": {"kept": "yes"}}, "data": {"theirs": "2"}}
    await api._call(
        "PATCH",
        CONFIG_MAPS.path(namespace, "m"),
        {},
        theirs,
        {"Content-Type": "application/merge-patch+json"},
    )
    after = await api.apply(CONFIG_MAPS, config_map(namespace, "m", ours="3"))
    assert after["data"] == {"ours": "3", "theirs": "2"}
    assert after["metadata"]["annotations"]["kept"] == "yes"


async def test_what_is_refused_says_why(api: Cluster, namespace: str) -> None:
    with pytest.raises(ClusterError, match="not found") as missing:
        await api.get(CONFIG_MAPS, namespace, "nothing")
    assert missing.value.missing
    await api.create(CONFIG_MAPS, config_map(namespace, "m"))
    with pytest.raises(ClusterError, match="already exists") as there:
        await api.create(CONFIG_MAPS, config_map(namespace, "m"))
    assert there.value.conflicts


@pytest.mark.parametrize("spec", [TRITON, CUSTOM])
async def test_a_deployment_that_is_what_it_is_to_be_is_not_written_again(
    api: Cluster, namespace: str, spec: dict[str, Any]
) -> None:
    written = resource(spec)
    runtime = read_runtime(written)
    surroundings = Surroundings(namespace, "model-serving-etcd", ("claim",))
    wanted = runtime_deployment(runtime, read_configuration({}), surroundings)
    wanted["spec"]["replicas"] = 0
    informer = Informer(api, DEPLOYMENTS, namespace=namespace)
    writer = Writer(api)
    first = await writer.apply(informer, wanted)
    again = await writer.apply(informer, wanted)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert covers(await api.get(DEPLOYMENTS, namespace, first["metadata"]["name"]), wanted)
    wanted["spec"]["replicas"] = 1
    assert (await writer.apply(informer, wanted))["spec"]["replicas"] == 1
