"""What a scrape costs an instance whose 10,000 models are all in use, with metrics by model; and what requests notice.

    python -m bench.scrape [--repeats 5] [--models 10000]

The instance has the machine with its registry, runtime, generator and scraper. Latency is measured with scrapes and
without, in turn.
"""

import argparse
import http.client
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.control import Figure, figures_table
from bench.meshes import MODELS, Cluster
from bench.report import machine_lines
from bench.rig import (
    Rig,
    add_rig_options,
    build_tools,
    cpu_seconds,
    describe_machine,
    resident_mib,
    rig_of,
    wait_for_quiet,
)
from bench.windows import generate

#: Scrapes of each kind that are timed.
SCRAPES = 20
#: Seconds between two scrapes while requests are measured; Prometheus leaves 15 to 60.
EVERY_S = 1.0


@dataclass(frozen=True)
class Scrape:
    """One answer."""

    wall_s: float
    size_bytes: int


def scrape(port: int, headers: dict[str, str]) -> Scrape:
    """Reads all of one answer, as fast as it comes."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    buffer, size = bytearray(1 << 20), 0
    while read := response.readinto(buffer):
        size += read
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"the scrape was answered with {response.status}")
    return Scrape(time.perf_counter() - began, size)


class ByPrometheusClient(Collector):
    """The same number of series as four histograms of requests have, as prometheus-client renders them."""

    def __init__(self, models: int) -> None:
        """Makes up what they hold."""
        self._models = models

    def collect(self) -> Sequence[Metric]:
        """Makes the families anew, as a collector that reads counters does."""
        families = []
        for name, bounds in (("a", 19), ("b", 19), ("c", 8), ("d", 8)):
            labels = ["method", "code", "modelId", "vModelId"]
            family = HistogramMetricFamily(name, "Made up", labels=labels)
            buckets = [*(str(float(bound)) for bound in range(bounds)), "+Inf"]
            for model in range(self._models):
                counts = list(zip(buckets, itertools.count(model), strict=False))
                family.add_metric(["predict", "OK", f"all-{model}", ""], counts, 0.5)
            families.append(family)
        return families


class Measurements:
    """Of one instance."""

    def __init__(self, settings: argparse.Namespace, rig: Rig, tools: Path) -> None:
        """Starts the registry and the instance, and has each of its models used."""
        self.settings = settings
        self.tools = tools
        self.rig = rig
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._cluster = Cluster(rig, tools)
        self._one = self._cluster.start("scraped", core=None, metrics=";per_model_metrics=true")
        self._cluster.load(self._one, MODELS, "m")
        before = resident_mib(self._one.process.pid)
        self._cluster.load(self._one, settings.models, "all-")
        loaded = resident_mib(self._one.process.pid)
        self._generate("--model=all-", f"--models={settings.models}", f"--count={2 * settings.models}")
        used = resident_mib(self._one.process.pid)
        self._note(
            f"resident: {before:.0f} MiB, {loaded:.0f} with all models loaded, {used:.0f} with all used"
        )

    def scrapes(self) -> None:
        """Wall time and CPU of single scrapes, without other load."""
        pid, port = self._one.process.pid, self._one.metrics_port
        for name, headers in (
            ("plain", {}),
            ("gzip", {"Accept-Encoding": "gzip"}),
            ("OpenMetrics, gzip", {"Accept-Encoding": "gzip", "Accept": "application/openmetrics-text"}),
        ):
            wait_for_quiet(self.settings.quiet, self.settings.patience)
            began = cpu_seconds(pid)
            done = [scrape(port, headers) for _ in range(SCRAPES)]
            cpu_ms = (cpu_seconds(pid) - began) * 1_000 / SCRAPES
            walls = [one.wall_s * 1_000 for one in done]
            self._add(f"scrape, {name}", "ms", walls, 200)
            self._add(f"CPU of a scrape, {name}", "ms", [cpu_ms], 200)
            self._note(f"{name}: {done[-1].size_bytes / 2**20:.1f} MiB")
        self._note(f"resident after the scrapes: {resident_mib(pid):.0f} MiB")

    def rival(self) -> None:
        """CPU of prometheus-client for as many series of requests, all of it with the GIL."""
        registry = CollectorRegistry()
        registry.register(ByPrometheusClient(self.settings.models))
        values = []
        for _ in range(3):
            began = time.process_time()
            generate_latest(registry)
            values.append((time.process_time() - began) * 1_000)
        self._note(f"prometheus-client, requests alone: {statistics.median(values):,.0f} ms of CPU")

    def requests(self) -> None:
        """The 99th percentile of warm requests with and without scrapes."""
        quiet: list[float] = []
        ratios: list[float] = []
        for _ in range(self.settings.repeats):
            wait_for_quiet(self.settings.quiet, self.settings.patience)
            without = self._warm()
            wait_for_quiet(self.settings.quiet, self.settings.patience)
            beside = self._while_scraping(self._warm)
            quiet.append(without["latency_us"]["p99"])
            ratios.append(beside["latency_us"]["p99"] / without["latency_us"]["p99"])
            for word, report in (("without", without), ("with", beside)):
                latency = report["latency_us"]
                self._note(
                    f"warm, {word} scrapes: p50 {latency['p50'] / 1_000:.2f}, p99 {latency['p99'] / 1_000:.2f}, "
                    f"p99.9 {latency['p999'] / 1_000:.2f} ms"
                )
        self._add(f"warm p99 with a scrape every {EVERY_S:g} s, against without", "times", ratios, 1.5)
        self._note(f"warm p99 without scrapes: {statistics.median(quiet) / 1_000:.2f} ms")

    def _while_scraping(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(EVERY_S):
                scrape(self._one.metrics_port, {"Accept-Encoding": "gzip"})

        scraper = threading.Thread(target=go_on)
        scraper.start()
        try:
            return measure()
        finally:
            over.set()
            scraper.join()

    def _warm(self) -> dict[str, Any]:
        return self._generate(
            "--model=m",
            f"--models={MODELS}",
            "--rate=1000",
            f"--seconds={5 * self.settings.seconds}",
            "--connections=4",
        )

    def _generate(self, *arguments: str) -> dict[str, Any]:
        report = generate(self.tools, self.rig.placed(None), f"--target={self._one.target}", *arguments)
        if report["errors"]:
            self._note(f"ERRORS of {' '.join(arguments)}: {report['errors']}")
        return report

    def _add(self, name: str, unit: str, values: list[float], target: float) -> None:
        self.figures.append(Figure(name, unit, values, target))

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_rig_options(parser)
    parser.add_argument("--models", type=int, default=10_000, help="models in use")
    settings = parser.parse_args(arguments)
    tools = build_tools()
    with rig_of(settings) as rig:
        measurements = Measurements(settings, rig, tools)
        measurements.scrapes()
        measurements.requests()
        measurements.rival()
    machine = describe_machine()
    notes = "\n".join(f"- {note}" for note in measurements.notes)
    text = f"{machine_lines(machine)}\n\n{figures_table(measurements.figures)}\n\n{notes}\n"
    print(text)
    if settings.output:
        raw = {
            "machine": machine,
            "figures": [asdict(one) for one in measurements.figures],
            "notes": measurements.notes,
        }
        settings.output.write_text(json.dumps(raw, indent=1))
        settings.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
