"""What an instance does before it joins the mesh, and what may keep it from joining."""

import asyncio
import logging
from typing import Any

from mesh.instance.dynamic import is_disabled
from mesh.instance.errors import StartRefused
from mesh.instance.peers import Peer
from mesh.instance.settings import Settings
from mesh.registry import Registry
from mesh.runtimes import ModelRuntime, OpenChannel, RuntimeParameters

log = logging.getLogger(__name__)

#: The registry must be mirrored within this at the start, seconds; as KServe ModelMesh has it.
REGISTRY_START_TIMEOUT_S = 300.0


class InstanceIdTaken(StartRefused):
    """Another instance of the mesh has this instance's id and answers."""


class MeshDisabled(StartRefused):
    """Operators let no instance of this mesh start."""


async def start_registry_and_runtime(
    settings: Settings, registry: Registry, runtime: ModelRuntime | None
) -> RuntimeParameters | None:
    """Waits for both at a time.

    Returns: what the model server told of itself; None for a pure router.

    Raises:
        TimeoutError: the registry could not be read in time.
        MeshDisabled: the registry's config key ``disable`` is set.
        RuntimeFailure: the model server failed or told impossible values.
    """
    mirrored = asyncio.ensure_future(
        registry.start(REGISTRY_START_TIMEOUT_S, remember_after=settings.lifecycle.snapshot_after_ms / 1_000)
    )
    works: list[asyncio.Future[Any]] = [mirrored]
    started = None
    if runtime is not None:
        started = asyncio.ensure_future(runtime.start())
        works.append(started)
    try:
        await asyncio.gather(*works)
    except BaseException:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        raise
    if is_disabled(registry.config):
        raise MeshDisabled(
            f"config key disable of mesh {settings.service_name} is set in the registry, so that no instance starts:"
            " delete it or set it to false"
        )
    return None if started is None else started.result()


async def look_at_the_others(settings: Settings, registry: Registry, open_channel: OpenChannel) -> None:
    """Makes sure that this instance can be one of the mesh.

    Two instances of one id would each undo what the other writes of its copies. The record of an earlier process of
    this id may be there for a while; nobody answers at its address.

    Raises:
        InstanceIdTaken: another instance has this id and answers.
    """
    own_id = settings.instance_id
    foreign = [name for name, record in registry.instances.items() if not record.endpoint and name != own_id]
    if foreign:
        log.warning(
            "instances %s are of KServe ModelMesh: they and this one share the registry and do not reach each other, so"
            " that a model may be loaded by both; end them soon",
            ", ".join(sorted(foreign)),
        )
    record = registry.instances.get(own_id)
    if record is None or not record.endpoint:
        return
    namesake = Peer(own_id, record.endpoint, endpoint=-1, open_channel=open_channel)
    try:
        taken = await namesake.answers()
    finally:
        await namesake.close()
    if taken:
        raise InstanceIdTaken(
            f"instance id {own_id} is taken: an instance at {record.endpoint} answers to it; give each instance an id"
            " of its own"
        )
