"""The adapters' environment variables."""

from pathlib import Path

import pytest

from mesh.runtimes.adapters import AdapterSettings

MEMORY = {"CONTAINER_MEM_REQ_BYTES": str(1 << 30)}


def test_defaults_are_those_of_modelmesh() -> None:
    settings = AdapterSettings.from_environment(MEMORY)
    assert settings.capacity_bytes == (1 << 30) - (256 << 20)
    assert settings.root == Path("/models")
    assert settings.runtime_port == 8001
    assert settings.max_loading_concurrency == 1
    assert settings.loading_timeout_ms == 30_000
    assert settings.default_model_size_bytes == 1_000_000
    assert settings.size_multiplier == 1.25
    assert settings.runtime_version == "v1"
    assert settings.concurrency_limit == 0


def test_every_variable_counts() -> None:
    settings = AdapterSettings.from_environment(
        {
            "CONTAINER_MEM_REQ_BYTES": "2000000000",
            "MEM_BUFFER_BYTES": "134217728",
            "LOADING_CONCURRENCY": "2",
            "LOADTIME_TIMEOUT": "90000",
            "DEFAULT_MODELSIZE": "2000000",
            "MODELSIZE_MULTIPLIER": "2.5",
            "RUNTIME_VERSION": "1.7",
            "LIMIT_PER_MODEL_CONCURRENCY": "4",
            "ROOT_MODEL_DIR": "/data",
            "RUNTIME_PORT": "9001",
        }
    )
    assert settings == AdapterSettings(
        capacity_bytes=2000000000 - 134217728,
        root=Path("/data"),
        runtime_port=9001,
        max_loading_concurrency=2,
        loading_timeout_ms=90_000,
        default_model_size_bytes=2_000_000,
        size_multiplier=2.5,
        runtime_version="1.7",
        concurrency_limit=4,
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"CONTAINER_MEM_REQ_BYTES": None}, "CONTAINER_MEM_REQ_BYTES is not set"),
        ({"CONTAINER_MEM_REQ_BYTES": "-1"}, "CONTAINER_MEM_REQ_BYTES=-1"),
        # Wraps to 1.8e19 bytes where it is not checked.
        ({"CONTAINER_MEM_REQ_BYTES": "1000"}, "CONTAINER_MEM_REQ_BYTES less MEM_BUFFER_BYTES"),
        ({"MEM_BUFFER_BYTES": ""}, "MEM_BUFFER_BYTES=''"),
        ({"LOADING_CONCURRENCY": "0"}, "LOADING_CONCURRENCY=0"),
        ({"LOADING_CONCURRENCY": "many"}, "LOADING_CONCURRENCY='many'"),
        ({"LOADTIME_TIMEOUT": "99"}, "LOADTIME_TIMEOUT=99"),
        ({"MODELSIZE_MULTIPLIER": "0"}, "MODELSIZE_MULTIPLIER=0"),
        ({"MODELSIZE_MULTIPLIER": "nan"}, "MODELSIZE_MULTIPLIER=nan"),
        ({"LIMIT_PER_MODEL_CONCURRENCY": "-1"}, "LIMIT_PER_MODEL_CONCURRENCY=-1"),
        ({"RUNTIME_PORT": "70000"}, "RUNTIME_PORT=70000"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, str | None], named: str) -> None:
    environment = {name: value for name, value in {**MEMORY, **changes}.items() if value is not None}
    with pytest.raises(ValueError) as raised:
        AdapterSettings.from_environment(environment)
    assert named in str(raised.value)
