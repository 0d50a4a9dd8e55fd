"""What a cluster tells of containers, as cAdvisor and kube-prometheus name it: recorded, and growing with time."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CPU = "container_cpu_usage_seconds_total"
_MEMORY = "container_memory_usage_bytes"
_CPU_RESERVED = "cluster:namespace:pod_cpu:active:kube_pod_container_resource_requests"
_MEMORY_RESERVED = "cluster:namespace:pod_memory:active:kube_pod_container_resource_requests"
_MIB = 1 << 20


def exposition(namespace: str, pods: Mapping[str, Sequence[str]], elapsed_s: float) -> str:
    """The series of pods with these containers, as text for a scrape."""
    lines = [f"# TYPE {_CPU} counter"]
    for pod, containers in pods.items():
        labels = f'namespace="{namespace}",pod="{pod}"'
        # The pod's own process, which has no container's name, is what some queries must leave out.
        lines.append(f'{_MEMORY}{{{labels},container=""}} {900 * _MIB}')
        for number, container in enumerate(containers, start=1):
            one = f'{labels},container="{container}"'
            lines += [
                f'{_CPU}{{{one},cpu="total",image="registry.example/{container}:1"}} {0.2 * number * elapsed_s}',
                f'{_MEMORY}{{{one},image="registry.example/{container}:1"}} {200 * number * _MIB}',
                f'{_CPU_RESERVED}{{{one},resource="cpu"}} {0.5 * number}',
                f'{_MEMORY_RESERVED}{{{one},resource="memory"}} {512 * number * _MIB}',
            ]
    return "\n".join(lines) + "\n"


@contextmanager
def served(namespace: str, pods: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Serves them for a scrape; yields ``host:port``."""
    begun = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition(namespace, pods, time.monotonic() - begun).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            """Nothing: the tests' output is for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
