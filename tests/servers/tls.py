"""Certificates for servers and clients on loopback, made anew for each test run."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files of one certificate authority, a server (``localhost``, ``127.0.0.1``) and a client of it."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        """Makes an authority with a server's and a client's certificate, as files in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(
            *(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key"))
        )
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(made.ca))
        for leaf, cert, key in (
            (authority.issue_cert("localhost", "127.0.0.1"), made.server_cert, made.server_key),
            (
                authority.issue_cert("client.localhost", common_name="client"),
                made.client_cert,
                made.client_key,
            ),
        ):
            leaf.cert_chain_pems[0].write_to_path(str(cert))
            leaf.private_key_pem.write_to_path(str(key))
        return made

    def client_context(self) -> ssl.SSLContext:
        """Trusts the authority and presents the client's certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client_cert, self.client_key)
        return context
