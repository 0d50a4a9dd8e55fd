"""What the controller tells of itself over HTTP: health, readiness, metrics."""

from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.controller.cluster import WorkQueue


class QueueMetrics(Collector):
    """What the controller has done and has to do, by queue.

    Args:
        queues: read at each scrape, by name.
        leads: read at each scrape.
    """

    def __init__(self, queues: Callable[[], dict[str, WorkQueue[object]]], leads: Callable[[], bool]) -> None:
        self._queues = queues
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        depth = GaugeMetricFamily(
            "modelmesh_controller_queue_depth", "objects to be looked at", labels=["queue"]
        )
        done = CounterMetricFamily(
            "modelmesh_controller_reconciles", "objects looked at, by result", labels=["queue", "result"]
        )
        for name, queue in self._queues().items():
            depth.add_metric([name], queue.depth)
            done.add_metric([name, "done"], queue.done)
            done.add_metric([name, "again"], queue.failed)
        yield depth
        yield done
        yield GaugeMetricFamily(
            "modelmesh_controller_leads", "1 where this controller leads", value=float(self._leads())
        )


async def serve_probes(address: tuple[str, int], is_ready: Callable[[], bool]) -> web.AppRunner | None:
    """Serves ``/healthz`` and ``/readyz``; None where the port is 0."""

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="not synced yet")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthy), web.get("/readyz", ready)])
    return await _serve(app, address)


async def serve_metrics(address: tuple[str, int], collector: Collector) -> web.AppRunner | None:
    """Serves ``/metrics``; None where the port is 0."""
    registry = CollectorRegistry()
    for source in (collector, ProcessCollector(registry=None), PlatformCollector(registry=None)):
        registry.register(source)
    GCCollector(registry=registry)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    return await _serve(app, address)


async def _serve(app: web.Application, address: tuple[str, int]) -> web.AppRunner | None:
    host, port = address
    if not port:
        return None
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host or None, port).start()
    return runner
