"""Where a custom runtime listens, from the environment variables of KServe ModelMesh."""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_SOCKET = "/tmp/mmesh/grpc.sock"  # noqa: S108  the path that existing runtimes listen on
DEFAULT_PORT = 8085


@dataclass(frozen=True, slots=True)
class RuntimeEndpoints:
    """Addresses of a runtime, each ``host:port`` or ``unix:/path``.

    Attributes:
        management: where ``mmesh.ModelRuntime`` may be; the first that says it is ready counts.
        serving: where inference requests go; None for the management address.
    """

    management: tuple[str, ...] = (f"unix:{DEFAULT_SOCKET}", f"localhost:{DEFAULT_PORT}")
    serving: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "RuntimeEndpoints":
        """Reads ``INTERNAL_GRPC_*``, without which both usual places count, and ``INTERNAL_SERVING_GRPC_*``.

        Raises:
            ValueError: a port and a socket are both given, or one of them cannot be.
        """
        management = _address(environment, "INTERNAL_GRPC")
        serving = _address(environment, "INTERNAL_SERVING_GRPC")
        return cls(cls().management if management is None else (management,), serving)


def _address(environment: Mapping[str, str], prefix: str) -> str | None:
    port_name, path_name = f"{prefix}_PORT", f"{prefix}_SOCKET_PATH"
    port, path = environment.get(port_name, "").strip(), environment.get(path_name, "").strip()
    if port and path:
        raise ValueError(
            f"{port_name}={port} and {path_name}={path} are both set; the runtime listens on one of them:"
            " unset the other"
        )
    if path:
        if not path.startswith("/"):
            raise ValueError(f"{path_name}={path} must be an absolute path, such as {DEFAULT_SOCKET}")
        return f"unix:{path}"
    if port:
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{port_name}={port} must be a port number from 1 to 65535")
        return f"localhost:{int(port)}"
    return None
