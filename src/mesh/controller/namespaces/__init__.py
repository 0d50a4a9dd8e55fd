"""What each namespace with a mesh has once: its Service, constraints, connection to etcd and policies."""

from mesh.controller.namespaces.constraints import constraints_map
from mesh.controller.namespaces.etcd_secret import InvalidEtcdSecret, read_connection, secret_for_namespace
from mesh.controller.namespaces.scope import is_enabled
from mesh.controller.namespaces.service import (
    endpoints_of,
    mesh_service,
    must_be_made_anew,
    network_policy,
    service_monitor,
)

__all__ = [
    "InvalidEtcdSecret",
    "constraints_map",
    "endpoints_of",
    "is_enabled",
    "mesh_service",
    "must_be_made_anew",
    "network_policy",
    "read_connection",
    "secret_for_namespace",
    "service_monitor",
]
