"""Scrapes of instances, as Prometheus does them."""

import asyncio
import gzip
import http.client
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "modelmesh_"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def families(self) -> dict[str, Metric]:
        """By name; read by the parser of the format that the answer says it has."""
        if self.headers["content-type"].startswith("application/openmetrics-text"):
            families: Iterable[Metric] = parse_openmetrics(self.text)  # type: ignore[no-untyped-call]
        else:
            families = text_string_to_metric_families(self.text)
        return {family.name: family for family in families}

    def value(self, name: str, **labels: str) -> float:
        """Of the one sample that has these labels; 0 where there is none."""
        found = self.series(name, **labels)
        assert len(found) <= 1, found
        return next(iter(found.values()), 0.0)

    def series(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples that have these labels, by all of theirs."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
            # The parser adds what it thinks that a counter's name lacks.
            if sample.name in {PREFIX + name, f"{PREFIX}{name}_total"}
            and labels.items() <= sample.labels.items()
        }


async def scrape(
    port: int,
    path: str = "/metrics",
    *,
    method: str = "GET",
    names: Iterable[str] = (),
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """Scrapes an instance on loopback; underscores of header names are hyphens."""
    return await asyncio.to_thread(_scrape, port, path, method, tuple(names), tls, headers)


def _scrape(
    port: int,
    path: str,
    method: str,
    names: tuple[str, ...],
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str],
) -> Answer:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        if tls is None
        else http.client.HTTPSConnection("localhost", port, timeout=20, context=tls)
    )
    if names:
        path += "?" + urlencode([("name[]", name) for name in names])
    try:
        connection.request(
            method, path, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    told = {key.lower(): value for key, value in response.getheaders()}
    if told.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return Answer(response.status, told, body.decode())
