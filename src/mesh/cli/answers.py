"""What ``--json`` prints: stable names for scripts, times in epoch milliseconds, sizes in bytes.

Members may be added; none is renamed or left out.
"""

import json
from collections.abc import Sequence
from typing import Any

from mesh.protos import admin_pb2, model_mesh_pb2, payloads_pb2, peer_pb2, vmodels_pb2

Json = dict[str, Any]


def model(message: admin_pb2.Model) -> Json:
    """One model with its copies and failures."""
    return {
        "model_id": message.model_id,
        "type": message.type,
        "path": message.path,
        "last_used_ms": message.last_used_ms,
        "references": message.references,
        "policy": policy(message.policy),
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


def policy(message: admin_pb2.Policy) -> Json:
    """What is asked for of a model's copies."""
    return {
        "min_copies": message.min_copies,
        "max_copies": message.max_copies,
        "pinned": message.pinned,
        "priority": message.priority,
        "idle_ttl_ms": message.idle_ttl_ms,
        "declared_size_bytes": message.declared_size_bytes,
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


def processors(reply: payloads_pb2.ListProcessorsReply) -> Json:
    """Payload processors, with how they do on one instance."""
    return {
        "instance_id": reply.instance_id,
        "processors": [
            {
                "name": one.name,
                "origin": one.origin,
                "definition": _json_or_text(one.definition),
                "working": one.working,
                "trouble": one.trouble,
                "waiting": one.waiting,
                "in_flight": one.in_flight,
                "delivered": one.delivered,
                "lost": dict(one.lost),
            }
            for one in reply.processors
        ],
    }


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def vmodels(messages: Sequence[vmodels_pb2.VModel]) -> Json:
    """A list of vmodels."""
    return {"vmodels": [vmodel(message) for message in messages]}


def vmodel(message: vmodels_pb2.VModel) -> Json:
    """One vmodel; canary and shadow are null where there is none."""
    return {
        "vmodel_id": message.vmodel_id,
        "owner": message.owner,
        "active_model_id": message.active_model_id,
        "target_model_id": message.target_model_id,
        "failed": message.failed,
        "canary": _portion(message.canary) if message.HasField("canary") else None,
        "shadow": _portion(message.shadow) if message.HasField("shadow") else None,
    }


def _portion(message: vmodels_pb2.Portion) -> Json:
    return {"model_id": message.model_id, "share": message.share}


def vmodel_status(vmodel_id: str, status: model_mesh_pb2.VModelStatusInfo) -> Json:
    """What the management API says of a vmodel; the target is null outside a transition."""
    moving = status.HasField("targetModelStatus")
    return {
        "vmodel_id": vmodel_id,
        "status": model_mesh_pb2.VModelStatusInfo.VModelStatus.Name(status.status),
        "owner": status.owner,
        "active": management_status(status.activeModelId, status.activeModelStatus),
        "target": management_status(status.targetModelId, status.targetModelStatus) if moving else None,
    }


def comparison(message: vmodels_pb2.Comparison) -> Json:
    """What came of a shadow."""
    return {
        "vmodel_id": message.vmodel_id,
        "shadow_model_id": message.shadow_model_id,
        "equal": message.equal,
        "different": message.different,
        "shadow_failed": message.shadow_failed,
        "primary_failed": message.primary_failed,
        "dropped": message.dropped,
        "primary_ms": message.primary_ms,
        "shadow_ms": message.shadow_ms,
        "missing_instances": list(message.missing_instances),
        "differences": [
            {
                "instance_id": one.instance_id,
                "time_ms": one.time_ms,
                "method": one.method,
                "primary_model_id": one.primary_model_id,
                "shadow_code": one.shadow_code,
                "shadow_message": one.shadow_message,
                "primary_bytes": one.primary_bytes,
                "shadow_bytes": one.shadow_bytes,
                "primary_ms": one.primary_ms,
                "shadow_ms": one.shadow_ms,
            }
            for one in message.differences
        ],
    }


def copy_state(state: "peer_pb2.CopyState.ValueType") -> str:
    """The state of a copy as a lower-case word, such as ``loaded``."""
    try:
        return peer_pb2.CopyState.Name(state).removeprefix("COPY_STATE_").lower()
    except ValueError:
        return str(int(state))
