"""The connection to etcd, as the pods of each namespace get it."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from mesh.controller.runtimes import CONTROLLER

#: Member of the Secret that holds the connection, a JSON object.
CONNECTION = "etcd_connection"


class InvalidEtcdSecret(ValueError):
    """The Secret cannot be used. The message says which member, and what it needs."""


def secret_for_namespace(secret: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """The Secret that the pods of a namespace other than the controller's get.

    It leads to a part of the registry of their own, below ``mm_ns/<namespace>``, and has the files that it refers to.

    Args:
        secret: the controller's, as Kubernetes has it.
        namespace: of the pods.

    Raises:
        InvalidEtcdSecret: it has no connection, that is no JSON object, or a file that it refers to is missing.
    """
    data: Mapping[str, str] = secret.get("data") or {}
    connection = read_connection(data)
    root = str(connection.get("root_prefix") or "").rstrip("/")
    own = {**connection, "root_prefix": f"{root}/mm_ns/{namespace}"}
    files = sorted({str(value) for name, value in connection.items() if name.endswith("_file") and value})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": secret["metadata"]["name"],
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": CONTROLLER},
        },
        "data": {
            CONNECTION: base64.b64encode(json.dumps(own, separators=(",", ":")).encode()).decode(),
            **{name: data[name] for name in files},
        },
    }


def read_connection(data: Mapping[str, str]) -> dict[str, Any]:
    """The connection of a Secret's data, in base64 as Kubernetes has it.

    Raises:
        InvalidEtcdSecret: as for `secret_for_namespace`.
    """
    if CONNECTION not in data:
        raise InvalidEtcdSecret(f"the etcd Secret has no member {CONNECTION}")
    try:
        connection = json.loads(base64.b64decode(data[CONNECTION]))
    except ValueError as problem:
        raise InvalidEtcdSecret(f"{CONNECTION} of the etcd Secret is no JSON: {problem}") from problem
    if not isinstance(connection, dict):
        raise InvalidEtcdSecret(f"{CONNECTION} of the etcd Secret must be a JSON object")
    for member, name in connection.items():
        if member.endswith("_file") and name and name not in data:
            raise InvalidEtcdSecret(f"referenced TLS certificate secret key not found: {name}")
    for wanted, other in (("client_key", "client_certificate"), ("client_certificate", "client_key")):
        if _has(connection, wanted) and not _has(connection, other):
            raise InvalidEtcdSecret(
                "need to set both client_key/client_key_file and client_certificate/client_certificate_file"
            )
    return connection


def _has(connection: Mapping[str, Any], member: str) -> bool:
    return bool(connection.get(member) or connection.get(f"{member}_file"))
