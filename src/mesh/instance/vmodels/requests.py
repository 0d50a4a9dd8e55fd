"""Requests for vmodels that the data plane could not bring to a copy: which model is to answer them."""

from collections.abc import Awaitable, Callable

import grpc

from mesh.instance.errors import MeshError, Reason, vmodel_not_found
from mesh.instance.routes import Routes
from mesh.instance.vmodels.records import VModelRecords
from mesh.placement.vmodels import VModel

Serve = Callable[[str], Awaitable[None]]
"""Has a model answer the request; raises `MeshError` where that cannot be."""


class VModelRequests:
    """Finds the model for a request, by what is known here and, where that turns out to be old, by the store."""

    def __init__(self, records: VModelRecords, routes: Routes) -> None:
        self._records = records
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
        vmodel = self._records.get(vmodel_id) or await self._fetch(vmodel_id)
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
        vmodel = await self._fetch(vmodel_id)
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

    async def _fetch(self, vmodel_id: str) -> VModel:
        vmodel = await self._records.fetch(vmodel_id)
        if vmodel is None:
            raise vmodel_not_found(vmodel_id)
        return vmodel
