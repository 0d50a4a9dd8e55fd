"""The management API `mmesh.ModelMesh`, with the aliases that old clients call."""

from typing import Protocol

from mesh.instance.calls import Rpc, service
from mesh.instance.errors import MeshError, Reason, invalid
from mesh.protos import model_mesh_pb2 as api

SERVICE = "mmesh.ModelMesh"
LEGACY_SERVICE = "com.ibm.watson.tas.proto.TasRuntime"

_HOUR_MS = 3_600_000
#: How long before now a model that is registered counts as used, milliseconds: with ``loadNow`` and without, as
#: KServe ModelMesh has it.
_REGISTERED_AGE_MS = {True: _HOUR_MS, False: 6 * _HOUR_MS}


class Models(Protocol):
    """What the management API asks of the instance."""

    async def register(
        self, model_id: str, model_type: str, path: str, key: str, *, last_used_ms: int, touch: bool
    ) -> bool:
        """Creates a model's record, or finds one of the same attributes.

        Returns: whether it was created.

        Raises:
            MeshError: MODEL_EXISTS with other attributes, or REGISTRY_UNAVAILABLE.
        """

    async def unregister(self, model_id: str) -> None:
        """Deletes a model's record, if there is one.

        Raises:
            MeshError: MODEL_REFERENCED or REGISTRY_UNAVAILABLE.
        """

    async def ensure_loaded(self, model_id: str, *, last_used_ms: int, wait: bool) -> None:
        """Has the model loaded somewhere if it has no copy.

        Raises:
            MeshError: MODEL_NOT_FOUND, or the load was refused or failed.
        """

    async def status(self, model_id: str) -> api.ModelStatusInfo:
        """The model's status as its instances report it."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""


class VModels(Protocol):
    """What the management API asks of the instance about vmodels; see `mesh.instance.vmodels.VModels`."""

    async def set(self, request: api.SetVModelRequest) -> api.VModelStatusInfo:
        """Creates a vmodel or gives it another target."""

    async def delete(self, request: api.DeleteVModelRequest) -> api.DeleteVModelResponse:
        """Deletes a vmodel."""

    async def status(self, request: api.GetVModelStatusRequest) -> api.VModelStatusInfo:
        """Tells a vmodel's status."""


class ManagementService:
    """The rpcs, each from request to reply."""

    def __init__(self, models: Models, vmodels: VModels) -> None:
        self._models = models
        self.vmodels = vmodels

    async def register_model(self, request: api.RegisterModelRequest) -> api.ModelStatusInfo:
        """Creates a model; the same call again succeeds."""
        _require_id(request.modelId)
        if not request.modelInfo.type:
            raise invalid("Must provide non-empty model type string")
        now_ms = self._models.now_ms()
        last_used_ms = min(request.lastUsedTime, now_ms) or now_ms - _REGISTERED_AGE_MS[request.loadNow]
        created = await self._models.register(
            request.modelId,
            request.modelInfo.type,
            request.modelInfo.path,
            request.modelInfo.key,
            last_used_ms=last_used_ms,
            touch=not request.loadNow,
        )
        if request.loadNow:
            return await self._load(request.modelId, last_used_ms, request.sync)
        if created:
            return api.ModelStatusInfo(status=api.ModelStatusInfo.NOT_LOADED)
        return await self._models.status(request.modelId)

    async def unregister_model(self, request: api.UnregisterModelRequest) -> api.UnregisterModelResponse:
        """Deletes a model; its copies are unloaded by the instances that have them."""
        _require_id(request.modelId)
        await self._models.unregister(request.modelId)
        return api.UnregisterModelResponse()

    async def get_model_status(self, request: api.GetStatusRequest) -> api.ModelStatusInfo:
        """Tells a model's status without marking it as used."""
        _require_id(request.modelId)
        return await self._models.status(request.modelId)

    async def ensure_loaded(self, request: api.EnsureLoadedRequest) -> api.ModelStatusInfo:
        """Loads a model that has no copy, and marks it as used."""
        _require_id(request.modelId)
        return await self._load(request.modelId, request.lastUsedTime or self._models.now_ms(), request.sync)

    async def _load(self, model_id: str, last_used_ms: int, sync: bool) -> api.ModelStatusInfo:
        try:
            await self._models.ensure_loaded(model_id, last_used_ms=last_used_ms, wait=sync)
        except MeshError as error:
            if error.reason in {Reason.MODEL_NOT_FOUND, Reason.REGISTRY_UNAVAILABLE}:
                raise
            # A load that fails is the model's status, not a failure of this call.
            status = await self._models.status(model_id)
            if status.status in {api.ModelStatusInfo.LOADED, api.ModelStatusInfo.LOADING}:
                return status
            status.status = api.ModelStatusInfo.LOADING_FAILED
            if error.message not in status.errors:
                status.errors.insert(0, error.message)
            return status
        return await self._models.status(model_id)

    def rpcs(self) -> dict[str, Rpc]:
        """The methods, also by the names that old clients call, by their full names."""
        rpcs = {
            "registerModel": Rpc(self.register_model, api.RegisterModelRequest),
            "unregisterModel": Rpc(self.unregister_model, api.UnregisterModelRequest),
            "getModelStatus": Rpc(self.get_model_status, api.GetStatusRequest),
            "ensureLoaded": Rpc(self.ensure_loaded, api.EnsureLoadedRequest),
            "setVModel": Rpc(self.vmodels.set, api.SetVModelRequest),
            "deleteVModel": Rpc(self.vmodels.delete, api.DeleteVModelRequest),
            "getVModelStatus": Rpc(self.vmodels.status, api.GetVModelStatusRequest),
        }
        rpcs["addModel"] = rpcs["registerModel"]
        rpcs["deleteModel"] = rpcs["unregisterModel"]
        return service(SERVICE, rpcs) | service(LEGACY_SERVICE, rpcs)


def _require_id(model_id: str) -> None:
    if not model_id:
        raise invalid("must provide non-empty modelId")
