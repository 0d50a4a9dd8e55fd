"""Answers of a small mesh, as its instances would give them."""

from collections.abc import Iterable

from mesh.protos import admin_pb2, peer_pb2

NOW = 1_795_257_748_187
MIB = 1 << 20


def copy(
    instance: str,
    state: "peer_pb2.CopyState.ValueType" = peer_pb2.COPY_STATE_LOADED,
    *,
    size_bytes: int = 9 * MIB,
    in_flight: int = 0,
    requests_per_minute: int = 0,
) -> admin_pb2.Copy:
    return admin_pb2.Copy(
        instance_id=instance,
        state=state,
        size_bytes=size_bytes,
        since_ms=NOW - 12_000,
        last_used_ms=NOW - 3_000,
        in_flight=in_flight,
        requests_per_minute=requests_per_minute,
    )


def loaded_model(
    model_id: str = "digits", *, in_flight: int = 0, requests_per_minute: int = 0
) -> admin_pb2.Model:
    return admin_pb2.Model(
        model_id=model_id,
        type="sklearn",
        path="/models/digits",
        copies=[copy("laptop-1", in_flight=in_flight, requests_per_minute=requests_per_minute)],
        last_used_ms=NOW - 3_000,
    )


def idle_model(model_id: str = "wine") -> admin_pb2.Model:
    return admin_pb2.Model(model_id=model_id, type="onnx", path="/models/wine")


def failed_model(model_id: str = "broken") -> admin_pb2.Model:
    return admin_pb2.Model(
        model_id=model_id,
        type="xgboost",
        failures=[
            admin_pb2.Failure(instance_id="laptop-2", time_ms=NOW - 240_000, message="older trouble"),
            admin_pb2.Failure(
                instance_id="laptop-1", time_ms=NOW - 5_000, message="no such file: /models/broken"
            ),
        ],
    )


def instances() -> admin_pb2.ListInstancesReply:
    return admin_pb2.ListInstancesReply(
        instances=[
            admin_pb2.Instance(
                instance_id="laptop-2",
                start_time_ms=NOW - 3_900_000,
                capacity_bytes=20 * MIB,
                used_bytes=20 * MIB,
                models=2,
                loads_in_progress=1,
                requests_per_minute=40,
                oldest_used_ms=NOW - 61_000,
                reachable=False,
            ),
            admin_pb2.Instance(
                instance_id="laptop-1",
                start_time_ms=NOW - 90_000,
                capacity_bytes=20 * MIB,
                used_bytes=5 * MIB,
                models=1,
                requests_per_minute=2,
                reachable=True,
                shutting_down=True,
            ),
            admin_pb2.Instance(instance_id="router-1", start_time_ms=NOW - 90_000, reachable=True),
        ],
        self="laptop-1",
        leader="laptop-2",
        models_registered=3,
    )


def overview(
    models: Iterable[admin_pb2.Model] = (), decisions: Iterable[peer_pb2.Decision] = ()
) -> admin_pb2.OverviewReply:
    """The mesh of `instances` with these models."""
    models = list(models)
    copies: dict[str, admin_pb2.InstanceCopies] = {}
    for model in models:
        for one in model.copies:
            copies.setdefault(
                one.instance_id, admin_pb2.InstanceCopies(instance_id=one.instance_id)
            ).copies.add(
                model_id=model.model_id,
                state=one.state,
                size_bytes=one.size_bytes,
                since_ms=one.since_ms,
                last_used_ms=one.last_used_ms,
                in_flight=one.in_flight,
                requests_per_minute=one.requests_per_minute,
                pulled_bytes=one.pulled_bytes,
                to_pull_bytes=one.to_pull_bytes,
            )
    return admin_pb2.OverviewReply(
        time_ms=NOW,
        instances=instances(),
        copies=copies.values(),
        decisions=decisions,
        failures=[
            admin_pb2.FailedLoad(model_id=model.model_id, failure=failure)
            for model in models
            for failure in model.failures
        ],
        models_loaded=sum(bool(model.copies) for model in models),
        models_failed=sum(bool(model.failures) for model in models),
        refresh_ms=100,
    )


def placement(model_id: str = "digits") -> peer_pb2.Decision:
    return peer_pb2.Decision(
        instance_id="laptop-2",
        time_ms=NOW - 12_000,
        kind="placement",
        model_id=model_id,
        summary="has most free memory",
        chosen="laptop-1",
        candidates=[
            peer_pb2.Candidate(instance_id="laptop-2", refused="shutting down"),
            peer_pb2.Candidate(instance_id="laptop-3", score="full, oldest entry 4 s", rank=2),
            peer_pb2.Candidate(instance_id="laptop-1", score="11.0 MiB free", rank=1),
        ],
    )


def eviction(model_id: str = "wine", on_behalf_of: str = "digits") -> peer_pb2.Decision:
    return peer_pb2.Decision(
        instance_id="laptop-1",
        time_ms=NOW - 11_000,
        kind="eviction",
        model_id=model_id,
        summary="evicted after 40 s without use",
        related_models=[on_behalf_of],
    )
