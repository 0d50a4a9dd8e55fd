"""Where Prometheus scrapes."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from mesh.instance.http import Environ
from mesh.instance.metrics.collector import InstanceCollector
from mesh.instance.metrics.families import PREFIX

log = logging.getLogger(__name__)

_PATHS = frozenset({"/", "/metrics"})
_END = b"# EOF\n"
#: Added to the niceness of a thread that writes a scrape: where the CPU is short, requests go before it.
_NICER = 10


class _Only(Collector):
    """Those families and samples of a collector that have certain names."""

    def __init__(self, inner: Collector, names: frozenset[str]) -> None:
        self._inner = inner
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for family in self._inner.collect():
            if family.name not in self._names:
                family.samples = [sample for sample in family.samples if sample.name in self._names]
            if family.samples:
                yield family


class MetricsApp:
    """The WSGI application of ``/metrics`` and ``/``, in the formats and with the filter of Prometheus' clients.

    Args:
        collector: everything but histograms, which the data plane writes.
        full_method_names: label methods with their package and service.
        log_scrapes: tell each in the log.
    """

    def __init__(
        self, collector: InstanceCollector, *, full_method_names: bool = False, log_scrapes: bool = False
    ) -> None:
        self._collector = collector
        self._full_method_names = full_method_names
        self._log_scrapes = log_scrapes

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers one request."""
        if environ["PATH_INFO"] not in _PATHS:
            return _refuse(start_response, "404 Not Found", "known paths: /metrics, /")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _refuse(
                start_response, "405 Method Not Allowed", "only GET and HEAD", ("Allow", "GET, HEAD")
            )
        encode, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        openmetrics = content_type.startswith("application/openmetrics-text")
        gzip = gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        names = frozenset(parse_qs(environ.get("QUERY_STRING", "")).get("name[]", ()))
        text = encode(_Only(self._collector, names) if names else self._collector)
        if not openmetrics:
            # Here counters may have any name, and Prometheus knows what to suggest for them.
            text = re.sub(rb"(?m)^(# TYPE \S+) untyped$", rb"\1 counter", text)
        scrape = self._collector.dataplane.scrape(
            prefix=PREFIX,
            before=text.removesuffix(_END),
            after=_END if openmetrics else b"",
            openmetrics=openmetrics,
            gzip=gzip,
            full_method_names=self._full_method_names,
            names=names,
        )
        headers = [("Content-Type", content_type)]
        if gzip:
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return self._pieces(scrape.read, environ.get("REMOTE_ADDR", ""))

    def _pieces(self, read: Callable[[], bytes], scraper: str) -> Iterator[bytes]:
        began, size = time.monotonic(), 0
        # Locks that requests could wait for are no longer taken: now it does not matter how long this takes.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICER)
        while piece := read():
            size += len(piece)
            yield piece
        if self._log_scrapes:
            milliseconds = round((time.monotonic() - began) * 1_000, 1)
            log.info(
                "scraped by %s",
                scraper,
                extra={"bytes": size, "milliseconds": milliseconds},
            )


def _refuse(
    start_response: Callable[..., Any], status: str, why: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain"), *headers])
    return [f"{why}\n".encode()]
