"""What models cost: getting ready with many of them, registering, loading, and warm requests meanwhile.

Nothing is held to one core here: an instance has the machine with its registry, runtime and generator.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.meshes import MODELS, Cluster, Instance
from bench.report import machine_lines, table
from bench.rig import (
    Rig,
    add_rig_options,
    build_tools,
    cpu_seconds,
    describe_machine,
    machine_busy_seconds,
    resident_mib,
    rig_of,
    wait_for_quiet,
)
from bench.windows import generate

#: Client and model server of the warm requests are on other machines, or in other containers, in a real mesh. Here they
#: share two cores with it, and are not to wait for it to let go of one, whether it is quiet or not.
SHORT_TURNS = "--short-turns"


@dataclass(frozen=True)
class Figure:
    """One measured value beside its target; of several repeats, the median and the extremes."""

    name: str
    unit: str
    values: list[float]
    target: float
    #: Whether more is better.
    more: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the median reaches the target."""
        return self.value >= self.target if self.more else self.value <= self.target


class Measurements:
    """The scenarios; each appends its figures and names the load that it drew."""

    def __init__(self, settings: argparse.Namespace, rig: Rig, tools: Path) -> None:
        """Starts the registry."""
        self.settings = settings
        self.tools = tools
        self.cluster = Cluster(rig, tools)
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._services = 0

    def readiness(self) -> None:
        """Time to ready and resident memory, by the number of models in the registry."""
        resident: dict[int, float] = {}
        for models, target in ((0, 2.0), (10_000, 3.0), (100_000, 10.0)):
            seconds, memory = [], []
            service = self._service()
            self.cluster.stock(service, models)
            for _ in range(self.settings.repeats):
                self._quiet()
                one = self.cluster.start(service, core=None)
                seconds.append(one.ready_after)
                cpu = cpu_seconds(one.process.pid)
                time.sleep(2)
                memory.append(resident_mib(one.process.pid))
                self._note(
                    f"{models} models: ready after {one.ready_after:.2f} s, {cpu:.2f} CPU s, "
                    f"{memory[-1]:.0f} MiB"
                )
                self.cluster.stop(one)
            resident[models] = statistics.median(memory)
            self._add(f"ready with {models:,} models", "s", seconds, target)
        per_model = [(resident[many] - resident[0]) * 1024 / many for many in (10_000, 100_000)]
        self._note(f"KiB for each registered model at 10,000 and 100,000: {per_model}")
        self._add("resident for each of 100,000 models", "KB", [per_model[-1] * 1.024], 1.5)

    def management(self) -> None:
        """Registrations and loads in a second."""
        registered, loaded = [], []
        for _ in range(self.settings.repeats):
            one = self.cluster.start(self._service(), core=None)
            pid, before = one.process.pid, resident_mib(one.process.pid)
            self._quiet()
            registered.append(self._manage(one, "register", models=6_000, concurrency=64, connections=4))
            after = resident_mib(pid)
            self._quiet()
            loaded.append(self._manage(one, "ensure", models=2_000, concurrency=16, connections=4))
            self._note(
                f"resident {before:.0f}, 6,000 registered {after:.0f}, "
                f"2,000 loaded {resident_mib(pid):.0f} MiB"
            )
            self.cluster.stop(one)
        self._add("registerModel, 64 at once", "1/s", registered, 3_000, more=True)
        self._add("ensureLoaded, 16 at once", "1/s", loaded, 1_000, more=True)

    def first_inference(self) -> None:
        """Latency of a model's first request, where its load takes no time."""
        p50, p99 = [], []
        for _ in range(self.settings.repeats):
            service = self._service()
            self.cluster.stock(service, 1_200, "cold-")
            one = self.cluster.start(service, core=None)
            # What an instance does for the first time is measured apart.
            for first, models in ((0, 200), (200, 1_000)):
                self._quiet()
                report = self._generate(
                    one,
                    "--model=cold-",
                    f"--first={first}",
                    f"--models={models}",
                    f"--count={models}",
                    "--seconds=60",
                )
                self._note(
                    f"first inference of models {first}-{first + models}: {_summary(report, one.process.pid)}"
                )
            p50.append(report["latency_us"]["p50"] / 1000)
            p99.append(report["latency_us"]["p99"] / 1000)
            self.cluster.stop(one)
        self._add("first inference, load of 0 ms, p50", "ms", p50, 3)
        self._note(f"first inference p99: {[f'{value:.1f}' for value in p99]} ms")

    def churn(self) -> None:
        """The 99th percentile of warm requests while models are registered and loaded."""
        service = self._service()
        one = self.cluster.start(service, core=None, runtime=[SHORT_TURNS])
        self.cluster.load(one, MODELS, "m")
        seconds, rate = 3.0, 500
        each = int(seconds * rate)
        total = each * self.settings.repeats
        self._manage(one, "register", models=total, concurrency=16, connections=2, prefix="churn-")
        quiet_p99: list[float] = []
        busy_p99: dict[str, list[float]] = {"registered": [], "loaded": []}
        for repeat in range(self.settings.repeats):
            self._quiet()
            quiet = self._warm(one, seconds)
            quiet_p99.append(quiet["latency_us"]["p99"])
            self._note(f"warm, quiet: {_summary(quiet, one.process.pid)}")
            for kind, word, prefix in (("register", "registered", "new-"), ("ensure", "loaded", "churn-")):
                self._quiet()
                models = (f"--model={prefix}", f"--first={repeat * each}", f"--models={each}", "--sync")
                with ThreadPoolExecutor(1) as other:
                    churning = other.submit(
                        self._generate,
                        one,
                        f"--kind={kind}",
                        f"--rate={rate}",
                        f"--seconds={seconds}",
                        *models,
                    )
                    busy = self._warm(one, seconds)
                    churned = churning.result()
                self._note(
                    f"warm, {churned['rps']:.0f}/s {word}: {_summary(busy, one.process.pid)}; "
                    f"{kind} p50 {churned['latency_us']['p50'] / 1000:.1f} ms"
                )
                busy_p99[word].append(busy["latency_us"]["p99"])
        usual = statistics.median(quiet_p99)
        for word, values in busy_p99.items():
            times = [value / usual for value in values]
            self._add(f"warm p99 while {rate} models/s are {word}, against quiet", "times", times, 2)
        self.cluster.stop(one)

    def _warm(self, one: Instance, seconds: float) -> dict[str, Any]:
        return self._generate(
            one,
            "--model=m",
            f"--models={MODELS}",
            "--rate=1000",
            f"--seconds={seconds}",
            "--connections=4",
            SHORT_TURNS,
        )

    def _manage(
        self, one: Instance, kind: str, *, models: int, concurrency: int, connections: int, prefix: str = "b-"
    ) -> float:
        report = self._generate(
            one,
            f"--kind={kind}",
            "--sync",
            f"--model={prefix}",
            f"--models={models}",
            f"--count={models}",
            f"--concurrency={concurrency}",
            f"--connections={connections}",
            "--seconds=120",
        )
        self._note(f"{kind} {models}, {concurrency} at once: {_summary(report, one.process.pid)}")
        return float(report["rps"])

    def _generate(self, one: Instance, *arguments: str) -> dict[str, Any]:
        pids = (one.process.pid, one.runtime.pid, self.cluster.etcd.process.pid)
        report = generate(
            self.tools,
            self.cluster.rig.placed(None),
            f"--target={one.target}",
            *(f"--watch={pid}" for pid in pids),
            *arguments,
        )
        if report["errors"]:
            self._note(f"ERRORS of {' '.join(arguments)}: {report['errors']}")
        return report

    def _service(self) -> str:
        self._services += 1
        return f"service-{self._services}"

    def _quiet(self) -> None:
        wait_for_quiet(self.settings.quiet, self.settings.patience)

    def _add(self, name: str, unit: str, values: list[float], target: float, *, more: bool = False) -> None:
        self.figures.append(Figure(name, unit, values, target, more))

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)


