"""Promises to the programs that ask: which clients, ids and methods do, and what bad input is told."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from mesh.protos import inference_pb2 as pb
from mesh.protos import model_mesh_pb2 as api
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.adapters.samples import ONNX, SVM, XGBOOST
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import CALL_S, User

pytestmark = pytest.mark.timeout(300)

SVM_CASE = json.loads((SVM.path.parent / "case.json").read_text())["cases"][0]
DATA: list[float] = SVM_CASE["inputs"][0]["data"]
ANSWER: list[int] = SVM_CASE["outputs"][0]["data"]


@pytest.fixture
async def user(builtin_mesh: list[Pod], storage: Storage) -> AsyncIterator[User]:
    """Has the scikit-learn sample as ``digit`` and the ONNX one as ``image``."""
    async with User(builtin_mesh[0]) as user:
        await user.register("digit", SVM.format, storage.put(SVM, "digit"))
        await user.register("image", ONNX.format, storage.put(ONNX, "image"))
        yield user


def request(name: str = "digit") -> pb.ModelInferRequest:
    """The sample's case as a bare message."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="predict", datatype="FP32", shape=[1, 64])
    tensor.contents.fp32_contents.extend(DATA)
    return pb.ModelInferRequest(model_name=name, inputs=[tensor])


def stub_of(channel: grpc.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)  # type: ignore[arg-type] # typed for asyncio only


def answer_of(reply: pb.ModelInferResponse) -> list[int]:
    if reply.raw_output_contents:
        values: list[int] = numpy.frombuffer(reply.raw_output_contents[0], numpy.int64).tolist()
        return values
    return list(reply.outputs[0].contents.int64_contents)


def tensor(name: str, shape: Sequence[int], datatype: str = "FP32") -> tritonclient.grpc.InferInput:
    made = tritonclient.grpc.InferInput(name, list(shape), datatype)
    made.set_data_from_numpy(numpy.zeros(shape, triton_to_np_dtype(datatype)))
    return made


def case() -> tritonclient.grpc.InferInput:
    given = tritonclient.grpc.InferInput("predict", [1, 64], "FP32")
    given.set_data_from_numpy(numpy.array([DATA], numpy.float32))
    return given


