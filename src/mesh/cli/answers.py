"""What ``--json`` prints: stable names for scripts, times in epoch milliseconds, sizes in bytes.

Members may be added; none is renamed or left out.
"""

from collections.abc import Sequence
from typing import Any

from mesh.protos import admin_pb2, model_mesh_pb2, peer_pb2

Json = dict[str, Any]


def model(message: admin_pb2.Model) -> Json:
    """One model with its copies and failures."""
    return {
        "model_id": message.model_id,
        "type": message.type,
        "path": message.path,
        "last_used_ms": message.last_used_ms,
        "references": message.references,
        "copies": [
            {
                "instance_id": copy.instance_id,
                "state": copy_state(copy.state),
                "size_bytes": copy.size_bytes,
                "since_ms": copy.since_ms,
                "last_used_ms": copy.last_used_ms,
                "in_flight": copy.in_flight,
                "requests_per_minute": copy.requests_per_minute,
            }
            for copy in message.copies
        ],
        "failures": [
            {"instance_id": failure.instance_id, "time_ms": failure.time_ms, "message": failure.message}
            for failure in message.failures
        ],
    }


def models(messages: Sequence[admin_pb2.Model], *, more: bool, registered: int) -> Json:
    """A list of models, whether others match, and how many the mesh has."""
    return {"models": [model(message) for message in messages], "more": more, "registered": registered}


def instances(reply: admin_pb2.ListInstancesReply) -> Json:
    """The mesh and its instances."""
    return {
        "self": reply.self,
        "leader": reply.leader,
        "models_registered": reply.models_registered,
        "instances": [
            {
                "instance_id": instance.instance_id,
                "location": instance.location,
                "zone": instance.zone,
                "labels": list(instance.labels),
                "start_time_ms": instance.start_time_ms,
                "capacity_bytes": instance.capacity_bytes,
                "used_bytes": instance.used_bytes,
                "models": instance.models,
                "loads_in_progress": instance.loads_in_progress,
                "loader_threads": instance.loader_threads,
                "requests_per_minute": instance.requests_per_minute,
                "oldest_used_ms": instance.oldest_used_ms,
                "shutting_down": instance.shutting_down,
                "reachable": instance.reachable,
            }
            for instance in reply.instances
        ],
    }


def explanation(described: admin_pb2.Model | None, decisions: Sequence[peer_pb2.Decision]) -> Json:
    """Decisions, newest first, and the model they are about, null where there is none."""
    return {
        "model": None if described is None else model(described),
        "decisions": [decision(message) for message in decisions],
    }


def decision(message: peer_pb2.Decision) -> Json:
    """One decision with its candidates."""
    return {
        "instance_id": message.instance_id,
        "time_ms": message.time_ms,
        "kind": message.kind,
        "model_id": message.model_id,
        "summary": message.summary,
        "chosen": message.chosen,
        "candidates": [
            {
                "instance_id": candidate.instance_id,
                "refused": candidate.refused,
                "score": candidate.score,
                "rank": candidate.rank,
            }
            for candidate in message.candidates
        ],
        "related_models": list(message.related_models),
    }


def management_status(model_id: str, status: model_mesh_pb2.ModelStatusInfo) -> Json:
    """What the management API says of a model."""
    return {
        "model_id": model_id,
        "status": model_mesh_pb2.ModelStatusInfo.ModelStatus.Name(status.status),
        "errors": list(status.errors),
    }


def copy_state(state: "peer_pb2.CopyState.ValueType") -> str:
    """The state of a copy as a lower-case word, such as ``loaded``."""
    try:
        return peer_pb2.CopyState.Name(state).removeprefix("COPY_STATE_").lower()
    except ValueError:
        return str(int(state))
