"""What the page asks for, as JSON: pure functions from the answers of ``mesh.admin.v1.Admin``.

Sizes are bytes, times epoch milliseconds.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mesh.protos import admin_pb2, peer_pb2

#: Candidates of one decision that are told, the best first.
MOST_CANDIDATES = 12

_STATES = {number: name.removeprefix("COPY_STATE_").lower() for name, number in peer_pb2.CopyState.items()}

Json = dict[str, Any]


def overview(service_name: str, reply: admin_pb2.OverviewReply) -> Json:
    """The whole mesh."""
    copies = {one.instance_id: one for one in reply.copies}
    return {
        "service": service_name,
        "time_ms": reply.time_ms,
        "refresh_ms": reply.refresh_ms,
        "self": reply.instances.self,
        "leader": reply.instances.leader,
        "models": reply.instances.models_registered,
        "models_loaded": reply.models_loaded,
        "models_failed": reply.models_failed,
        "instances": [
            _instance(one, copies.get(one.instance_id, admin_pb2.InstanceCopies()))
            for one in reply.instances.instances
        ],
        "failures": [{"model": one.model_id, **_failure(one.failure)} for one in reply.failures],
        "decisions": [decision(one) for one in reply.decisions],
    }


def _instance(one: admin_pb2.Instance, told: admin_pb2.InstanceCopies) -> Json:
    return {
        "id": one.instance_id,
        "zone": one.zone,
        "location": one.location,
        "labels": list(one.labels),
        "capacity": one.capacity_bytes,
        "used": one.used_bytes,
        "models": one.models,
        "loads": one.loads_in_progress,
        "rpm": one.requests_per_minute,
        "started_ms": one.start_time_ms,
        "oldest_used_ms": one.oldest_used_ms,
        "leaving": one.shutting_down,
        "reachable": one.reachable,
        "copies": [_copy(copy) for copy in told.copies],
        "others": told.others,
        "others_size": told.others_bytes,
    }


def _copy(copy: peer_pb2.LocalCopy) -> Json:
    shown: Json = {
        "model": copy.model_id,
        "state": _STATES[copy.state],
        "size": copy.size_bytes,
        "rpm": copy.requests_per_minute,
        "in_flight": copy.in_flight,
        "since_ms": copy.since_ms,
        "used_ms": copy.last_used_ms,
    }
    if copy.pulled_bytes or copy.to_pull_bytes:
        shown |= {"pulled": copy.pulled_bytes, "to_pull": copy.to_pull_bytes}
    return shown


def _failure(failure: admin_pb2.Failure) -> Json:
    return {"instance": failure.instance_id, "time_ms": failure.time_ms, "message": failure.message}


def decision(one: peer_pb2.Decision) -> Json:
    """One decision with its best candidates, and how many more there were."""
    shown: Json = {
        "instance": one.instance_id,
        "time_ms": one.time_ms,
        "kind": one.kind,
        "model": one.model_id,
        "summary": one.summary,
    }
    if one.chosen:
        shown["chosen"] = one.chosen
    if one.related_models:
        shown["related"] = list(one.related_models)
    if one.trace_id:
        shown["trace"] = one.trace_id
    if one.candidates:
        ranked = sorted(one.candidates, key=lambda candidate: (bool(candidate.refused), candidate.rank))
        shown["candidates"] = [
            {
                "instance": candidate.instance_id,
                "rank": candidate.rank,
                "why": candidate.score,
                "refused": candidate.refused,
            }
            for candidate in ranked[:MOST_CANDIDATES]
        ]
        shown["more_candidates"] = max(0, len(ranked) - MOST_CANDIDATES)
    return shown


def found(reply: admin_pb2.ListModelsReply) -> Json:
    """Models that a search found, in short."""
    return {
        "models": [
            {
                "model": one.model_id,
                "type": one.type,
                "state": _state(one),
                "on": [copy.instance_id for copy in one.copies],
            }
            for one in reply.models
        ],
        "more": bool(reply.next),
    }


def _state(model: admin_pb2.Model) -> str:
    states = {copy.state for copy in model.copies}
    for best in (peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING, *sorted(states)):
        if best in states:
            return _STATES[best]
    return "failed" if model.failures else "not loaded"


def model(one: admin_pb2.Model, decisions: Iterable[peer_pb2.Decision]) -> Json:
    """One model in full, with what was decided about it."""
    return {
        "model": one.model_id,
        "type": one.type,
        "path": shown_path(one.path),
        "state": _state(one),
        "size": one.size_bytes,
        "size_source": one.size_source,
        "used_ms": one.last_used_ms,
        "references": one.references,
        "policy": {field.name: value for field, value in one.policy.ListFields()},
        "copies": [
            {
                "instance": copy.instance_id,
                "state": _STATES[copy.state],
                "size": copy.size_bytes,
                "rpm": copy.requests_per_minute,
                "in_flight": copy.in_flight,
                "since_ms": copy.since_ms,
                "used_ms": copy.last_used_ms,
                "pulled": copy.pulled_bytes,
                "to_pull": copy.to_pull_bytes,
            }
            for copy in one.copies
        ],
        "failures": [_failure(failure) for failure in one.failures],
        "decisions": [decision(each) for each in decisions],
    }


def shown_path(path: str) -> str:
    """A model's path without what may let its reader in: a signed address' query, and the user of a URL."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return "(not shown: it is no address)" if "://" in path else path
    if not parts.scheme or not parts.netloc:
        return path
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
