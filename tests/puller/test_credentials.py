"""How pulls prove who they are, as the services that give out tokens see it; and that secrets stay secret."""

import base64
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from mesh.puller import Code, PullFailure
from tests.puller.conftest import MakePuller
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_http import tree
from tests.puller.web_server import WebServer

KEY = '{"storage_key":"store"}'
SECRET = "hush-hush"
ENCODED = base64.b64encode(SECRET.encode()).decode()
ACCOUNT = "robot@project.iam.gserviceaccount.com"


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3().running() as store:
        store.objects = {"m/a": b"weights"}
        yield store


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def configure(tmp_path: Path, **config: str) -> None:
    (tmp_path / "storage" / "store").write_text(json.dumps(config))


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def check_signed(authorization: str, key: rsa.RSAPrivateKey) -> None:
    """A token that the account has signed itself, as Google documents it for its own services."""
    kind, _, token = authorization.partition(" ")
    head, claims, signature = token.split(".")
    assert kind == "Bearer"
    key.public_key().verify(
        decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    told = json.loads(decoded(claims))
    assert told["iss"] == told["sub"] == ACCOUNT
    assert told["exp"] > told["iat"]
    assert "devstorage" in told["scope"] or "cloud-platform" in told["scope"]


async def test_google_is_shown_a_token_of_the_service_account(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, private_key: rsa.RSAPrivateKey
) -> None:
    configure(
        tmp_path,
        type="gcs",
        bucket="models",
        endpoint_url=store.endpoint,
        private_key=pem(private_key),
        client_email=ACCOUNT,
    )
    pulled = await make_puller().pull("m", "m", KEY)
    assert tree(pulled.path) == {"a": b"weights"}
    assert len(store.authorizations) == 2
    for authorization in store.authorizations:
        check_signed(authorization, private_key)


async def test_google_is_shown_the_default_credentials_where_they_are_asked_for(
    tmp_path: Path,
    make_puller: MakePuller,
    store: FaultyS3,
    private_key: rsa.RSAPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = {
        "type": "service_account",
        "private_key": pem(private_key),
        "private_key_id": "1",
        "client_email": ACCOUNT,
    }
    (tmp_path / "adc.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    fields = {"type": "gcs", "bucket": "models", "endpoint_url": store.endpoint}
    configure(tmp_path, **fields, default_credentials="true")
    await make_puller().pull("m", "m", KEY)
    check_signed(store.authorizations[-1], private_key)
    # Without being asked for they are not lent to whoever names a bucket.
    configure(tmp_path, **fields)
    await make_puller().pull("m", "m", KEY)
    assert store.authorizations[-1] == ""


async def test_azure_gets_the_token_of_a_service_principal(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    store.authorization = "Bearer T0KEN"
    configure(
        tmp_path,
        type="azure",
        container="models",
        account_name="me",
        endpoint_url=store.endpoint,
        authority_host=store.endpoint,
        client_id="robot",
        client_secret=SECRET,
        tenant_id="tenant",
    )
    puller = make_puller()
    pulled = await puller.pull("m", "m", KEY)
    assert tree(pulled.path) == {"a": b"weights"}
    [(path, asked)] = store.logins
    assert path.startswith("/tenant/oauth2/v2.0/token")
    assert asked["client_id"] == ["robot"]
    assert asked["client_secret"] == [SECRET]
    assert asked["grant_type"] == ["client_credentials"]
    # A token that was withdrawn is not good for the next pull.
    store.authorization = "Bearer another"
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", "m", KEY)
    assert raised.value.code is Code.UNAUTHENTICATED
    store.token = "another"
    await puller.pull("m", "m", KEY)


async def test_azure_gets_the_token_of_the_surroundings_where_it_is_asked_for(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Azure's workload identity has it: a token of Kubernetes, in a file, is exchanged for one of Azure."""
    (tmp_path / "federated").write_text("from-kubernetes")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "federated"))
    monkeypatch.setenv("AZURE_CLIENT_ID", "robot")
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", store.endpoint)
    store.authorization = "Bearer T0KEN"
    fields = {"type": "azure", "container": "models", "account_name": "me", "endpoint_url": store.endpoint}
    configure(tmp_path, **fields, default_credentials="true")
    await make_puller().pull("m", "m", KEY)
    [(_, asked)] = store.logins
    assert asked["client_assertion"] == ["from-kubernetes"]
    configure(tmp_path, **fields)
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "m", KEY)
    assert raised.value.code is Code.UNAUTHENTICATED
    assert store.authorizations[-1] == ""


CONFIGS = {
    "s3": {"bucket": "b", "access_key_id": "me", "secret_access_key": SECRET},
    "azure": {"container": "b", "connection_string": f"AccountName=me;AccountKey={ENCODED}"},
    "azure-sas": {"container": "b", "connection_string": f"AccountName=me;SharedAccessSignature=sv=1&sig={SECRET}"},
    "azure-principal": {
        "container": "b", "account_name": "me", "client_id": "c", "client_secret": SECRET, "tenant_id": "t",
    },
    "gcs": {"bucket": "b"},
    "http": {"headers.Authorization": f"Bearer {SECRET}"},
    "http-query": {},
    "hf": {"token": SECRET},
}  # fmt: skip


@pytest.mark.parametrize("answer", ["ok", "401", "403", "400", "500"])
@pytest.mark.parametrize("name", CONFIGS)
async def test_no_secret_is_told_whatever_the_store_answers(
    tmp_path: Path,
    make_puller: MakePuller,
    store: FaultyS3,
    private_key: rsa.RSAPrivateKey,
    caplog: pytest.LogCaptureFixture,
    name: str,
    answer: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    kind, config = name.partition("-")[0], dict(CONFIGS[name])
    secrets = [SECRET, ENCODED, "PRIVATE KEY", "T0KEN"]
    if answer != "ok":
        for key in ("?list", "m", "m/a"):
            store.faults[key] = [f"code:{answer}:Refused"] * 50
    with WebServer().running() as web:
        web.files["m"] = b"x"
        web.faults["m"] = [answer] * 50 if answer != "ok" else []
        place = {"endpoint_url": store.endpoint}
        if kind == "http":
            place = {"url": web.url + (f"?sig={SECRET}" if name == "http-query" else "")}
        elif kind == "gcs":
            config |= {"private_key": pem(private_key), "client_email": ACCOUNT}
            secrets += pem(private_key).splitlines()[1:-1]
        elif kind == "hf":
            place = {"endpoint_url": web.url}
        elif name == "azure-principal":
            place["authority_host"] = store.endpoint
        elif kind == "azure":
            config["connection_string"] += f";BlobEndpoint={store.endpoint}"
            place = {}
        key = json.dumps({"storage_params": {"type": kind, **config, **place}})
        try:
            pulled = await make_puller(attempts=2).pull("m", "a/m" if kind == "hf" else "m", key)
            told = f"{pulled}"
            assert answer == "ok"
        except PullFailure as failure:
            told = "".join(traceback.format_exception(failure))
    told += caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    written = [file.read_bytes() for file in (tmp_path / "models").rglob("*") if file.is_file()]
    for secret in secrets:
        assert secret not in told
        assert all(secret.encode() not in content for content in written)
