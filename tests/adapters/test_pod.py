"""A pod as Kubernetes would run it: ``mesh serve`` with puller and adapter, a model server, storage, a registry."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from mesh.protos import model_mesh_pb2 as api
from tests.adapters.samples import LIGHTGBM, ONNX, SVM, XGBOOST, Sample
from tests.instance.meshes import Client, eventually
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer
from tests.servers.mlserver import MLServer
from tests.servers.s3 import S3Server
from tests.servers.triton import TritonServer


class Pod:
    """One instance beside a model server, with S3 as the storage ``minio`` and a claim ``claim``."""

    def __init__(
        self, folder: Path, etcd: EtcdServer, s3: S3Server, adapter: str, models: Path, port: int
    ) -> None:
        self.root = models.parent
        self.claim = folder / "pvc" / "claim"
        self.claim.mkdir(parents=True)
        (folder / "storage").mkdir()
        (folder / "storage" / "minio").write_text(json.dumps(s3.storage_config(default_bucket="models")))
        self.instance = InstanceProcess(
            etcd.kv_store,
            folder,
            MESH_ADAPTER=adapter,
            RUNTIME_PORT=str(port),
            CONTAINER_MEM_REQ_BYTES=str(1 << 30),
            LOADTIME_TIMEOUT="60000",
            ROOT_MODEL_DIR=str(self.root),
            USE_EMBEDDED_PULLER="true",
            STORAGE_CONFIG_DIR=str(folder / "storage"),
            PVC_MOUNTS_DIR=str(folder / "pvc"),
        )
        self.address = f"127.0.0.1:{self.instance.port}"

    @contextmanager
    def running(self) -> Iterator["Pod"]:
        try:
            self.instance.mesh.start()
            self.instance.wait_until_ready()
            yield self
        finally:
            self.instance.stop()

    def data(self) -> list[str]:
        """The models whose data is here."""
        return sorted(marker.parent.name for marker in self.root.glob("*/.mesh-pulled"))

    async def check(self, sample: Sample, model_id: str) -> None:
        await sample.check(self.address, model_id, mm_model_id=model_id)


@pytest.fixture
def mlserver_pod(tmp_path: Path, etcd: EtcdServer, s3: S3Server, mlserver: MLServer) -> Iterator[Pod]:
    with Pod(tmp_path, etcd, s3, "mlserver", mlserver.models, mlserver.grpc_port).running() as pod:
        yield pod


@pytest.fixture
def triton_pod(tmp_path: Path, etcd: EtcdServer, s3: S3Server, triton: TritonServer) -> Iterator[Pod]:
    with Pod(tmp_path, etcd, s3, "triton", triton.models, triton.grpc_port).running() as pod:
        yield pod


def key(sample: Sample, **more: object) -> str:
    return json.dumps({"model_type": {"name": sample.format}, "storage_key": "minio", **more})


async def test_models_of_three_formats_are_pulled_loaded_and_asked(mlserver_pod: Pod, s3: S3Server) -> None:
    samples = {"svm": SVM, "xgboost": XGBOOST, "lightgbm": LIGHTGBM}
    s3.put("models", {f"fvt/{name}/{one.file}": one.path.read_bytes() for name, one in samples.items()})
    client = mlserver_pod.instance.client()
    for name, sample in samples.items():
        await client.register(name, model_type=f"rt:{sample.format}", path=f"fvt/{name}", key=key(sample))
    # Nothing is fetched before it is asked for.
    assert mlserver_pod.data() == []
    for name, sample in samples.items():
        await mlserver_pod.check(sample, name)
    assert mlserver_pod.data() == ["lightgbm", "svm", "xgboost"]
    for name in samples:
        await client.unregister(name)
    await eventually(lambda: mlserver_pod.data() == [])


async def test_a_model_on_a_claim_is_linked(mlserver_pod: Pod) -> None:
    XGBOOST.copy_to(mlserver_pod.claim / "models")
    pvc = json.dumps({"model_type": "xgboost", "storage_params": {"type": "pvc", "name": "claim"}})
    client = mlserver_pod.instance.client()
    status = await client.register("linked", path="models/model.json", key=pvc, load=True, sync=True)
    assert status.status == api.ModelStatusInfo.LOADED
    await mlserver_pod.check(XGBOOST, "linked")
    assert (mlserver_pod.root / "linked" / "model.json").is_symlink()
    await client.unregister("linked")
    await eventually(lambda: mlserver_pod.data() == [])
    assert (mlserver_pod.claim / "models" / "model.json").exists()


@pytest.mark.parametrize(
    ("path", "more", "reason"),
    [
        ("not/there", {}, "there is no object 'not/there'"),
        ("m", {"storage_key": "nope"}, "Did not find storage config for key nope"),
        ("m", {"storage_key": None}, "Predictor Storage field missing"),
        ("../m", {}, "contains '..'"),
    ],
)
async def test_who_waits_for_a_model_that_cannot_be_pulled_is_told_why(
    mlserver_pod: Pod, s3: S3Server, path: str, more: dict[str, object], reason: str
) -> None:
    s3.put("models", {"m": b"x"})
    client = mlserver_pod.instance.client()
    status = await client.register("bad", path=path, key=key(SVM, **more), load=True, sync=True)
    assert status.status == api.ModelStatusInfo.LOADING_FAILED
    assert any(reason in error for error in status.errors)
    with pytest.raises(InferenceServerException) as raised:
        await mlserver_pod.check(SVM, "bad")
    assert reason in str(raised.value.message())
    assert mlserver_pod.data() == []


async def test_a_killed_instance_starts_clean_and_serves_again(mlserver_pod: Pod, s3: S3Server) -> None:
    s3.put("models", {"one.json": XGBOOST.path.read_bytes(), "two.json": XGBOOST.path.read_bytes()})
    client = mlserver_pod.instance.client()
    for name in ("one", "two"):
        await client.register(name, path=f"{name}.json", key=key(XGBOOST), load=True, sync=True)
    mlserver_pod.instance.mesh.kill()
    # As if it had been killed in the middle of a pull.
    half = mlserver_pod.root / ".mesh-puller" / "pull-77"
    half.mkdir(parents=True)
    (half / "part").write_bytes(b"half")
    mlserver_pod.instance.mesh.start()
    mlserver_pod.instance.wait_until_ready()
    assert not half.exists()
    await mlserver_pod.check(XGBOOST, "one")
    assert mlserver_pod.data() in (["one"], ["one", "two"])


async def test_triton_serves_a_repository_from_s3(triton_pod: Pod, s3: S3Server) -> None:
    s3.put("models", {"onnx/mnist/1/model.onnx": ONNX.path.read_bytes()})
    client: Client = triton_pod.instance.client()
    await client.register("mnist", model_type="onnx", path="onnx/mnist", key=key(ONNX), load=True, sync=True)
    await triton_pod.check(ONNX, "mnist")
    assert triton_pod.data() == ["mnist"]
    await client.unregister("mnist")
    await eventually(lambda: triton_pod.data() == [])
