"""Reads an installation of KServe ModelMesh; changes nothing."""

import asyncio
import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mesh.controller.cluster import (
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    PREDICTORS,
    SECRETS,
    SERVING_RUNTIMES,
    Cluster,
    ClusterError,
    Kind,
    Object,
)
from mesh.controller.migration.installation import Installation, RegistryContents
from mesh.controller.namespaces import InvalidEtcdSecret, read_connection
from mesh.controller.namespaces.etcd_secret import CONNECTION
from mesh.controller.storage import entries_of
from mesh.registry import (
    MODELS,
    VMODELS,
    Codec,
    InvalidConnection,
    InvalidRecord,
    Keys,
    RegistryError,
    Store,
    open_store,
)

_PREFIX = "mm"
_Record = TypeVar("_Record")
#: Time for all that is read from etcd, seconds.
_DEADLINE_S = 30.0


async def read_installation(
    cluster: Cluster,
    controller_namespace: str,
    namespace: str,
    *,
    etcd_secret: str = "model-serving-etcd",  # noqa: S107 - a name
    service: str = "modelmesh-serving",
) -> Installation:
    """Reads what there is.

    Args:
        cluster: with the installation.
        controller_namespace: with the controller, its configuration and the Secret of etcd.
        namespace: with the models.
        etcd_secret: name of the Secret with the connection.
        service: name of the mesh, where the configuration does not say.

    Raises:
        ClusterError: the cluster could not be read.
    """
    config_maps = {
        found["metadata"]["name"]: found.get("data") or {}
        for found in await _all(cluster, CONFIG_MAPS, controller_namespace)
    }
    user = _yaml(config_maps.get("model-serving-config"), "config.yaml")
    storage = (user or {}).get("storageSecretName", "storage-config")
    secret = await _get(cluster, namespace, storage)
    runtimes = [
        {**found, "kind": kind.kind}
        for kind in (CLUSTER_SERVING_RUNTIMES, SERVING_RUNTIMES)
        for found in await _all(cluster, kind, namespace)
    ]
    registry, problem = await _registry(
        await _get(cluster, controller_namespace, etcd_secret),
        (user or {}).get("inferenceServiceName", service),
        "" if namespace == controller_namespace else f"/mm_ns/{namespace}",
    )
    return Installation(
        namespace=namespace,
        predictors=await _all(cluster, PREDICTORS, namespace),
        inference_services=await _all(cluster, INFERENCE_SERVICES, namespace),
        runtimes=runtimes,
        deployments=await _all(cluster, DEPLOYMENTS, namespace),
        user_configuration=user,
        default_configuration=_yaml(config_maps.get("model-serving-config-defaults"), "config-defaults.yaml"),
        storage_entries=None if secret is None else entries_of(secret),
        registry=registry,
        registry_problem=problem,
    )


async def _all(cluster: Cluster, kind: Kind, namespace: str) -> list[Object]:
    try:
        return (await cluster.list(kind, namespace if kind.namespaced else ""))[0]
    except ClusterError as problem:
        if problem.missing:
            return []
        raise


async def _get(cluster: Cluster, namespace: str, name: str) -> Object | None:
    try:
        return await cluster.get(SECRETS, namespace, name)
    except ClusterError as problem:
        if problem.missing:
            return None
        raise


def _yaml(data: Mapping[str, str] | None, member: str) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        read = yaml.safe_load(data.get(member, "")) or {}
    except yaml.YAMLError:
        return {}
    return read if isinstance(read, dict) else {}


async def _registry(secret: Object | None, service: str, below: str) -> tuple[RegistryContents | None, str]:
    if secret is None:
        return None, "the Secret with the connection to etcd is not there"
    try:
        connection = read_connection(secret.get("data") or {})
        with tempfile.TemporaryDirectory(prefix="mesh-etcd-") as directory:
            store = _open(secret, directory)
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    return await _contents(store, Keys(service, _PREFIX), below), ""
            finally:
                await store.close()
    except (InvalidEtcdSecret, InvalidConnection, RegistryError) as problem:
        return None, str(problem)
    except TimeoutError:
        return None, f"etcd at {connection.get('endpoints')} did not answer within {_DEADLINE_S:.0f} s"


def _open(secret: Object, directory: str) -> Store:
    for name, value in (secret.get("data") or {}).items():
        file = Path(directory, name)
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(value))
    return open_store(f"etcd:{Path(directory, CONNECTION)}")


async def _contents(store: Store, keys: Keys, below: str) -> RegistryContents:
    unreadable: dict[str, str] = {}
    models = await _records(store, below + keys.models, MODELS, unreadable)
    vmodels = await _records(store, below + keys.vmodels, VMODELS, unreadable)
    prefix = below + keys.instances
    instances = [entry.key.removeprefix(prefix) for entry in (await store.list(prefix)).entries]
    return RegistryContents(models, vmodels, unreadable, instances)


async def _records(
    store: Store, prefix: str, codec: Codec[_Record], unreadable: dict[str, str]
) -> dict[str, _Record]:
    records = {}
    for entry in (await store.list(prefix)).entries:
        try:
            records[entry.key.removeprefix(prefix)] = codec.decode(entry)
        except InvalidRecord as problem:
            unreadable[entry.key] = str(problem)
    return records
