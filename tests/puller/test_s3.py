"""Pulls from a real S3 server."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.test_puller import settled
from tests.servers.s3 import S3Server
from tests.servers.tls import Certificates


def give_config(tmp_path: Path, s3: S3Server, **more: str) -> None:
    (tmp_path / "storage" / "store").write_text(json.dumps(s3.storage_config(bucket="models", **more)))


KEY = '{"storage_key":"store","model_type":{"name":"sklearn"}}'


async def refusal(puller: Puller, path: str, key: str = KEY) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert S3Server.secret_access_key not in str(raised.value)
    return raised.value


async def test_one_object_becomes_one_file(tmp_path: Path, make_puller: MakePuller, s3: S3Server) -> None:
    s3.put("models", {"sklearn/mnist-svm.joblib": b"pickle", "sklearn/mnist-svm.joblib.bak": b"other"})
    give_config(tmp_path, s3)
    pulled = await make_puller().pull("mnist", "/sklearn/mnist-svm.joblib", KEY)
    assert pulled.path == str(tmp_path / "models" / "mnist" / "mnist-svm.joblib")
    assert Path(pulled.path).read_bytes() == b"pickle"
    assert pulled.key == '{"model_type":{"name":"sklearn"},"disk_size_bytes":6}'
    assert names(tmp_path / "models" / "mnist") == [".mesh-pulled", "mnist-svm.joblib"]


async def test_a_directory_of_many_pages_is_whole(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    many = {f"m/part-{number:04}": str(number).encode() for number in range(1205)}
    # Sorts before the wanted ones, and begins like them.
    siblings = {f"m-{number:03}/x": b"" for number in range(120)}
    s3.create_bucket("models")
    for name, content in {**siblings, **many}.items():
        file = s3.path("models", name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    give_config(tmp_path, s3)
    pulled = await make_puller().pull("m", "m", KEY)
    found = {f"m/{file.name}": file.read_bytes() for file in Path(pulled.path).iterdir()}
    assert found == many
    assert pulled.disk_size_bytes == sum(len(content) for content in many.values())


async def test_only_what_is_below_the_path_is_taken(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    s3.put(
        "models",
        {
            "models/mnist/1/model.onnx": b"one",
            "models/mnist/config.pbtxt": b"",
            "models/mnist2/model": b"two",
            "models/mnist-x": b"three",
        },
    )
    give_config(tmp_path, s3)
    for path in ("models/mnist", "models/mnist/", "/models//mnist"):
        pulled = await make_puller().pull("m", path, KEY)
        assert pulled.path == str(tmp_path / "models" / "m" / "mnist")
        assert names(pulled.path) == ["1", "config.pbtxt"]
        assert (Path(pulled.path) / "config.pbtxt").read_bytes() == b""
        assert pulled.disk_size_bytes == 3


async def test_an_empty_path_is_the_whole_bucket(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    s3.put("models", {"a": b"1", "b/c": b"2"})
    give_config(tmp_path, s3)
    pulled = await make_puller().pull("m", "", KEY)
    assert pulled.path == str(tmp_path / "models" / "m" / "_model")
    assert names(pulled.path) == ["a", "b"]


async def test_model_and_schema_come_together(tmp_path: Path, make_puller: MakePuller, s3: S3Server) -> None:
    s3.put("models", {"a/schema.json": b"model", "b/schema.json": b"{}"})
    give_config(tmp_path, s3)
    pulled = await make_puller().pull(
        "m", "a/schema.json", '{"storage_key":"store","schema_path":"b/schema.json"}'
    )
    schema = tmp_path / "models" / "m" / "_schema.json"
    assert json.loads(pulled.key) == {"disk_size_bytes": 5, "schema_path": str(schema)}
    assert Path(pulled.path).read_bytes() == b"model"
    assert schema.read_bytes() == b"{}"


@pytest.mark.parametrize(
    "name", ["with space", "per%25cent", "q?a&b=c#d", "pl+us", "ümlaut-日本", "~tilde*(x)'"]
)
async def test_odd_names_are_kept(tmp_path: Path, make_puller: MakePuller, s3: S3Server, name: str) -> None:
    s3.put("models", {f"{name}/{name}.bin": b"odd"})
    give_config(tmp_path, s3)
    pulled = await make_puller().pull("m", name, KEY)
    assert names(pulled.path) == [f"{name}.bin"]
    assert (Path(pulled.path) / f"{name}.bin").read_bytes() == b"odd"


async def test_objects_without_a_tag_are_taken(tmp_path: Path, make_puller: MakePuller, s3: S3Server) -> None:
    s3.create_bucket("models")
    s3.path("models", "m").write_bytes(b"put there by hand")
    give_config(tmp_path, s3)
    assert (await make_puller().pull("m", "m", KEY)).disk_size_bytes == 17


async def test_large_objects_arrive_whole(tmp_path: Path, make_puller: MakePuller, s3: S3Server) -> None:
    contents = {f"big/{number}": os.urandom(11 << 20) for number in range(3)}
    s3.put("models", contents)
    give_config(tmp_path, s3)
    pulled = await make_puller(max_downloads=2).pull("m", "big", KEY)
    for key, content in contents.items():
        assert Path(pulled.path, key.removeprefix("big/")).read_bytes() == content
    assert pulled.disk_size_bytes == 33 << 20


async def test_the_size_is_known_without_fetching(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    s3.put("models", {"m/a": b"12345", "m/b": b"678"})
    give_config(tmp_path, s3)
    assert await make_puller().size("m", KEY) == 8
    assert names(tmp_path / "models") == []


async def test_what_is_missing_is_named(tmp_path: Path, make_puller: MakePuller, s3: S3Server) -> None:
    s3.put("models", {"there": b""})
    give_config(tmp_path, s3)
    puller = make_puller()
    failure = await refusal(puller, "not/there")
    assert failure.code is Code.NOT_FOUND
    assert failure.message == (
        "Failed to pull model from storage due to error: there is no object 'not/there' and none below "
        f"'not/there/' in bucket 'models' at {s3.endpoint}"
    )
    failure = await refusal(puller, "there/")
    assert failure.code is Code.NOT_FOUND
    failure = await refusal(puller, "m", '{"storage_key":"store","storage_params":{"bucket":"nowhere"}}')
    assert failure.code is Code.NOT_FOUND
    assert "bucket 'nowhere'" in failure.message
    assert await settled(tmp_path / "models") == []


async def test_wrong_credentials_are_told_and_right_ones_count_at_once(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    s3.put("models", {"m": b"1"})
    puller = make_puller()
    give_config(tmp_path, s3, secret_access_key="expired")
    failure = await refusal(puller, "m")
    assert failure.code is Code.UNAUTHENTICATED
    assert "expired" not in failure.message
    give_config(tmp_path, s3, access_key_id="stranger")
    assert (await refusal(puller, "m")).code is Code.UNAUTHENTICATED
    give_config(tmp_path, s3)
    assert (await puller.pull("m", "m", KEY)).disk_size_bytes == 1


async def test_the_environment_lends_no_credentials(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("models", {"m": b"1"})
    for name in (
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_PROFILE",
    ):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    give_config(tmp_path, s3)
    assert (await make_puller().pull("m", "m", KEY)).disk_size_bytes == 1


@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key", "bucket"])
@pytest.mark.parametrize("value", ["", None, 3])
async def test_a_missing_field_is_named(
    tmp_path: Path, make_puller: MakePuller, field: str, value: object
) -> None:
    config = {"type": "s3", "access_key_id": "a", "secret_access_key": "s", "bucket": "b", field: value}
    (tmp_path / "storage" / "store").write_text(json.dumps(config))
    failure = await refusal(make_puller(), "m")
    assert failure.code is Code.INVALID_ARGUMENT
    assert f"needs '{field}'" in failure.message


async def test_a_bucket_with_a_path_is_refused(tmp_path: Path, make_puller: MakePuller) -> None:
    config = {"type": "s3", "access_key_id": "a", "secret_access_key": "s", "bucket": "models/../other"}
    (tmp_path / "storage" / "store").write_text(json.dumps(config))
    failure = await refusal(make_puller(), "m")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "'models/../other'" in failure.message


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "https://[bad", "http://user:hush@x", "http://x:port", "http://x:99999"]
)
async def test_a_malformed_endpoint_is_refused(tmp_path: Path, make_puller: MakePuller, url: str) -> None:
    config = {
        "type": "s3",
        "access_key_id": "a",
        "secret_access_key": "s",
        "bucket": "b",
        "endpoint_url": url,
    }
    (tmp_path / "storage" / "store").write_text(json.dumps(config))
    failure = await refusal(make_puller(), "m")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "'endpoint_url'" in failure.message
    assert "hush" not in failure.message


@pytest.mark.parametrize(
    "certificate",
    [
        "garbage",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----",
    ],
)
async def test_a_certificate_that_is_none_is_refused(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server, certificate: str
) -> None:
    give_config(tmp_path, s3, certificate=certificate)
    failure = await refusal(make_puller(), "m")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "'certificate'" in failure.message


class TlsFront:
    """Takes TLS connections for a plain server."""

    def __init__(self, certificates: Certificates, behind: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server_cert, certificates.server_key)
        host, _, port = behind.removeprefix("http://").partition(":")
        self._behind = (host, int(port))
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.endpoint = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            server = socket.create_connection(self._behind)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()


@pytest.fixture
def tls_front(certificates: Certificates, s3: S3Server) -> Iterator[TlsFront]:
    front = TlsFront(certificates, s3.endpoint)
    yield front
    front.close()


async def test_an_authority_of_ones_own_is_trusted_once_it_is_given(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server, certificates: Certificates, tls_front: TlsFront
) -> None:
    s3.put("models", {"m": b"1"})
    puller = make_puller(attempts=2)
    give_config(tmp_path, s3, endpoint_url=tls_front.endpoint)
    failure = await refusal(puller, "m")
    assert failure.code is Code.UNAVAILABLE
    assert "'certificate'" in failure.message
    give_config(tmp_path, s3, endpoint_url=tls_front.endpoint, certificate=certificates.ca.read_text())
    assert (await puller.pull("m", "m", KEY)).disk_size_bytes == 1
