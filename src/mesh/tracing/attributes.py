"""Attributes that calls have, as OpenTelemetry's conventions for RPC name them."""

from collections.abc import Mapping

Attribute = str | bool | int | float | tuple[str, ...]

MODEL = "mesh.model.id"
"""In every span that has to do with one model."""


def of_call(method: str, code: str = "") -> Mapping[str, Attribute]:
    """Those of a call.

    Args:
        method: full name, ``package.Service/Method``.
        code: name of the status that it ended with; empty where there is none.
    """
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    if code:
        attributes["rpc.response.status_code"] = code
    if code not in {"", "OK"}:
        attributes["error.type"] = code
    return attributes


def of_server(address: str) -> Mapping[str, Attribute]:
    """Those of whom is called: ``host:port``, ``[ipv6]:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        return {"server.address": address.removeprefix("unix:")}
    host, _, port = address.rpartition(":")
    return {"server.address": host.strip("[]"), "server.port": int(port)}
