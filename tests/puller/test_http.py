"""Pulls from web servers."""

import io
import json
import ssl
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.web_server import WebServer
from tests.servers.tls import Certificates

TOKEN = "Bearer hush-hush"
BIG = bytes(range(251)) * 9001


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as web:
        yield web


def key_for(web: WebServer, **more: object) -> str:
    return json.dumps({"storage_params": {"type": "http", "url": web.url, **more}})


def stored(tmp_path: Path, **config: object) -> str:
    """A storage configuration, for what storage parameters cannot say."""
    (tmp_path / "storage" / "web").write_text(json.dumps({"type": "http", **config}))
    return '{"storage_key":"web"}'


async def refusal(puller: Puller, path: str, key: str) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert "hush" not in str(raised.value)
    return raised.value


def tar_of(entries: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def zip_of(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tree(path: str) -> dict[str, bytes]:
    root = Path(path)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


async def test_a_file_is_fetched_with_headers_and_query(
    tmp_path: Path, make_puller: MakePuller, web: WebServer
) -> None:
    web.files["store/a b/model.onnx"] = b"weights"
    key = stored(
        tmp_path, url=f"{web.url}/store?version=3", headers={"Authorization": TOKEN, "X-A": ["1", "2"]}
    )
    pulled = await make_puller().pull("m", "a b/model.onnx", key)
    assert Path(pulled.path).read_bytes() == b"weights"
    assert pulled.disk_size_bytes == 7
    path, headers = web.requests[-1]
    assert path == "/store/a%20b/model.onnx?version=3"
    assert headers["authorization"] == TOKEN


async def test_an_error_page_is_no_model(make_puller: MakePuller, web: WebServer) -> None:
    failure = await refusal(make_puller(), "nothing.onnx", key_for(web))
    assert failure.code is Code.NOT_FOUND
    assert "404" in failure.message
    assert web.url in failure.message


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("401", Code.UNAUTHENTICATED),
        ("403", Code.PERMISSION_DENIED),
        ("503", Code.UNAVAILABLE),
        ("400", Code.INVALID_ARGUMENT),
    ],
)
async def test_a_refusal_has_its_kind(
    make_puller: MakePuller, web: WebServer, status: str, code: Code
) -> None:
    web.files["m"] = b"x"
    web.faults["m"] = [status] * 10
    assert (await refusal(make_puller(attempts=2), "m", key_for(web))).code is code


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_transfer_is_completed(
    make_puller: MakePuller, web: WebServer, *, ranges: bool
) -> None:
    web.files["m"] = BIG
    web.ranges = ranges
    web.faults["m"] = ["", "503", "truncate", "truncate"]
    pulled = await make_puller().pull("m", "m", key_for(web))
    assert Path(pulled.path).read_bytes() == BIG
    if ranges:
        continued = [
            headers["range"]
            for _, headers in web.requests
            if headers.get("range", "bytes=0-0") != "bytes=0-0"
        ]
        assert len(continued) == 2


async def test_what_changed_in_the_middle_is_fetched_as_it_is_now(
    make_puller: MakePuller, web: WebServer
) -> None:
    web.files["m"] = BIG
    web.faults["m"] = ["", "truncate", "change"]
    pulled = await make_puller().pull("m", "m", key_for(web))
    assert Path(pulled.path).read_bytes() == BIG + b"!"


async def test_a_file_of_untold_size_is_fetched(make_puller: MakePuller, web: WebServer) -> None:
    web.files["m"] = BIG
    web.ranges = False
    web.faults["m"] = ["no-length", "no-length"]
    pulled = await make_puller().pull("m", "m", key_for(web))
    assert Path(pulled.path).read_bytes() == BIG
    assert pulled.disk_size_bytes == len(BIG)


async def test_what_is_sent_compressed_is_refused(make_puller: MakePuller, web: WebServer) -> None:
    web.files["m"] = b"x"
    web.faults["m"] = ["", "gzip"]
    failure = await refusal(make_puller(), "m", key_for(web))
    assert "gzip" in failure.message


async def test_headers_stay_with_their_origin(
    tmp_path: Path, make_puller: MakePuller, web: WebServer
) -> None:
    with WebServer().running() as other:
        other.files["elsewhere"] = b"weights"
        web.redirects["m"] = f"{other.url}/elsewhere"
        key = stored(tmp_path, url=web.url, headers={"Authorization": TOKEN})
        pulled = await make_puller().pull("m", "m", key)
    assert Path(pulled.path).read_bytes() == b"weights"
    assert all(headers["authorization"] == TOKEN for _, headers in web.requests)
    assert not any("authorization" in headers for _, headers in other.requests)


async def test_redirects_without_end_are_refused(make_puller: MakePuller, web: WebServer) -> None:
    web.redirects["m"] = "/m"
    assert (await refusal(make_puller(), "m", key_for(web))).code is Code.INVALID_ARGUMENT


