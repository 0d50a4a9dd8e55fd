"""Settings come from upstream's environment and say what is wrong with it."""

import pytest

from mesh.instance.settings import MetricsSettings, SettingError, Settings, describe
from mesh.instance.unsupported import check_unsupported

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
        ("MM_METRICS", "prometheus:scheme=ftp"),
        ("MM_METRICS", "prometheus:prot=1"),
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
