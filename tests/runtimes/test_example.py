"""The runtime in ten lines, run as its reader would."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from mesh.runtimes import ModelInfo, RuntimeEndpoints, SpiRuntime

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_runtime.py"


def test_the_documentation_shows_the_example_as_it_is() -> None:
    code = EXAMPLE.read_text().partition('"""\n\n')[2].strip()
    assert code in (EXAMPLE.parents[1] / "docs" / "runtimes.md").read_text()


async def test_the_example_serves_its_format(tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text(json.dumps({"weights": [1, 10], "bias": 100}))
    command = [sys.executable, str(EXAMPLE), "--port", "0", "--capacity", "64MiB"]
    child = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    address = (await asyncio.to_thread(child.stdout.readline)).strip().rpartition(" ")[2]
    runtime = SpiRuntime(RuntimeEndpoints((address,)))
    parameters = await runtime.start()
    assert parameters.capacity_bytes == 64 << 20
    loaded = await runtime.load(ModelInfo("line", path=str(tmp_path / "line.json")))
    assert 0 < loaded.size_bytes < 1 << 20
    client = triton.InferenceServerClient(address)
    given = triton.InferInput("x", [2, 2], "FP64")
    given.set_data_from_numpy(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert client.infer("line", [given]).as_numpy("y").tolist() == [121, 143]
    wrong = triton.InferInput("z", [2], "FP64")
    wrong.set_data_from_numpy(np.ones(2))
    with pytest.raises(triton.InferenceServerException, match="KeyError: 'x'"):
        client.infer("line", [wrong])
    client.close()
    await runtime.close()
    child.terminate()
    assert child.wait(20) == 0
    child.stdout.close()
