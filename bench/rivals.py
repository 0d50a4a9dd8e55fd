"""The proxies that the mesh is put beside, each configured as its own documentation would for one backend."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.process import ServerProcess

from bench.rig import Rig, free_address, program
from bench.windows import Starter, Subject

Json = dict[str, Any]


def start_backend(rig: Rig, tools: Path, *options: str, anywhere: bool = False) -> tuple[ServerProcess, str]:
    """Starts a null runtime on the core of the load generator, or on any.

    Returns: the process and its address.
    """
    where = free_address()
    command: list[str | Path] = [tools / "null-runtime", "--listen", where, "--reply-bytes", "64", *options]
    process = rig.start("null-runtime", command, core=None if anywhere else rig.load_core)
    process.wait_until(lambda: listens(where))
    return process, where


def listens(where: str) -> bool:
    """Whether something listens on an address of loopback; nothing is sent to it."""
    wanted = f"{int(where.rsplit(':', 1)[1]):04X}"
    # gRPC listens on IPv6 sockets that take IPv4 as well.
    tables = "".join(Path("/proc/net", name).read_text() for name in ("tcp", "tcp6"))
    return any(
        line[1].endswith(f":{wanted}") and line[3] == "0A" for line in map(str.split, tables.splitlines())
    )


def start_envoy(rig: Rig, binary: Path, backend: str) -> tuple[ServerProcess, str]:
    """Starts Envoy with one worker thread, HTTP/2 on both sides and a route for requests with a model id."""
    listen = free_address()
    http2: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    extensions = "type.googleapis.com/envoy.extensions.filters"
    match = {"prefix": "/", "headers": [{"name": "mm-model-id", "present_match": True}]}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP2",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": match, "route": {"cluster": "runtime", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    cluster = {
        "name": "runtime",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": options, **http2}
        },
        "load_assignment": {
            "cluster_name": "runtime",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(backend)}}]}],
        },
    }
    config = rig.directory / "envoy.json"
    listener = {"name": "bench", "address": _socket(listen), "filter_chains": [chain]}
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command: list[str | Path] = [binary, "--concurrency", "1", "--disable-hot-restart"]
    command += ["--log-level", "warning", "-c", config]
    process = rig.start("envoy", command, core=rig.proxy_core)
    process.wait_until(lambda: listens(listen))
    return process, listen


def _socket(where: str) -> object:
    host, port = where.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


NGINX = """
worker_processes 1;
daemon off;
user root;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    http2_max_concurrent_streams 1000;
    keepalive_requests 1000000000;
    upstream runtime {{ server {backend}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {listen} http2;
        location / {{ grpc_pass grpc://runtime; grpc_socket_keepalive on; }}
    }}
}}
"""


def start_nginx(rig: Rig, binary: Path, backend: str) -> tuple[ServerProcess, str]:
    """Starts nginx with one worker process and kept connections to the backend."""
    listen = free_address()
    config = rig.directory / "nginx.conf"
    config.write_text(NGINX.format(directory=rig.directory.resolve(), backend=backend, listen=listen))
    process = rig.start(
        "nginx", [binary, "-p", rig.directory, "-c", config.resolve(), "-e", "stderr"], core=rig.proxy_core
    )
    process.wait_until(lambda: listens(listen))
    return process, listen


def start_aio_proxy(rig: Rig, backend: str) -> tuple[ServerProcess, str]:
    """Starts the proxy in pure Python."""
    listen = free_address()
    process = rig.python(
        "aio-proxy", "bench.aio_proxy", "--listen", listen, "--backend", backend, core=rig.proxy_core
    )
    process.wait_until(lambda: listens(listen))
    return process, listen


def rivals(rig: Rig, tools: Path) -> dict[str, Starter]:
    """Starters of the direct call and of every rival that this machine has, by name."""

    def direct() -> Subject:
        backend, where = start_backend(rig, tools)
        return Subject("direct", where, (), (backend.pid,))

    def behind(name: str, start: Callable[[str], tuple[ServerProcess, str]]) -> Starter:
        def starter() -> Subject:
            backend, where = start_backend(rig, tools)
            proxy, listen = start(where)
            return Subject(name, listen, process_tree(proxy.pid), (backend.pid,))

        return starter

    proxies = {"grpc.aio proxy": lambda where: start_aio_proxy(rig, where)}
    if envoy := program("envoy", "ENVOY"):
        proxies["Envoy"] = lambda where: start_envoy(rig, envoy, where)
    if nginx := program("nginx", "NGINX"):
        proxies["nginx"] = lambda where: start_nginx(rig, nginx, where)
    return {"direct": direct} | {name: behind(name, start) for name, start in proxies.items()}


def process_tree(pid: int) -> tuple[int, ...]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (pid, *(each for child in children for each in process_tree(int(child))))