async def test_servers_and_clients_prove_who_they_are(
    tmp_path: Path, make_puller: MakePuller, certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with WebServer(context).running() as web:
        web.files["m"] = b"weights"
        whole = {
            "url": web.url,
            "certificate": certificates.ca.read_text(),
            "client_certificate": certificates.client_cert.read_text(),
            "client_key": certificates.client_key.read_text(),
        }
        pulled = await make_puller().pull("m", "m", stored(tmp_path, **whole))
        assert Path(pulled.path).read_bytes() == b"weights"
        for missing in (("certificate",), ("client_certificate", "client_key")):
            partly = {name: value for name, value in whole.items() if name not in missing}
            failure = await refusal(make_puller(attempts=1), "m", stored(tmp_path, **partly))
            assert failure.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"url": "ftp://x"}, "'url'"),
        ({}, "'url'"),
        ({"url": "http://x", "certificate": "no PEM"}, "'certificate'"),
        ({"url": "http://x", "client_key": "k"}, "'client_certificate'"),
        (
            {"url": "http://x", "client_key": "hush", "client_certificate": "c"},
            "'client_certificate' and 'client_key'",
        ),
        ({"url": "http://x", "headers": {"A": 1}}, "'headers'"),
        ({"url": "http://x", "headers": {"A": "b\r\nC: d"}}, "'headers'"),
    ],
)
async def test_a_bad_field_is_named(
    tmp_path: Path, make_puller: MakePuller, config: dict[str, object], named: str
) -> None:
    failure = await refusal(make_puller(), "m", stored(tmp_path, **config))
    assert failure.code is Code.INVALID_ARGUMENT
    assert named in failure.message


@pytest.mark.parametrize("name", ["m.tar.gz", "m.tgz", "m.tar", "m.zip"])
async def test_an_archive_is_unpacked(make_puller: MakePuller, web: WebServer, name: str) -> None:
    entries = {"./1/model.onnx": b"weights", "1/labels/all.txt": b"red", "config.json": b"{}"}
    web.files[name] = (
        zip_of(entries) if name.endswith("zip") else tar_of(dict(entries), "w" if name == "m.tar" else "w:gz")
    )
    pulled = await make_puller().pull("m", name, key_for(web))
    assert tree(pulled.path) == {"1/model.onnx": b"weights", "1/labels/all.txt": b"red", "config.json": b"{}"}
    assert pulled.disk_size_bytes == 12
    assert names(Path(pulled.path).parent) == [".mesh-pulled", name]


async def test_an_archive_stays_one_where_that_is_asked_for(make_puller: MakePuller, web: WebServer) -> None:
    web.files["m.zip"] = zip_of({"a": b"b"})
    pulled = await make_puller().pull("m", "m.zip", key_for(web, unpack="false"))
    assert Path(pulled.path).read_bytes() == web.files["m.zip"]


@pytest.mark.parametrize(
    "content",
    [
        tar_of({"../out": b"x"}),
        tar_of({"a": link("a", "/etc"), "b": b"x"}),
        tar_of({"a": link("a", "../..")}),
        tar_of({"d/e/S": link("d/e/S", "../.."), "Z": link("Z", "d/e/S/../..")}),
        tar_of({"a": link("a", "b"), "a/c": b"x"}),
        tar_of({"f": b"x", "h": link("h", "f", tarfile.LNKTYPE)}),
        tar_of({"p": link("p", "", tarfile.FIFOTYPE)}),
        tar_of({"a": b"x" * 1000})[:-400],
        b"no archive at all",
    ],
    ids=[
        "up",
        "absolute-link",
        "link-out",
        "chained-links",
        "through-link",
        "hard-link",
        "pipe",
        "cut",
        "none",
    ],
)
async def test_a_bad_archive_leaves_nothing(
    tmp_path: Path, make_puller: MakePuller, web: WebServer, content: bytes
) -> None:
    web.files["m.tar.gz"] = content
    failure = await refusal(make_puller(), "m.tar.gz", key_for(web))
    assert failure.code is Code.INVALID_ARGUMENT
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == []
    assert not (tmp_path / "out").exists()


async def test_a_small_archive_that_unpacks_to_very_much_is_refused(
    make_puller: MakePuller, web: WebServer
) -> None:
    web.files["m.zip"] = zip_of({"zeros": b"\0" * 5_000_000})
    failure = await refusal(make_puller(max_unpacked_bytes=1_000_000), "m.zip", key_for(web))
    assert failure.code is Code.RESOURCE_EXHAUSTED
    web.files["m.tar"] = tar_of({f"{number}": b"" for number in range(50)}, "w")
    failure = await refusal(make_puller(max_objects=20), "m.tar", key_for(web))
    assert failure.code is Code.INVALID_ARGUMENT
    assert "20 entries" in failure.message


async def test_an_address_is_a_model_path_of_its_own(make_puller: MakePuller, web: WebServer) -> None:
    web.files["deep/model.zip"] = zip_of({"a": b"b"})
    pulled = await make_puller().pull("m", f"{web.url}/deep/model.zip?signature=hush-hush", "")
    assert tree(pulled.path) == {"a": b"b"}
    assert web.requests[-1][0] == "/deep/model.zip?signature=hush-hush"
    failure = await refusal(make_puller(), f"{web.url}/none?signature=hush-hush", "{}")
    assert failure.code is Code.NOT_FOUND
