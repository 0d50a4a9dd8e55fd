"""What ``mesh up`` is going to do, worked out and checked before anything starts."""

import errno
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.cli import words
from mesh.cli.laptop.children import ChildSpec
from mesh.instance import SettingError, TracingSettings

#: Memory for models below which a mesh is of no use, bytes.
LEAST_CAPACITY = words.MIB
#: Longest path of a unix socket on Linux, bytes.
LONGEST_SOCKET_PATH = 107
#: An instance's page is on the port this far above that for requests, where that is free.
PAGE_PORT_OFFSET = 10_000


class PlanError(ValueError):
    """``mesh up`` cannot do what it is asked for. The message names the option and the remedy."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for; see ``mesh up --help``. Sizes are bytes."""

    instances: int
    capacity: int
    host: str
    port: int
    metrics_port: int | None
    page: bool
    page_port: int | None
    prometheus_config: Path | None
    models: Path | None
    examples: bool
    etcd: str | None
    runtime: str | None
    state: Path


@dataclass(frozen=True, slots=True)
class InstancePlan:
    """One instance with its model server.

    Attributes:
        instance_id: tells its port, so that it is easily found.
        port: for requests.
        metrics_port: None for no metrics.
        page_port: of the page that shows the mesh in a browser; None for none.
        runtime_address: where the model server is going to listen, ``unix:/path`` or ``127.0.0.1:port``.
        server: the model server.
    """

    instance_id: str
    port: int
    metrics_port: int | None
    page_port: int | None
    runtime_address: str
    server: ChildSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole mesh.

    Attributes:
        run: directory of this mesh's logs and sockets, below `Options.state`.
        temporary: directory for what model servers write; emptied at the end.
        kv_store: as ``KV_STORE``.
        tracing: as the environment says.
    """

    options: Options
    instances: tuple[InstancePlan, ...]
    run: Path
    temporary: Path
    kv_store: str
    tracing: TracingSettings

    @property
    def examples(self) -> Path:
        """Where the example models are kept between runs."""
        return self.options.state / "examples"

    @property
    def log(self) -> Path:
        """The log of the instances."""
        return self.run / "mesh.log"


def make_plan(options: Options, environment: Mapping[str, str] = os.environ) -> Plan:
    """Works out ports, paths and commands.

    Raises:
        PlanError: a port is taken, or an option's value cannot be used.
    """
    if options.capacity < LEAST_CAPACITY:
        raise PlanError(
            f"--capacity {words.size(options.capacity)}: an instance needs at least {words.size(LEAST_CAPACITY)}"
        )
    last = options.port + options.instances - 1
    if last > 65_535:
        raise PlanError(
            f"--port {options.port}: {options.instances} instances need ports up to {last}; take lower ones"
        )
    if not options.examples and options.models is None:
        raise PlanError("--no-examples leaves nothing to serve: name a directory of models with --models")
    run = options.state / "run" / str(options.port)
    temporary = run / "tmp"
    instances = tuple(
        _instance(options, number, run, temporary, environment) for number in range(options.instances)
    )
    for instance in instances:
        _check_port(options.host, instance.port, "--port")
        if instance.metrics_port is not None:
            _check_port(options.host, instance.metrics_port, "--metrics-port")
        if instance.page_port is not None:
            _check_port(options.host, instance.page_port, "--page-port")
    try:
        tracing = TracingSettings.from_environment(environment)
    except SettingError as error:
        raise PlanError(str(error)) from None
    return Plan(options, instances, run, temporary, options.etcd or "memory:", tracing)


def _instance(
    options: Options, number: int, run: Path, temporary: Path, environment: Mapping[str, str]
) -> InstancePlan:
    port = options.port + number
    socket_path = run / f"model-server-{number}.sock"
    if len(os.fsencode(socket_path)) > LONGEST_SOCKET_PATH:
        raise PlanError(
            f"--state {options.state}: {socket_path} is too long for a socket "
            f"(at most {LONGEST_SOCKET_PATH} bytes); name a directory with a shorter path"
        )
    server_port = _free_port() if options.runtime and "{port}" in options.runtime else None
    command = _server_command(options, socket_path, server_port)
    own = {
        "INTERNAL_GRPC_SOCKET_PATH": str(socket_path) if server_port is None else "",
        "INTERNAL_GRPC_PORT": "" if server_port is None else str(server_port),
        "MESH_RUNTIME_SOCKET": str(socket_path) if server_port is None else "",
        "MESH_RUNTIME_CAPACITY_BYTES": str(options.capacity),
    }
    server = ChildSpec(
        name=f"model server of laptop-{port}",
        command=command,
        environment={
            # Several model servers share the cores: more threads than cores only wait for each other.
            "OMP_NUM_THREADS": "1",
            # ONNX Runtime reports to its makers unless told not to, and keeps a database for it in the home directory.
            "ORT_DISABLE_TELEMETRY": "1",
            **environment,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
            **{name: value for name, value in own.items() if value},
        },
        directory=Path.cwd(),
        log=run / f"model-server-{number}.log",
        stale=socket_path,
    )
    return InstancePlan(
        instance_id=f"laptop-{port}",
        port=port,
        metrics_port=None if options.metrics_port is None else options.metrics_port + number,
        page_port=_page_port(options, number),
        runtime_address=f"unix:{socket_path}" if server_port is None else f"127.0.0.1:{server_port}",
        server=server,
    )


def _page_port(options: Options, number: int) -> int | None:
    if not options.page:
        return None
    if options.page_port is not None:
        return options.page_port + number
    port = options.port + number + PAGE_PORT_OFFSET
    if port <= 65_535:
        try:
            _check_port(options.host, port, "--page-port")
        except PlanError:
            # Nobody asked for this one.
            return _free_port()
        return port
    return _free_port()


def _server_command(options: Options, socket_path: Path, server_port: int | None) -> list[str]:
    if options.runtime is None:
        return [
            sys.executable,
            "-m",
            "mesh.runtimes.builtin",
            "--socket",
            str(socket_path),
            "--capacity",
            str(options.capacity),
            "--warm-up",
        ]
    values = {"{socket}": str(socket_path), "{capacity}": str(options.capacity), "{port}": str(server_port)}
    try:
        words_of_command = shlex.split(options.runtime)
    except ValueError as error:
        raise PlanError(f"--runtime {options.runtime!r}: {error}") from None
    if not words_of_command:
        raise PlanError("--runtime: the command is empty")
    if shutil.which(words_of_command[0]) is None:
        raise PlanError(f"--runtime: there is no program {words_of_command[0]!r}; check its path")
    command = []
    for word in words_of_command:
        for placeholder, value in values.items():
            word = word.replace(placeholder, value)  # noqa: PLW2901
        command.append(word)
    return command


def _check_port(host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PlanError(
                    f"port {port} is in use, perhaps by another `mesh up`: end that, "
                    f"or take other ports with {option}"
                ) from None
            raise PlanError(f"{option} {port}: cannot listen on {host}:{port}: {error.strerror}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
