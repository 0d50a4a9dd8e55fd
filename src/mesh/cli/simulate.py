"""``mesh simulate``: a mesh of any size in simulated time."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from mesh.cli import words
from mesh.cli.screen import show, show_json
from mesh.cli.sizes import SIZE
from mesh.placement import EvictionPolicy, EvictionRanking
from mesh.simulation import (
    Goal,
    InvalidTrace,
    Report,
    Scenario,
    Trace,
    Workload,
    World,
    generate,
    page,
    plan,
    read_trace,
    trace_of,
    try_seed,
    write_trace,
)
from mesh.simulation.single_cache import compare, study

T = TypeVar("T", Scenario, Workload)
Command = Callable[..., None]


def _options(table: Iterable[tuple[str, Any, str]]) -> Callable[[Command], Command]:
    """Options with their defaults shown, in order: declarations, default, help."""

    def add(command: Command) -> Command:
        for declarations, default, text in reversed(tuple(table)):
            kind = SIZE if isinstance(default, str) else type(default)
            command = click.option(
                *declarations.split(), default=default, show_default=True, type=kind, help=text
            )(command)
        return command

    return add


_MESH = (
    ("--seed", 0, "Draws the load and everything else."),
    ("--instances", 10, "In the mesh."),
    ("--capacity capacity_bytes", "8GiB", "Memory for models of each instance."),
    ("--loaders loader_threads", 4, "Loads that an instance runs at a time."),
    ("--concurrency server_concurrency", 16, "Requests that a model server works on at a time."),
)
_LOAD = (
    ("--models", 1_000, "Registered."),
    ("--requests", 100_000, "In all."),
    ("--rate", 1_000.0, "Requests in a second."),
    ("--zipf", 1.0, "How uneven the models are asked for."),
    ("--day day_s", 0.0, "Seconds over which each model's rate falls and rises again; 0 for a steady rate."),
    ("--bursts", 0, "Times at which one model gets a thousand requests within a second."),
    ("--cold-at-once", 0, "Models that are each requested once in the first moment."),
    ("--model-size size_bytes", "64MiB", "Median size of a model."),
    ("--load-ms", 1_000.0, "Median time of a load."),
    ("--load-spread", 10.0, "The slowest load, in times of the fastest."),
    ("--service-ms", 5.0, "Median time of a request in the model server."),
)


@click.group()
def simulate() -> None:
    """Try a mesh of any size on a made or recorded load, in simulated time.

    The decisions are those of a real mesh: placement, caches, evictions, reconciliation. The same seed always gives
    the same run.
    """


def _trace_option(command: Command) -> Command:
    return click.option(
        "--trace",
        "trace_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Requests of a file instead of generated ones; options of the load have no effect then.",
    )(command)


def _eviction_option(command: Command) -> Command:
    return click.option(
        "--eviction",
        type=click.Choice([ranking.value for ranking in EvictionRanking]),
        default=EvictionRanking.LRU.value,
        show_default=True,
        help="What is evicted first.",
    )(command)


@simulate.command()
@_options(_MESH)
@_eviction_option
@_trace_option
@_options(_LOAD)
@click.option("--warm-up", "warm_up_s", default=0.0, help="Seconds of the load that are not counted.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report with charts to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    *, trace_file: Path | None, warm_up_s: float, html: Path | None, as_json: bool, **options: Any
) -> None:
    """Run a mesh through a load and report what came of it."""
    scenario, trace = _scenario(options), _load(trace_file, options)
    began = time.process_time()
    report = World(scenario, trace).run(warm_up_us=int(warm_up_s * 1e6))
    _show(report, trace, time.process_time() - began, as_json=as_json)
    if html is not None:
        title = (
            f"{len(trace):,} requests for {len(trace.traced):,} models on {scenario.instances:,} instances"
        )
        html.write_text(page(report, title), encoding="utf-8")


@simulate.command("plan")
@_options(_MESH[:1] + _MESH[3:])
@_eviction_option
@_trace_option
@_options(_LOAD)
@click.option(
    "--sizes",
    default="4GiB,8GiB,16GiB",
    show_default=True,
    help="Memory for models of an instance, to be tried.",
)
@click.option(
    "--p99-ms", default=100.0, show_default=True, help="99 % of the requests are to be served within."
)
@click.option("--failed-share", default=0.0, show_default=True, help="Share of the requests that may fail.")
@click.option("--most", default=256, show_default=True, help="Instances that are tried at most.")
def make_plan(
    *, trace_file: Path | None, sizes: str, p99_ms: float, failed_share: float, most: int, **options: Any
) -> None:
    """Find how many instances of which size a load needs.

    The first half of the load warms the mesh up and is not counted.
    """
    scenario, trace = _scenario(options), _load(trace_file, options)
    goal = Goal(0.99, int(p99_ms * 1_000), failed_share)
    capacities = [SIZE.convert(size, None, None) for size in sizes.split(",")]
    table = Table("size", "instances", "in all", "p99", "found a copy", "failed", box=None, pad_edge=False)
    for found in plan(trace, scenario, goal, capacities, most):
        report = found.report
        table.add_row(
            words.size(found.capacity_bytes),
            str(found.instances) if found.instances else f"more than {most}",
            words.size(found.capacity_bytes * found.instances) if found.instances else "",
            f"{report.latencies.quantile_us(0.99) / 1_000:,.1f} ms",
            f"{report.hit_rate:.2%}",
            f"{report.failures:,}",
        )
    show(table)


@simulate.command("trace")
@click.argument("records", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_options(_MESH[:1])
@_options(_LOAD)
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write."
)
def make_trace(*, records: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Write a trace: of RECORDS that instances have made (MESH_RECORD_PATH), else a generated one."""
    try:
        trace = trace_of(records) if records else generate(_chosen(Workload(), options))
        write_trace(trace, output)
    except (OSError, InvalidTrace) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{output}: {len(trace):,} requests for {len(trace.traced):,} models in {trace.duration_us / 1e6:,.0f} s"
    )


