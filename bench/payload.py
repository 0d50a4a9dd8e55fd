"""What it costs to have the payloads of requests processed, and whether a sink in trouble shows in requests.

    python -m bench.payload [--rounds 5] [--seconds 3] [--bytes 120]

Instances of the mesh, each with a null runtime, that differ in their payload processors alone: none; one in memory
that gets all payloads, or one in a hundred; one that reads each payload; and web servers that hang, or are not there.
They are measured in turn, in one run. CPU is that of the instance's process, by thread, and for comparison that of all
that takes part: generator, instance and runtime.
"""

import argparse
import asyncio
import json
import statistics
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.meshes import MODELS, Cluster, Instance
from bench.report import machine_lines, table
from bench.rig import ROOT, TICKS_PER_SECOND, Rig, build_tools, describe_machine
from bench.windows import generate


@dataclass(frozen=True)
class Figures:
    """Of one window; CPU in microseconds for each request, latencies in microseconds."""

    instance_us: float
    total_us: float
    p50: float
    p99: float
    by_thread: Mapping[str, float]


def processors(hanging: int, nobody: int) -> dict[str, dict[str, Any] | None]:
    """The processor of each subject, None for none at all."""
    memory = {"uri": "memory:", "capacity": 100_000, "batch_size": 2_000}
    web = {"capacity": 4_096, "timeout_ms": 2_000}
    return {
        "none": None,
        "memory, all": memory,
        "memory, 1 %": memory | {"sample": 0.01},
        "another model": memory | {"models": ["another"]},
        "every attribute read": memory | {"uri": "reader:"},
        "hanging web server": web | {"uri": f"http://127.0.0.1:{hanging}/"},
        "no web server": web | {"uri": f"http://127.0.0.1:{nobody}/"},
    }


def hanging_server() -> int:
    """Starts a server that takes connections and never answers. Returns: its port."""
    started = threading.Event()
    ports: list[int] = []

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def serve() -> None:
        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    started.wait()
    return ports[0]


def environment(rig: Rig, name: str, processor: Mapping[str, Any] | None) -> dict[str, str]:
    """Settings of an instance with one processor; the schemes of `bench.payload_sink` are installed for it."""
    info = rig.directory / "bench_sinks-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-sinks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mesh.payload]\nmemory = bench.payload_sink:open_memory\nreader = bench.payload_sink:open_reader\n"
    )
    settings = {"PYTHONPATH": f"{rig.directory}:{ROOT / 'src'}:{ROOT}"}
    if processor is not None:
        path = rig.directory / f"{name.replace(' ', '-').replace('%', '')}.json"
        path.write_text(json.dumps({"measured": processor}))
        settings["MESH_PAYLOAD_PROCESSORS_PATH"] = str(path)
    return settings


def threads(pid: int) -> dict[str, float]:
    """CPU seconds of a process's threads, together by their names."""
    found: dict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            stat = (task / "stat").read_text()
        except FileNotFoundError:
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        values = rest.split()
        found[name] += (int(values[11]) + int(values[12])) / TICKS_PER_SECOND
    return found


def window(rig: Rig, tools: Path, one: Instance, seconds: float, size: int) -> Figures:
    """Measures one window of load on one instance.

    Raises:
        RuntimeError: a request failed, which no processor may bring about.
    """
    before = threads(one.process.pid)
    report = generate(
        tools,
        rig.placed(rig.load_core),
        f"--target={one.target}",
        "--concurrency=64",
        "--connections=4",
        f"--bytes={size}",
        f"--seconds={seconds}",
        "--warm-up=0.3",
        "--model=m",
        f"--models={MODELS}",
        f"--watch={one.process.pid}",
        f"--watch={one.runtime.pid}",
    )
    if report["errors"]:
        raise RuntimeError(f"requests failed: {report['errors']}")
    after = threads(one.process.pid)
    cost, requests = report["cost"], report["ok"]
    watched = {each["pid"]: each["cpu_seconds"] for each in cost["watched"]}
    # The threads' figures have the warm-up in them, as their requests do.
    all_requests = requests * (seconds + 0.3) / seconds
    return Figures(
        instance_us=watched[one.process.pid] * 1e6 / requests,
        total_us=(cost["own_cpu_seconds"] + sum(watched.values())) * 1e6 / requests,
        p50=report["latency_us"]["p50"],
        p99=report["latency_us"]["p99"],
        by_thread={
            name: (after[name] - before.get(name, 0.0)) * 1e6 / all_requests
            for name in after
            if after[name] - before.get(name, 0.0) > 0
        },
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--bytes", type=int, default=120)
    parser.add_argument("--only", nargs="*", help="names of subjects")
    options = parser.parse_args()
    tools = build_tools()
    measured: dict[str, list[Figures]] = defaultdict(list)
    with Rig(ROOT / "build" / "bench", proxy_core=0, load_core=1) as rig:
        cluster = Cluster(rig, tools)
        instances: dict[str, Instance] = {}
        for name, processor in processors(hanging_server(), nobody=9).items():
            if options.only and name not in options.only:
                continue
            service = f"payload-{len(instances)}"
            settings = environment(rig, name, processor)
            instances[name] = cluster.start(service, core=rig.proxy_core, settings=settings)
            cluster.load(instances[name], MODELS, "m")
        for _ in range(options.rounds):
            for name, one in instances.items():
                measured[name].append(window(rig, tools, one, options.seconds, options.bytes))
    print(machine_lines(describe_machine()))
    print(f"\n{options.bytes} bytes, 64 requests at once; medians of {options.rounds} windows, in turn\n")
    print(_table(measured))


def _table(measured: Mapping[str, list[Figures]]) -> str:
    def middle(figures: list[Figures], of: str) -> float:
        return float(statistics.median(getattr(one, of) for one in figures))

    without = next(iter(measured.values()))
    base, base_total = middle(without, "instance_us"), middle(without, "total_us")
    rows = []
    for name, figures in measured.items():
        cpu, total = middle(figures, "instance_us"), middle(figures, "total_us")
        of_threads: dict[str, list[float]] = defaultdict(list)
        for one in figures:
            for thread, value in one.by_thread.items():
                of_threads[thread].append(value)
        shares = ", ".join(
            f"{thread} {statistics.median(values):.2f}" for thread, values in sorted(of_threads.items())
        )
        rows.append(
            [
                name,
                f"{cpu:.2f}",
                f"{(cpu / base - 1) * 100:+.1f} %",
                f"{(total / base_total - 1) * 100:+.1f} %",
                f"{middle(figures, 'p50'):.0f}",
                f"{middle(figures, 'p99'):.0f}",
                shares,
            ]
        )
    head = ["payloads", "instance, µs", "more", "more of all", "p50, µs", "p99, µs", "by thread, µs"]
    return table(head, rows)


if __name__ == "__main__":
    main()
