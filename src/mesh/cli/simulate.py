"""``mesh simulate``: a mesh of any size in simulated time."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from typing import Any

import click
from rich.table import Table

from mesh.cli.screen import show, show_json
from mesh.cli.sizes import SIZE
from mesh.simulation import Report, Scenario, Trace, Workload, World, generate, try_seed
from mesh.simulation.single_cache import compare, study

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


@simulate.command()
@_options(_MESH)
@_options(_LOAD)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(*, as_json: bool, **options: Any) -> None:
    """Run a mesh through a load and report what came of it."""
    workload, scenario = _chosen(Workload(), options), _chosen(Scenario(), options)
    trace = generate(workload)
    began = time.process_time()
    report = World(scenario, trace).run()
    _show(report, trace, time.process_time() - began, as_json=as_json)


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


def _chosen(defaults: Any, options: dict[str, Any]) -> Any:
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
