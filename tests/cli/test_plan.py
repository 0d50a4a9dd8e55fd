import os
import random
import socket
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from mesh.cli.laptop.plan import Options, PlanError, make_plan
from mesh.cli.up import Size, default_state


def free_ports(number: int) -> int:
    """The first of so many consecutive ports that nobody uses, below those that outgoing connections get."""
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        try:
            for offset in range(number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        instances=2,
        capacity=16 << 20,
        host="127.0.0.1",
        port=free_ports(4),
        metrics_port=None,
        page=True,
        page_port=None,
        prometheus_config=None,
        models=None,
        examples=True,
        etcd=None,
        runtime=None,
        state=tmp_path,
    )


def test_everything_is_below_the_state_directory(options: Options) -> None:
    plan = make_plan(options, {})
    for path in (
        plan.run,
        plan.temporary,
        plan.examples,
        plan.log,
        *(one.server.log for one in plan.instances),
    ):
        assert path.is_relative_to(options.state)
    assert not list(options.state.iterdir())
    for one in plan.instances:
        assert one.server.environment["TMPDIR"] == str(plan.temporary)


def test_each_instance_has_its_own_port_socket_and_name(options: Options) -> None:
    one, other = make_plan(replace(options, metrics_port=options.port + 2), {}).instances
    assert (one.port, other.port) == (options.port, options.port + 1)
    assert (one.metrics_port, other.metrics_port) == (options.port + 2, options.port + 3)
    assert one.runtime_address != other.runtime_address
    assert one.instance_id == f"laptop-{options.port}"
    assert one.runtime_address.removeprefix("unix:") in one.server.command


def test_a_port_in_use_is_told_before_anything_starts(options: Options) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", options.port + 1))
        taken.listen()
        with pytest.raises(PlanError, match=rf"port {options.port + 1} is in use.*--port"):
            make_plan(options, {})
        with pytest.raises(PlanError, match=r"is in use.*--metrics-port"):
            make_plan(replace(options, instances=1, metrics_port=options.port + 1), {})
    assert not list(options.state.iterdir())


def test_an_own_runtime_gets_its_socket_and_capacity(options: Options) -> None:
    command = f"{sys.executable} own.py --at {{socket}} --bytes={{capacity}} 'two words'"
    server = make_plan(replace(options, runtime=command), {}).instances[0].server
    assert server.command == [
        sys.executable,
        "own.py",
        "--at",
        str(server.stale),
        f"--bytes={16 << 20}",
        "two words",
    ]
    assert server.environment["INTERNAL_GRPC_SOCKET_PATH"] == str(server.stale)
    assert server.environment["MESH_RUNTIME_CAPACITY_BYTES"] == str(16 << 20)


def test_an_own_runtime_may_listen_on_a_port(options: Options) -> None:
    one, other = make_plan(replace(options, runtime=f"{sys.executable} own.py {{port}}"), {}).instances
    port = one.server.command[-1]
    assert one.runtime_address == f"127.0.0.1:{port}"
    assert one.server.environment["INTERNAL_GRPC_PORT"] == port
    assert "INTERNAL_GRPC_SOCKET_PATH" not in one.server.environment
    assert other.runtime_address != one.runtime_address


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 1_000}, r"--capacity < 0.1 MiB: an instance needs at least 1.0 MiB"),
        ({"port": 65_535}, "--port 65535: 2 instances need ports up to 65536"),
        ({"examples": False}, "--no-examples leaves nothing to serve"),
        ({"runtime": "no-such-program {socket}"}, "there is no program 'no-such-program'"),
        ({"runtime": "  "}, "--runtime: the command is empty"),
        ({"runtime": "'unclosed"}, "--runtime .*No closing quotation"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_be_is_refused(options: Options, change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(replace(options, **change), os.environ)  # type: ignore[arg-type]


def test_a_state_path_that_is_too_long_for_sockets(options: Options) -> None:
    with pytest.raises(PlanError, match="too long for a socket"):
        make_plan(replace(options, state=options.state / ("x" * 100)), {})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24MiB", 24 << 20),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("64M", 64 << 20),
        ("4096", 4096),
        ("1k", 1024),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "1.2.3M", ".", "-5MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write a number and a unit"):
        Size().convert(text, None, None)


def test_the_state_directory_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_state() == Path("/var/state/model-mesh")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state() == Path.home() / ".local/state/model-mesh"


def test_requests_are_traced_where_the_environment_says_so(options: Options) -> None:
    assert not make_plan(options, {}).tracing.on
    plan = make_plan(options, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert (plan.tracing.on, plan.tracing.url) == (True, "http://collector:4318/v1/traces")
    with pytest.raises(PlanError, match="OTEL_EXPORTER_OTLP_PROTOCOL='pigeon'"):
        make_plan(options, {"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"})
