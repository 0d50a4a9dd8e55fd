"""Settings come from upstream's environment and say what is wrong with it."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.dataplane import DataPlane
from mesh.instance.method_rules import MethodRules
from mesh.instance.settings import InfoMetric, MetricsSettings, SettingError, Settings, describe
from mesh.instance.settings.methods import dataplane_config
from mesh.instance.unsupported import check_unsupported
from mesh.placement import TypeConstraints

_LEAST = {"MM_SERVICE_NAME": "models", "KV_STORE": "memory:", "WKUBE_POD_NAME": "runtime-6b9f4d7c58-x7k2p"}


def _read(**more: str) -> Settings:
    return Settings.from_environment({**_LEAST, **more})


def test_the_environment_of_a_pod_is_understood() -> None:
    settings = _read(
        WKUBE_POD_IPADDR="10.1.2.3",
        MM_SVC_GRPC_PORT="9000",
        MM_METRICS="prometheus:port=2113;scheme=http;per_model_metrics=true",
        MM_LABELS="gpu,a100",
        MM_PROBE_PORT="NONE",
    )
    assert settings.instance_id == "4d7c58-x7k2p"
    assert settings.address == settings.location == "10.1.2.3"
    assert settings.port == 9000
    assert settings.peer_port == 8080
    assert settings.probe_port is None
    assert settings.labels == ("a100", "gpu")
    assert settings.metrics == MetricsSettings(port=2113, per_model=True)


def test_older_names_are_read() -> None:
    environment = {key: value for key, value in _LEAST.items() if key != "MM_SERVICE_NAME"}
    assert Settings.from_environment({**environment, "TAS_SERVICE_NAME": "old"}).service_name == "old"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MM_SVC_GRPC_PORT", "eighty"),
        ("MM_SVC_GRPC_PORT", "70000"),
        ("MM_SVC_GRPC_MAX_MSG_SIZE", "-1"),
        ("USE_EMBEDDED_PULLER", "perhaps"),
        ("MM_METRICS", "graphite"),
        ("MM_METRICS", "prometheus:port"),
        ("MM_METRICS", "prometheus:port=1,scheme=http;x"),
        ("MM_METRICS", "disabled:port=1"),
        ("MM_INFO_METRICS", "pod"),
        ("MM_INFO_METRICS", "pod;"),
        ("MM_INFO_METRICS", "Pod;zone=ZONE"),
        ("MM_INFO_METRICS", "pod;zone"),
        ("MM_INFO_METRICS", "pod;1zone=ZONE"),
        ("MM_INFO_METRICS", "pod;zone=ZONE,zone=ZONE"),
        ("MM_INFO_METRICS", "pod;a=A,b=B,c=C,d=D,e=E"),
        ("MM_INFO_METRICS", "pod;zone=NOT_SET"),
        ("MESH_METRICS_TLS_CERT", "/etc/tls/tls.crt"),
        ("MM_DATAPLANE_CONFIG", "{"),
        ("MM_DATAPLANE_CONFIG", '{"rpcConfig": {}}'),
        ("MM_TYPE_CONSTRAINTS", '{"onnx": {"requires": ["gpu"]}}'),
        ("MESH_ADAPTER", "tritonn"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingError) as error:
        _read(**{name: value})
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("value", "settings"),
    [
        ("disabled", MetricsSettings()),
        ("prometheus", MetricsSettings(port=2112, https=True)),
        ("prometheus:", MetricsSettings(port=2112, https=True)),
        ("prometheus:scheme=http;port=0;", MetricsSettings(port=0)),
        ("prometheus:fq_names=true", MetricsSettings(port=2112, https=True, full_method_names=True)),
        ("prometheus:mem_detail=gc,bp", MetricsSettings(port=2112, https=True)),
        ("statsd", MetricsSettings(statsd_port=8126)),
        (
            "statsd:port=9;legacy=true;fq_names=true",
            MetricsSettings(statsd_port=9, statsd_legacy=True, full_method_names=True),
        ),
    ],
)
def test_metrics_are_described_as_for_kserve_modelmesh(value: str, settings: MetricsSettings) -> None:
    assert _read(MM_METRICS=value).metrics == settings


def test_metrics_go_to_statsd_where_nothing_is_said() -> None:
    assert _read().metrics == MetricsSettings(statsd_port=8126)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("prometheus:prot=1", "prot"),
        ("prometheus:legacy=true", "legacy"),
        ("prometheus:scheme=ftp", "ftp"),
        ("prometheus:port=eighty", "eighty"),
        ("prometheus:per_model_metrics=perhaps", "perhaps"),
        ("prometheus:mem_detail=all,heap", "heap"),
        ("statsd:scheme=http", "scheme"),
        ("statsd:port=70000", "70000"),
    ],
)
def test_an_option_of_metrics_that_cannot_be_turns_them_off(value: str, named: str) -> None:
    metrics = _read(MM_METRICS=value).metrics
    assert (metrics.port, metrics.statsd_port) == (None, None)
    assert named in metrics.off_because
    assert value in metrics.off_because


def test_an_info_metric_tells_environment_variables() -> None:
    info = _read(MM_INFO_METRICS="pod_info;zone=ZONE, node=NODE", ZONE="z1", NODE="n1").metrics_options.info
    assert info == InfoMetric("pod_info", (("zone", "z1"), ("node", "n1")))


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingError, match="INTERNAL_GRPC_PORT and INTERNAL_GRPC_SOCKET_PATH"):
        _read(INTERNAL_GRPC_PORT="8085", INTERNAL_GRPC_SOCKET_PATH="/tmp/x.sock")
    with pytest.raises(SettingError, match="MM_TYPE_CONSTRAINTS and MM_TYPE_CONSTRAINTS_PATH"):
        _read(MM_TYPE_CONSTRAINTS="{}", MM_TYPE_CONSTRAINTS_PATH="/etc/type-constraints")


def test_an_unknown_variable_is_warned_about_with_the_nearest_known() -> None:
    warnings = check_unsupported({"MM_SVC_GPRC_PORT": "1", "MM_METRICS": "disabled"})
    assert warnings == ["MM_SVC_GPRC_PORT is not a setting; did you mean MM_SVC_GRPC_PORT?"]


def test_asking_for_protection_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="MM_TLS_PRIVATE_KEY_PATH"):
        check_unsupported({"MM_TLS_PRIVATE_KEY_PATH": "/etc/tls/key.pem"})


def test_every_setting_is_described() -> None:
    described = describe()
    assert all(setting.meaning for setting in described)
    assert "MM_SVC_GRPC_PORT or TAS_SVC_GRPC_PORT" in {setting.name for setting in described}


_NAMES = st.sampled_from(
    [
        "rpcConfigs",
        "allowOtherRpcs",
        "idExtractionPath",
        "vModelId",
        "/a.B/c",
        "a.B/c",
        "required",
        "preferred",
        "_default",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**40) | st.floats() | st.text(max_size=3) | _NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("parse", [dataplane_config, TypeConstraints.parse])
@given(told=_JSON)
def test_a_mounted_file_is_used_or_refused_and_nothing_else(
    parse: Callable[[str], object], told: object
) -> None:
    # Any other error would end the task that follows the file, and with it the instance's readiness.
    text = json.dumps(told)
    try:
        parse(text)
    except (ValueError, TypeError):
        return
    if parse is dataplane_config:
        dataplane = DataPlane(shards=1)
        try:
            MethodRules(_read(MM_DATAPLANE_CONFIG=text)).apply(dataplane)
        finally:
            dataplane.close(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rpcConfigs": []}', "rpcConfigs must be an object with an entry for each method, got \\[\\]"),
        ('{"rpcConfigs": {"a.B/c": 5}}', "the entry of a.B/c in rpcConfigs must be an object, got 5"),
        ('{"rpcConfigs": {"a.B/c": {"idExtractionPath": [1099511627776]}}}', "protobuf field numbers"),
    ],
)
def test_method_rules_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _read(MM_DATAPLANE_CONFIG=text)
