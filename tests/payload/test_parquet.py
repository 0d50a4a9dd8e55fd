import asyncio
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from obstore.store import AzureStore

from mesh.payload import InvalidProcessor, open_processor
from tests.instance.meshes import eventually
from tests.payload.inference import call, infer_request
from tests.payload.parts import Told, options, request, response
from tests.servers.azure import ACCOUNT, KEY, AzureServer
from tests.servers.s3 import S3Server


def read(folder: Path) -> Any:
    return pa.dataset.dataset(folder, format="parquet").to_table().sort_by("time")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


async def test_payloads_become_rows(tmp_path: Path) -> None:
    sink = open_processor(f"parquet://{tmp_path}", options())
    metadata = (("x-a", "1"), ("x-bin", b"\x01"))
    await sink.process([request(b"\x01\x02", metadata=metadata, vmodel_id="v")])
    await sink.process([response(None, status="INTERNAL", time=1_700_000_001.25, sequence=3)])
    assert not files(tmp_path), "a file that is not whole can be seen"
    await sink.close(5)
    (path,) = files(tmp_path)
    assert path.name.split("-", 1)[1] == "i1-0.parquet"
    assert pq.read_table(path).to_pylist() == [
        {
            "id": "c1",
            "time": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC),
            "kind": "request",
            "model_id": "m",
            "vmodel_id": "v",
            "method": "inference.GRPCInferenceService/ModelInfer",
            "status": None,
            "sequence": 0,
            "metadata": [("x-a", "1"), ("x-bin", "AQ==")],
            "data": b"\x01\x02",
        },
        {
            "id": "c1",
            "time": datetime.datetime(2023, 11, 14, 22, 13, 21, 250_000, tzinfo=datetime.UTC),
            "kind": "response",
            "model_id": "m",
            "vmodel_id": "",
            "method": "inference.GRPCInferenceService/ModelInfer",
            "status": "INTERNAL",
            "sequence": 3,
            "metadata": [],
            "data": None,
        },
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


async def test_decoded_tensors_are_columns_of_a_models_own_files(tmp_path: Path) -> None:
    sink = open_processor(f"parquet://{tmp_path}", options(decoded=True))
    words = np.array([["ä".encode()], [b""]], object)
    half = np.array([1.5, -2], np.float16)
    typed = infer_request(raw=False, w=words, n=np.array([3], np.uint8))
    raw = infer_request(w=words, n=np.array([4], np.uint8))
    await sink.process(
        [
            *call(1, [[1.0, 2.0], [3.0, 4.0]]),
            request(typed.SerializeToString(), model_id="../b c"),
            request(raw.SerializeToString(), model_id="../b c"),
            request(infer_request(h=half).SerializeToString(), model_id="h"),
            request(b"\xff", id="broken"),
        ]
    )
    await sink.close(5)
    folders = {path.relative_to(tmp_path).parent.as_posix() for path in files(tmp_path)}
    assert folders == {"m/request", "m/response", "_b_c/request", "h/request", "."}
    (row,) = read(tmp_path / "m/request").to_pylist()
    assert (row["tensor_x"], row["shape_x"]) == ([1.0, 2.0, 3.0, 4.0], [2, 2])
    assert "data" not in row
    rows = read(tmp_path / "_b_c/request").to_pylist()
    assert [row["tensor_n"] for row in rows] == [[3], [4]]
    assert [row["tensor_w"] for row in rows] == [["ä".encode(), b""]] * 2
    assert read(tmp_path / "h/request").column("tensor_h").to_pylist() == [[1.5, -2.0]]
    (left,) = [path for path in files(tmp_path) if path.parent == tmp_path]
    assert pq.read_table(left).column("data").to_pylist() == [b"\xff"]


