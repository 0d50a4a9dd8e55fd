"""``python -m mesh.runtimes.builtin``: the built-in runtime on a socket or port."""

import os
from typing import Any

import click

from mesh.runtimes.python.command import run_with, server_options

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@click.command()
@server_options
@click.option(
    "--threads-per-request",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads that a library may use for one request.",
)
@click.option(
    "--warm-up",
    is_flag=True,
    help="Import the libraries of all installed formats at the start, so that no first model waits for that.",
)
def main(threads_per_request: int, warm_up: bool, **given: Any) -> None:
    """Serves ONNX, scikit-learn, XGBoost and LightGBM models."""
    # Read once, when a library is loaded; without a limit each takes all cores for each request.
    for name in _THREAD_SETTINGS:
        os.environ.setdefault(name, str(threads_per_request))
    # ONNX Runtime reports to its makers unless told not to, and keeps a database for it in the home directory.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        from mesh.runtimes.builtin.runtime import BuiltinRuntime
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f"{missing}: install the libraries of all formats with `pip install 'model-mesh[formats]'`, "
            "or of some with model-mesh[onnx], [sklearn], [xgboost], [lightgbm]"
        ) from None

    runtime = BuiltinRuntime(threads_per_request)
    if warm_up:
        runtime.warm_up_soon()
    run_with(runtime, given)


if __name__ == "__main__":
    main()
