"""From ``kubectl apply`` to a right answer, and to nothing left."""

import pytest

from tests.adapters.samples import SVM, XGBOOST
from tests.kubelet.installation import Namespace, inference_service, runtime

pytestmark = pytest.mark.timeout(300)


async def test_what_is_applied_answers_and_what_is_deleted_is_gone(namespace: Namespace) -> None:
    claim = namespace.claim("team")
    SVM.copy_to(claim / "digits")
    namespace.installation.s3.put(namespace.name, {"mushrooms/1/model.json": XGBOOST.path.read_bytes()})
    served = runtime("built-in", "mesh-runtime", "sklearn", "--capacity", "64MiB")
    served["spec"]["supportedModelFormats"].append({"name": "xgboost", "autoSelect": True})
    namespace.apply(
        served,
        inference_service("digits", "sklearn", storageUri="pvc://team/digits/model.joblib"),
        inference_service("mushrooms", "xgboost", storage={"key": "minio", "path": "mushrooms/1/model.json"}),
    )
    await namespace.until_ready("digits")
    await namespace.until_ready("mushrooms")
    await namespace.until(lambda: len(namespace.addresses()) == 1, "an endpoint of the Service")
    [address] = namespace.addresses()
    await SVM.check(address, "digits")
    await XGBOOST.check(address, "mushrooms")

    for name in ("digits", "mushrooms"):
        namespace.delete("inferenceservice", name)
    namespace.delete("servingruntime", "built-in")
    await namespace.until(lambda: not namespace.all("deployments,pods"), "no pods")