async def test_files_are_ended_by_size_by_time_and_by_their_number(tmp_path: Path) -> None:
    sink = open_processor(f"parquet://{tmp_path}/size", options(max_bytes=2_000, row_group_bytes=500))
    for number in range(40):
        await sink.process([request(np.random.default_rng(number).bytes(100), id=f"c{number}")])
    await sink.close(5)
    assert 3 < len(files(tmp_path / "size")) < 20
    assert len(read(tmp_path / "size")) == 40
    sink = open_processor(f"parquet://{tmp_path}/time", options(max_seconds=0.2))
    await sink.process([request()])
    await eventually(lambda: files(tmp_path / "time"))
    await sink.close(5)
    sink = open_processor(f"parquet://{tmp_path}/many", options(decoded=True, open_files=2))
    for number in range(5):
        await sink.process([request(infer_request(x=[1.0]).SerializeToString(), model_id=f"m{number}")])
    await eventually(lambda: len(files(tmp_path / "many")) == 3)
    await sink.close(5)
    assert len(files(tmp_path / "many")) == 5


async def test_rows_of_a_file_that_cannot_be_stored_are_counted(tmp_path: Path) -> None:
    told = Told()
    uri = "parquet+s3://bucket/prefix"
    storage = {
        "endpoint": "http://127.0.0.1:1",
        "region": "x",
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    sink = open_processor(
        uri, options(told, storage=storage, retry_seconds=0, max_bytes=1, staging=str(tmp_path))
    )
    await sink.process([request(id=f"c{number}") for number in range(3)])
    await eventually(lambda: told.losses == {"upload": 3}, 30)
    await sink.close(1)
    sink = open_processor(uri, options(told, storage=storage, max_bytes=1, staging=str(tmp_path)))
    await sink.process([request()])
    await sink.close(0.5)
    assert told.losses == {"upload": 3, "shutdown": 1}
    sink = open_processor(uri, options(told, storage=storage, staging=str(tmp_path)))
    await sink.process([request()])
    with pytest.raises(TimeoutError):
        # There is less time than it was told, as where the instance ends while a processor is being removed.
        async with asyncio.timeout(0.5):
            await sink.close(60)
    assert told.losses == {"upload": 3, "shutdown": 2}
    assert not list(tmp_path.rglob("*.part"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_s3(s3: S3Server, tmp_path: Path) -> None:
    s3.create_bucket("payloads")
    storage = {
        "endpoint": s3.endpoint,
        "region": s3.region,
        "access_key_id": s3.access_key_id,
        "secret_access_key": s3.secret_access_key,
    }
    members = {"storage": storage, "decoded": True, "data": True, "staging": str(tmp_path / "staging")}
    sink = open_processor("parquet+s3://payloads/some/where", options(**members))
    for number in range(50):
        await sink.process(call(number, [[float(number)]]))
    await sink.close(20)
    assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]
    system = pa.fs.S3FileSystem(
        access_key=s3.access_key_id,
        secret_key=s3.secret_access_key,
        endpoint_override=s3.endpoint,
        region=s3.region,
    )

    def rows() -> Any:
        return pa.dataset.dataset("payloads/some/where/m/request", filesystem=system).to_table()

    table = await asyncio.to_thread(rows)
    assert table.column("tensor_x").to_pylist() == [[float(number)] for number in range(50)]
    assert table.column("data").to_pylist()[0] == infer_request(x=[[0.0]]).SerializeToString()


async def test_azure(azure: AzureServer, tmp_path: Path) -> None:
    azure.put("payloads", {})
    storage = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": azure.endpoint}
    sink = open_processor("parquet+az://payloads/p", options(storage=storage, staging=str(tmp_path)))
    await sink.process([request(id="stored")])
    await sink.close(20)
    store = AzureStore("payloads", config=storage, client_options={"allow_http": True})  # type: ignore[arg-type]
    (found,) = await obstore.list(store, "p").collect_async()
    content = await (await obstore.get_async(store, found["path"])).bytes_async()
    assert pq.read_table(pa.BufferReader(bytes(content))).column("id").to_pylist() == ["stored"]


@pytest.mark.parametrize(
    ("uri", "members", "message"),
    [
        ("parquet+s3:///prefix", {}, "has no bucket"),
        ("parquet+s3://b/p", {"storage": {"end": "x"}}, r"options\.storage \['end'\]"),
        ("parquet:///p", {"compression": "zip"}, "compression"),
        ("parquet://p", {}, "must name a folder"),
    ],
)
def test_what_cannot_be_is_refused(uri: str, members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProcessor, match=message):
        open_processor(uri, options(**members))
