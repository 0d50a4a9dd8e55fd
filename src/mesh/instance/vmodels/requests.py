"""Requests for vmodels that the data plane could not bring to a copy: which model is to answer them."""

from collections.abc import Awaitable, Callable

import grpc

from mesh.instance.errors import MeshError, Reason, registry_unavailable, vmodel_not_found
from mesh.instance.routes import Routes
from mesh.instance.vmodels.records import vmodel_of
from mesh.placement.vmodels import VModel
from mesh.registry import Registry, RegistryError

Serve = Callable[[str], Awaitable[None]]
"""Has a model answer the request; raises `MeshError` where that cannot be."""


class VModelRequests:
    """Finds the model for a request, by what is known here and, where that turns out to be old, by the store."""

    def __init__(self, registry: Registry, routes: Routes) -> None:
        self._registry = registry
        self._routes = routes

    async def bring(self, vmodel_id: str, resolved_id: str, *, fresh: bool, serve: Serve) -> None:
        """Has one of the vmodel's models answer.

        A request that nobody has got yet goes to the active model where the canary, whose turn it was, cannot take it.
        A model that is not registered any more has been followed by another, of which this instance has not heard.

        Args:
            resolved_id: model that the data plane chose; empty where it knows none.
            fresh: nobody has got the request yet.

        Raises:
            MeshError: there is no such vmodel, or its model cannot answer.
        """
        vmodel = await self._vmodel(vmodel_id)
        is_canary = vmodel.canary is not None and vmodel.canary.model == resolved_id
        if is_canary and (not fresh or self._routes.usable(resolved_id).loaded):
            try:
                return await serve(resolved_id)
            except MeshError:
                if not fresh:
                    raise
        try:
            return await serve(vmodel.active)
        except MeshError as error:
            if error.reason is not Reason.MODEL_NOT_FOUND:
                raise
        return await self._bring_to_successor(vmodel_id, vmodel.active, serve)

    async def _bring_to_successor(self, vmodel_id: str, gone: str, serve: Serve) -> None:
        vmodel = await self._fetch(vmodel_id, f"its active model {gone} is not registered")
        for model_id in (vmodel.active, vmodel.target):
            if model_id == gone:
                continue
            try:
                return await serve(model_id)
            except MeshError as error:
                if error.reason is not Reason.MODEL_NOT_FOUND:
                    raise
                gone = model_id
        raise MeshError(
            grpc.StatusCode.INTERNAL,
            Reason.MODEL_NOT_FOUND,
            f"Target model {gone} of vmodel {vmodel_id} not found",
            gone,
        )

    async def _vmodel(self, vmodel_id: str) -> VModel:
        record = self._registry.vmodels.get(vmodel_id)
        return await self._fetch(vmodel_id, "it is not known here") if record is None else vmodel_of(record)

    async def _fetch(self, vmodel_id: str, why: str) -> VModel:
        try:
            record = await self._registry.vmodels.fetch(vmodel_id)
        except RegistryError as error:
            raise registry_unavailable(f"vmodel {vmodel_id}: {why}, and {error}", vmodel_id) from None
        if record is None:
            raise vmodel_not_found(vmodel_id)
        return vmodel_of(record)
