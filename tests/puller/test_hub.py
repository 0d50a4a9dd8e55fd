"""Pulls from a hub of models, played by a web server that answers as the Hugging Face Hub documents."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.test_http import tree
from tests.puller.web_server import WebServer

COMMIT = "4f1e2d3c" * 5
FILES = {
    "config.json": b"{}",
    "weights/model.safetensors": b"w" * 5000,
    ".gitattributes": b"*",
    "notes.md": b"hello",
}


@pytest.fixture
def hub() -> Iterator[WebServer]:
    with WebServer().running() as hub:
        publish(hub, "main", FILES)
        yield hub


def publish(hub: WebServer, revision: str, files: dict[str, bytes], **large: object) -> None:
    siblings: list[dict[str, object]] = []
    for name, content in files.items():
        sibling: dict[str, object] = {"rfilename": name, "size": len(content)}
        if name.endswith(".safetensors"):
            sibling["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **large}
        siblings.append(sibling)
        hub.files[f"me/tiny/resolve/{COMMIT}/{name}"] = content
    listing = {"id": "me/tiny", "sha": COMMIT, "siblings": siblings}
    hub.files[f"api/models/me/tiny/revision/{revision}"] = json.dumps(listing).encode()


def key_for(hub: WebServer, **more: str) -> str:
    return json.dumps({"storage_params": {"endpoint_url": hub.url, **more}})


async def refusal(puller: Puller, path: str, key: str) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert "hf_hush" not in str(raised.value)
    return raised.value


async def test_a_model_is_pulled_whole(make_puller: MakePuller, hub: WebServer) -> None:
    pulled = await make_puller().pull("m", "hf://me/tiny", key_for(hub))
    assert tree(pulled.path) == {name: content for name, content in FILES.items() if name != ".gitattributes"}
    assert pulled.disk_size_bytes == 5007


async def test_patterns_say_which_files(make_puller: MakePuller, hub: WebServer) -> None:
    pulled = await make_puller().pull("m", "hf://me/tiny", key_for(hub, ignore_patterns="*.md, x"))
    assert set(tree(pulled.path)) == {"config.json", "weights/model.safetensors"}
    pulled = await make_puller().pull("n", "hf://me/tiny", key_for(hub, allow_patterns="*.json"))
    assert set(tree(pulled.path)) == {"config.json"}
    pulled = await make_puller().pull("o", "hf://me/tiny:main/weights", key_for(hub))
    assert set(tree(pulled.path)) == {"model.safetensors"}


async def test_a_revision_is_asked_for_with_the_token(make_puller: MakePuller, hub: WebServer) -> None:
    publish(hub, "v2", {"config.json": b"{2}"})
    pulled = await make_puller().pull("m", "hf://me/tiny:v2", key_for(hub, token="hf_hush"))
    assert tree(pulled.path) == {"config.json": b"{2}"}
    assert all(headers["authorization"] == "Bearer hf_hush" for _, headers in hub.requests)


async def test_large_files_come_from_elsewhere_without_the_token(
    make_puller: MakePuller, hub: WebServer
) -> None:
    with WebServer().running() as storage:
        storage.files["blob"] = FILES["weights/model.safetensors"]
        hub.redirects[f"me/tiny/resolve/{COMMIT}/weights/model.safetensors"] = f"{storage.url}/blob?signed=1"
        pulled = await make_puller().pull("m", "hf://me/tiny", key_for(hub, token="hf_hush"))
    assert len(tree(pulled.path)) == 3
    assert storage.requests
    assert not any("authorization" in headers for _, headers in storage.requests)


async def test_a_corrupt_file_is_never_served(
    tmp_path: Path, make_puller: MakePuller, hub: WebServer
) -> None:
    publish(hub, "main", FILES, sha256="0" * 64)
    failure = await refusal(make_puller(attempts=2), "hf://me/tiny", key_for(hub))
    assert failure.code is Code.ABORTED
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("hf://me/none", Code.NOT_FOUND),
        ("hf://me/tiny/nowhere", Code.NOT_FOUND),
        ("hf://me", Code.INVALID_ARGUMENT),
        ("hf://me/../tiny", Code.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_there_is_told(
    make_puller: MakePuller, hub: WebServer, path: str, code: Code
) -> None:
    assert (await refusal(make_puller(), path, key_for(hub, token="hf_hush"))).code is code


async def test_a_server_that_is_no_hub_is_named(make_puller: MakePuller, hub: WebServer) -> None:
    hub.files["api/models/me/tiny/revision/main"] = b"[]"
    failure = await refusal(make_puller(), "hf://me/tiny", key_for(hub))
    assert "endpoint_url" in failure.message
