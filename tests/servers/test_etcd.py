"""The etcd of the tests does what the tests of the registry rely on."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from tests.servers.etcd import EtcdCluster, EtcdServer, RootUser
from tests.servers.fixtures import MakeEtcd
from tests.servers.tls import Certificates


def test_keeps_its_data_and_port_over_a_crash(etcd: EtcdServer) -> None:
    first = etcd.put("k", "1")
    endpoint = etcd.endpoint
    etcd.restart()
    assert etcd.endpoint == endpoint
    assert etcd.put("k", "2") == first + 1


def test_a_paused_server_does_not_answer_until_resumed(etcd: EtcdServer) -> None:
    etcd.pause()
    with pytest.raises(OSError, match="timed out"):
        _health(etcd, 0.3)
    etcd.resume()
    assert "true" in _health(etcd, 10)


def _health(etcd: EtcdServer, timeout: float) -> str:
    with urllib.request.urlopen(f"{etcd.endpoint}/health", timeout=timeout) as answer:
        return str(json.load(answer)["health"])


def test_serves_tls_to_holders_of_a_certificate(make_etcd: MakeEtcd, certificates: Certificates) -> None:
    etcd = make_etcd(certificates=certificates)
    assert etcd.endpoint.startswith("https://")
    assert etcd.put("k", "1") > 0


def test_asks_for_a_password_also_after_a_restart(make_etcd: MakeEtcd) -> None:
    etcd = make_etcd(root_user=RootUser("secret", token_ttl=2))
    assert etcd.put("k", "1") > 0
    etcd.restart()
    assert etcd.put("k", "2") > 0
    connection = json.loads(Path(etcd.kv_store.removeprefix("etcd:")).read_text())
    assert connection == {"endpoints": etcd.endpoint, "userid": "root", "password": "secret"}


def test_a_cluster_survives_the_loss_of_a_member(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.members[0].kill()
    second = etcd_cluster.members[1]
    deadline = time.monotonic() + 20
    while True:
        try:
            assert second.put("k", "1") > 0
            break
        except OSError:
            assert time.monotonic() < deadline
