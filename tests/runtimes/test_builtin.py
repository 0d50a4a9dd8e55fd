"""The built-in runtime as a process of its own, asked by the mesh's client and by tritonclient."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import joblib
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, save_model
from sklearn.linear_model import LinearRegression, LogisticRegression

from mesh.runtimes import ModelInfo, RuntimeEndpoints, RuntimeFailure, SpiRuntime
from mesh.runtimes.builtin.runtime import BuiltinRuntime
from tests.runtimes.serving import serving

MODELS = Path(__file__).parents[1] / "models"
SAMPLES = {
    "mnist-onnx": "onnx",
    "mnist-svm": "sklearn",
    "mushroom-xgboost": "xgboost",
    "mushroom-lightgbm": "lightgbm",
}
MIB = 1 << 20


def model_file(sample: str) -> Path:
    (file,) = (MODELS / sample).glob("model.*")
    return file


def sample_info(sample: str) -> ModelInfo:
    return ModelInfo(sample, SAMPLES[sample], str(model_file(sample)))


def start(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*launcher, sys.executable, "-m", "mesh.runtimes.builtin", "--capacity", "64MiB", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def bound(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip().rpartition(" ")[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    child = start("--socket", str(tmp_path_factory.mktemp("builtin") / "rt.sock"), "--exit-with-parent")
    try:
        yield bound(child)
    finally:
        child.terminate()
        assert child.wait(20) == 0
        if child.stdout is not None:
            child.stdout.close()


@pytest.mark.parametrize("sample", SAMPLES)
async def test_the_sample_models_answer_as_their_own_libraries_do(address: str, sample: str) -> None:
    runtime = SpiRuntime(RuntimeEndpoints((address,)))
    await runtime.start()
    loaded = await runtime.load(sample_info(sample))
    assert 0 < loaded.size_bytes < 2 * MIB
    client = triton.InferenceServerClient(address)
    for case in json.loads((MODELS / sample / "case.json").read_text())["cases"]:
        inputs = []
        for given in case["inputs"]:
            tensor = triton.InferInput(given["name"], given["shape"], given["datatype"])
            tensor.set_data_from_numpy(
                np.array(given["data"], triton.triton_to_np_dtype(given["datatype"])).reshape(given["shape"])
            )
            inputs.append(tensor)
        result = await asyncio.to_thread(client.infer, sample, inputs)
        for expected in case.get("outputs", []):
            got = result.as_numpy(expected["name"])
            np.testing.assert_allclose(got.ravel(), expected["data"], rtol=0, atol=expected["tolerance"])
            assert result.get_output(expected["name"]).datatype == expected["datatype"]
        if "argmax" in case:
            assert result.as_numpy("Plus214_Output_0").argmax() == case["argmax"]
    metadata = client.get_model_metadata(sample)
    assert [tensor.name for tensor in metadata.inputs] == [case["inputs"][0]["name"]]
    client.close()
    await runtime.close()


async def test_it_stops_when_told_and_removes_its_socket(tmp_path: Path) -> None:
    child = start("--socket", str(tmp_path / "rt.sock"))
    await asyncio.to_thread(bound, child)
    child.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(child.wait, 20) == 0
    assert not (tmp_path / "rt.sock").exists()
    child.stdout.close()  # type: ignore[union-attr]


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """However that process ends."""
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    socket = str(tmp_path / "rt.sock")
    parent = start("--socket", socket, "--exit-with-parent", launcher=(sys.executable, "-c", script))
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    watched = os.pidfd_open(pid)
    await asyncio.to_thread(parent.stdout.readline)
    parent.kill()
    parent.wait()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(watched, ended.set)
    await asyncio.wait_for(ended.wait(), 20)
    asyncio.get_running_loop().remove_reader(watched)
    os.close(watched)
    parent.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--capacity", "1MiB", "--default-model-size", "1MB"], "minimum that the mesh accepts"),
        (["--capacity", "many"], "'many' is no size in bytes; write one as 64MiB"),
        (["--socket", "/tmp/a", "--port", "1"], "--socket and --port are both given"),
        (["--default-model-size", "1"], "1 bytes is below 8192"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "mesh.runtimes.builtin", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    assert message in " ".join(result.stderr.split())


def big_onnx(path: Path, mib: int) -> None:
    weights = np.random.default_rng(1).random((256, mib * MIB // 1024), np.float32)
    save_onnx(path, weights)


def save_onnx(path: Path, weights: Any, **saving: Any) -> None:
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save_model(model, str(path), **saving)


def big_sklearn(path: Path, mib: int) -> None:
    model = LinearRegression()
    model.coef_ = np.random.default_rng(1).random(mib * MIB // 8)
    model.intercept_ = 0.0
    model.n_features_in_ = model.coef_.size
    joblib.dump(model, path)


@pytest.mark.parametrize(("write", "name"), [(big_onnx, "model.onnx"), (big_sklearn, "model.joblib")])
async def test_a_model_of_known_size_is_measured_to_be_so_large(
    tmp_path: Path, write: Callable[[Path, int], None], name: str
) -> None:
    async with serving(BuiltinRuntime()) as served:
        for mib in (2, 40):
            file = tmp_path / str(mib) / name
            file.parent.mkdir()
            write(file, mib)
            info = ModelInfo(f"m{mib}", path=str(file))
            loaded = await served.spi.load(info)
            # MatMul weights may be kept a second time, packed for the processor.
            most = 2.2 if name.endswith("onnx") else 1.1
            assert mib * MIB <= loaded.size_bytes <= most * mib * MIB + MIB
            assert await served.spi.predict_size(info) == pytest.approx(loaded.size_bytes, rel=0.2)


async def test_onnx_weights_beside_the_model_are_found_and_counted(tmp_path: Path) -> None:
    weights = np.ones((256, 8 * MIB // 1024), np.float32)
    save_onnx(tmp_path / "model.onnx", weights, save_as_external_data=True, location="weights.bin")
    async with serving(BuiltinRuntime()) as served:
        loaded = await served.spi.load(ModelInfo("m", "onnx", str(tmp_path)))
        assert 8 * MIB <= loaded.size_bytes <= 18 * MIB


async def test_memory_is_given_back(tmp_path: Path) -> None:
    big_sklearn(tmp_path / "model.joblib", 100)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    async with serving(BuiltinRuntime()) as served:
        await served.spi.load(ModelInfo("warm", "sklearn", str(model_file("mnist-svm"))))
        before = resident()
        await served.spi.load(ModelInfo("m", "sklearn", str(tmp_path)))
        assert resident() > before + 90 * MIB
        await served.spi.unload("m")
        assert resident() < before + 20 * MIB


async def test_what_many_models_are_told_to_take_is_what_the_process_grows_by(tmp_path: Path) -> None:
    """Else the mesh would fill it beyond its memory."""
    child = start("--socket", str(tmp_path / "rt.sock"), "--exit-with-parent", "--log-level", "error")
    runtime = SpiRuntime(RuntimeEndpoints((await asyncio.to_thread(bound, child),)))
    await runtime.start()

    def anonymous() -> int:
        status = Path(f"/proc/{child.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) << 10

    for sample, name in SAMPLES.items():
        await runtime.load(sample_info(sample))
        before = anonymous()
        told = 0
        for number in range(50):
            info = ModelInfo(f"{sample}-{number}", name, str(model_file(sample)))
            told += (await runtime.load(info)).size_bytes
        assert told == pytest.approx(anonymous() - before, rel=0.3, abs=4 * MIB)
    await runtime.close()
    child.terminate()
    assert await asyncio.to_thread(child.wait, 20) == 0
    child.stdout.close()  # type: ignore[union-attr]


async def load_failure(info: ModelInfo) -> RuntimeFailure:
    async with serving(BuiltinRuntime()) as served:
        with pytest.raises(RuntimeFailure) as caught:
            await served.spi.load(info)
        # It lives on.
        assert (await served.spi.load(sample_info("mushroom-xgboost"))).size_bytes
    return caught.value


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "text"])
async def test_a_damaged_file_is_refused_by_name(tmp_path: Path, sample: str, damage: str) -> None:
    original = model_file(sample)
    data = original.read_bytes()
    damaged = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "garbage": bytes(range(256)) * 20,
        "text": b"hello\n",
    }[damage]
    file = tmp_path / original.name
    file.write_bytes(damaged)
    failure = await load_failure(ModelInfo("m", SAMPLES[sample], str(file)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert str(file) in failure.message
    title = {"onnx": "ONNX", "sklearn": "scikit-learn", "xgboost": "XGBoost", "lightgbm": "LightGBM"}[
        SAMPLES[sample]
    ]
    assert f"is not a readable {title} model" in failure.message
    # What is wrong, and not where a library noticed it.
    assert "[bt]" not in failure.message


async def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    joblib.dump({"not": "a model"}, tmp_path / "model.joblib")
    failure = await load_failure(ModelInfo("m", "sklearn", str(tmp_path)))
    assert "a dict is no estimator" in failure.message


async def test_a_pickle_that_needs_a_module_that_is_not_here_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"cnosuchmodule\nThing\n.")
    failure = await load_failure(ModelInfo("m", "sklearn", str(tmp_path)))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "needs the Python module 'nosuchmodule'" in failure.message


async def test_a_format_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "mesh.runtimes.builtin.lightgbm_format", raising=False)
    failure = await load_failure(sample_info("mushroom-lightgbm"))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "pip install 'model-mesh[lightgbm]'" in failure.message


async def infer(
    client: Any, name: str, array: Any, outputs: list[str] | None = None, tensor: str = "x"
) -> Any:
    given = triton.InferInput(tensor, list(array.shape), triton.np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    wanted = [triton.InferRequestedOutput(output) for output in outputs or []]
    return await asyncio.to_thread(client.infer, name, [given], outputs=wanted or None)


async def test_classifiers_give_labels_and_probabilities(tmp_path: Path) -> None:
    features = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.1], [1.0, 0.9]])
    model = LogisticRegression().fit(features, ["no", "yes", "no", "yes"])
    joblib.dump(model, tmp_path / "model.joblib")
    async with serving(BuiltinRuntime()) as served:
        await served.spi.load(ModelInfo("m", "sklearn", str(tmp_path)))
        client = triton.InferenceServerClient(served.address)
        assert (await infer(client, "m", features)).as_numpy("predict").tolist() == [
            b"no",
            b"yes",
            b"no",
            b"yes",
        ]
        result = await infer(client, "m", features, ["predict_proba"])
        np.testing.assert_allclose(result.as_numpy("predict_proba"), model.predict_proba(features))
        with pytest.raises(
            triton.InferenceServerException, match="output 'transform' is unknown; the model gives predict"
        ):
            await infer(client, "m", features, ["transform"])
        client.close()


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample != "mnist-onnx"])
async def test_a_matrix_of_the_wrong_width_is_refused(sample: str) -> None:
    columns = 64 if sample == "mnist-svm" else 126
    async with serving(BuiltinRuntime()) as served:
        await served.spi.load(sample_info(sample))
        client = triton.InferenceServerClient(served.address)
        for bad in (np.ones((1, 3), np.float32), np.ones(columns, np.float32)):
            with pytest.raises(triton.InferenceServerException) as caught:
                await infer(client, sample, bad)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert (
                f"input 'x' has shape {list(bad.shape)}, expected [-1, {columns}]" in caught.value.message()
            )
        for fine in (np.ones((0, columns), np.float32), np.ones((3, columns), np.int64)):
            if len(fine) or sample == "mushroom-xgboost":
                assert len((await infer(client, sample, fine)).as_numpy("predict")) == len(fine)
        client.close()


async def test_onnx_inputs_are_checked_by_name_type_and_shape() -> None:
    async with serving(BuiltinRuntime()) as served:
        await served.spi.load(sample_info("mnist-onnx"))
        client = triton.InferenceServerClient(served.address)
        for tensor, array, message in (
            ("x", np.ones((1, 1, 28, 28), np.float32), "input 'x' is unknown; the model takes 'Input3'"),
            ("Input3", np.ones((1, 1, 28, 28)), "input 'Input3' is FP64, expected FP32"),
            (
                "Input3",
                np.ones((1, 784), np.float32),
                r"input 'Input3' has shape \[1, 784\], expected \[1, 1, 28, 28\]",
            ),
        ):
            with pytest.raises(triton.InferenceServerException, match=message):
                await infer(client, "mnist-onnx", array, tensor=tensor)
        client.close()
