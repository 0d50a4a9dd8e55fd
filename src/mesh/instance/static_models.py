"""Registers the models that the settings list, before the instance takes requests."""

import asyncio
import logging
from collections.abc import Sequence

from mesh.instance.errors import MeshError, StartRefused
from mesh.instance.management import ManagementService
from mesh.instance.settings.registrations import StaticModel
from mesh.protos import model_mesh_pb2 as api

log = logging.getLogger(__name__)

#: Registrations and loads under way at a time.
AT_ONCE = 10
#: A model that is to be loaded must be so within this, seconds; as KServe ModelMesh has it.
LOADED_WITHIN_S = 600.0


class StaticModelRefused(StartRefused):
    """A model that the settings list cannot be registered or loaded."""


async def register_static(models: Sequence[StaticModel], management: ManagementService) -> None:
    """Registers models and vmodels as the management API does, and awaits the loads that are asked for.

    Any number of instances may do so at a time: who comes second finds things as they should be.

    Raises:
        StaticModelRefused: one cannot be registered or its load failed; the others may be registered by then.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(model: StaticModel) -> None:
        async with slots:
            try:
                await _register(model, management)
            except MeshError as error:
                raise StaticModelRefused(
                    f"MM_AUTO_REGISTER_MODELS: model {model.model_id} cannot be registered: {error}"
                ) from None
            if model.ensure_loaded:
                await _load(model, management)

    tasks = [asyncio.ensure_future(one(model)) for model in models]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    log.info("static models registered", extra={"models": len(models)})


async def _register(model: StaticModel, management: ManagementService) -> None:
    info = api.ModelInfo(type=model.model_info.type, path=model.model_info.path, key=model.model_info.key)
    if not model.v_model_id:
        await management.register_model(api.RegisterModelRequest(modelId=model.model_id, modelInfo=info))
        return
    await management.vmodels.set(
        api.SetVModelRequest(
            vModelId=model.v_model_id,
            targetModelId=model.model_id,
            modelInfo=info,
            autoDeleteTargetModel=not model.retain_after_transition,
        )
    )


async def _load(model: StaticModel, management: ManagementService) -> None:
    request = api.EnsureLoadedRequest(modelId=model.model_id, sync=True)
    try:
        async with asyncio.timeout(LOADED_WITHIN_S):
            status = await management.ensure_loaded(request)
    except TimeoutError:
        why = f"not within {LOADED_WITHIN_S:g} s"
    except MeshError as error:
        why = str(error)
    else:
        if status.status == api.ModelStatusInfo.LOADED:
            return
        why = "; ".join(status.errors) or api.ModelStatusInfo.ModelStatus.Name(status.status)
    raise StaticModelRefused(
        f"MM_AUTO_REGISTER_MODELS: model {model.model_id} has ensureLoaded and could not be loaded: {why}"
    )
