"""Models that are on a file system already: local directories and volume claims."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.puller import Code, Puller, PullFailure
from mesh.puller.links import resolve_inside
from tests.puller.conftest import MakePuller, names

LOCAL = '{"storage_params":{"type":"local"}}'
CLAIM = '{"storage_params":{"type":"pvc","name":"claim"}}'


def write(path: Path, content: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def refusal(puller: Puller, path: str, key: str) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert raised.value.message.startswith("Failed to pull model from storage due to error: ")
    return raised.value


class TestLocal:
    async def test_a_file_is_linked_under_its_name(self, tmp_path: Path, make_puller: MakePuller) -> None:
        source = write(tmp_path / "local" / "a" / "m.onnx", b"12345")
        pulled = await make_puller().pull("mnist", "a/m.onnx", LOCAL)
        assert pulled.path == str(tmp_path / "models" / "mnist" / "m.onnx")
        assert Path(pulled.path).readlink() == source
        assert pulled.disk_size_bytes == 5
        assert json.loads(pulled.key) == {"disk_size_bytes": 5}

    async def test_an_absolute_path_below_an_allowed_directory(
        self, tmp_path: Path, make_puller: MakePuller
    ) -> None:
        write(tmp_path / "local" / "tree" / "a", b"1")
        write(tmp_path / "local" / "tree" / "deep" / "b", b"22")
        pulled = await make_puller().pull("m", str(tmp_path / "local" / "tree"), LOCAL)
        assert pulled.disk_size_bytes == 3
        assert (Path(pulled.path) / "deep" / "b").read_bytes() == b"22"

    async def test_the_first_directory_that_has_it_counts(
        self, tmp_path: Path, make_puller: MakePuller
    ) -> None:
        write(tmp_path / "second" / "m", b"22")
        puller = make_puller(local_roots=(tmp_path / "local", tmp_path / "second"))
        assert (await puller.pull("m", "m", LOCAL)).disk_size_bytes == 2

    async def test_links_that_stay_inside_are_followed(self, tmp_path: Path, make_puller: MakePuller) -> None:
        # As the Hugging Face cache lays a model out.
        write(tmp_path / "local" / "blobs" / "aa", b"12345678")
        snapshot = tmp_path / "local" / "snapshots" / "v1"
        snapshot.mkdir(parents=True)
        (snapshot / "weights").symlink_to("../../blobs/aa")
        pulled = await make_puller().pull("m", "snapshots/v1", LOCAL)
        assert pulled.disk_size_bytes == 8

    async def test_a_link_in_circles_ends(self, tmp_path: Path, make_puller: MakePuller) -> None:
        write(tmp_path / "local" / "m" / "a", b"123")
        (tmp_path / "local" / "m" / "self").symlink_to(".")
        assert (await make_puller().pull("m", "m", LOCAL)).disk_size_bytes == 3
        (tmp_path / "local" / "loop").symlink_to("loop")
        assert (await refusal(make_puller(), "loop", LOCAL)).code in {Code.INVALID_ARGUMENT, Code.NOT_FOUND}

    async def test_what_lies_outside_is_refused(self, tmp_path: Path, make_puller: MakePuller) -> None:
        secret = write(tmp_path / "secret")
        (tmp_path / "local" / "out").symlink_to(secret)
        (tmp_path / "local" / "tree").mkdir()
        (tmp_path / "local" / "tree" / "out").symlink_to("../../secret")
        puller = make_puller()
        for path in (str(secret), "out", "tree"):
            assert (await refusal(puller, path, LOCAL)).code is Code.PERMISSION_DENIED
        assert list((tmp_path / "models").glob("m*")) == []

    async def test_a_sibling_with_the_same_beginning_is_outside(
        self, tmp_path: Path, make_puller: MakePuller
    ) -> None:
        write(tmp_path / "localX" / "m")
        failure = await refusal(make_puller(), str(tmp_path / "localX" / "m"), LOCAL)
        assert failure.code is Code.PERMISSION_DENIED

    async def test_a_missing_file_is_not_found(self, make_puller: MakePuller) -> None:
        failure = await refusal(make_puller(), "nope/m", LOCAL)
        assert failure.code is Code.NOT_FOUND
        assert "'nope/m'" in failure.message

    async def test_a_pipe_is_no_model(self, tmp_path: Path, make_puller: MakePuller) -> None:
        os.mkfifo(tmp_path / "local" / "pipe")
        assert (await refusal(make_puller(), "pipe", LOCAL)).code is Code.INVALID_ARGUMENT

    async def test_it_is_off_unless_a_directory_is_allowed(self, make_puller: MakePuller) -> None:
        failure = await refusal(make_puller(local_roots=()), "m", LOCAL)
        assert failure.code is Code.FAILED_PRECONDITION


class TestClaim:
    async def test_model_and_schema_are_linked_under_the_requested_names(
        self, tmp_path: Path, make_puller: MakePuller
    ) -> None:
        write(tmp_path / "pvc" / "claim" / "a" / "m", b"model")
        write(tmp_path / "pvc" / "claim" / "b" / "m", b"{}")
        key = '{"storage_params":{"type":"pvc","name":"claim"},"schema_path":"b/m","model_type":"onnx"}'
        pulled = await make_puller().pull("id", "/a/m", key)
        assert Path(pulled.path).read_bytes() == b"model"
        told = json.loads(pulled.key)
        assert told["model_type"] == "onnx"
        assert told["disk_size_bytes"] == 5
        assert told["schema_path"] == str(tmp_path / "models" / "id" / "_schema.json")
        assert Path(told["schema_path"]).read_bytes() == b"{}"

    async def test_an_empty_path_is_the_whole_claim(self, tmp_path: Path, make_puller: MakePuller) -> None:
        write(tmp_path / "pvc" / "claim" / "m", b"12")
        write(tmp_path / "pvc" / "claim" / "empty", b"")
        pulled = await make_puller().pull("id", "", CLAIM)
        assert pulled.path == str(tmp_path / "models" / "id" / "_model")
        assert names(pulled.path) == ["empty", "m"]

    async def test_it_may_be_loaded_again_and_again(self, tmp_path: Path, make_puller: MakePuller) -> None:
        write(tmp_path / "pvc" / "claim" / "m", b"1")
        puller = make_puller()
        await puller.pull("id", "m", CLAIM)
        write(tmp_path / "pvc" / "claim" / "m", b"22")
        assert (await puller.pull("id", "m", CLAIM)).disk_size_bytes == 2

    async def test_deleting_leaves_the_claim_as_it_is(self, tmp_path: Path, make_puller: MakePuller) -> None:
        source = write(tmp_path / "pvc" / "claim" / "tree" / "m", b"keep")
        puller = make_puller()
        await puller.pull("id", "tree", CLAIM)
        await puller.delete("id")
        assert not (tmp_path / "models" / "id").exists()
        assert source.read_bytes() == b"keep"

    async def test_links_are_read_as_if_the_claim_were_the_root(
        self, tmp_path: Path, make_puller: MakePuller
    ) -> None:
        write(tmp_path / "pvc" / "claim" / "v3" / "m", b"three")
        (tmp_path / "pvc" / "claim" / "latest").symlink_to("/v3")
        (tmp_path / "pvc" / "claim" / "up").symlink_to("../../../v3/m")
        puller = make_puller()
        assert Path((await puller.pull("a", "latest/m", CLAIM)).path).read_bytes() == b"three"
        assert Path((await puller.pull("b", "up", CLAIM)).path).read_bytes() == b"three"

    async def test_no_link_leads_into_another_claim(self, tmp_path: Path, make_puller: MakePuller) -> None:
        write(tmp_path / "pvc" / "theirs" / "m")
        (tmp_path / "pvc" / "claim" / "tree").mkdir(parents=True)
        (tmp_path / "pvc" / "claim" / "tree" / "m").symlink_to("../../theirs/m")
        failure = await refusal(make_puller(), "tree", CLAIM)
        assert failure.code is Code.PERMISSION_DENIED
        assert "claim 'claim'" in failure.message

    @pytest.mark.parametrize("name", ["../local", "a/b", "..", "."])
    async def test_a_claim_name_leads_nowhere_else(self, make_puller: MakePuller, name: str) -> None:
        key = json.dumps({"storage_params": {"type": "pvc", "name": name}})
        assert (await refusal(make_puller(), "m", key)).code is Code.INVALID_ARGUMENT

    async def test_what_is_missing_is_named(self, tmp_path: Path, make_puller: MakePuller) -> None:
        puller = make_puller()
        failure = await refusal(puller, "m", CLAIM)
        assert failure.code is Code.NOT_FOUND
        assert "claim 'claim' is not mounted" in failure.message
        (tmp_path / "pvc" / "claim").mkdir()
        failure = await refusal(puller, "dir/m", CLAIM)
        assert failure.code is Code.NOT_FOUND
        assert "'dir/m' in claim 'claim'" in failure.message
        failure = await refusal(make_puller(pvc_mounts_dir=tmp_path / "none"), "m", CLAIM)
        assert "doesn't exist" in failure.message
        failure = await refusal(puller, "m", '{"storage_params":{"type":"pvc"}}')
        assert "needs 'name'" in failure.message


NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    links=st.dictionaries(st.tuples(NAMES, NAMES), st.tuples(st.booleans(), TARGETS), max_size=6),
    path=st.lists(st.sampled_from(["a", "b", "c", ".."]), max_size=5),
)
def test_no_path_leads_out_of_its_root(
    tmp_path_factory: pytest.TempPathFactory,
    links: dict[tuple[str, str], tuple[bool, list[str]]],
    path: list[str],
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    for name in ("a", "b", "c"):
        (outer / name).mkdir()
        (outer / "root" / name).mkdir(parents=True)
    for (directory, name), (absolute, target) in links.items():
        (outer / "root" / directory / name).symlink_to(("/" if absolute else "") + "/".join(target))
    try:
        found = resolve_inside(outer / "root", path)
    except OSError:
        return
    assert found == outer / "root" or outer / "root" in found.parents
    assert Path(os.path.realpath(found)) == found
