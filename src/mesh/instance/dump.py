"""All that one instance knows and does at a moment, as JSON, for finding faults."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

import grpc
import msgspec

from mesh.dataplane import DataPlane
from mesh.instance import admin_service
from mesh.instance.calls import Rpc, service
from mesh.instance.errors import MeshError, Reason
from mesh.instance.loader import Loader
from mesh.protos import admin_pb2
from mesh.registry import Mirror, Registry

State = dict[str, Any]

#: Their values are not shown: they are secrets, or may hold some.
_HIDDEN = frozenset({"dump_token", "listed", "in_file", "kv_store"})


class Dump:
    """Answers ``DumpState`` to those who know the token.

    Args:
        token: that callers must give; empty where nobody may.
        state: collects the state.
    """

    def __init__(self, token: str, state: Callable[[], State]) -> None:
        self._token = token
        self._state = state

    def rpcs(self) -> dict[str, Rpc]:
        """The method by its full name."""
        return service(admin_service.SERVICE, {"DumpState": Rpc(self._answer, admin_pb2.DumpStateRequest)})

    async def _answer(self, request: admin_pb2.DumpStateRequest) -> admin_pb2.DumpStateReply:
        if not self._token:
            raise MeshError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.DUMP_REFUSED,
                "this instance tells nobody its state: set MESH_DUMP_TOKEN and start it again",
            )
        if not hmac.compare_digest(self._token.encode(), request.token.encode()):
            raise MeshError(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.DUMP_REFUSED,
                "the token is not that of this instance's MESH_DUMP_TOKEN",
            )
        text = msgspec.json.encode(self._state(), enc_hook=_plain).decode()
        return admin_pb2.DumpStateReply(state_json=text)


def registry_state(registry: Registry) -> State:
    """How an instance stands with the registry."""
    mirrors: Mapping[str, Mirror[Any]] = {
        "models": registry.models,
        "vmodels": registry.vmodels,
        "instances": registry.instances,
        "config": registry.config,
    }
    return {
        "store": registry.store.description,
        "joined": registry.joined,
        "session": {"state": registry.session.state.value, "lease": f"{registry.session.lease:x}"},
        "leader": registry.election.leader,
        "leading": registry.election.leading,
        "mirrors": {
            name: {
                "records": len(mirror),
                "ready": mirror.ready,
                "lag_s": round(mirror.lag, 3) if mirror.ready else None,
                "invalid": dict(mirror.invalid),
            }
            for name, mirror in mirrors.items()
        },
        "snapshot_taken_ms": None if registry.snapshot is None else registry.snapshot.taken_ms,
        "instances": {
            name: msgspec.to_builtins(record, enc_hook=_plain) for name, record in registry.instances.items()
        },
        "config": dict(registry.config),
    }


def data_plane_state(dataplane: DataPlane) -> State:
    """The data plane's counters."""
    totals = dataplane.totals()
    return {name: getattr(totals, name) for name in dir(totals) if not name.startswith("_")}


def settings_state(settings: Any) -> State:
    """The settings in effect, by the names of their variables; those that may be secrets are left out."""
    state: State = {}
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if "group" in spec.metadata:
            state |= settings_state(value)
        else:
            state[spec.metadata["names"][0]] = "(not shown)" if spec.name in _HIDDEN and value else value
    return state


def cache_state(loader: Loader | None) -> State:
    """The copies here and the memory that they take, in units of 8 KiB."""
    if loader is None:
        return {}
    loader.read_usage()
    cache = loader.cache
    return {
        "capacity_units": cache.capacity_units,
        "used_units": cache.used_units,
        "pending_units": cache.pending_units,
        "deficit_units": cache.deficit_units,
        "loads_in_progress": cache.loads_in_progress,
        "copies": [asdict(copy) for copy in loader.copies()],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return str(value)
