import asyncio
import os
from pathlib import Path

import pytest

from mesh.cli import examples, samples
from mesh.cli.examples import EXAMPLES, Trained
from mesh.cli.laptop.catalog import read_catalog
from mesh.cli.laptop.training import TrainingError, train_examples


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }


def test_examples_cover_four_formats_and_have_samples_with_known_answers(state_with_examples: Path) -> None:
    models = read_catalog(state_with_examples / "examples")
    assert {model.model_id for model in models} == {example.model_id for example in EXAMPLES}
    assert {model.model_type for model in models} == {"sklearn", "onnx", "xgboost", "lightgbm"}
    for model in models:
        found = samples.beside(str(model.path))
        assert found is not None
        for index in range(examples.SAMPLES):
            sample = samples.read(found, index)
            assert sample.truth in sample.labels
            assert sample.question


async def test_a_second_run_trains_nothing_and_a_changed_library_trains_anew(
    state_with_examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = state_with_examples / "examples"
    trained: list[Trained] = []
    await train_examples(directory, dict(os.environ), trained.append)
    assert trained == []
    assert examples.is_current(directory)
    monkeypatch.setattr(examples, "_version_of", lambda _library: "0.0.1")
    assert not examples.is_current(directory)


async def test_training_is_deterministic_and_two_meshes_do_not_both_train(
    state_with_examples: Path, tmp_path: Path
) -> None:
    one: list[Trained] = []
    other: list[Trained] = []
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    await asyncio.gather(
        train_examples(tmp_path / "examples", environment, one.append),
        train_examples(tmp_path / "examples", environment, other.append),
    )
    assert sorted([len(one), len(other)]) == [0, len(EXAMPLES)]
    assert all(trained.accuracy > 0.9 for trained in one + other)
    assert contents(tmp_path / "examples") == contents(state_with_examples / "examples")


async def test_training_that_fails_tells_why(tmp_path: Path) -> None:
    (tmp_path / "examples").write_text("a file is in the way")
    with pytest.raises(TrainingError, match=r"File exists|Not a directory"):
        await train_examples(tmp_path / "examples", dict(os.environ), lambda _trained: None)


async def test_training_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    import psutil

    task = asyncio.create_task(train_examples(tmp_path / "examples", dict(os.environ), lambda _trained: None))
    async with asyncio.timeout(30):
        while not psutil.Process().children():
            await asyncio.sleep(0.01)
    (training,) = psutil.Process().children()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not training.is_running()
    assert not examples.is_current(tmp_path / "examples")


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_version_of", lambda library: None if library == "skl2onnx" else "1")
    assert examples.missing_libraries() == {"onnx": "skl2onnx"}


def test_without_scikit_learn_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examples, "_version_of", lambda _library: None)
    assert examples.main([str(tmp_path / "examples")]) == 2
    assert "pip install 'model-mesh[examples]'" in capsys.readouterr().err
