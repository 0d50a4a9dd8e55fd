"""Tells the cluster what its pods use, as a metrics server does; the tests say how much that is."""

import json
import ssl
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.servers.kubernetes import ControlPlane
from tests.servers.tls import Certificates

_GROUP = "metrics.k8s.io"
_PATH = f"/apis/{_GROUP}/v1beta1"


class MetricsServer:
    """Serves ``metrics.k8s.io`` through the API server.

    Args:
        plane: the cluster.
        folder: for certificates.

    Attributes:
        cpu: of each container, as a quantity.
    """

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.cpu = "0"
        self._plane = plane
        folder.mkdir()
        certificates = Certificates.make(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server_cert, certificates.server_key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        """Serves, and has the API server ask here."""
        self._thread.start()
        port = self._server.server_address[1]
        service = {"name": "metrics-server", "namespace": "kube-system"}
        for path, body in (
            (
                "/api/v1/namespaces/kube-system/services",
                {"metadata": service, "spec": {"type": "ExternalName", "externalName": "localhost"}},
            ),
            (
                "/apis/apiregistration.k8s.io/v1/apiservices",
                {
                    "metadata": {"name": f"v1beta1.{_GROUP}"},
                    "spec": {
                        "group": _GROUP,
                        "version": "v1beta1",
                        "groupPriorityMinimum": 100,
                        "versionPriority": 100,
                        "insecureSkipTLSVerify": True,
                        "service": service | {"port": port},
                    },
                },
            ),
        ):
            self._plane.call("POST", path, body)

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()

    def _pods(self, namespace: str, selector: str) -> dict[str, Any]:
        query = urlencode({"labelSelector": selector})
        pods = self._plane.call("GET", f"/api/v1/namespaces/{namespace}/pods?{query}")["items"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "metadata": {name: pod["metadata"][name] for name in ("name", "namespace", "labels")},
                "timestamp": now,
                "window": "1s",
                "containers": [
                    {"name": one["name"], "usage": {"cpu": self.cpu, "memory": "64Mi"}}
                    for one in pod["spec"]["containers"]
                ],
            }
            for pod in pods
        ]
        return {"kind": "PodMetricsList", "apiVersion": f"{_GROUP}/v1beta1", "metadata": {}, "items": items}

    def _answer(self, target: str) -> dict[str, Any]:
        asked = urlsplit(target)
        match asked.path.removeprefix(_PATH).strip("/").split("/"):
            case ["namespaces", namespace, "pods"]:
                return self._pods(namespace, parse_qs(asked.query).get("labelSelector", [""])[0])
            case _:
                resource = {
                    "name": "pods",
                    "namespaced": True,
                    "kind": "PodMetrics",
                    "verbs": ["get", "list"],
                }
                listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{_GROUP}/v1beta1"}
                return listed | {"resources": [resource]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(server._answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
