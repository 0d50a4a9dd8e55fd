"""The gRPC server of a runtime in Python."""

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from mesh.protos.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.protos.model_runtime_pb2_grpc import add_ModelRuntimeServicer_to_server
from mesh.runtimes.python.inference_service import InferenceService
from mesh.runtimes.python.model import AnyRuntime
from mesh.runtimes.python.spi_service import Capacity, SpiService
from mesh.runtimes.python.table import ModelTable
from mesh.runtimes.python.workers import FairPool

_OPTIONS = (
    # The mesh limits the size of messages; a second limit here would only differ from it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The mesh pings its connections, idle ones too; without these a server takes that for abuse and hangs up.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # Two servers on one port would each get half of the requests.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve.

    Attributes:
        address: ``host:port`` (port 0 picks one) or ``unix:/path``.
        capacity: told to the mesh.
        threads: that answer requests.
        threads_per_model: of these, at most for one model at once.
        max_waiting: requests that may wait for one model before more are refused.
        stop_grace_s: for requests under way when the server is stopped.
    """

    address: str
    capacity: Capacity
    threads: int = 4
    threads_per_model: int = 2
    max_waiting: int = 1000
    stop_grace_s: float = 5.0


class RuntimeServer:
    """Serves ``mmesh.ModelRuntime`` and ``inference.GRPCInferenceService`` on one address."""

    def __init__(self, runtime: AnyRuntime, options: ServerOptions) -> None:
        self._runtime = runtime
        self._options = options
        self._pool: FairPool | None = None
        self._models: ModelTable | None = None
        self._server: aio.Server | None = None
        self._socket: tuple[Path, int] | None = None

    async def start(self) -> str:
        """Listens.

        Returns: the address, with the port that was picked.

        Raises:
            OSError: the address is taken or cannot be listened on.
        """
        options = self._options
        pool = self._pool = FairPool(options.threads, options.threads_per_model, options.max_waiting)
        models = self._models = ModelTable(
            self._runtime, options.capacity.max_loads, lambda: pool.running > 0
        )
        server = self._server = aio.server(options=_OPTIONS)
        add_ModelRuntimeServicer_to_server(
            SpiService(models, options.capacity, self._runtime.version), server
        )
        add_GRPCInferenceServiceServicer_to_server(InferenceService(self._runtime, models, pool), server)
        path = options.address.removeprefix("unix:")
        if path != options.address:
            _clear_socket(Path(path))
        try:
            port = server.add_insecure_port(options.address)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {options.address}: it is taken or not an address of this machine"
            ) from error
        await server.start()
        if path != options.address:
            self._socket = (Path(path), _inode(Path(path)))
            return options.address
        return f"{options.address.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Lets requests under way end, for `ServerOptions.stop_grace_s` at most, and unloads all models."""
        if self._server is None or self._models is None or self._pool is None:
            return
        await self._server.stop(self._options.stop_grace_s)
        try:
            async with asyncio.timeout(self._options.stop_grace_s):
                await self._models.unload_all()
        except TimeoutError:
            # A model that hangs goes with the process.
            pass
        self._pool.close()
        self._remove_socket()

    def _remove_socket(self) -> None:
        """Leaves a socket that another server has put in the place of ours."""
        if self._socket is None:
            return
        path, inode = self._socket
        if path.exists() and _inode(path) == inode:
            path.unlink()


async def serve_until_stopped(runtime: AnyRuntime, options: ServerOptions, *, with_parent: bool) -> None:
    """Serves until SIGTERM or SIGINT, or until the parent process has ended."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parent = None
    if with_parent:
        # Unlike PR_SET_PDEATHSIG, this does not fire when only the thread that started us ends.
        parent = os.pidfd_open(os.getppid())
        loop.add_reader(parent, stop.set)
    server = RuntimeServer(runtime, options)
    try:
        address = await server.start()
        print(f"{runtime.name} runtime listens on {address}", flush=True)  # noqa: T201  for people, and who waits
        await stop.wait()
        await server.stop()
    finally:
        if parent is not None:
            loop.remove_reader(parent)
            os.close(parent)


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _clear_socket(path: Path) -> None:
    """Removes what a server that was killed has left; one that answers is left alone.

    Raises:
        OSError: another server listens there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(f"cannot listen on unix:{path}: another server does")
