"""The models that are registered: creating, deleting, loading, and telling how they are."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from mesh.instance.copies.policies import policy_in_key
from mesh.instance.errors import MeshError, Reason, changing_record, read_only
from mesh.instance.peer_service import PeerService
from mesh.instance.peers import Peers
from mesh.instance.placer import Found, Placer
from mesh.placement.vmodels import CopyCount
from mesh.protos import model_mesh_pb2 as api
from mesh.protos import peer_pb2
from mesh.registry import KEEP, Keep, ModelRecord, Registry

log = logging.getLogger(__name__)

# Named, because annotations of a function that is made for each call are worked out each time.
_Current = ModelRecord | None
_Wanted = ModelRecord | Keep | None

#: A registered model's last use is moved forward only if it is newer by this, milliseconds; as KServe ModelMesh.
_TOUCH_MS = 3_600_000

#: Turns of the event loop in which a placement that waits for nothing is refused, and some to spare.
_REFUSAL_TURNS = 8

_Status = api.ModelStatusInfo
_LOADED_STATES = {peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING}
_LOADING_STATES = {peer_pb2.COPY_STATE_QUEUED, peer_pb2.COPY_STATE_WAITING, peer_pb2.COPY_STATE_LOADING}


class Catalog:
    """What the management API does, for one instance.

    Args:
        now_ms: epoch milliseconds.
        read_only: whether models are neither added nor removed.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        placer: Placer,
        peers: Peers,
        own: PeerService,
        now_ms: Callable[[], int],
        *,
        read_only: bool = False,
    ) -> None:
        self._instance_id = instance_id
        self._read_only = read_only
        self._registry = registry
        self._placer = placer
        self._peers = peers
        self._own = own
        self._background: set[asyncio.Task[None]] = set()
        self.now_ms = now_ms

    async def register(
        self, model_id: str, model_type: str, path: str, key: str, *, last_used_ms: int, touch: bool
    ) -> bool:
        """Creates a model's record, or finds one of the same attributes.

        Returns: whether it was created.

        Raises:
            MeshError: MODEL_EXISTS with other attributes, READ_ONLY, or REGISTRY_UNAVAILABLE.
        """
        created = False
        policy = policy_in_key(model_id, key)

        def change(record: _Current) -> _Wanted:
            nonlocal created
            created = record is None
            if record is None:
                if self._read_only:
                    raise read_only(model_id)
                return ModelRecord(
                    type=model_type, path=path, key=key, last_used=last_used_ms, policy=policy.members()
                )
            if (record.type, record.path, record.key) != (model_type, path, key):
                raise MeshError(
                    grpc.StatusCode.ALREADY_EXISTS,
                    Reason.MODEL_EXISTS,
                    "Model already exists with different attribute values",
                    model_id,
                )
            return (
                record.with_use(last_used_ms)
                if touch and last_used_ms > record.last_used + _TOUCH_MS
                else KEEP
            )

        await self._update(model_id, change)
        return created

    async def unregister(self, model_id: str) -> None:
        """Deletes a model's record, if there is one.

        Raises:
            MeshError: MODEL_REFERENCED, READ_ONLY or REGISTRY_UNAVAILABLE.
        """

        def change(record: _Current) -> None:
            if record is not None and self._read_only:
                raise read_only(model_id)
            if record is not None and record.refs > 0:
                raise MeshError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.MODEL_REFERENCED,
                    f"Model {model_id} has referents",
                    model_id,
                )

        await self._update(model_id, change)

    async def _update(self, model_id: str, change: Callable[[_Current], _Wanted]) -> None:
        with changing_record(model_id):
            await self._registry.models.update(model_id, change)

    async def ensure_loaded(self, model_id: str, *, last_used_ms: int, wait: bool) -> None:
        """Has the model loaded somewhere if it has no copy.

        Raises:
            MeshError: MODEL_NOT_FOUND, or the load was refused or failed.
        """
        await self._placer.record(model_id)
        work = self._placer.ensure_copy(model_id, last_used_ms=last_used_ms, urgent=wait)
        if wait:
            await work
            return
        task = asyncio.get_running_loop().create_task(self._load_quietly(model_id, work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        # Lets a refusal that needs no waiting be seen in the status that follows: who reads there that the model is
        # loading would ask again, and so on.
        for _ in range(_REFUSAL_TURNS):
            if task.done():
                break
            await asyncio.sleep(0)

    async def _load_quietly(self, model_id: str, work: Coroutine[Any, Any, Found]) -> None:
        try:
            await work
        except MeshError as error:
            log.info("not loaded: %s", error.message, extra={"model": model_id})

    async def status(self, model_id: str) -> api.ModelStatusInfo:
        """The model's status as its instances report it. Does not mark it as used.

        Raises:
            MeshError: the model is not known here and the registry cannot be asked.
        """
        try:
            record = await self._placer.record(model_id)
        except MeshError as error:
            if error.reason is Reason.MODEL_NOT_FOUND:
                return _Status(status=_Status.NOT_FOUND)
            raise
        copies, reached = await self._copies(model_id, record)
        failures = sorted(((time, instance) for instance, time in record.failures.items()), reverse=True)
        status = self._overall(record, copies, reached)
        if status not in {_Status.LOADED, _Status.LOADING} and self._placer.is_placing(model_id):
            # The instance that is to load it may not have said so yet.
            status = _Status.LOADING
        errors = [record.failure_message(instance) for _, instance in failures]
        if status == _Status.NOT_LOADED and (why := self._placer.without_home(model_id, record)):
            # It cannot be loaded as things are; nothing else would tell whoever asked for the load without waiting.
            status, errors = _Status.LOADING_FAILED, [why]
        reply = _Status(status=status, errors=errors)
        if status in {_Status.LOADED, _Status.LOADING, _Status.LOADING_FAILED}:
            infos = copies + [
                _Status.ModelCopyInfo(location=instance, copyStatus=_Status.LOADING_FAILED, time=time)
                for time, instance in failures
            ]
            reply.modelCopyInfos.extend(sorted(infos, key=lambda info: info.time, reverse=True))
        return reply

    async def count_copies(self, model_id: str) -> CopyCount:
        """Counts the model's copies: those that its record in the store lists, as their instances tell.

        An instance that does not answer counts as one that lists a copy.

        Raises:
            MeshError: the registry is away, or the record cannot be read.
        """
        try:
            record = await self._placer.record(model_id, fresh=True)
        except MeshError as error:
            if error.reason is Reason.MODEL_NOT_FOUND:
                return CopyCount()
            raise
        copies, _ = await self._copies(model_id, record)
        loaded = sum(copy.copyStatus == _Status.LOADED for copy in copies)
        return CopyCount(loaded, len(copies))

    def _overall(
        self, record: ModelRecord, copies: list[api.ModelStatusInfo.ModelCopyInfo], reached: bool
    ) -> api.ModelStatusInfo.ModelStatus.ValueType:
        states = {copy.copyStatus for copy in copies}
        if _Status.LOADED in states:
            return _Status.LOADED
        if _Status.LOADING in states:
            return _Status.LOADING
        if record.failures:
            return _Status.LOADING_FAILED
        return _Status.NOT_LOADED if reached or not copies else _Status.UNKNOWN

    async def _copies(
        self, model_id: str, record: ModelRecord
    ) -> tuple[list[api.ModelStatusInfo.ModelCopyInfo], bool]:
        """Asks each instance that the record lists, and this one, for its copy.

        Returns: the copies, and whether every instance answered.
        """
        started = dict(record.copies)
        own = self._own.copy_status(model_id)
        if own.state in _LOADED_STATES | _LOADING_STATES:
            started.setdefault(self._instance_id, own.since_ms)
        peers = [instance for instance in started if instance != self._instance_id]
        told = await asyncio.gather(*(self._peer_state(peer, model_id) for peer in peers)) if peers else []
        states = dict(zip(peers, told, strict=True))
        if self._instance_id in started:
            states[self._instance_id] = _model_status(own.state)
        copies = [
            _Status.ModelCopyInfo(location=instance, copyStatus=state, time=started[instance])
            for instance, state in states.items()
            if state not in {_Status.NOT_LOADED, _Status.NOT_FOUND}
        ]
        return copies, _Status.UNKNOWN not in told

    async def _peer_state(self, instance_id: str, model_id: str) -> api.ModelStatusInfo.ModelStatus.ValueType:
        peer = self._peers.get(instance_id)
        if peer is None:
            # Its session has ended: what it had is gone.
            return _Status.NOT_FOUND
        try:
            return _model_status((await peer.copy_status(model_id)).state)
        except MeshError:
            return _Status.UNKNOWN

    async def close(self) -> None:
        """Ends loads that nobody waits for."""
        tasks = tuple(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _model_status(state: peer_pb2.CopyState.ValueType) -> api.ModelStatusInfo.ModelStatus.ValueType:
    if state in _LOADED_STATES:
        return _Status.LOADED
    return _Status.LOADING if state in _LOADING_STATES else _Status.NOT_LOADED
