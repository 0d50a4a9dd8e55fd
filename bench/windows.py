"""One measured window of load on one subject, and how many windows become one figure."""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What a client sends."""

    name: str
    concurrency: int
    connections: int
    request_bytes: int
    #: Whether the proxies share the core of generator and backend: no virtual core has to be woken up then.
    one_core: bool = False


@dataclass(frozen=True)
class Subject:
    """What is measured: a direct call, or a proxy in front of a model server."""

    name: str
    target: str
    #: Process ids whose CPU is the subject's own.
    proxies: tuple[int, ...]
    #: Process ids that do the rest of the work.
    backends: tuple[int, ...]


#: Starts a subject.
Starter = Callable[[], Subject]


@dataclass(frozen=True)
class Window:
    """What one window showed. Latencies are in microseconds."""

    rps: float
    p50: float
    p99: float
    p999: float
    #: CPU of the proxies, milliseconds for each 1,000 requests.
    cpu: float
    #: Of the proxies together, at the end of the window, in MiB.
    resident: float
    #: Share of the machine's CPUs that other programs used meanwhile.
    foreign: float


class FailedWindowError(Exception):
    """Requests of a window failed: its figures would be those of an error path."""


def generate(tools: Path, placed: Sequence[str], *arguments: str) -> dict[str, Any]:
    """Runs the load generator and returns its report; ``placed`` goes before its command."""
    command = [*placed, str(tools / "load"), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise FailedWindowError(f"{' '.join(command)}: {finished.stderr.strip()}")
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def measure(
    tools: Path,
    placed: Sequence[str],
    subject: Subject,
    shape: Shape,
    seconds: float,
    extra: Sequence[str] = (),
) -> Window:
    """Measures one window.

    Raises:
        FailedWindowError: A request failed.
    """
    watch = [f"--watch={pid}" for pid in (*subject.proxies, *subject.backends)]
    report = generate(
        tools,
        placed,
        f"--target={subject.target}",
        f"--concurrency={shape.concurrency}",
        f"--connections={shape.connections}",
        f"--bytes={shape.request_bytes}",
        f"--seconds={seconds}",
        "--warm-up=0.3",
        *watch,
        *extra,
    )
    if report["errors"]:
        raise FailedWindowError(f"{subject.name}, {shape.name}: {report['errors']}")
    return window(report, subject)


def window(report: dict[str, Any], subject: Subject) -> Window:
    """Reads a report of the generator."""
    cost, latency = report["cost"], report["latency_us"]
    proxies = [watched for watched in cost["watched"] if watched["pid"] in subject.proxies]
    known = cost["own_cpu_seconds"] + sum(watched["cpu_seconds"] for watched in cost["watched"])
    cores = os.cpu_count() or 1
    return Window(
        rps=report["rps"],
        p50=latency["p50"],
        p99=latency["p99"],
        p999=latency["p999"],
        cpu=sum(watched["cpu_seconds"] for watched in proxies) * 1e6 / max(report["ok"], 1),
        resident=sum(watched["resident_bytes"] for watched in proxies) / 2**20,
        foreign=max(0.0, (cost["machine_cpu_seconds"] - known) / report["seconds"] / cores),
    )


def quietest(windows: Sequence[Window], keep: int = 3) -> Window:
    """Medians over the windows in which other programs used the least CPU; of the memory, the greatest."""
    best = sorted(windows, key=lambda one: one.foreign)[:keep]

    def middle(name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in best))

    return Window(
        rps=middle("rps"),
        p50=middle("p50"),
        p99=middle("p99"),
        p999=middle("p999"),
        cpu=middle("cpu"),
        resident=max(one.resident for one in windows),
        foreign=middle("foreign"),
    )
