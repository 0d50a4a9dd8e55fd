"""What the management API does with vmodels, for one instance."""

import asyncio
from collections.abc import Callable

import grpc

from mesh.instance.catalog import Catalog
from mesh.instance.errors import MeshError, Reason, invalid
from mesh.instance.vmodels.records import VModelRecords, Written, vmodel_of
from mesh.placement.vmodels import (
    Attributes,
    CopyCount,
    SetTarget,
    VModel,
    delete,
    set_target,
)
from mesh.protos import model_mesh_pb2 as api
from mesh.registry import Registry, VModelRecord

#: A caller that waits for a transition is told after so long that it goes on, seconds; as KServe ModelMesh has it.
SYNC_TIMEOUT_S = 240.0

_Status = api.VModelStatusInfo
_ModelStatus = api.ModelStatusInfo


class VModels:
    """Sets, deletes and describes vmodels.

    Args:
        default_owner: of vmodels that are created without one.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        records: VModelRecords,
        catalog: Catalog,
        *,
        default_owner: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._records = records
        self._catalog = catalog
        self._default_owner = default_owner
        self._now_ms = now_ms

    async def set(self, request: api.SetVModelRequest) -> api.VModelStatusInfo:
        """Creates a vmodel or gives it another target; see `set_target`.

        With ``sync`` it waits for the load of a model that became active at once, or for the end of the
        transition. That a load or a transition failed is in the status.

        Raises:
            MeshError: the request is faulty or must not be done, the registry is away, or the transition takes longer
                than `SYNC_TIMEOUT_S`.
        """
        vmodel_id, target = request.vModelId, request.targetModelId
        _check(request)
        # Two targets set one after the other, at different instances, must not pass each other.
        vmodel = await self._records.fetch(vmodel_id)
        copies = await self._count_copies(vmodel, target)
        wanted = SetTarget(
            vmodel_id,
            target,
            attributes=_attributes(request),
            auto_delete=request.autoDeleteTargetModel,
            update_only=request.updateOnly,
            force=request.force,
            load_now=request.loadNow,
            expected=request.expectedTargetModelId,
            owner=request.owner,
            default_owner=self._default_owner,
            copies=copies,
        )
        written = await self._records.change(
            vmodel_id,
            lambda before, models: set_target(wanted, before, models, self._now_ms()),
            models=(target,),
        )
        after = written.after
        if after is not None and after.in_transition:
            if request.sync:
                await self._transition_ended(vmodel_id, target)
        elif request.loadNow or _took_over(written, copies):
            await self._load(target, wait=request.sync)
        return await self._status(self._records.get(vmodel_id))

    async def _count_copies(self, vmodel: VModel | None, target: str) -> dict[str, CopyCount]:
        if vmodel is None or vmodel.active == target:
            return {}
        counts = await asyncio.gather(
            self._catalog.count_copies(vmodel.active), self._catalog.count_copies(target)
        )
        return dict(zip((vmodel.active, target), counts, strict=True))

    async def _load(self, model_id: str, *, wait: bool) -> None:
        try:
            await self._catalog.ensure_loaded(model_id, last_used_ms=self._now_ms(), wait=wait)
        except MeshError as error:
            if error.reason is Reason.REGISTRY_UNAVAILABLE:
                raise
            # The vmodel is set; how its model is, is told with its status.

    async def _transition_ended(self, vmodel_id: str, target: str) -> None:
        """Waits until the vmodel reached the target, has another one, or the target failed.

        Raises:
            MeshError: TRANSITION_TIMEOUT.
        """
        ended = asyncio.Event()

        def look(changed_id: str, _: VModelRecord | None, record: VModelRecord | None) -> None:
            if changed_id == vmodel_id and not _goes_on(record, target):
                ended.set()

        stop = self._registry.vmodels.subscribe(look)
        try:
            if not _goes_on(self._registry.vmodels.get(vmodel_id), target):
                return
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                await ended.wait()
        except TimeoutError:
            raise MeshError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                Reason.TRANSITION_TIMEOUT,
                f"model {target} was not ready for vmodel {vmodel_id} after {SYNC_TIMEOUT_S:g} s; the transition"
                " goes on, and getVModelStatus tells how",
                target,
            ) from None
        finally:
            stop()

    async def delete(self, request: api.DeleteVModelRequest) -> api.DeleteVModelResponse:
        """Deletes a vmodel; nothing happens where there is none, or it has another owner.

        Raises:
            MeshError: the request is faulty or the registry is away.
        """
        _require_id(request.vModelId)
        # Whose it is now decides, not whose it was when this instance last heard of it.
        await self._records.fetch(request.vModelId)
        await self._records.change(
            request.vModelId, lambda vmodel, models: delete(vmodel, models, owner=request.owner)
        )
        return api.DeleteVModelResponse()

    async def status(self, request: api.GetVModelStatusRequest) -> api.VModelStatusInfo:
        """Tells a vmodel's status: NOT_FOUND where there is none, or it has another owner.

        It is read from the store, so that whoever set a target at one instance is not told of the one before by
        another; where the store is away, from what is known here.

        Raises:
            MeshError: the request is faulty, or the registry is away and the vmodel not known here.
        """
        _require_id(request.vModelId)
        try:
            vmodel = await self._records.fetch(request.vModelId)
        except MeshError:
            vmodel = self._records.get(request.vModelId)
            if vmodel is None:
                raise
        if vmodel is not None and request.owner not in {"", vmodel.owner}:
            vmodel = None
        return await self._status(vmodel)

    async def _status(self, vmodel: VModel | None) -> api.VModelStatusInfo:
        if vmodel is None:
            return _Status()
        if not vmodel.in_transition:
            state = _Status.DEFINED
        else:
            state = _Status.TRANSITION_FAILED if vmodel.failed else _Status.TRANSITIONING
        reply = _Status(
            status=state,
            activeModelId=vmodel.active,
            targetModelId=vmodel.target,
            activeModelStatus=await self._catalog.status(vmodel.active),
            owner=vmodel.owner,
        )
        if vmodel.in_transition:
            target = await self._catalog.status(vmodel.target)
            if target.status in {_ModelStatus.LOADED, _ModelStatus.NOT_LOADED, _ModelStatus.UNKNOWN}:
                # Its copies are told one by one; as a whole it is not there before it takes requests.
                target.status = _ModelStatus.LOADING
            if target.status == _ModelStatus.LOADING_FAILED and not vmodel.failed:
                target.status = _ModelStatus.LOADING
            reply.targetModelStatus.CopyFrom(target)
        return reply


def _check(request: api.SetVModelRequest) -> None:
    if not request.vModelId:
        raise invalid("Must provide vModelId")
    if not request.targetModelId:
        raise invalid(f"Must provide target modelId for vmodel {request.vModelId}")
    if request.modelInfo != api.ModelInfo() and not request.modelInfo.type:
        raise invalid(
            f"modelInfo of target model {request.targetModelId} has no type: give it one, or leave modelInfo out for a"
            " model that is registered"
        )


def _require_id(vmodel_id: str) -> None:
    if not vmodel_id:
        raise invalid("Must provide vModelId")


def _attributes(request: api.SetVModelRequest) -> Attributes | None:
    info = request.modelInfo
    return None if info == api.ModelInfo() else Attributes(info.type, info.path, info.key)


def _took_over(written: Written, copies: dict[str, CopyCount]) -> bool:
    """Whether a model became active in the place of one that had copies."""
    before, after = written.before, written.after
    if before is None or after is None or before.active == after.active:
        return False
    return before.active not in copies or copies[before.active].listed > 0


def _goes_on(record: VModelRecord | None, target: str) -> bool:
    if record is None:
        return False
    vmodel = vmodel_of(record)
    return vmodel.in_transition and vmodel.target == target and not vmodel.failed
