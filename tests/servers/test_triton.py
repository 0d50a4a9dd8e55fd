"""The Triton of the tests does what the tests of its adapter rely on."""

import numpy
import tritonclient.grpc
from onnx import TensorProto, helper

from tests.servers.triton import TritonServer


def test_serves_onnx_without_a_configuration_and_forgets_over_a_restart(triton: TritonServer) -> None:
    doubles = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubles",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(doubles, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = triton.models / "doubles" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    with tritonclient.grpc.InferenceServerClient(triton.endpoint) as client:
        client.load_model("doubles", client_timeout=60)
        metadata = client.get_model_metadata("doubles", client_timeout=60)
        assert [(x.name, x.datatype, list(x.shape)) for x in metadata.inputs] == [("x", "FP32", [-1, 2])]
        tensor = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(numpy.array([[21, 3]], dtype=numpy.float32))
        answer = client.infer("doubles", [tensor], client_timeout=60).as_numpy("y")
        assert answer is not None
        assert answer.tolist() == [[42, 6]]

    triton.restart()
    with tritonclient.grpc.InferenceServerClient(triton.endpoint) as client:
        assert not client.is_model_ready("doubles", client_timeout=60)
