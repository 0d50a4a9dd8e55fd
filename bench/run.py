"""What a request costs: the mesh, its rivals and the direct call in one run.

Windows of all subjects are interleaved, so that what else the machine does hits them alike; the figures are
medians of each subject's quietest windows. Every proxy has one core; the generator and the model server share
another.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.meshes import meshes
from bench.planes import planes
from bench.report import machine_lines, request_tables
from bench.rig import Rig, add_rig_options, build_tools, describe_machine, move, rig_of, wait_for_quiet
from bench.rivals import rivals
from bench.windows import Shape, Subject, Window, measure, quietest

SHAPES = (
    Shape("120 bytes, concurrency 1", 1, 1, 120),
    Shape("120 bytes, concurrency 1, all on one core", 1, 1, 120, one_core=True),
    Shape("120 bytes, concurrency 16", 16, 4, 120),
    Shape("120 bytes, concurrency 64", 64, 4, 120),
    Shape("600 KiB, concurrency 8", 8, 2, 600 << 10),
)
RIVALS = ("Envoy", "nginx", "grpc.aio proxy")
MODELS = ("--model=m", "--models=20")

Windows = dict[str, dict[str, list[Window]]]


def measure_all(settings: argparse.Namespace, rig: Rig, tools: Path, subjects: Sequence[Subject]) -> Windows:
    """Measures every subject under every shape of load, ``--repeats`` times, one after the other."""
    windows: Windows = {shape.name: {subject.name: [] for subject in subjects} for shape in SHAPES}
    for repeat in range(settings.repeats):
        for shape in SHAPES:
            for subject in subjects:
                wait_for_quiet(settings.quiet, settings.patience)
                core = rig.load_core if shape.one_core else rig.proxy_core
                for pid in subject.proxies:
                    move(pid, core)
                one = measure(tools, rig.placed(rig.load_core), subject, shape, settings.seconds, MODELS)
                windows[shape.name][subject.name].append(one)
                print(
                    f"{repeat + 1}/{settings.repeats} {shape.name:43} {subject.name:38}"
                    f"{one.rps:10,.0f}/s {one.p50:8,.0f} us {one.cpu:7.1f} ms/1000 {one.foreign:5.0%}",
                    file=sys.stderr,
                    flush=True,
                )
    return windows


def write(settings: argparse.Namespace, subjects: Sequence[Subject], windows: Windows) -> None:
    """Prints the tables, and writes them and every window where ``--output`` says."""
    figures = {
        shape: {name: quietest(ones) for name, ones in of_shape.items()}
        for shape, of_shape in windows.items()
    }
    machine = describe_machine()
    tables = request_tables(SHAPES, figures, {subject.name: subject for subject in subjects}, RIVALS)
    text = f"{machine_lines(machine)}\n\n{tables}"
    print(text)
    if settings.output:
        raw = {
            shape: {name: [asdict(one) for one in ones] for name, ones in of_shape.items()}
            for shape, of_shape in windows.items()
        }
        settings.output.write_text(json.dumps({"machine": machine, "windows": raw}, indent=1))
        settings.output.with_suffix(".md").write_text(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_rig_options(parser)
    parser.add_argument("--only", nargs="*", help="subjects whose name starts with one of these")
    settings = parser.parse_args(arguments)
    tools = build_tools()
    with rig_of(settings) as rig:
        starters = rivals(rig, tools) | planes(rig, tools) | meshes(rig, tools)
        chosen = [name for name in starters if name.startswith(tuple(settings.only or [""]))]
        subjects = [starters[name]() for name in chosen]
        write(settings, subjects, measure_all(settings, rig, tools, subjects))


if __name__ == "__main__":
    main()
