"""What the mesh does with vmodels beyond the management API: lists, canaries and shadows."""

import asyncio
import heapq
from collections.abc import Callable, Iterable

import grpc

from mesh.instance import peer_service
from mesh.instance.calls import Rpc, service
from mesh.instance.catalog import Catalog
from mesh.instance.errors import MeshError, Reason, invalid, vmodel_not_found
from mesh.instance.peers import Peers
from mesh.instance.vmodels.comparisons import MAX_DIFFERENCES, Comparisons
from mesh.instance.vmodels.records import VModelRecords, vmodel_of
from mesh.placement.vmodels import Portion, Role, SetPortion, VModel, set_portion
from mesh.protos import peer_pb2
from mesh.protos import vmodels_pb2 as api
from mesh.registry import Registry

SERVICE = "mesh.vmodels.v1.VModels"
#: Vmodels in one page where the caller does not say.
DEFAULT_PAGE = 1_000
#: A canary below this share would get next to no request; data planes split by whole millionths.
LEAST_SHARE = 0.000_001


class VModelService:
    """The rpcs of ``mesh.vmodels.v1.VModels``.

    Args:
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        records: VModelRecords,
        catalog: Catalog,
        peers: Peers,
        comparisons: Comparisons,
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._records = records
        self._catalog = catalog
        self._peers = peers
        self._comparisons = comparisons
        self._now_ms = now_ms

    def rpcs(self) -> dict[str, Rpc]:
        """The methods by their full names, with what peers ask of them."""
        return service(
            SERVICE,
            {
                "List": Rpc(self._list, api.ListRequest),
                "SetCanary": Rpc(self._set_canary, api.SetCanaryRequest),
                "SetShadow": Rpc(self._set_shadow, api.SetShadowRequest),
                "CompareShadow": Rpc(self._compare, api.CompareShadowRequest),
            },
        ) | service(
            peer_service.SERVICE, {"LocalComparison": Rpc(self._tell, peer_pb2.LocalComparisonRequest)}
        )

    async def _list(self, request: api.ListRequest) -> api.ListReply:
        limit = request.limit or DEFAULT_PAGE
        vmodels = self._registry.vmodels
        ids = (
            vmodel_id
            for vmodel_id, record in vmodels.items()
            if vmodel_id > request.after
            and vmodel_id.startswith(request.prefix)
            and request.owner in {"", record.owner}
        )
        page = heapq.nsmallest(limit + 1, ids)
        reply = api.ListReply(
            vmodels=[_message(vmodel_id, vmodel_of(vmodels[vmodel_id])) for vmodel_id in page[:limit]],
            total=len(vmodels),
        )
        if len(page) > limit:
            reply.next = page[limit - 1]
        return reply

    async def _set_canary(self, request: api.SetCanaryRequest) -> api.VModel:
        portion = _portion(request.canary) if request.HasField("canary") else None
        if portion is not None and portion.share >= 1:
            raise invalid(
                f"canary.share is {portion.share:g}: it must be less than 1; set the vmodel's target to"
                f" {portion.model} for it to answer all requests"
            )
        wanted = SetPortion(request.vmodel_id, Role.CANARY, portion, request.owner)
        return await self._set(wanted, wait=request.sync)

    async def _set_shadow(self, request: api.SetShadowRequest) -> api.VModel:
        portion = _portion(request.shadow) if request.HasField("shadow") else None
        return await self._set(
            SetPortion(request.vmodel_id, Role.SHADOW, portion, request.owner), wait=request.sync
        )

    async def _set(self, wanted: SetPortion, *, wait: bool) -> api.VModel:
        if not wanted.vmodel_id:
            raise invalid("vmodel_id is empty: name the vmodel")
        written = await self._records.change(
            wanted.vmodel_id,
            lambda vmodel, models: set_portion(wanted, vmodel, models),
            models=() if wanted.portion is None else (wanted.portion.model,),
        )
        if wanted.portion is not None:
            await self._load(wanted.portion.model, wait=wait)
        if written.after is None:
            raise vmodel_not_found(wanted.vmodel_id)
        return _message(wanted.vmodel_id, written.after)

    async def _load(self, model_id: str, *, wait: bool) -> None:
        try:
            await self._catalog.ensure_loaded(model_id, last_used_ms=self._now_ms(), wait=wait)
        except MeshError as error:
            if error.reason is Reason.REGISTRY_UNAVAILABLE:
                raise
            # It is set; requests that it cannot take go to the active model, and its status tells why.

    async def _compare(self, request: api.CompareShadowRequest) -> api.Comparison:
        vmodel = await self._records.fetch(request.vmodel_id)
        if vmodel is None:
            raise vmodel_not_found(request.vmodel_id)
        shadow_id = request.shadow_model_id or ("" if vmodel.shadow is None else vmodel.shadow.model)
        if not shadow_id:
            raise MeshError(
                grpc.StatusCode.FAILED_PRECONDITION,
                Reason.INVALID_ARGUMENT,
                f"vmodel {request.vmodel_id} has no shadow: give it one, or name one that it had in shadow_model_id",
                request.vmodel_id,
            )
        peers = list(self._peers)
        answers = await asyncio.gather(
            *(peer.comparison(request.vmodel_id, shadow_id) for peer in peers), return_exceptions=True
        )
        told = [self._comparisons.of(request.vmodel_id, shadow_id)]
        missing = []
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, api.Comparison):
                told.append(answer)
            elif isinstance(answer, MeshError):
                missing.append(peer.instance_id)
            else:
                raise answer
        return _sum(request.vmodel_id, shadow_id, told, missing)

    async def _tell(self, request: peer_pb2.LocalComparisonRequest) -> api.Comparison:
        return self._comparisons.of(request.vmodel_id, request.shadow_model_id)


def _portion(message: api.Portion) -> Portion:
    if not message.model_id:
        raise invalid("model_id is empty: name the model that is to get a share of the requests")
    if not LEAST_SHARE <= message.share <= 1:
        raise invalid(
            f"share is {message.share:g}: it must be {LEAST_SHARE:g} to 1, such as 0.05 for one in twenty"
        )
    return Portion(message.model_id, message.share)


def _message(vmodel_id: str, vmodel: VModel) -> api.VModel:
    return api.VModel(
        vmodel_id=vmodel_id,
        owner=vmodel.owner,
        active_model_id=vmodel.active,
        target_model_id=vmodel.target,
        failed=vmodel.failed,
        canary=_portion_message(vmodel.canary),
        shadow=_portion_message(vmodel.shadow),
    )


def _portion_message(portion: Portion | None) -> api.Portion | None:
    return None if portion is None else api.Portion(model_id=portion.model, share=portion.share)


def _sum(
    vmodel_id: str, shadow_id: str, told: Iterable[api.Comparison], missing: Iterable[str]
) -> api.Comparison:
    total = api.Comparison(vmodel_id=vmodel_id, shadow_model_id=shadow_id, missing_instances=missing)
    differences: list[api.Difference] = []
    for one in told:
        total.equal += one.equal
        total.different += one.different
        total.shadow_failed += one.shadow_failed
        total.primary_failed += one.primary_failed
        total.dropped += one.dropped
        total.primary_ms += one.primary_ms
        total.shadow_ms += one.shadow_ms
        differences += one.differences
    differences.sort(key=lambda difference: difference.time_ms, reverse=True)
    total.differences.extend(differences[:MAX_DIFFERENCES])
    return total
