"""Pulls from a real registry of images."""

import base64
import json
import platform
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.test_http import tree
from tests.puller.web_server import WebServer
from tests.servers.registry import OciRegistry

KEY = '{"storage_params":{"insecure":"true"}}'


async def refusal(puller: Puller, path: str, key: str = KEY) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    return raised.value


async def test_an_image_gives_what_lies_below_models(
    tmp_path: Path, make_puller: MakePuller, registry: OciRegistry
) -> None:
    digest = registry.push(
        "team/wine",
        "1",
        [
            {"bin/sh": b"#!", "models/old.txt": b"1", "models/config.json": b"{}"},
            {"./models/1/model.onnx": b"weights", "models/old.txt": b"22"},
        ],
    )
    wanted = {"1/model.onnx": b"weights", "old.txt": b"22", "config.json": b"{}"}
    for reference in (":1", f"@{digest}", f":1@{digest}"):
        pulled = await make_puller().pull("m", f"oci://{registry.host}/team/wine{reference}", KEY)
        assert tree(pulled.path) == wanted
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == ["m"]


async def test_an_index_gives_the_image_for_this_machine(
    make_puller: MakePuller, registry: OciRegistry
) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    mine = registry.push("team/many", "mine", [{"models/a": b"mine"}])
    other = registry.push("team/many", "other", [{"models/a": b"other"}])
    registry.push_index("team/many", "all", {"s390x": other, machine: mine})
    registry.push_index("team/many", "foreign", {"s390x": other})
    pulled = await make_puller().pull("m", f"oci://{registry.host}/team/many:all", KEY)
    assert tree(pulled.path) == {"a": b"mine"}
    failure = await refusal(make_puller(), f"oci://{registry.host}/team/many:foreign")
    assert failure.code is Code.NOT_FOUND
    assert machine in failure.message


async def test_what_is_not_there_is_not_found(make_puller: MakePuller, registry: OciRegistry) -> None:
    failure = await refusal(make_puller(), f"oci://{registry.host}/team/nothing:1")
    assert failure.code is Code.NOT_FOUND
    registry.push("team/empty", "1", [{"bin/sh": b"#!"}])
    failure = await refusal(make_puller(), f"oci://{registry.host}/team/empty:1")
    assert failure.code is Code.NOT_FOUND
    assert "/models" in failure.message


async def test_a_packing_that_is_not_known_is_named(make_puller: MakePuller, registry: OciRegistry) -> None:
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    registry.push("team/zstd", "1", [{"models/a": b"x"}], media_type=kind)
    failure = await refusal(make_puller(), f"oci://{registry.host}/team/zstd:1")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "zstd" in failure.message


async def test_a_layer_that_leads_out_is_refused(
    tmp_path: Path, make_puller: MakePuller, registry: OciRegistry
) -> None:
    registry.push("team/evil", "1", [{"models/../../../out": b"x"}])
    failure = await refusal(make_puller(), f"oci://{registry.host}/team/evil:1")
    assert failure.code is Code.INVALID_ARGUMENT
    assert not (tmp_path / "out").exists()


async def test_a_corrupt_layer_is_never_served(tmp_path: Path, make_puller: MakePuller) -> None:
    digest = f"sha256:{'0' * 64}"
    manifest = {"schemaVersion": 2, "layers": [{"digest": digest, "size": 3, "mediaType": "tar"}]}
    with WebServer().running() as web:
        web.files = {"v2/m/manifests/1": json.dumps(manifest).encode(), f"v2/m/blobs/{digest}": b"bad"}
        host = web.url.removeprefix("http://")
        failure = await refusal(make_puller(attempts=2), f"oci://{host}/m:1")
    assert failure.code is Code.ABORTED
    assert digest.removeprefix("sha256:") in failure.message
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["fields", "pull-secret"])
async def test_a_login_is_exchanged_for_a_token(
    make_puller: MakePuller, registry: OciRegistry, kind: str
) -> None:
    """As registries with a server of their own for tokens want it."""
    registry.push("team/private", "1", [{"models/a": b"x"}])
    login = base64.b64encode(b"me:hush-hush").decode()
    with WebServer().running() as web:
        web.files["token"] = b'{"token":"T0KEN"}'
        web.forward = (
            f"http://{registry.host}",
            "Bearer T0KEN",
            f'Bearer realm="{web.url}/token",service="s"',
        )
        host = web.url.removeprefix("http://")
        params = {"insecure": "true"}
        if kind == "fields":
            params |= {"username": "me", "password": "hush-hush"}
        else:
            params["docker_config"] = json.dumps({"auths": {f"https://{host}": {"auth": login}}})
        key = json.dumps({"storage_params": params})
        pulled = await make_puller().pull("m", f"oci://{host}/team/private:1", key)
        assert tree(pulled.path) == {"a": b"x"}
        [(asked, headers)] = [(path, headers) for path, headers in web.requests if path.startswith("/token")]
    assert headers["authorization"] == f"Basic {login}"
    assert "scope=repository:team/private:pull" in asked
    assert "service=s" in asked


@pytest.mark.parametrize("path", ["oci://host", "oci://host/Team", "oci://host/a:b c"])
async def test_what_is_no_image_is_refused(make_puller: MakePuller, path: str) -> None:
    assert (await refusal(make_puller(), path)).code is Code.INVALID_ARGUMENT
