"""Certificates by which the controller speaks to a mesh."""

import base64
import ssl
from collections.abc import Mapping
from typing import Any

import grpc


class InvalidCertificates(ValueError):
    """The Secret of certificates cannot be used. The message says what is missing."""


def credentials_of(secret: Mapping[str, Any]) -> grpc.ChannelCredentials:
    """Credentials of a Secret of type ``kubernetes.io/tls``.

    Its own certificate is trusted besides the system's authorities, as it may have signed itself.

    Raises:
        InvalidCertificates: a member is missing.
    """
    name, data = secret["metadata"]["name"], secret.get("data") or {}
    missing = [member for member in ("tls.crt", "tls.key") if not data.get(member)]
    if missing:
        raise InvalidCertificates(f"TLS secret '{name}' missing {' and '.join(missing)}")
    certificate, key = (base64.b64decode(data[member]) for member in ("tls.crt", "tls.key"))
    trusted = [certificate, *_of_system()]
    if data.get("ca.crt"):
        trusted.append(base64.b64decode(data["ca.crt"]))
    return grpc.ssl_channel_credentials(b"\n".join(trusted), key, certificate)


def _of_system() -> list[bytes]:
    context = ssl.create_default_context()
    return [ssl.DER_cert_to_PEM_cert(der).encode() for der in context.get_ca_certs(binary_form=True)]
