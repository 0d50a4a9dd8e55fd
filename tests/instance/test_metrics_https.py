"""Scrapes over https."""

import os
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from mesh.instance import MetricsSettings
from mesh.instance.settings import MetricsOptions
from tests.instance.meshes import Mesh
from tests.instance.scrapes import scrape


def _trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def _serve(mesh: Mesh, port: int, **options: Any) -> None:
    await mesh.add(metrics=MetricsSettings(port=port, https=True), metrics_options=MetricsOptions(**options))


async def test_a_certificate_is_made_where_none_is_given(mesh: Mesh, unused_tcp_port: int) -> None:
    await _serve(mesh, unused_tcp_port)
    with pytest.raises(ssl.SSLCertVerificationError):
        await scrape(unused_tcp_port, tls=ssl.create_default_context())
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    assert (await scrape(unused_tcp_port, tls=trusting)).value("instance_ready") == 1
    # Whoever fetches it once, as operators do to pin it, can check it by host name.
    pem = ssl.get_server_certificate(("127.0.0.1", unused_tcp_port))
    pinned = ssl.create_default_context(cadata=pem)
    assert (await scrape(unused_tcp_port, tls=pinned)).value("instance_ready") == 1
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert mesh.instances[0].settings.instance_id in certificate.subject.rfc4514_string()


async def test_a_certificate_of_ones_own_is_used_and_read_again(
    mesh: Mesh, unused_tcp_port: int, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def renew() -> trustme.CA:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return authority

    first = renew()
    await _serve(mesh, unused_tcp_port, certificate=str(certificate), key=str(key))
    assert (await scrape(unused_tcp_port, tls=_trusting(first))).status == 200
    second = renew()
    later = time.time_ns() + 10**9
    os.utime(certificate, ns=(later, later))
    assert (await scrape(unused_tcp_port, tls=_trusting(second))).status == 200
    # A file that is just being written costs no scrape.
    key.write_text("half a k")
    os.utime(key, ns=(later, later))
    assert (await scrape(unused_tcp_port, tls=_trusting(second))).status == 200


async def test_one_who_does_not_shake_hands_holds_up_nobody(mesh: Mesh, unused_tcp_port: int) -> None:
    await _serve(mesh, unused_tcp_port)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", unused_tcp_port)) as silent,
        socket.create_connection(("127.0.0.1", unused_tcp_port)) as plain,
    ):
        plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await scrape(unused_tcp_port, tls=trusting)).status == 200
        silent.close()


async def test_a_certificate_that_cannot_be_read_keeps_an_instance_from_starting(
    mesh: Mesh, unused_tcp_port: int, tmp_path: Path
) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(FileNotFoundError, match=str(missing)):
        await _serve(mesh, unused_tcp_port, certificate=str(missing), key=str(missing))
