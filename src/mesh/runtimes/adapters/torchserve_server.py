"""TorchServe's gRPC services, as far as the adapter asks them."""

import json
from typing import Any

import grpc
from grpc import aio

from mesh.protos import torchserve_inference_pb2 as inference
from mesh.protos import torchserve_management_pb2 as management
from mesh.protos.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from mesh.protos.torchserve_management_pb2_grpc import ManagementAPIsServiceStub
from mesh.runtimes.interface import RuntimeFailure

_PAGE = 100
"""Models listed at once; more are not given."""
_ALL_VERSIONS = "all"


class TorchServe:
    """Asks one server.

    Args:
        management: channel to its management.
        serving: channel to its inference.
        timeout_s: deadline of an unload, in seconds.
        brief_s: deadline of a question, in seconds.
    """

    def __init__(
        self, management: aio.Channel, serving: aio.Channel, timeout_s: float, brief_s: float
    ) -> None:
        self._management = ManagementAPIsServiceStub(management)
        self._inference = InferenceAPIsServiceStub(serving)
        self._timeout_s = timeout_s
        self._brief_s = brief_s

    async def register(self, request: management.RegisterModelRequest) -> None:
        """Loads a model; raises ``AioRpcError``, DEADLINE_EXCEEDED where the server goes on with it."""
        await self._management.RegisterModel(request, timeout=self._timeout_s)

    async def unregister(self, name: str) -> None:
        """Unloads all versions of a model; fine where there is none. Raises ``AioRpcError``."""
        try:
            await self._unregister(name)
        except aio.AioRpcError as error:
            # So, without a word, it refuses to unload the default version while there are others.
            if error.code() is not grpc.StatusCode.UNKNOWN:
                raise
            defaults = {version.get("modelVersion") for version in await self.describe(name, version="")}
            versions = [version.get("modelVersion") for version in await self.describe(name)]
            if len(versions) < 2:
                raise
            for version in versions:
                if version not in defaults:
                    await self._unregister(name, str(version))
            await self._unregister(name)

    async def describe(self, name: str, *, version: str = _ALL_VERSIONS) -> list[dict[str, Any]]:
        """Describes a model's versions; none where there is no such model. Raises ``AioRpcError``."""
        request = management.DescribeModelRequest(model_name=name, model_version=version)
        try:
            answer = await self._management.DescribeModel(request, timeout=self._brief_s)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return []
            raise
        return _objects(_parsed(answer.msg, list))

    async def some_models(self) -> list[str]:
        """Names models, up to a page of them; none where there are none.

        Raises:
            RuntimeFailure: UNAVAILABLE, the answer is no list.
            AioRpcError: it does not answer.
        """
        answer = await self._management.ListModels(
            management.ListModelsRequest(limit=_PAGE), timeout=self._brief_s
        )
        models = _parsed(answer.msg, dict).get("models")
        return [str(model.get("modelName")) for model in _objects(models)]

    async def health(self) -> str:
        """Asks how it is: ``Healthy`` where it can serve. Raises as `some_models` does."""
        answer = await self._inference.Ping(inference.PingRequest(), timeout=self._brief_s)
        return str(_parsed(answer.health, dict).get("status"))

    async def _unregister(self, name: str, version: str = "") -> None:
        request = management.UnregisterModelRequest(model_name=name, model_version=version)
        try:
            await self._management.UnregisterModel(request, timeout=self._timeout_s)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise


def worker_memory_bytes(described: list[dict[str, Any]]) -> list[int]:
    """Tells the memory of each worker of a model's first version; 0 for one that is not measured yet."""
    workers = _objects(described[0].get("workers")) if described else []
    used = [worker.get("memoryUsage") for worker in workers]
    return [one if isinstance(one, int) and one > 0 else 0 for one in used]


def _objects(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _parsed(text: str, kind: type) -> Any:
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, kind):
        raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"TorchServe answers {text[:200]!r}")
    return parsed
