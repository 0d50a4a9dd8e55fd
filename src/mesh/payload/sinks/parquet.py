"""The schemes ``parquet``, ``parquet+s3``, ``parquet+gs`` and ``parquet+az``."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mesh.payload.members import read_members, require
from mesh.payload.processor import Options
from mesh.payload.sinks.paths import folder_of

if TYPE_CHECKING:
    from mesh.payload.sinks.parquet_sink import ParquetSink


class ParquetMembers(msgspec.Struct, frozen=True):
    """The members of the options.

    Attributes:
        decoded: a column for each tensor, and files of one model and side each.
        data: the messages themselves, too, where they are decoded.
        max_bytes: of a file.
        max_seconds: that a file grows for. This much is lost at most when the process is killed.
        row_group_bytes: gathered in memory, for each file that grows.
        open_files: that grow at a time.
        compression: of columns.
        storage: settings of the object store, as obstore names them.
        staging: folder where files grow that go to an object store.
        retry_seconds: that the upload of a file is tried for before its rows are lost.
    """

    decoded: bool = False
    data: bool = False
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 2**20
    max_seconds: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    row_group_bytes: Annotated[int, msgspec.Meta(ge=1)] = 8 * 2**20
    open_files: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 32
    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd"
    storage: dict[str, str] = msgspec.field(default_factory=dict)
    staging: str = ""
    retry_seconds: Annotated[float, msgspec.Meta(ge=0)] = 300.0


def open_parquet(uri: str, options: Options) -> "ParquetSink":
    """Opens the sink; the URI is ``parquet:///folder``, or that of an object store with ``parquet+`` before it.

    Raises:
        InvalidProcessor: a library is missing, or the URI or a member of the options cannot be.
    """
    for module in ("numpy", "pyarrow"):
        require(options, module, "payload-parquet", "Parquet")
    from mesh.payload.sinks.parquet_sink import ParquetSink
    from mesh.payload.sinks.stores import FolderStore, open_objects

    members = read_members(options, ParquetMembers)
    scheme, _, url = uri.partition("+")
    if scheme.lower() == "parquet":
        url = url.partition("?")[0]
        staging = Path(members.staging or tempfile.gettempdir()) / f"mesh-payloads-{options.name}"
        return ParquetSink(open_objects(url, members.storage, options), staging, members, options)
    folder = folder_of(uri, options)
    return ParquetSink(FolderStore(folder), folder, members, options)
