"""The command line of a runtime in Python."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mesh.runtimes.endpoints import DEFAULT_SOCKET
from mesh.runtimes.python.model import AnyRuntime
from mesh.runtimes.python.spi_service import Capacity
from mesh.runtimes.status import UNIT_BYTES, minimum_capacity_bytes

_DEFAULT_MODEL_BYTES = 1_000_000
_SHARE_OF_MEMORY = 0.75
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


class ByteSize(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Bytes, written as a number with or without a unit: ``64MiB``, ``64Mi``, ``1.5GB``, ``1000000``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns: bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?|)B?", str(value).strip().upper())
        if found is None:
            self.fail(f"{value!r} is no size in bytes; write one as 64MiB, 1.5GB or 1000000", param, ctx)
        return int(float(found[1]) * _UNITS[found[2]])


def memory_limit() -> int:
    """Returns: bytes that this process may use: its control group's limit, else the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that every runtime has; what they say is read by `run_with`."""
    options = [
        click.option(
            "--socket", "socket_path", help=f"Unix socket to listen on. [default: {DEFAULT_SOCKET}]"
        ),
        click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on instead; 0 picks one."),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address to listen on with --port."
        ),
        click.option(
            "--capacity", type=ByteSize(), help="Memory for models. [default: 3/4 of the memory limit]"
        ),
        click.option(
            "--default-model-size", type=ByteSize(), help="Assumed of a model. [default: 1MB or less]"
        ),
        click.option(
            "--loads",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Loads at once (sizes known only).",
        ),
        click.option(
            "--loading-timeout",
            type=click.FloatRange(0.1),
            default=90.0,
            show_default=True,
            help="Seconds after which the mesh gives up a load.",
        ),
        click.option(
            "--threads", type=click.IntRange(1), help="Threads that answer. [default: cores, at least 4]"
        ),
        click.option(
            "--threads-per-model", type=click.IntRange(1), help="At most for one model. [default: half]"
        ),
        click.option(
            "--max-concurrency",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Requests to one model at once, for the mesh to keep to; 0 for any.",
        ),
        click.option(
            "--exit-with-parent", is_flag=True, help="Stop when the process that started this one ends."
        ),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def run_with(runtime: AnyRuntime, given: dict[str, Any]) -> None:
    """Serves with what `server_options` has read.

    Raises:
        click.ClickException: options that do not fit together, or an address that cannot be listened on.
    """
    import uvloop

    from mesh.runtimes.python.server import ServerOptions, serve_until_stopped

    logging.basicConfig(
        level=given["log_level"].upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    threads = given["threads"] or max(4, os.cpu_count() or 1)
    per_model = min(threads, given["threads_per_model"] or max(1, threads // 2))
    options = ServerOptions(_address(given), _capacity(given), threads, per_model)
    try:
        uvloop.run(serve_until_stopped(runtime, options, with_parent=given["exit_with_parent"]))
    except OSError as error:
        raise click.ClickException(str(error)) from error


def run(runtime: AnyRuntime, arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, or ``arguments``, and serves."""

    @click.command(help=(type(runtime).__doc__ or "A model runtime.").partition("\n\n")[0])
    @server_options
    def command(**given: Any) -> None:
        run_with(runtime, given)

    command.main(args=None if arguments is None else list(arguments))


def _address(given: dict[str, Any]) -> str:
    if given["socket_path"] and given["port"] is not None:
        raise click.UsageError("--socket and --port are both given; a runtime listens on one of them")
    if given["port"] is not None:
        return f"{given['host']}:{given['port']}"
    return f"unix:{Path(given['socket_path'] or DEFAULT_SOCKET).absolute()}"


def _capacity(given: dict[str, Any]) -> Capacity:
    capacity = given["capacity"]
    if capacity is None:
        capacity = int(_SHARE_OF_MEMORY * memory_limit())
    default = given["default_model_size"] or max(UNIT_BYTES, min(_DEFAULT_MODEL_BYTES, capacity // 10))
    if default < UNIT_BYTES:
        raise click.BadParameter(f"{default} bytes is below {UNIT_BYTES}", param_hint="--default-model-size")
    least = minimum_capacity_bytes(default)
    if capacity < least:
        raise click.BadParameter(
            f"{capacity} bytes is below {least}, the minimum that the mesh accepts with a default model size"
            f" of {default}; give more, or a smaller --default-model-size",
            param_hint="--capacity",
        )
    return Capacity(
        capacity, default, given["loads"], round(1000 * given["loading_timeout"]), given["max_concurrency"]
    )
