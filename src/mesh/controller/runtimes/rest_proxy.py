"""The REST proxy's container in the pods of a runtime."""

from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.runtimes.validation import CERTIFICATES

_TLS_PATH = "/opt/kserve/mmesh/tls"


def rest_proxy(configuration: Configuration) -> dict[str, Any]:
    """The container, with the variables that KServe's REST proxy reads."""
    proxy, secured = configuration.rest_proxy, bool(configuration.tls.secret_name)
    variables = {
        "REST_PROXY_LISTEN_PORT": str(proxy.port),
        "REST_PROXY_GRPC_PORT": str(configuration.service_port),
        "REST_PROXY_USE_TLS": str(secured).lower(),
        "REST_PROXY_GRPC_MAX_MSG_SIZE_BYTES": str(configuration.max_message_bytes),
        "REST_PROXY_SKIP_VERIFY": str(proxy.skip_verify).lower(),
    }
    container: dict[str, Any] = {
        "name": "rest-proxy",
        "image": proxy.image.reference,
        "ports": [{"name": "http", "containerPort": proxy.port}],
        "resources": proxy.resources.written(),
        "securityContext": {"capabilities": {"drop": ["ALL"]}},
    }
    if secured:
        variables |= {
            "MM_TLS_KEY_CERT_PATH": f"{_TLS_PATH}/tls.crt",
            "MM_TLS_PRIVATE_KEY_PATH": f"{_TLS_PATH}/tls.key",
        }
        container["volumeMounts"] = [{"name": CERTIFICATES, "mountPath": _TLS_PATH, "readOnly": True}]
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    return container
