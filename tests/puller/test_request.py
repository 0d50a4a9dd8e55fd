"""From model key and storage configuration to a storage request."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.puller import Code, PullFailure
from mesh.puller.names import directory_name
from mesh.puller.request import StorageRequest, resolve
from mesh.puller.storage_config import read_storage_config

CONFIGS: dict[str, dict[str, Any]] = {
    "minio": {"type": "s3", "access_key_id": "A", "secret_access_key": "S", "default_bucket": "models"},
    "keyed": {"type": "s3", "bucket": "named"},
    "web": {"type": "http", "url": "http://x", "headers": {"Authorization": "Bearer t"}},
    "default": {"type": "s3", "bucket": "fallback"},
    "default_pvc": {"type": "pvc", "name": "claim"},
}


def request(path: str, key: Mapping[str, Any] | str) -> StorageRequest:
    raw = key if isinstance(key, str) else json.dumps(key)
    return resolve(path, raw, CONFIGS.get)


def refused(path: str, key: Mapping[str, Any] | str) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        request(path, key)
    return raised.value


class TestConfiguration:
    def test_a_storage_key_names_the_configuration(self) -> None:
        found = request("m", {"storage_key": "minio"})
        assert found.type == "s3"
        assert found.config["bucket"] == "models"

    def test_an_unknown_storage_key_is_not_found(self) -> None:
        error = refused("m", {"storage_key": "nope"})
        assert error.code is Code.NOT_FOUND
        assert error.message == (
            "Did not find storage config for key nope: Storage secretKey not found: nope"
        )

    def test_without_a_key_the_default_counts(self) -> None:
        assert request("m", {}).config["bucket"] == "fallback"

    def test_without_a_key_the_default_of_the_type_counts(self) -> None:
        assert request("m", {"storage_params": {"type": "pvc"}}).config["name"] == "claim"

    def test_a_type_without_default_stands_on_its_parameters(self) -> None:
        found = request("m", {"storage_params": {"type": "azure", "container": "c"}})
        assert found.config == {"type": "azure", "container": "c"}

    @pytest.mark.parametrize("configs", [{}, {"default": {"bucket": "b"}}, {"default": {"type": 3}}])
    def test_without_a_type_the_message_is_the_one_that_clients_match_on(
        self, configs: dict[str, Any]
    ) -> None:
        with pytest.raises(PullFailure) as raised:
            resolve("m", "{}", configs.get)
        assert raised.value.message == "Predictor Storage field missing"
        assert raised.value.code is Code.INVALID_ARGUMENT

    def test_parameters_override_the_configuration(self) -> None:
        found = request("m", {"storage_key": "minio", "storage_params": {"bucket": "mine", "region": "eu"}})
        assert found.config["bucket"] == "mine"
        assert found.config["region"] == "eu"

    def test_a_parameter_may_switch_the_type(self) -> None:
        assert request("m", {"storage_key": "minio", "storage_params": {"type": "gcs"}}).type == "gcs"

    def test_a_dot_leads_into_nested_objects(self) -> None:
        params = {"headers.Authorization": "Bearer new", "headers.X.Y": "z"}
        found = request("m", {"storage_key": "web", "storage_params": params})
        assert found.config["headers"] == {"Authorization": "Bearer new", "X": {"Y": "z"}}
        assert CONFIGS["web"]["headers"] == {"Authorization": "Bearer t"}

    def test_a_dot_cannot_lead_into_a_string(self) -> None:
        error = refused("m", {"storage_key": "web", "storage_params": {"url.deep": "x"}})
        assert error.message == (
            "Unable to merge storage parameters from the storage config and the Predictor Storage field: "
            "expected an object at 'url'"
        )

    def test_an_object_is_not_overwritten_nor_shown(self) -> None:
        error = refused("m", {"storage_key": "web", "storage_params": {"headers": "x"}})
        assert "expected a string at 'headers', but got an object" in error.message
        assert "Bearer" not in error.message

    def test_the_old_bucket_field_only_replaces_a_bucket(self) -> None:
        assert request("m", {"storage_key": "keyed", "bucket": "old"}).config["bucket"] == "old"
        assert "bucket" not in request("m", {"storage_key": "web", "bucket": "old"}).config

    def test_the_default_bucket_is_for_s3_only(self) -> None:
        with_default = {"k": {"type": "gcs", "default_bucket": "b"}}
        assert "bucket" not in resolve("m", '{"storage_key":"k"}', with_default.get).config


class TestKey:
    @pytest.mark.parametrize(
        "key",
        [
            "",
            "{",
            "[]",
            "null",
            '{"storage_params": {"a": 1}}',
            '{"storage_params": []}',
            '{"schema_path": 3}',
            '{"storage_key": {}}',
            '{"disk_size_bytes": NaN}',
            '{"disk_size_bytes": -1}',
            "[" * 100_000,
        ],
    )
    def test_a_malformed_key_is_refused(self, key: str) -> None:
        error = refused("m", key)
        assert error.code is Code.INVALID_ARGUMENT
        assert error.message.startswith("Invalid modelKey in LoadModelRequest. Error processing JSON '")

    def test_credentials_of_a_malformed_key_are_not_shown(self) -> None:
        error = refused("m", '{"storage_params": {"secret_access_key": "hush"}, "schema_path": 3}')
        assert "hush" not in error.message
        assert "schema_path" in error.message

    def test_field_names_count_whatever_their_case(self) -> None:
        assert request("m", {"Storage_Key": "minio"}).type == "s3"

    def test_the_runtime_gets_type_size_and_schema_in_that_order(self) -> None:
        found = request("m", {"storage_key": "minio", "model_type": {"name": "onnx"}, "other": 1})
        assert found.key_for_runtime(2, "/m/_schema.json") == (
            '{"model_type":{"name":"onnx"},"disk_size_bytes":2,"schema_path":"/m/_schema.json"}'
        )
        assert request("m", {"storage_key": "minio"}).key_for_runtime(0, None) == '{"disk_size_bytes":0}'

    def test_a_declared_size_counts_where_there_is_no_other(self) -> None:
        found = request("m", {"storage_key": "minio", "disk_size_bytes": 7})
        assert found.key_for_runtime(0, None) == '{"disk_size_bytes":7}'
        assert found.key_for_runtime(9, None) == '{"disk_size_bytes":9}'

    def test_credentials_are_not_in_the_representation(self) -> None:
        assert "secret" not in repr(request("m", {"storage_key": "minio"}))


class TestNames:
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("a/b.onnx", "b.onnx"),
            ("a/b/", "b"),
            ("", "_model"),
            ("/", "_model"),
            (".", "_model"),
            ("a b?", "a b?"),
            (".mesh-pulled", "_model"),
        ],
    )
    def test_the_base_name_is_the_local_name(self, path: str, name: str) -> None:
        assert request(path, {}).name == name

    @pytest.mark.parametrize("path", ["..", "../x", "a/../../b", "a/..", "a\0b", "x" * 256, "\ud800"])
    def test_a_path_that_leads_elsewhere_is_refused(self, path: str) -> None:
        assert refused(path, {}).code is Code.INVALID_ARGUMENT
        assert refused("m", {"schema_path": path}).code is Code.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        ("path", "schema", "name"),
        [
            ("m", "s/x.json", "x.json"),
            ("a/schema.json", "b/schema.json", "_schema.json"),
            ("_schema.json", "b/_schema.json", "__schema.json"),
        ],
    )
    def test_model_and_schema_do_not_share_a_name(self, path: str, schema: str, name: str) -> None:
        assert request(path, {"schema_path": schema}).schema_name == name

    @pytest.mark.parametrize("model_id", ["mnist", "a.b-c_d", "isvc-1__ksp-0a1b2c", "9" * 200])
    def test_a_plain_model_id_is_its_directory(self, model_id: str) -> None:
        assert directory_name(model_id) == model_id

    def test_an_empty_model_id_is_refused(self) -> None:
        with pytest.raises(PullFailure, match="empty"):
            directory_name("")

    @given(st.text(min_size=1))
    def test_every_model_id_has_a_safe_directory(self, model_id: str) -> None:
        try:
            name = directory_name(model_id)
        except PullFailure:
            model_id.encode("utf-8", "surrogatepass")
            return
        assert name not in {".", ".."}
        assert "/" not in name
        assert "\0" not in name
        assert name[0] not in "._~"
        assert len(name) <= 255

    @given(
        st.text(min_size=1, alphabet="a.%/_~2E5sh-\u00e9"), st.text(min_size=1, alphabet="a.%/_~2E5sh-\u00e9")
    )
    def test_no_two_model_ids_share_a_directory(self, one: str, other: str) -> None:
        assert (directory_name(one) == directory_name(other)) == (one == other)


class TestStorageConfigFiles:
    @pytest.mark.parametrize(
        "name", ["", ".", "..", "..data", "a/b", "../storage/x", "x\0", "missing", "\ud800"]
    )
    def test_what_is_no_file_of_the_directory_is_not_there(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_text("{}")
        assert read_storage_config(tmp_path, name) is None

    @pytest.mark.parametrize("content", ["{", "[]", '"hush"', ""])
    def test_a_broken_file_is_named_and_not_shown(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "k").write_text(content)
        with pytest.raises(PullFailure) as raised:
            read_storage_config(tmp_path, "k")
        assert "for key k" in raised.value.message
        assert "hush" not in raised.value.message
        assert str(tmp_path) not in raised.value.message

    def test_a_rotated_secret_counts_at_once(self, tmp_path: Path) -> None:
        # As Kubernetes mounts it: links that lead through another link, which is replaced.
        for version in ("one", "two"):
            (tmp_path / f"..{version}").mkdir()
            (tmp_path / f"..{version}" / "k").write_text(json.dumps({"type": version}))
        (tmp_path / "..data").symlink_to("..one")
        (tmp_path / "k").symlink_to("..data/k")
        assert read_storage_config(tmp_path, "k") == {"type": "one"}
        (tmp_path / "..data").unlink()
        (tmp_path / "..data").symlink_to("..two")
        assert read_storage_config(tmp_path, "k") == {"type": "two"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("type", "bucket", "default_bucket", "headers", "headers.a", "a.b.c", "name")


@given(
    path=st.text(),
    key=st.fixed_dictionaries(
        {},
        optional={
            "storage_key": st.sampled_from(["k", "", "..", "nope"]) | JSON,
            "storage_params": st.dictionaries(st.sampled_from(FIELDS) | st.text(), st.text(), max_size=4)
            | JSON,
            "schema_path": st.text() | JSON,
            "bucket": st.text() | JSON,
            "disk_size_bytes": st.integers() | JSON,
            "model_type": JSON,
        },
    ),
    config=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5),
)
def test_every_key_gives_a_request_or_a_clear_refusal(
    path: str, key: dict[str, Any], config: dict[str, Any]
) -> None:
    failure = None
    try:
        found = resolve(path, json.dumps(key), {"k": config, "default": config}.get)
    except PullFailure as error:
        failure = error
    if failure is not None:
        assert failure.code in {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
        assert failure.message
        return
    for name in (found.name, found.schema_name):
        assert Path("/root", name).parent == Path("/root")
        assert Path(name).name == name
    assert found.name != found.schema_name
    assert isinstance(json.loads(found.key_for_runtime(1, None)), dict)
