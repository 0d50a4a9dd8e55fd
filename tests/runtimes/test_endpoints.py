import pytest

from mesh.runtimes import RuntimeEndpoints


def test_without_settings_both_usual_places_are_tried() -> None:
    endpoints = RuntimeEndpoints.from_environment({})
    assert endpoints.management == ("unix:/tmp/mmesh/grpc.sock", "localhost:8085")
    assert endpoints.serving is None


def test_a_socket_and_another_serving_port() -> None:
    endpoints = RuntimeEndpoints.from_environment(
        {"INTERNAL_GRPC_SOCKET_PATH": "/run/rt.sock", "INTERNAL_SERVING_GRPC_PORT": "8001"}
    )
    assert endpoints == RuntimeEndpoints(("unix:/run/rt.sock",), "localhost:8001")


@pytest.mark.parametrize("prefix", ["INTERNAL_GRPC", "INTERNAL_SERVING_GRPC"])
def test_a_port_and_a_socket_together_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=f"{prefix}_PORT=1 and {prefix}_SOCKET_PATH=/a are both set"):
        RuntimeEndpoints.from_environment({f"{prefix}_PORT": "1", f"{prefix}_SOCKET_PATH": "/a"})


@pytest.mark.parametrize("port", ["0", "65536", "-1", "abc", "80.5", "\u0661"])
def test_what_is_no_port_is_refused_by_name(port: str) -> None:
    with pytest.raises(ValueError, match=r"INTERNAL_GRPC_PORT=.* must be a port number from 1 to 65535"):
        RuntimeEndpoints.from_environment({"INTERNAL_GRPC_PORT": port})


def test_a_relative_socket_path_is_refused() -> None:
    with pytest.raises(ValueError, match="must be an absolute path"):
        RuntimeEndpoints.from_environment({"INTERNAL_GRPC_SOCKET_PATH": "rt.sock"})
