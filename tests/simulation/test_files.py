"""Traces in files, and what is made of runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli import main
from mesh.simulation import (
    Goal,
    InvalidTrace,
    Latencies,
    Scenario,
    Trace,
    TracedModel,
    Workload,
    World,
    generate,
    page,
    plan,
    read_trace,
    trace_of,
    write_trace,
)

GIB = 1 << 30


@pytest.mark.parametrize("name", ["load.trace", "load.trace.gz"])
def test_a_trace_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    trace = generate(Workload(models=20, requests=500, bursts=2, burst_requests=30, cold_at_once=5))
    write_trace(trace, tmp_path / name)
    assert read_trace(tmp_path / name) == trace


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "line 1"),
        ('{"format": "mesh-trace", "version": 9}', "version 9"),
        ('{"format": "mesh-trace", "version": 1}\n0 0', "line 2.*there are 0"),
        ('{"format": "mesh-trace", "version": 1}\n{"model_id": "m"}', "line 2"),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "load.trace").write_text(text)
    with pytest.raises(InvalidTrace, match=told):
        read_trace(tmp_path / "load.trace")


def test_records_of_two_instances_are_one_trace(tmp_path: Path) -> None:
    head = {"format": "mesh-usage", "version": 1, "instance": "a"}
    model = {"model": "m", "type": "sklearn", "size_bytes": 5_000, "load_ms": 40.0}
    (tmp_path / "a").write_text(
        "".join(
            json.dumps(line) + "\n" for line in (head, model, [10_000, "m", 4, 2.0], [10_400, "m", 2, 5.0])
        )
    )
    (tmp_path / "b").write_text("".join(json.dumps(line) + "\n" for line in (head, [10_100, "n", 1, 0])))
    trace = trace_of([tmp_path / "a", tmp_path / "b"])
    assert trace.traced[0] == TracedModel("m", "sklearn", 5_000, 40_000, 3_000)
    assert [trace.traced[number].model_id for number in trace.numbers] == ["m"] * 4 + ["n", "m", "m"]
    assert trace.duration_us == 10_400_000 - 9_625_000


def test_a_plan_is_the_smallest_mesh_that_reaches_the_goal() -> None:
    trace = generate(Workload(models=40, requests=4_000, rate=200, size_bytes=64 << 20, load_ms=100))
    goal = Goal(latency_us=100_000)
    (found,) = plan(trace, Scenario(), goal, [GIB], most=16)
    assert found.instances > 1
    assert goal.reached(found.report)
    smaller = World(Scenario(instances=found.instances - 1, capacity_bytes=GIB), trace)
    assert not goal.reached(smaller.run(warm_up_us=trace.duration_us // 2))
    (none,) = plan(trace, Scenario(), Goal(latency_us=1), [GIB], most=2)
    assert none.instances == 0


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_close(values: list[int], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert exact <= latencies.quantile_us(share) <= exact * 17 / 16 + 1


def test_a_page_has_the_figures_and_their_charts() -> None:
    report = World(Scenario(), generate(Workload(models=50, requests=2_000))).run()
    html = page(report, "a <small> mesh")
    assert "a &lt;small&gt; mesh" in html
    assert html.count("<svg") == 4
    for name, value in report.rows():
        assert name in html
        assert value in html


def test_commands_take_a_trace_through_to_a_report(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["simulate", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    trace, html = str(tmp_path / "load.gz"), tmp_path / "report.html"
    assert "300 requests for 20 models" in run("trace", "--models", "20", "--requests", "300", "-o", trace)
    figures = json.loads(run("run", "--trace", trace, "--instances", "2", "--html", str(html), "--json"))
    assert figures["requests"] == "300"
    assert "<svg" in html.read_text()
    assert "instances" in run("plan", "--trace", trace, "--sizes", "8GiB", "--p99-ms", "60000", "--most", "4")
    failed = CliRunner().invoke(main, ["simulate", "run", "--capacity", "much"])
    assert "no size" in failed.output


def test_an_empty_trace_is_a_mesh_at_rest() -> None:
    report = World(Scenario(instances=2), Trace()).run()
    assert report.requests == 0
    assert report.latencies.quantile_us(0.99) == 0