async def test_the_synchronous_triton_client(builtin_mesh: list[Pod], user: User) -> None:
    for pod in builtin_mesh:
        with tritonclient.grpc.InferenceServerClient(pod.address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            reply = client.infer("digit", [case()], headers={"mm-model-id": "digit"}, client_timeout=CALL_S)
            found = reply.as_numpy("predict")
            assert found is not None
            assert found.ravel().tolist() == ANSWER


async def test_plain_grpc(builtin_mesh: list[Pod], user: User) -> None:
    for pod in builtin_mesh:
        with grpc.insecure_channel(pod.address) as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            raw = infer(request("").SerializeToString(), metadata=[("mm-model-id", "digit")], timeout=CALL_S)
            reply = pb.ModelInferResponse.FromString(raw)
        assert reply.model_name == "digit"
        assert answer_of(reply) == ANSWER


PLAIN_IDS = {"signs": "with space/and slash?", "long": "x" * 200}


@pytest.mark.parametrize("model", ["приклад-数字-é", *PLAIN_IDS.values()], ids=["unicode", *PLAIN_IDS])
async def test_any_id_may_be_given_in_binary_metadata(
    builtin_mesh: list[Pod], storage: Storage, model: str
) -> None:
    await _ask_by_binary_id(builtin_mesh, storage, model)


@pytest.mark.parametrize("model", PLAIN_IDS.values(), ids=PLAIN_IDS)
async def test_an_id_may_be_what_no_directory_is_called(
    mlserver_mesh: list[Pod], storage: Storage, model: str
) -> None:
    await _ask_by_binary_id(mlserver_mesh, storage, model)


async def _ask_by_binary_id(mesh: list[Pod], storage: Storage, model: str) -> None:
    headers = {"mm-model-id-bin": model.encode()}
    async with User(mesh[0]) as user:
        await user.register(model, SVM.format, storage.put(SVM, "named"))
        for pod in mesh:
            with tritonclient.grpc.InferenceServerClient(pod.address) as client:
                reply = client.infer(model, [case()], headers=headers, client_timeout=CALL_S)
                found = reply.as_numpy("predict")
                assert found is not None
                assert found.ravel().tolist() == ANSWER


async def test_an_id_that_mlserver_cannot_answer_for_is_refused(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    async with User(mlserver_mesh[0]) as user:
        status = await user.register("modèle", SVM.format, storage.put(SVM, "named"), load=True)
        assert status.status == api.ModelStatusInfo.LOADING_FAILED
        assert any("'modèle'" in error and "ASCII" in error for error in status.errors)


@pytest.mark.parametrize("place", [1, 2], ids=["beside a model server", "router"])
async def test_the_id_inside_the_message(builtin_mesh: list[Pod], user: User, place: int) -> None:
    address = builtin_mesh[place].address
    # An unmodified client: no metadata at all.
    await SVM.check(address, "digit")
    await ONNX.check(address, "image")
    with grpc.insecure_channel(address) as channel:
        stub = stub_of(channel)
        assert answer_of(stub.ModelInfer(request(), timeout=CALL_S)) == ANSWER
        # Other methods were allowed, and want the id in metadata.
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelMetadata(pb.ModelMetadataRequest(name="digit"), timeout=CALL_S)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "mm-model-id" in str(raised.value.details())


async def test_without_an_id_the_caller_is_told_how_to_give_one(builtin_mesh: list[Pod], user: User) -> None:
    with grpc.insecure_channel(builtin_mesh[0].address) as channel, pytest.raises(grpc.RpcError) as raised:
        stub_of(channel).ModelInfer(request(), timeout=CALL_S)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "mm-model-id" in str(raised.value.details())


async def test_metadata_and_readiness_of_a_model(builtin_mesh: list[Pod], user: User) -> None:
    headers = {"mm-model-id": "image"}
    for pod in builtin_mesh:
        with tritonclient.grpc.InferenceServerClient(pod.address) as client:
            metadata = client.get_model_metadata("image", headers=headers, client_timeout=CALL_S)
            assert metadata.name == "image"
            assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
                ("Input3", "FP32", [1, 1, 28, 28])
            ]
            assert [one.name for one in metadata.outputs] == ["Plus214_Output_0"]
            assert client.is_model_ready("image", headers=headers, client_timeout=CALL_S)


async def test_metadata_of_a_model_of_mlserver(mlserver_mesh: list[Pod], storage: Storage) -> None:
    headers = {"mm-model-id": "told"}
    async with User(mlserver_mesh[0]) as user:
        await user.register("told", XGBOOST.format, storage.put(XGBOOST, "told"))
        for pod in mlserver_mesh:
            with tritonclient.grpc.InferenceServerClient(pod.address) as client:
                assert (
                    client.get_model_metadata("told", headers=headers, client_timeout=CALL_S).name == "told"
                )
                # A method that KServe's adapter does not allow either.
                with pytest.raises(InferenceServerException, match="ModelReady") as raised:
                    client.is_model_ready("told", headers=headers, client_timeout=CALL_S)
                assert str(raised.value.status()) == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (tensor("Input4", (1, 1, 28, 28)), ["Input4", "Input3"]),
        (tensor("Input3", (1, 3)), ["Input3", "[1, 3]", "28"]),
        (tensor("Input3", (1, 1, 28, 28), "INT64"), ["Input3", "INT64", "FP32"]),
    ],
    ids=["name", "shape", "datatype"],
)
async def test_input_that_does_not_fit_is_refused_by_name(
    builtin_mesh: list[Pod], user: User, given: tritonclient.grpc.InferInput, told: list[str]
) -> None:
    for pod in builtin_mesh:
        with (
            tritonclient.grpc.InferenceServerClient(pod.address) as client,
            pytest.raises(InferenceServerException) as raised,
        ):
            client.infer("image", [given], headers={"mm-model-id": "image"}, client_timeout=CALL_S)
        assert str(raised.value.status()) == "StatusCode.INVALID_ARGUMENT"
        for word in told:
            assert word in str(raised.value.message())
        # And the model is served on.
        await ONNX.check(pod.address, "image", mm_model_id="image")