def _summary(report: dict[str, Any], pid: int) -> str:
    latency, cost = report["latency_us"], report["cost"]
    own = next(watched for watched in cost["watched"] if watched["pid"] == pid)
    known = cost["own_cpu_seconds"] + sum(watched["cpu_seconds"] for watched in cost["watched"])
    foreign = max(0.0, cost["machine_cpu_seconds"] - known) / report["seconds"]
    each = own["cpu_seconds"] * 1e3 / max(report["ok"], 1)
    return (
        f"{report['rps']:,.0f}/s, p50 {latency['p50'] / 1000:.2f}, p99 {latency['p99'] / 1000:.2f}, "
        f"p99.9 {latency['p999'] / 1000:.2f} ms, "
        f"{each:.2f} CPU ms each, foreign {foreign:.2f} cores"
    )


def figures_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [
        [
            one.name,
            f"{one.value:,.2f} {one.unit}",
            f"{min(one.values):,.2f} - {max(one.values):,.2f}",
            f"{'>=' if one.more else '<='} {one.target:,g}",
            "yes" if one.met else "no",
        ]
        for one in figures
    ]
    return table(["", "median", "range", "target", "met"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_rig_options(parser)
    parser.add_argument("--only", nargs="*", help="scenarios: readiness, management, first_inference, churn")
    settings = parser.parse_args(arguments)
    tools = build_tools()
    busy, begun = machine_busy_seconds(), time.monotonic()
    with rig_of(settings) as rig:
        all_of_them = Measurements(settings, rig, tools)
        scenarios: dict[str, Callable[[], None]] = {
            "readiness": all_of_them.readiness,
            "management": all_of_them.management,
            "first_inference": all_of_them.first_inference,
            "churn": all_of_them.churn,
        }
        for name in settings.only or scenarios:
            scenarios[name]()
    machine = describe_machine()
    share = (machine_busy_seconds() - busy) / (time.monotonic() - begun)
    notes = "\n".join(f"- {note}" for note in all_of_them.notes)
    text = f"{machine_lines(machine)}\n\n{figures_table(all_of_them.figures)}\n\n{notes}\n"
    print(text, f"\ncores busy on average: {share:.2f}")
    if settings.output:
        raw = {
            "machine": machine,
            "figures": [asdict(one) for one in all_of_them.figures],
            "notes": all_of_them.notes,
        }
        settings.output.write_text(json.dumps(raw, indent=1))
        settings.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
