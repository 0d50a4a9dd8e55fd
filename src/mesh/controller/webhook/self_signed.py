"""A certificate for the webhook where nobody else makes one: kept in a Secret, made known to the API server."""

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mesh.controller.cluster import SECRETS, WEBHOOKS, Cluster, ClusterError, Object
from mesh.controller.runtimes import CONTROLLER

_log = logging.getLogger(__name__)

#: Names of the Secret, the Service and the configuration, as in KServe ModelMesh.
SECRET = "modelmesh-webhook-server-cert"  # noqa: S105
SERVICE = "modelmesh-webhook-server-service"
CONFIGURATION = "modelmesh-servingruntime.serving.kserve.io"
_VALID = timedelta(days=365)
#: A certificate is made anew when it is good for less than that.
_RENEWED = timedelta(days=60)
#: Between two looks whether everything is as it should be, seconds.
_LOOK_S = 3600.0
_FILES = ("ca.crt", "tls.crt", "tls.key")


@dataclass(frozen=True, slots=True)
class Material:
    """What is in the Secret, in PEM.

    Attributes:
        authority: that signed the certificate; its key is kept nowhere.
        certificate: of the webhook.
        key: of the certificate, PKCS 8.
    """

    authority: bytes
    certificate: bytes
    key: bytes

    def is_good(self, host: str, now: datetime) -> bool:
        """Whether the certificate is for a host, and will be for a while."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound):
            return False
        return (
            host in names.get_values_for_type(x509.DNSName)
            and certificate.not_valid_after_utc - now > _RENEWED
        )


def make_material(host: str, now: datetime) -> Material:
    """Makes an authority, and a certificate for a host that it signs."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{CONTROLLER} webhook authority")])

    def certificate(subject: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + _VALID)
        )

    authority = (
        certificate(issuer, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVICE)]), key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    written = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Material(authority.public_bytes(pem), leaf.public_bytes(pem), written)


class SelfSigned:
    """Keeps the webhook's certificate, its files, and what the API server trusts.

    Several controllers share one Secret; whichever is first makes it.

    Args:
        cluster: with the Secret.
        namespace: of the Secret and the webhook's Service.
        directory: for the files.
    """

    def __init__(self, cluster: Cluster, namespace: str, directory: Path) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._directory = directory
        self._host = f"{SERVICE}.{namespace}.svc"

    async def prepare(self) -> None:
        """Makes what is missing.

        Raises:
            ClusterError: the API server did not let it, or did not answer.
        """
        material = await self._material()
        self._directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(
            _FILES, (material.authority, material.certificate, material.key), strict=True
        ):
            file = self._directory / name
            if not file.exists() or file.read_bytes() != content:
                file.touch(mode=0o600)
                file.write_bytes(content)
        await self._make_known(material)

    async def run(self) -> None:
        """Looks after it until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.prepare()
            except ClusterError as problem:
                _log.warning("the webhook's certificate cannot be looked after: %s", problem)

    async def _material(self) -> Material:
        now = datetime.now(UTC)
        found = await self._secret()
        if found is not None and (material := _read(found)) is not None and material.is_good(self._host, now):
            return material
        material = make_material(self._host, now)
        try:
            if found is None:
                await self._cluster.create(SECRETS, self._written(material))
            else:
                changed = self._written(material)
                changed["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
                await self._cluster.apply(SECRETS, changed)
            _log.info("made a certificate for the webhook, in Secret %s", SECRET)
            return material
        except ClusterError as problem:
            if not problem.conflicts:
                raise
        # Another controller was first.
        other = _read(await self._cluster.get(SECRETS, self._namespace, SECRET))
        if other is None:
            raise ClusterError(0, f"Secret {SECRET} has no certificate")
        return other

    async def _secret(self) -> Object | None:
        try:
            return await self._cluster.get(SECRETS, self._namespace, SECRET)
        except ClusterError as problem:
            if problem.missing:
                return None
            raise

    def _written(self, material: Material) -> Object:
        contents = (material.authority, material.certificate, material.key)
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": SECRET,
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/managed-by": CONTROLLER},
            },
            "data": {
                name: base64.b64encode(content).decode()
                for name, content in zip(_FILES, contents, strict=True)
            },
        }

    async def _make_known(self, material: Material) -> None:
        bundle = base64.b64encode(material.authority).decode()
        try:
            configuration = await self._cluster.get(WEBHOOKS, "", CONFIGURATION)
        except ClusterError as problem:
            if problem.missing:
                _log.warning(
                    "there is no ValidatingWebhookConfiguration %s: runtimes are taken unchecked",
                    CONFIGURATION,
                )
                return
            raise
        operations = [
            {"op": "add", "path": f"/webhooks/{i}/clientConfig/caBundle", "value": bundle}
            for i, webhook in enumerate(configuration.get("webhooks") or ())
            if webhook["clientConfig"].get("caBundle") != bundle
        ]
        if operations:
            await self._cluster.patch(WEBHOOKS, "", CONFIGURATION, operations)


def _read(secret: Mapping[str, Any]) -> Material | None:
    data = secret.get("data") or {}
    if any(not data.get(name) for name in _FILES):
        return None
    return Material(*(base64.b64decode(data[name]) for name in _FILES))