def _scenario(options: dict[str, Any]) -> Scenario:
    policy = EvictionPolicy(EvictionRanking(options.pop("eviction")))
    return replace(_chosen(Scenario(), options), policy=policy)


def _load(file: Path | None, options: dict[str, Any]) -> Trace:
    if file is None:
        return generate(_chosen(Workload(), options))
    try:
        return read_trace(file)
    except (OSError, InvalidTrace) as error:
        raise click.ClickException(str(error)) from None


@simulate.command()
@click.option("--seeds", default=200, show_default=True, help="How many trials.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=1, show_default=True, help="Processes to share the work.")
def faults(*, seeds: int, first: int, jobs: int) -> None:
    """Try small meshes with faults drawn from seeds, and look for a broken invariant.

    Crashes, pauses, partitions, a registry that is away, slow or forgetful, lost watches, storage that is slow or
    fails, sizes that are far off: some of them befall each mesh, and after each event what must hold is checked.
    """
    broken = trials = requests = 0
    with ProcessPoolExecutor(jobs) as pool:
        for verdict in pool.map(try_seed, range(first, first + seeds), chunksize=8):
            trials += 1
            requests += verdict.report.requests
            if verdict.broken:
                broken += 1
                click.echo(f"seed {verdict.seed}: {verdict.broken}")
    click.echo(f"{trials:,} trials with {requests:,} requests, {broken:,} broke an invariant")
    if broken:
        click.echo("See one with: mesh simulate replay SEED")
        raise SystemExit(1)


@simulate.command()
@click.argument("seed", type=int)
@click.option("--about", default="", help="Only lines that have this in them.")
def replay(*, seed: int, about: str) -> None:
    """Show all that happened in the trial of a SEED of `mesh simulate faults`."""
    verdict = try_seed(seed, remember=1_000_000)
    for fault in verdict.faults:
        click.echo(f"fault: {fault}")
    for line in verdict.journal:
        if about in line:
            click.echo(line)
    click.echo(verdict.broken or "No invariant was broken.")


@simulate.command()
@click.option("--models", default=2_000, show_default=True, help="In each case.")
@click.option("--requests", default=200_000, show_default=True, help="In each case.")
@click.option("--seed", default=0, show_default=True, help="Draws the load.")
@click.option("--jobs", default=1, show_default=True, help="Processes to share the work.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evictions(*, models: int, requests: int, seed: int, jobs: int, as_json: bool) -> None:
    """Compare the ways to choose what is evicted, and the best there could be.

    One cache into which a fifth of the models fit is replayed with each eviction policy. Told is the time that all
    loads take together, as a change against LRU; "at best" is what no choice can go below, and Belady's is the choice
    that needs the fewest loads where all models have one size.
    """
    with ProcessPoolExecutor(jobs) as pool:
        findings = list(pool.map(compare, study(models, requests, seed)))
    if as_json:
        show_json([asdict(finding) for finding in findings])
        return
    table = Table(
        "load", "sizes", "load times", "hits, LRU", "hits, cost-aware", "loads, LRU", *_CHANGES, box=None
    )
    for finding in findings:
        case, lru, cost_aware = finding.case, finding.lru, finding.cost_aware
        best = "" if finding.belady_loads is None else f"{finding.belady_loads / lru.loads - 1:+.0%}"
        table.add_row(
            case.name,
            "equal" if case.equal_sizes else "differ",
            "equal" if case.equal_load_times else "100-fold",
            f"{lru.hit_rate:.1%}",
            f"{cost_aware.hit_rate:.1%}",
            f"{lru.cold_start_ms / 3_600_000:.1f} h",
            f"{finding.change:+.1%}",
            f"{finding.best_change:+.0%}",
            best,
        )
    show(table)


_CHANGES = ("cost-aware", "at best", "Belady, number")


def _chosen(defaults: T, options: dict[str, Any]) -> T:
    names = {field.name for field in fields(defaults)}
    try:
        return replace(defaults, **{name: value for name, value in options.items() if name in names})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _show(report: Report, trace: Trace, elapsed_s: float, *, as_json: bool) -> None:
    rows = [
        *report.rows(),
        ("took", f"{elapsed_s:.1f} s of CPU, {elapsed_s / max(1, len(trace)) * 1e6:.0f} us a request"),
    ]
    if as_json:
        show_json(dict(rows))
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value)
    show(table)
