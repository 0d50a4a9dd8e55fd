"""What the model server tells of itself, when it is first met and after each restart, and where that goes."""

import grpc

from mesh.dataplane import DataPlane
from mesh.instance.candidates import Candidates
from mesh.instance.loader import Loader
from mesh.instance.settings import EvictionSettings
from mesh.placement import CacheLimits, LoadTimes, to_units
from mesh.runtimes import LOST_MODEL_RULES, ModelRuntime, RuntimeParameters


def cache_limits(settings: EvictionSettings, parameters: RuntimeParameters) -> CacheLimits:
    """What the cache beside a model server may hold."""
    return CacheLimits.from_runtime(
        capacity_bytes=parameters.capacity_bytes,
        default_model_size_bytes=parameters.default_model_size_bytes,
        max_loading_concurrency=parameters.max_loading_concurrency,
        loading_timeout_ms=parameters.loading_timeout_ms,
        min_churn_age_ms=settings.min_churn_age_ms,
        failure_expiry_ms=settings.load_failure_expiry_ms,
    )


def connect(dataplane: DataPlane, runtime: ModelRuntime, parameters: RuntimeParameters) -> int:
    """Makes the model server known to the data plane; returns its endpoint."""
    _set_methods(dataplane, parameters)
    dataplane.set_status_rules(
        [
            *((_number(code), prefix, suffix, "lost") for code, prefix, suffix in LOST_MODEL_RULES),
            (_number(grpc.StatusCode.UNAVAILABLE), "", "", "unavailable"),
            # What a server of gRPC's own answers to its last requests when it is stopped.
            (_number(grpc.StatusCode.CANCELLED), "", "", "unavailable"),
            (_number(grpc.StatusCode.RESOURCE_EXHAUSTED), "", "", "exhausted"),
        ]
    )
    return dataplane.add_endpoint(runtime.serving_address, "runtime", "runtime")


class Restarts:
    """Takes in what a model server tells after a restart: it may have come back larger, smaller or another version."""

    def __init__(
        self,
        settings: EvictionSettings,
        dataplane: DataPlane,
        loader: Loader,
        candidates: Candidates,
        load_times: LoadTimes,
    ) -> None:
        self._settings = settings
        self._dataplane = dataplane
        self._loader = loader
        self._candidates = candidates
        self._load_times = load_times

    def returned(self, parameters: RuntimeParameters) -> None:
        """From now on what the server tells now counts."""
        _set_methods(self._dataplane, parameters)
        self._loader.set_limits(cache_limits(self._settings, parameters))
        self._candidates.ranked.default_model_units = to_units(parameters.default_model_size_bytes)
        self._load_times.timeout_changed(parameters.loading_timeout_ms)


def _set_methods(dataplane: DataPlane, parameters: RuntimeParameters) -> None:
    dataplane.set_runtime_methods(
        {method: tuple(path) for method, path in parameters.methods.items()},
        allow_any=parameters.allow_any_method,
    )


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])
