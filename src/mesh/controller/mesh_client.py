"""Calls of a namespace's mesh, by whichever of its pods is ready."""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh.controller.predictors import Answer, NoPods, Refused, Taken
from mesh.placement import CopyPolicy
from mesh.protos.admin_pb2 import Policy, SetPolicyRequest
from mesh.protos.admin_pb2_grpc import AdminStub
from mesh.protos.model_mesh_pb2 import (
    DeleteVModelRequest,
    GetVModelStatusRequest,
    SetVModelRequest,
    VModelStatusInfo,
)
from mesh.protos.model_mesh_pb2_grpc import ModelMeshStub

#: Deadline of a call, seconds; as in KServe ModelMesh for those that change something.
_DEADLINE_S = 10.0


class MeshClient:
    """The management API of one mesh.

    Args:
        credentials: of TLS; None for plain text.
        authority: name that the mesh's certificate has; "" for the address's own.
    """

    def __init__(self, credentials: grpc.ChannelCredentials | None = None, authority: str = "") -> None:
        self._credentials = credentials
        self._options = [("grpc.ssl_target_name_override", authority)] if credentials and authority else []
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._turns = itertools.count()

    def reach_at(self, addresses: Iterable[str]) -> None:
        """Says where ready pods are: ``host:port`` each."""
        wanted = set(addresses)
        for address in self._channels.keys() - wanted:
            channel = self._channels.pop(address)
            # What is under way ends by its deadline.
            asyncio.get_running_loop().create_task(channel.close(grace=_DEADLINE_S))
        for address in wanted - self._channels.keys():
            self._channels[address] = self._open(address)

    @property
    def reachable(self) -> bool:
        """Whether there is a pod to ask."""
        return bool(self._channels)

    async def set_vmodel(self, request: SetVModelRequest) -> Answer:
        """Sets a vmodel."""
        return await self._ask(lambda channel: ModelMeshStub(channel).setVModel, request)

    async def vmodel_status(self, vmodel_id: str, owner: str) -> Answer:
        """Asks for the status of a vmodel."""
        request = GetVModelStatusRequest(vModelId=vmodel_id, owner=owner)
        return await self._ask(lambda channel: ModelMeshStub(channel).getVModelStatus, request)

    async def delete_vmodel(self, vmodel_id: str, owner: str) -> NoPods | Refused | None:
        """Deletes a vmodel, if there is one of that owner; None when it is gone."""
        request = DeleteVModelRequest(vModelId=vmodel_id, owner=owner)
        return await self._do(lambda channel: ModelMeshStub(channel).deleteVModel, request)

    async def set_policy(self, model_id: str, policy: CopyPolicy) -> NoPods | Refused | None:
        """Sets the policy of a model's copies; None when it is set."""
        wire = Policy(**{field.name: getattr(policy, field.name) for field in fields(policy)})
        request = SetPolicyRequest(model_id=model_id, policy=wire, replace=True)
        return await self._do(lambda channel: AdminStub(channel).SetPolicy, request)

    async def close(self) -> None:
        """Ends all calls."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _ask(self, method: Callable[[grpc.aio.Channel], Any], request: Message) -> Answer:
        try:
            answer: VModelStatusInfo | None = await self._call(method, request)
        except grpc.aio.AioRpcError as problem:
            if problem.code() is grpc.StatusCode.ALREADY_EXISTS:
                return Taken()
            return Refused(f"{problem.code().name} {problem.details()}")
        return NoPods() if answer is None else answer

    async def _do(
        self, method: Callable[[grpc.aio.Channel], Any], request: Message
    ) -> NoPods | Refused | None:
        try:
            answer: Message | None = await self._call(method, request)
        except grpc.aio.AioRpcError as problem:
            return Refused(f"{problem.code().name} {problem.details()}")
        return NoPods() if answer is None else None

    async def _call(self, method: Callable[[grpc.aio.Channel], Any], request: Message) -> Any:
        """Calls one pod after the other until one answers; None where there is none.

        Raises:
            grpc.aio.AioRpcError: the mesh refused, or no pod answered.
        """
        channels = list(self._channels.values())
        turn = next(self._turns)
        unreached: grpc.aio.AioRpcError | None = None
        for i in range(len(channels)):
            try:
                return await method(channels[(turn + i) % len(channels)])(request, timeout=_DEADLINE_S)
            except grpc.aio.AioRpcError as problem:
                # All calls here may be made twice: they say how things are to be.
                if problem.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                unreached = problem
        if unreached is not None:
            raise unreached
        return None

    def _open(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address)
        return grpc.aio.secure_channel(address, self._credentials, options=self._options)
