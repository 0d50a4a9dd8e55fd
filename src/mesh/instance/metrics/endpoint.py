"""Where Prometheus scrapes."""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from mesh.instance.http import Environ, HttpEndpoint, WsgiApp
from mesh.instance.metrics.collector import InstanceCollector


def serve_metrics(collector: InstanceCollector, host: str, port: int) -> HttpEndpoint:
    """Serves ``/metrics`` and ``/`` for Prometheus.

    Raises:
        OSError: the port cannot be bound.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    metrics: WsgiApp = make_wsgi_app(registry)

    def serve(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] in {"/", "/metrics"}:
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"known paths: /metrics, /\n"]

    return HttpEndpoint(serve, host, port)
