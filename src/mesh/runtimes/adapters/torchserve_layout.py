"""What TorchServe finds in its model store: a link to each model's archive, and its own configuration."""

import os
from pathlib import Path
from urllib.parse import quote

import grpc

from mesh.runtimes.adapters.layout import require_path
from mesh.runtimes.interface import RuntimeFailure

CONFIG = "mmconfig.properties"
_ARCHIVE = ".mar"


def archive_name(model_id: str) -> str:
    r"""Names the link to a model's archive, one to one; the model's name in TorchServe is its id all the same.

    TorchServe takes an archive's name for a URL: it cuts it at ``/`` and ``\``, and refuses ``..``; so it gets a name
    without these.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the id is empty or too long.
    """
    name = quote(model_id, safe="", errors="surrogatepass").replace(".", "%2E") + _ARCHIVE
    if not model_id or len(name) > 255:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"model id '{model_id[:40]}' is empty or too long for the name of a file; use another id",
        )
    return name


def require_archive(path: Path) -> Path:
    """Returns a model's path where it leads to a file.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, with the reason.
    """
    if require_path(path).is_dir():
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Model path is a directory, must be a MAR file: {path}; pack the model with torch-model-archiver, and "
            "register the path of the file",
        )
    return path


def link_archive(link: Path, archive: Path) -> None:
    """Makes the link, in place of the one there may be."""
    link.unlink(missing_ok=True)
    link.symlink_to(archive)


def clear_store(store: Path) -> None:
    """Removes the links of models."""
    for link in store.glob(f"*{_ARCHIVE}"):
        link.unlink()


def write_config(store: Path, management_port: int, serving_port: int) -> None:
    """Makes the store with the file that TorchServe is started with, in one step: its container waits for the file.

    Args:
        store: absolute.
        management_port: of its gRPC management.
        serving_port: of its gRPC inference.
    """
    store.mkdir(parents=True, exist_ok=True)
    draft = store / f".{CONFIG}.new"
    draft.write_text(
        "\n".join(
            [
                "# Written by mesh whenever it starts. Variables named TS_* come before what is here.",
                "enable_envvars_config=true",
                f"model_store={store}",
                # Seconds between the measurements by which models are sized.
                "metric_time_interval=10",
                # Its default, 8080, is a usual port of other containers.
                "inference_address=http://127.0.0.1:8083",
                "number_of_netty_threads=8",
                "job_queue_size=512",
                f"grpc_management_port={management_port}",
                f"grpc_inference_port={serving_port}",
                # Since 0.11 models can be managed only where both are set.
                "enable_model_api=true",
                "disable_token_authorization=true",
                "",
            ]
        ),
        encoding="utf-8",
    )
    os.replace(draft, store / CONFIG)  # noqa: PTH105 - Path.replace says nothing more
