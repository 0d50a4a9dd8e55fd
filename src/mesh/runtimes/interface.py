"""What the mesh asks of a model server.

`ModelRuntime` is implemented by the client of the ``mmesh.ModelRuntime`` SPI, by the adapters that speak a
server's own repository API, and by layers around either, such as the one that pulls model data first.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as its runtime knows it.

    Attributes:
        model_id: unique in the mesh; any non-empty text.
        model_type: the format, such as ``sklearn``; opaque to the mesh.
        path: where the data is, as the layer that receives it understands it.
        key: further attributes, a JSON object by convention.
    """

    model_id: str
    model_type: str = ""
    path: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeParameters:
    """What a runtime tells of itself once it is ready.

    Attributes:
        capacity_bytes: memory for models.
        max_loading_concurrency: loads at once, at least 1.
        loading_timeout_ms: after which a load is cancelled, at least 100.
        default_model_size_bytes: assumed where a model's size is not known yet.
        version: of the model server, for people.
        methods: full method name to the path of field numbers at which the model id is written into a request
            (empty: nowhere). Empty mapping: all methods are allowed.
        allow_any_method: methods that are not in ``methods`` are allowed too.
        limit_model_concurrency: `LoadedModel.max_concurrency` counts.
    """

    capacity_bytes: int
    max_loading_concurrency: int
    loading_timeout_ms: int
    default_model_size_bytes: int
    version: str = ""
    methods: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    allow_any_method: bool = False
    limit_model_concurrency: bool = False


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The result of a load.

    Attributes:
        size_bytes: memory that the model takes; 0 where only `ModelRuntime.model_size` can tell.
        max_concurrency: requests at once; 0 where not limited.
        pull_ms: part of the load's time that it took to bring the model's data here.
    """

    size_bytes: int
    max_concurrency: int = 0
    pull_ms: float = 0.0


class RuntimeFailure(Exception):
    """A runtime refused or failed a call.

    Attributes:
        code: the gRPC status code that fits.
        message: for people; names what was wrong and the remedy where there is one.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How much of a model's data is here.

    Attributes:
        done_bytes: so far.
        total_bytes: in the end; 0 while that is not known.
    """

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class RuntimeLost:
    """The server is gone, and the models that it had with it.

    Attributes:
        reason: how it was noticed, for people.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RuntimeReturned:
    """The server is ready again, with no model loaded.

    Attributes:
        parameters: what it tells of itself now.
    """

    parameters: RuntimeParameters


RuntimeEvent = RuntimeLost | RuntimeReturned


class ModelRuntime(ABC):
    """One model server, as the mesh drives it.

    Calls for different models may come at once; the mesh sends at most
    `RuntimeParameters.max_loading_concurrency` loads at a time and never a load and an unload of one model
    together. A call may be cancelled (``asyncio.CancelledError``) and must then stop what it can.
    """

    @property
    @abstractmethod
    def serving_address(self) -> str:
        """Where inference requests go: ``host:port`` or ``unix:/path``. Known once `start` has returned."""

    @property
    def pulls(self) -> Mapping[str, PullProgress]:
        """Models whose data is on its way here, by id; none where this does not pull."""
        return {}

    async def changed_sources(self) -> Mapping[str, str]:
        """Loaded models whose data in storage is not what was loaded any more, by id, with what is there now in words.

        None where this does not pull.
        """
        return {}

    @abstractmethod
    async def start(self) -> RuntimeParameters:
        """Waits until the server is ready, with no model loaded, and tells its parameters.

        Raises:
            RuntimeFailure: it failed, told impossible values, or was not ready in time.
        """

    @abstractmethod
    async def load(self, model: ModelInfo) -> LoadedModel:
        """Loads a model; it can be asked when this returns.

        Raises:
            RuntimeFailure: with the code and message of the server.
        """

    @abstractmethod
    async def unload(self, model_id: str) -> None:
        """Unloads a model; one that is not loaded counts as unloaded.

        Raises:
            RuntimeFailure: the model may still take memory.
        """

    async def predict_size(self, model: ModelInfo) -> int | None:
        """Estimates bytes of memory before a load; None where the runtime cannot tell."""
        return None

    async def model_size(self, model_id: str) -> int | None:
        """Measures bytes of memory of a loaded model; None where the runtime cannot tell."""
        return None

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Tells when the server was lost and when it is back; call once, after `start`.

        Each `RuntimeLost` is followed by one `RuntimeReturned`. Ends at once where the runtime cannot tell.

        Raises:
            RuntimeFailure: the server came back and failed, or told impossible values.
        """
        nothing: tuple[RuntimeEvent, ...] = ()
        for event in nothing:
            yield event

    @abstractmethod
    async def close(self) -> None:
        """Lets go of the server; models stay as they are."""
