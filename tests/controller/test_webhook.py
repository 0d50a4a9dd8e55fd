"""The webhook over HTTPS, with a certificate that the controller makes, and the API server's trust in it."""

import asyncio
import base64
import ssl
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from mesh.controller.cluster import SECRETS, Cluster
from mesh.controller.webhook import PATH, SelfSigned, Webhook
from mesh.controller.webhook.self_signed import CONFIGURATION, SECRET, SERVICE, make_material
from tests.controller.runtime_specs import TRITON, resource
from tests.servers.kubernetes import ControlPlane
from tests.servers.process import free_port

pytestmark = pytest.mark.asyncio
_HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
_MANIFEST = Path(__file__).parents[2] / "deploy" / "cluster" / "webhook.yaml"


@pytest_asyncio.fixture
async def api(cluster: ControlPlane) -> AsyncIterator[Cluster]:
    configuration = Configuration()
    await config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    api = Cluster(ApiClient(configuration))
    yield api
    await api.close()


async def test_the_certificate_is_made_once_shared_and_made_known(
    cluster: ControlPlane, api: Cluster, tmp_path: Path
) -> None:
    namespace = f"hook-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    hook = next(yaml.safe_load_all(_MANIFEST.read_text()))
    # Nothing of the other tests is to be asked about.
    hook["webhooks"][0]["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    hook["webhooks"][0]["rules"][0]["scope"] = "Namespaced"
    cluster.call("POST", _HOOKS, hook)
    try:
        folders = [tmp_path / name for name in ("first", "second")]
        await asyncio.gather(*(SelfSigned(api, namespace, folder).prepare() for folder in folders))
        await SelfSigned(api, namespace, folders[0]).prepare()
        assert (folders[0] / "tls.crt").read_bytes() == (folders[1] / "tls.crt").read_bytes()
        bundle = cluster.call("GET", f"{_HOOKS}/{CONFIGURATION}")["webhooks"][0]["clientConfig"]["caBundle"]
        assert base64.b64decode(bundle) == (folders[0] / "ca.crt").read_bytes()
        secret = await api.get(SECRETS, namespace, SECRET)
        assert secret["type"] == "kubernetes.io/tls"
    finally:
        cluster.call("DELETE", f"{_HOOKS}/{CONFIGURATION}")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


async def test_a_certificate_is_good_for_its_host_until_it_is_nearly_over() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    material = make_material("a.b.svc", now)
    assert material.is_good("a.b.svc", now)
    assert not material.is_good("other.b.svc", now)
    assert not material.is_good("a.b.svc", now + timedelta(days=320))


async def test_reviews_over_https(tmp_path: Path) -> None:
    host = f"{SERVICE}.models.svc"
    material = make_material(host, datetime.now(UTC))
    (tmp_path / "tls.crt").write_bytes(material.certificate)
    (tmp_path / "tls.key").write_bytes(material.key)
    port = free_port()
    serving = asyncio.create_task(Webhook(port, tmp_path, lambda: ["triton"]).run())
    trust = ssl.create_default_context(cadata=material.authority.decode())

    async def ask(spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "object": resource(spec)}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://127.0.0.1:{port}{PATH}", json=body, ssl=trust, server_hostname=host
            ) as answer,
        ):
            found: dict[str, Any] = (await answer.json())["response"]
            return found

    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await ask(TRITON))["allowed"]
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)
        refused = await ask(TRITON | {"containers": []})
        assert not refused["allowed"]
        assert "must include runtime container with name triton" in refused["status"]["message"]
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://127.0.0.1:{port}{PATH}", data="no json", ssl=trust, server_hostname=host
            ) as answer,
        ):
            assert answer.status == 400
    finally:
        serving.cancel()
