"""Monitors as processors: what they learn, what they tell, and what they do with calls they cannot read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mesh.payload import InvalidProcessor, PayloadProcessor, PlainPayload, open_processor
from mesh.tensors import Array
from tests.instance.meshes import eventually
from tests.payload.inference import call, infer_request
from tests.payload.parts import Told, options, request
from tests.payload.receiver import Receiver


def usual(random: np.random.Generator, rows: int, shift: Sequence[float] = (0, 0, 0)) -> Array:
    """Rows of three numbers, the third one the sum of the others and some noise; then shifted."""
    numbers = random.normal(size=(rows, 2)) * [1, 100]
    table: Array = np.column_stack([numbers, numbers @ [1, 0.01] + random.normal(size=rows) * 0.1])
    shifted: Array = table + np.array(shift)
    return shifted


def calls(rows: Array, first: int = 0, **attributes: Any) -> list[PlainPayload]:
    return [
        payload for number, row in enumerate(rows) for payload in call(first + number, [row], **attributes)
    ]


def sample(processor: PayloadProcessor, name: str, **labels: str) -> float | None:
    for family in processor.collect():
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return float(one.value)
    return None


SMALL = {"learn_rows": 500, "window": {"rows": 200, "fewest_rows": 50}}


async def feed(processor: PayloadProcessor, payloads: Sequence[PlainPayload]) -> None:
    for start in range(0, len(payloads), 64):
        await processor.process(payloads[start : start + 64])


async def test_a_reference_is_learnt_then_drift_is_told_once_and_its_end_too() -> None:
    random = np.random.default_rng(1)
    told = Told()
    monitor = open_processor("monitor:", options(told, **SMALL))
    await feed(monitor, calls(usual(random, 300)))
    assert sample(monitor, "modelmesh_drift_learning_rows", modelId="m") == 300
    await feed(monitor, calls(usual(random, 200 + 600)))
    (learnt,) = told.events
    assert learnt.summary == "requests: learnt 3 features of 500 rows as reference"
    assert sample(monitor, "modelmesh_drift_windows_total", modelId="m", side="request") == 3
    assert sample(monitor, "modelmesh_drift_features", modelId="m") == 0
    assert (sample(monitor, "modelmesh_drift_largest_stability_index", modelId="m") or 9) < 0.2
    await feed(monitor, calls(usual(random, 600, shift=(0, 150, 0))))
    drift, outliers = told.events[1:]
    assert drift.warning
    assert drift.model_id == "m"
    assert drift.summary.startswith("requests: 1 of 3 features have drifted in 200 rows; the furthest")
    assert [feature["name"] for feature in drift.values["features"]] == ["x[1]"]
    assert (sample(monitor, "modelmesh_drift_stability_index", feature="x[1]") or 0) > 0.5
    assert (sample(monitor, "modelmesh_drift_distance", feature="x[1]") or 0) > 0.3
    assert outliers.values["kind"] == "outliers"
    await feed(monitor, calls(usual(random, 400)))
    assert [event.values["kind"] for event in told.events[3:]] == ["drift", "outliers"]
    assert not any(event.warning for event in told.events[3:])
    await monitor.close(1)


async def test_a_dependency_that_breaks_is_outliers_without_drift_of_a_feature() -> None:
    random = np.random.default_rng(2)
    told = Told()
    monitor = open_processor("monitor:", options(told, **SMALL))
    await feed(monitor, calls(usual(random, 700)))
    assert (sample(monitor, "modelmesh_outlier_share", modelId="m") or 0) < 0.05
    broken = usual(random, 400)
    broken[:, 2] = random.permutation(broken[:, 2])
    await feed(monitor, calls(broken))
    assert sample(monitor, "modelmesh_drift_features", modelId="m") == 0
    assert (sample(monitor, "modelmesh_outlier_share", modelId="m") or 0) > 0.5
    assert [event.values["kind"] for event in told.events] == ["learnt", "outliers"]
    scored = sample(monitor, "modelmesh_outlier_scored_rows_total", modelId="m")
    assert scored == 600
    assert 200 < (sample(monitor, "modelmesh_outlier_rows_total", modelId="m") or 0) < 600


async def test_categories_and_both_sides_are_watched() -> None:
    random = np.random.default_rng(3)

    def payloads(share: float, rows: int) -> list[PlainPayload]:
        colours = np.where(random.random(rows) < share, b"red", b"blue").astype(object)
        return [
            payload
            for number in range(rows)
            for payload in call(number, colours[number : number + 1], [random.integers(0, 3)])
        ]

    told = Told()
    members = SMALL | {"sides": ["request", "response"], "categorical": ["y"]}
    monitor = open_processor("monitor:", options(told, **members))
    await feed(monitor, payloads(0.5, 900))
    assert [event.values["kind"] for event in told.events] == ["learnt", "learnt"]
    await feed(monitor, payloads(0.9, 200))
    assert [event.summary.split(";")[0] for event in told.events[2:]] == [
        "requests: 1 of 1 features have drifted in 200 rows"
    ]
    await feed(
        monitor, [payload for one in payloads(0.5, 200) for payload in [one] if payload.kind == "request"]
    )
    unknown = [
        payload for number in range(200) for payload in call(number, np.array([b"green"], object), [7])
    ]
    await feed(monitor, unknown)
    assert sample(monitor, "modelmesh_drift_features", side="request") == 1
    assert sample(monitor, "modelmesh_drift_features", side="response") == 1
    assert sample(monitor, "modelmesh_drift_distance", side="response") is None


def reference_rows() -> Array:
    return usual(np.random.default_rng(4), 500)


def as_npz(path: Path) -> Path:
    np.savez(path / "r.npz", x=reference_rows())
    return path / "r.npz"


def as_json(path: Path) -> Path:
    (path / "r.json").write_text(json.dumps({"x": reference_rows().tolist()}))
    return path / "r.json"


def as_json_rows(path: Path) -> Path:
    rows = [{f"x[{index}]": value for index, value in enumerate(row)} for row in reference_rows().tolist()]
    (path / "r.json").write_text(json.dumps(rows))
    return path / "r.json"


def as_parquet(path: Path) -> Path:
    rows = reference_rows()
    pq.write_table(pa.table({f"x[{index}]": rows[:, index] for index in range(3)}), path / "r.parquet")
    return path / "r.parquet"


@pytest.mark.parametrize("write", [as_npz, as_json, as_json_rows, as_parquet])
async def test_a_reference_is_read_from_a_file(write: Any, tmp_path: Path) -> None:
    told = Told()
    monitor = open_processor("monitor:", options(told, **SMALL, reference=str(write(tmp_path))))
    random = np.random.default_rng(5)
    await feed(monitor, calls(usual(random, 200)))
    assert sample(monitor, "modelmesh_drift_features", modelId="m") == 0
    await feed(monitor, calls(usual(random, 200, shift=(3, 0, 0))))
    assert [feature["name"] for feature in told.events[0].values["features"]] == ["x[0]"]


async def test_what_the_parquet_sink_wrote_is_a_reference(tmp_path: Path) -> None:
    sink = open_processor(f"parquet://{tmp_path}", options(decoded=True))
    rows = reference_rows()
    await sink.process([request(infer_request(x=rows[:3]).SerializeToString())])
    await sink.process(calls(rows[3:]))
    await sink.close(5)
    (path,) = (tmp_path / "m" / "request").iterdir()
    monitor = open_processor("monitor:", options(**SMALL, reference=str(path)))
    await feed(monitor, calls(usual(np.random.default_rng(6), 200)))
    assert sample(monitor, "modelmesh_drift_features", modelId="m") == 0


async def test_what_was_learnt_is_kept_for_the_next_start(tmp_path: Path) -> None:
    members = SMALL | {"reference": f"{tmp_path}/{{model}}-{{side}}.json"}
    told = Told()
    random = np.random.default_rng(7)
    monitor = open_processor("monitor:", options(told, **members))
    await feed(monitor, calls(usual(random, 500), model_id="a/b"))
    (path,) = tmp_path.iterdir()
    assert path.name == "a%2Fb-request.json"
    assert str(path) in told.events[0].summary
    monitor = open_processor("monitor:", options(told, **members))
    await feed(monitor, calls(usual(random, 200, shift=(0, 500, 0)), model_id="a/b"))
    assert sample(monitor, "modelmesh_drift_features", modelId="a/b") == 1


async def test_a_reference_that_cannot_be_read_is_told_and_one_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"no")
    told = Told()
    monitor = open_processor("monitor:", options(told, **SMALL, reference=f"{tmp_path}/{{model}}.npz"))
    await feed(monitor, calls(usual(np.random.default_rng(8), 500)))
    await feed(monitor, calls(usual(np.random.default_rng(8), 1), model_id="other"))
    broken, learnt, missing = told.events
    assert broken.warning
    assert "m.npz" in broken.summary
    assert "learnt 3 features" in learnt.summary
    assert "other.npz is not there; the first 500 rows are learnt instead" in missing.summary


async def test_what_cannot_be_read_is_counted_and_does_not_stop_the_rest() -> None:
    told = Told()
    monitor = open_processor("monitor:", options(told, **SMALL))
    uneven = infer_request(a=np.zeros(2), b=np.zeros(3)).SerializeToString()
    await monitor.process([request(b"\xff"), request(uneven), *call(1, [1.0]), request(method="x/y")])
    assert told.losses == {"unreadable": 3}
    assert sample(monitor, "modelmesh_drift_learning_rows", modelId="m") == 1


async def test_the_models_that_were_not_used_lately_are_forgotten() -> None:
    monitor = open_processor("monitor:", options(**SMALL, most_models=2, by="vmodel"))
    for vmodel in ("a", "b", "a", "c"):
        await monitor.process(call(1, [1.0], vmodel_id=vmodel))
    assert sample(monitor, "modelmesh_drift_learning_rows", vModelId="a") == 2
    assert sample(monitor, "modelmesh_drift_learning_rows", vModelId="b") is None
    assert sample(monitor, "modelmesh_drift_learning_rows", vModelId="c") == 1


async def test_series_of_features_are_bounded_and_wide_tableare_summarised() -> None:
    random = np.random.default_rng(9)
    monitor = open_processor("monitor:", options(**SMALL, metric_features=2, most_elements=10))
    await feed(monitor, calls(np.column_stack([usual(random, 800), random.normal(size=(800, 6))])))
    indices = [
        one
        for family in monitor.collect()
        for one in family.samples
        if one.name == "modelmesh_drift_stability_index"
    ]
    assert len(indices) == 2
    await feed(monitor, calls(random.normal(size=(800, 100)), model_id="wide"))
    features = {
        one.labels["feature"]
        for family in monitor.collect()
        for one in family.samples
        if one.labels.get("modelId") == "wide" and "feature" in one.labels
    }
    assert features < {"x.mean", "x.deviation", "x.smallest", "x.largest"}


async def test_events_are_posted_as_cloudevents() -> None:
    random = np.random.default_rng(10)
    async with Receiver().running() as receiver:
        receiver.answers = [503]
        monitor = open_processor("monitor:", options(**SMALL, events=f"{receiver.url}/alerts"))
        await feed(monitor, calls(usual(random, 500)))
        await feed(monitor, calls(usual(random, 200, shift=(0, 400, 0))))
        await eventually(lambda: len(receiver.posts) == 3)
        await monitor.close(5)
    learnt, drift, _ = [json.loads(post.body) for post in receiver.posts]
    assert learnt["type"] == "io.model-mesh.monitor.learnt"
    assert receiver.posts[1].headers["Content-Type"] == "application/cloudevents+json"
    assert (drift["specversion"], drift["source"], drift["subject"]) == ("1.0", "i1", "m")
    assert drift["data"]["features"][0]["name"] == "x[1]"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"window": {"rows": 5}}, r"options\.window\.rows"),
        ({"sides": []}, r"options\.sides"),
        ({"sides": ["request", "response"], "reference": "/r.json"}, "put {side} into it"),
        ({"reference": "/r-{name}.json"}, "no other braces"),
        ({"drift": True}, r"options\.drift is not known; there are sides, by"),
    ],
)
def test_what_cannot_be_is_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProcessor, match=message):
        open_processor("monitor:", options(**members))
