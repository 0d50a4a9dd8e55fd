"""The sample models, and asking a server for what they answer."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import tritonclient.grpc.aio
from tritonclient.utils import triton_to_np_dtype

MODELS = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class Sample:
    """One sample model.

    Attributes:
        folder: with the model and its ``case.json``.
        file: of the model, in the folder.
    """

    folder: str
    file: str

    @property
    def path(self) -> Path:
        return MODELS / self.folder / self.file

    @property
    def format(self) -> str:
        return str(self._description()["model_format"])

    @property
    def key(self) -> str:
        """As the puller hands it to an adapter."""
        return json.dumps({"model_type": {"name": self.format}, "disk_size_bytes": self.path.stat().st_size})

    def copy_to(self, folder: Path, name: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.path, folder / (name or self.file)))

    async def check(self, address: str, model_id: str, **metadata: str) -> None:
        """Asks a server for the sample's cases and compares the answers."""
        headers = {name.replace("_", "-"): value for name, value in metadata.items()}
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            for case in self._description()["cases"]:
                answer = await client.infer(
                    model_id, [_tensor(one) for one in case["inputs"]], client_timeout=30, headers=headers
                )
                for output in case.get("outputs", ()):
                    found = _output(answer, output["name"])
                    wanted = numpy.array(output["data"])
                    assert numpy.allclose(found, wanted, atol=max(output["tolerance"], 1e-6), rtol=1e-5)
                if "argmax" in case:
                    assert _output(answer, answer.get_response().outputs[0].name).argmax() == case["argmax"]

    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads((MODELS / self.folder / "case.json").read_text())
        return description


def _output(answer: tritonclient.grpc.InferResult, name: str) -> "numpy.ndarray[Any, Any]":
    found = answer.as_numpy(name)
    assert found is not None
    return numpy.asarray(found).ravel()


def _tensor(described: dict[str, Any]) -> tritonclient.grpc.InferInput:
    tensor = tritonclient.grpc.InferInput(described["name"], described["shape"], described["datatype"])
    data = numpy.array(described["data"], dtype=triton_to_np_dtype(described["datatype"]))
    tensor.set_data_from_numpy(data.reshape(described["shape"]))
    return tensor


SVM = Sample("mnist-svm", "model.joblib")
XGBOOST = Sample("mushroom-xgboost", "model.json")
LIGHTGBM = Sample("mushroom-lightgbm", "model.bst")
ONNX = Sample("mnist-onnx", "model.onnx")
