"""Pulls from Google's and Azure's storage, as their emulators serve it."""

import json
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.servers.azure import ACCOUNT, KEY, AzureServer
from tests.servers.gcs import GcsServer
from tests.servers.s3 import S3Server

MODEL = {
    "wine/1/model.onnx": b"weights" * 1000,
    "wine/1/sub/labels.txt": b"red\nwhite\n",
    "wine/empty.marker": b"",
    "wine2/other": b"no",
    "schema.json": b"{}",
}
MODEL_KEY = '{"storage_key":"store","schema_path":"schema.json"}'


def configure(tmp_path: Path, **config: str) -> None:
    (tmp_path / "storage" / "store").write_text(json.dumps(config))


async def refusal(puller: Puller, path: str, key: str = MODEL_KEY) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert KEY not in str(raised.value)
    return raised.value


async def check_model(puller: Puller) -> None:
    """A directory with what lies below it, its schema, its size, and nothing that only begins like it."""
    pulled = await puller.pull("wine", "wine", MODEL_KEY)
    found = {
        str(file.relative_to(pulled.path)): file.read_bytes()
        for file in Path(pulled.path).rglob("*")
        if file.is_file()
    }
    assert found == {
        "1/model.onnx": b"weights" * 1000,
        "1/sub/labels.txt": b"red\nwhite\n",
        "empty.marker": b"",
    }
    assert pulled.disk_size_bytes == 7010
    assert Path(json.loads(pulled.key)["schema_path"]).read_bytes() == b"{}"
    assert await puller.size("wine", MODEL_KEY) == 7010
    one = await puller.pull("file", "wine/1/model.onnx", MODEL_KEY)
    assert Path(one.path).read_bytes() == b"weights" * 1000


async def test_google_gives_a_public_bucket_to_anyone(
    tmp_path: Path, make_puller: MakePuller, gcs: GcsServer
) -> None:
    gcs.put("models", MODEL)
    configure(tmp_path, type="gcs", bucket="models", endpoint_url=gcs.endpoint)
    await check_model(make_puller())


async def test_what_google_does_not_have_is_not_found(
    tmp_path: Path, make_puller: MakePuller, gcs: GcsServer
) -> None:
    gcs.put("models", MODEL)
    configure(tmp_path, type="gcs", bucket="models", endpoint_url=gcs.endpoint)
    failure = await refusal(make_puller(), "beer")
    assert failure.code is Code.NOT_FOUND
    assert "'beer'" in failure.message
    assert "bucket 'models'" in failure.message
    assert names(tmp_path / "models") == []


async def test_a_later_pull_does_not_meet_an_earlier_failure(
    tmp_path: Path, make_puller: MakePuller, gcs: GcsServer
) -> None:
    gcs.put("models", MODEL)
    configure(tmp_path, type="gcs", bucket="models", endpoint_url=gcs.endpoint)
    puller = make_puller()
    await refusal(puller, "beer")
    await check_model(puller)


@pytest.mark.parametrize("given", ["private_key", "client_email"])
async def test_half_a_service_account_is_refused(tmp_path: Path, make_puller: MakePuller, given: str) -> None:
    configure(tmp_path, type="gcs", bucket="models", **{given: "x"})
    failure = await refusal(make_puller(), "wine")
    assert failure.code is Code.INVALID_ARGUMENT
    assert ({"private_key", "client_email"} - {given}).pop() in failure.message


async def test_a_malformed_service_account_is_refused(tmp_path: Path, make_puller: MakePuller) -> None:
    configure(tmp_path, type="gcs", bucket="models", private_key="no key", client_email="a@b")
    failure = await refusal(make_puller(), "wine")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "no key" not in failure.message


async def test_azure_takes_a_connection_string(
    tmp_path: Path, make_puller: MakePuller, azure: AzureServer
) -> None:
    azure.put("models", MODEL)
    configure(tmp_path, type="azure", container="models", connection_string=azure.connection_string)
    await check_model(make_puller())


async def test_azure_refuses_a_stranger_instead_of_finding_nothing(
    tmp_path: Path, make_puller: MakePuller, azure: AzureServer
) -> None:
    azure.put("models", MODEL)
    configure(tmp_path, type="azure", container="models", account_name=ACCOUNT, endpoint_url=azure.endpoint)
    failure = await refusal(make_puller(), "wine")
    assert failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}


async def test_azure_with_a_wrong_key_is_refused(
    tmp_path: Path, make_puller: MakePuller, azure: AzureServer
) -> None:
    azure.put("models", MODEL)
    wrong = azure.connection_string.replace(KEY, "d3Jvbmcga2V5IQ==")
    configure(tmp_path, type="azure", container="models", connection_string=wrong)
    failure = await refusal(make_puller(), "wine")
    assert failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}
    assert "d3Jvbmcga2V5IQ==" not in failure.message


async def test_what_azure_does_not_have_is_not_found(
    tmp_path: Path, make_puller: MakePuller, azure: AzureServer
) -> None:
    azure.put("models", MODEL)
    configure(tmp_path, type="azure", container="models", connection_string=azure.connection_string)
    failure = await refusal(make_puller(), "beer")
    assert failure.code is Code.NOT_FOUND
    assert "container 'models'" in failure.message


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"container": "m"}, "account_name"),
        ({"account_name": "a"}, "container"),
        ({"container": "m", "connection_string": "AccountName=a"}, "connection_string"),
        ({"container": "m", "account_name": "a", "client_id": "c"}, "client_secret"),
        ({"container": "m/n", "account_name": "a"}, "container"),
    ],
)
async def test_what_azure_lacks_is_named(
    tmp_path: Path, make_puller: MakePuller, config: dict[str, str], named: str
) -> None:
    configure(tmp_path, type="azure", **config)
    failure = await refusal(make_puller(), "wine")
    assert failure.code is Code.INVALID_ARGUMENT
    assert f"'{named}'" in failure.message


async def test_s3_uses_the_credentials_of_its_surroundings(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("models", MODEL)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_access_key)
    configure(tmp_path, type="s3", bucket="models", endpoint_url=s3.endpoint, region=s3.region)
    await check_model(make_puller())


async def test_s3_signs_nothing_for_the_anonymous(
    tmp_path: Path, make_puller: MakePuller, s3: S3Server
) -> None:
    s3.put("models", MODEL)
    configure(tmp_path, type="s3", bucket="models", endpoint_url=s3.endpoint, anonymous="true")
    failure = await refusal(make_puller(), "wine")
    assert failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}


async def test_s3_is_anonymous_or_has_keys(tmp_path: Path, make_puller: MakePuller) -> None:
    configure(tmp_path, type="s3", bucket="models", access_key_id="a", secret_access_key="b", anonymous="yes")
    failure = await refusal(make_puller(), "wine")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "anonymous" in failure.message


async def test_a_switch_that_is_none_is_named(tmp_path: Path, make_puller: MakePuller) -> None:
    configure(tmp_path, type="s3", bucket="models", verify_ssl="perhaps")
    failure = await refusal(make_puller(), "wine")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "'verify_ssl' 'perhaps'" in failure.message
