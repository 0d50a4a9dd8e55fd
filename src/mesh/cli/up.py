"""``mesh up``: a whole mesh on this machine."""

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesh.cli.screen import console

if TYPE_CHECKING:
    from mesh.cli.laptop.plan import Plan

#: Of Prometheus where an instance serves metrics in a pod.
METRICS_PORT = 2112

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9}


class Size(click.ParamType[int]):
    """A size in bytes, with a unit as people write it: ``24MiB``, ``1.5 GiB``, ``500MB``; ``M`` is MiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns: bytes."""
        matched = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", str(value))
        if (
            matched is None
            or matched[2].lower() not in _UNITS
            or matched[1].count(".") > 1
            or matched[1] == "."
        ):
            self.fail(
                f"{value!r} is not a size; write a number and a unit, such as 24MiB or 1GiB", param, ctx
            )
        return int(float(matched[1]) * _UNITS[matched[2].lower()])


def default_state() -> Path:
    """Where a user's programs keep what is theirs and can be made again, by the XDG base directory rules."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "model-mesh"


@click.command()
@click.option(
    "--instances",
    type=click.IntRange(1, 32),
    default=3,
    show_default=True,
    help="Mesh instances; each has a model server of its own.",
)
@click.option(
    "--capacity",
    type=Size(),
    default="12MiB",
    show_default=True,
    help="Memory for models of each instance. What does not fit is unloaded when others are asked.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
    metavar="DIR",
    help="Your own models: DIR/MODEL/ with one model's files, or DIR/MODEL.onnx (.joblib, .json for XGBoost, "
    ".txt for LightGBM...). DIR/MODEL/mesh.json may give type, path and key.  "
    "[default: example models, trained here]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8033,
    show_default=True,
    help="Port of the first instance for requests and management (gRPC); the next ones follow.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help=f"Port of the first instance for Prometheus.  [default: off; {METRICS_PORT} with --prometheus-config]",
)
@click.option(
    "--page-port",
    type=click.IntRange(1, 65_535),
    help="Port of the first instance for its page in the browser; the next ones follow.  "
    "[default: 10000 above --port, or any that is free]",
)
@click.option("--no-page", is_flag=True, help="Serve no page.")
@click.option(
    "--prometheus-config",
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    metavar="FILE",
    help="Write a configuration with which Prometheus scrapes all instances: prometheus --config.file=FILE",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--etcd",
    metavar="KV_STORE",
    help="Keep the registry in etcd, such as etcd:localhost:2379.  [default: in memory, until the end]",
)
@click.option(
    "--runtime",
    metavar="COMMAND",
    help="Your own model server, one for each instance, speaking the mmesh.ModelRuntime API on the unix "
    "socket {socket} (or $INTERNAL_GRPC_SOCKET_PATH), or on {port}; {capacity} is bytes.  "
    "[default: the built-in one]",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=default_state,
    metavar="DIR",
    help="Everything that is written goes here: example models, logs, sockets.  "
    "[default: $XDG_STATE_HOME/model-mesh or ~/.local/state/model-mesh]",
)
@click.option("--no-examples", is_flag=True, help="Do not train example models; --models must be given.")
def up(
    *,
    instances: int,
    capacity: int,
    models: Path | None,
    port: int,
    metrics_port: int | None,
    page_port: int | None,
    no_page: bool,
    prometheus_config: Path | None,
    host: str,
    etcd: str | None,
    runtime: str | None,
    state: Path,
    no_examples: bool,
) -> None:
    """Run a mesh on this machine until Ctrl-C: several instances, a model server beside each, a registry.

    The first run trains example models of four formats in some seconds; they need more memory than there is,
    so the mesh loads and unloads them as they are asked. Nothing is downloaded.
    """
    from mesh.cli.laptop import monitoring
    from mesh.cli.laptop.plan import Options, PlanError, make_plan

    if prometheus_config is not None and metrics_port is None:
        metrics_port = METRICS_PORT
    options = Options(
        instances=instances,
        capacity=capacity,
        host=host,
        port=port,
        metrics_port=metrics_port,
        page=not no_page,
        page_port=page_port,
        prometheus_config=prometheus_config,
        models=models,
        examples=not no_examples,
        etcd=etcd,
        runtime=runtime,
        state=state,
    )
    try:
        plan = make_plan(options)
        if prometheus_config is not None:
            monitoring.check(prometheus_config)
    except PlanError as error:
        raise click.ClickException(str(error)) from None
    _run(plan)


def _run(plan: "Plan") -> None:
    from mesh.cli.laptop.catalog import CatalogError
    from mesh.cli.laptop.laptop import Laptop, LaptopError
    from mesh.cli.laptop.progress import Progress
    from mesh.cli.laptop.training import TrainingError
    from mesh.registry import RegistryError
    from mesh.runtimes import RuntimeFailure

    try:
        asyncio.run(Laptop(plan, Progress(console())).run())
    except (LaptopError, CatalogError, TrainingError, RegistryError, RuntimeFailure, OSError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from None
