"""What scrapes over https are encrypted with."""

import logging
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

log = logging.getLogger(__name__)

#: How long a certificate made at start is good: longer than any process lives.
_VALID = timedelta(days=3_650)


class SelfSigned:
    """A certificate made for this process, as KServe ModelMesh does: it hides what is scraped, and proves nothing.

    Args:
        name: of the instance.
        hosts: names and IP addresses by which it is reached.
    """

    def __init__(self, name: str, hosts: tuple[str, ...]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "mesh")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + _VALID)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        self._context = _context()
        with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
            # ssl reads files only; this one nobody else may read, and it is gone at once.
            pem.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                + certificate.public_bytes(serialization.Encoding.PEM)
            )
            pem.flush()
            self._context.load_cert_chain(pem.name)

    def context(self) -> ssl.SSLContext:
        """For a new connection."""
        return self._context


class FromFiles:
    """A certificate and key of one's own, read again whenever their files change.

    Raises:
        OSError: a file cannot be read, or does not hold what it should (`ssl.SSLError`).
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._changed_ns()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """For a new connection; the former one while the files cannot be used."""
        try:
            changed = self._changed_ns()
            if changed != self._seen:
                self._seen = changed
                self._context = self._read()
                log.info("certificate of metrics read again", extra={"file": str(self._files[0])})
        except OSError as error:
            log.warning("the certificate of metrics stays as it was: %s", error)
        return self._context

    def _changed_ns(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files)

    def _read(self) -> ssl.SSLContext:
        context = _context()
        context.load_cert_chain(*self._files)
        return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
