"""What KV_STORE may say, and what is said about it where it is wrong."""

import json
from pathlib import Path

import pytest

from mesh.registry import (
    EtcdConnection,
    EtcdStore,
    InvalidConnection,
    Keys,
    MemoryConnection,
    MemoryStore,
    open_store,
    parse_connection,
)

PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"


def write(folder: Path, **content: object) -> str:
    path = folder / "etcd.json"
    path.write_text(json.dumps(content))
    return f"etcd:{path}"


def etcd(text: str) -> EtcdConnection:
    connection = parse_connection(text)
    assert isinstance(connection, EtcdConnection)
    return connection


@pytest.mark.parametrize(
    ("text", "endpoints", "root", "tls"),
    [
        ("etcd:localhost:2379", ("localhost:2379",), "", False),
        ("etcd:http://a:1,http://b:2;rootPrefix=x/y", ("a:1", "b:2"), "x/y", False),
        ("etcd:https://a", ("a:2379",), "", True),
        ("etcd:[::1]:2379,etcd-0.etcd.svc", ("[::1]:2379", "etcd-0.etcd.svc:2379"), "", False),
    ],
)
def test_reads_endpoints(text: str, endpoints: tuple[str, ...], root: str, tls: bool) -> None:
    connection = etcd(text)
    assert (connection.endpoints, connection.root_prefix, connection.tls) == (endpoints, root, tls)


def test_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    (tmp_path / "key.pem").write_text(PEM)
    connection = etcd(
        write(
            tmp_path,
            endpoints="a:1, b:2",
            userid="u",
            password="p",
            root_prefix="r",
            certificate_file="ca.pem",
            client_key_file=str(tmp_path / "key.pem"),
            client_certificate=PEM,
            override_authority="name",
        )
    )
    assert connection == EtcdConnection(
        ("a:1", "b:2"), "r", "u", "p", True, PEM.encode(), PEM.encode(), PEM.encode(), "name"
    )
    assert "password='p'" not in repr(connection)


@pytest.mark.parametrize(
    ("content", "tls"),
    [
        ({"endpoints": "a:1"}, False),
        ({"endpoints": "a:1", "certificate": PEM}, True),
        ({"endpoints": "http://a:1", "certificate": PEM, "tls_mode": "AUTO"}, False),
        ({"endpoints": "https://a:1"}, True),
        ({"endpoints": "a:1", "tls_mode": "TLS"}, True),
        ({"endpoints": "a:1", "certificate": PEM, "tls_mode": "PLAINTEXT"}, False),
    ],
)
def test_decides_on_tls(tmp_path: Path, content: dict[str, object], tls: bool) -> None:
    assert etcd(write(tmp_path, **content)).tls is tls


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'endpoints' is missing"),
        ({"endpoints": "a:1,b c"}, "'endpoints' has 'b c'"),
        ({"endpoints": "a:70000"}, "port must be between 1 and 65535"),
        ({"endpoints": "http://a,https://b"}, "the same scheme"),
        ({"endpoints": "a", "userid": "u"}, "'password' is missing"),
        ({"endpoints": "a", "client_key": PEM}, "'client_certificate' is missing"),
        (
            {"endpoints": "a", "certificate_file": "no.pem"},
            "'certificate_file' is 'no.pem', which cannot be read",
        ),
        ({"endpoints": "a", "certificate": "x"}, "'certificate' holds no PEM"),
        ({"endpoints": "a", "tls_mode": "SSL"}, "tls_mode"),
        ({"endpoints": "https://a", "tls_mode": "PLAINTEXT"}, "change one of them"),
    ],
)
def test_names_what_is_wrong_in_a_file(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConnection, match=message):
        parse_connection(write(tmp_path, **content))


def test_warns_of_what_has_no_effect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = write(tmp_path, endpoints="a", root_prefx="r", certificate=PEM, certificate_file="no.pem")
    assert etcd(text).certificate == PEM.encode()
    assert "'root_prefx' is not known" in caplog.text
    assert "'certificate_file' cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give 'etcd:"),
        ("etcd:", "give 'etcd:"),
        ("consul:a", "give 'etcd:"),
        ("memory:x", "give 'etcd:"),
        ("zookeeper:a:2181", "ZooKeeper is not supported"),
        ("etcd:/no/such.json", "there is no file '/no/such.json'"),
        ("etcd:a:1;prefix=x", "only 'rootPrefix=PREFIX' may follow"),
    ],
)
def test_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidConnection, match=message):
        parse_connection(text)


async def test_opens_what_it_says() -> None:
    assert parse_connection("memory:") == MemoryConnection()
    assert isinstance(open_store("memory:"), MemoryStore)
    store = open_store("etcd:localhost:1")
    assert isinstance(store, EtcdStore)
    await store.close()


def test_keys_are_those_of_modelmesh() -> None:
    keys = Keys("modelmesh-serving")
    assert keys.models == "/tas-runtime/modelmesh-serving/registry/"
    assert keys.vmodels == "/tas-runtime/modelmesh-serving/vmodels/"
    assert keys.instances == "/tas-runtime/modelmesh-serving/instances/"
    assert keys.candidates == "/tas-runtime/modelmesh-serving/leaderLatch/"
    assert keys.config == "/tas-runtime/modelmesh-serving/config/"
    assert keys.registrations == "/litelinks/modelmesh-serving/"
    assert Keys("s", prefix="p").models == "/p/s/registry/"


@pytest.mark.parametrize("prefix", ["", "a/b", "a b", "a\t"])
def test_a_prefix_that_is_no_part_of_a_key_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="MM_KVSTORE_PREFIX"):
        Keys("s", prefix=prefix)
