"""The MLServer of the tests does what the tests of its adapter rely on."""

import json

import joblib
import numpy
import tritonclient.grpc
from sklearn.linear_model import LinearRegression

from tests.servers.mlserver import MLServer


def test_loads_on_request_and_forgets_over_a_restart(mlserver: MLServer) -> None:
    folder = mlserver.models / "doubles"
    folder.mkdir()
    joblib.dump(LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0]), folder / "model.joblib")
    settings = {
        "name": "doubles",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(folder / "model.joblib")},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))

    client = tritonclient.grpc.InferenceServerClient(mlserver.endpoint)
    client.load_model("doubles", client_timeout=60)
    tensor = tritonclient.grpc.InferInput("predict", [1, 1], "FP64")
    tensor.set_data_from_numpy(numpy.array([[21.0]]))
    answer = client.infer("doubles", [tensor], client_timeout=60).as_numpy("predict")
    assert answer is not None
    assert answer.ravel().round(6).tolist() == [42.0]
    client.close()

    mlserver.restart()
    with tritonclient.grpc.InferenceServerClient(mlserver.endpoint) as again:
        index = again.get_model_repository_index(client_timeout=60)
    assert {(model.name, model.state) for model in index.models} == {("doubles", "State.UNAVAILABLE")}
