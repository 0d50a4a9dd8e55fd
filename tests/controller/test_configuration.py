"""What a user's ConfigMap may say, and what it is told."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.controller.configuration import InvalidConfiguration, read_configuration
from mesh.controller.quantities import parse_quantity


def test_silence_means_the_defaults_of_modelmesh() -> None:
    configuration = read_configuration({})
    assert (configuration.service_name, configuration.service_port) == ("modelmesh-serving", 8033)
    assert (configuration.pods_per_runtime, configuration.scale_to_zero_after_s) == (2, 60)
    assert configuration.rest_proxy.port == 8008
    assert configuration.metrics.scheme == "https"
    assert not configuration.warnings


def test_keys_are_known_in_any_case_and_labels_keep_theirs() -> None:
    configuration = read_configuration(
        {"PODSPERRUNTIME": "3", "runtimepodlabels": {"Foo.Bar/partOf": 1}, "restproxy": {"ENABLED": "false"}}
    )
    assert configuration.pods_per_runtime == 3
    assert configuration.pod_labels == {"Foo.Bar/partOf": "1"}
    assert not configuration.rest_proxy.enabled


def test_a_later_layer_replaces_leaf_by_leaf_and_lists_whole() -> None:
    file = {
        "metrics": {"port": 1, "scheme": "http"},
        "builtInServerTypes": ["a", "b"],
        "runtimePodLabels": {"x": "1"},
    }
    user = {"metrics": {"port": 2}, "builtInServerTypes": ["c"], "runtimePodLabels": {"y": "2"}}
    configuration = read_configuration(file, user)
    assert (configuration.metrics.port, configuration.metrics.scheme) == (2, "http")
    assert configuration.built_in_server_types == ("c",)
    assert configuration.pod_labels == {"x": "1", "y": "2"}


def test_a_users_tag_goes_before_the_digest_of_the_defaults() -> None:
    file = {"modelMeshImage": {"name": "mesh", "digest": "sha256:1"}}
    assert read_configuration(file).mesh_image.reference == "mesh@sha256:1"
    assert read_configuration(file, {"modelMeshImage": {"tag": "v2"}}).mesh_image.reference == "mesh:v2"
    both = {"modelMeshImage": {"tag": "v2", "digest": "sha256:3"}}
    assert read_configuration(file, both).mesh_image.reference == "mesh@sha256:3"


def test_what_has_no_effect_is_told() -> None:
    told = read_configuration({"podsPerRuntim": 3, "storageHelperImage": {"tag": "x"}}).warnings
    assert told[0] == "podsPerRuntim is not known: do you mean podsPerRuntime?"
    assert "storageHelperImage has no effect" in told[1]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"podsPerRuntime": "many"}, "podsPerRuntime is 'many': it must be a whole number"),
        ({"podsPerRuntime": -1}, "podsPerRuntime is -1: it must be 0 to 65535"),
        ({"headlessService": "perhaps"}, "headlessService is 'perhaps': it must be true or false"),
        ({"metrics": "on"}, "metrics is 'on': it must be a mapping"),
        ({"metrics": {"scheme": "tcp"}}, "metrics.scheme is 'tcp': it must be one of 'https', 'http'"),
        (
            {"modelMeshResources": {"limits": {"cpu": "lots"}}},
            "modelMeshResources.limits.cpu: 'lots' is no quantity",
        ),
        ({"payloadProcessors": ["a b"]}, "endpoint must not contain spaces."),
        ({"imagePullSecrets": ["name"]}, "each must be a mapping with name"),
        ({"tls": {"clientAuth": "never"}}, "tls.clientAuth is 'never'"),
        ({"inferenceServiceName": ""}, "inferenceServiceName is empty"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_value(written: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        read_configuration(written)
    assert told in str(refused.value)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
_keys = st.sampled_from(
    ["metrics", "tls", "restProxy", "imagePullSecrets", "modelMeshResources", "allowAnyPVC"]
)


@given(st.dictionaries(_keys | st.text(), _values))
def test_anything_is_read_or_refused(written: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidConfiguration):
        read_configuration(written)


@given(st.integers(0, 10**12), st.sampled_from(["", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_quantities(number: int, unit: str) -> None:
    factor = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
    assert parse_quantity(f"{number}{unit}") == number * factor
    assert parse_quantity(f"{number}m") * 1000 == number
