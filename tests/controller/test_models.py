"""Models in a real cluster: from the resource to the mesh, and from the mesh to its status."""

import asyncio
from typing import Any

import grpc
import pytest
import trustme

from mesh.controller import dispatch
from mesh.controller.cluster import DEPLOYMENTS, INFERENCE_SERVICES, PREDICTORS
from mesh.controller.predictors import model_id, read_inference_service, read_predictor
from mesh.controller.settings import Switch
from mesh.protos import model_mesh_pb2 as api
from tests.controller.stage import Stage, flat_status, inference_service, predictor, secret, serving_runtime
from tests.instance.meshes import Client

pytestmark = pytest.mark.asyncio
UP_TO_DATE = {"transition": "UpToDate", "target": "", "reason": None}
MODE = "serving.kserve.io/deploymentMode"


async def running(stage: Stage) -> Client:
    await stage.create(serving_runtime())
    await stage.start_controller()
    return await stage.start_mesh()


def id_of(resource: dict[str, Any]) -> str:
    read = read_predictor if resource["kind"] == "Predictor" else read_inference_service
    return model_id(read({**resource, "metadata": {"namespace": "any", **resource["metadata"]}}))


def with_path(path: str) -> dict[str, Any]:
    return {"spec": {"predictor": {"model": {"storage": {"path": path}}}}}


async def until_unknown(stage: Stage, client: Client, name: str, owner: str = "isvc") -> None:
    async def unknown() -> bool:
        answer = await client.vmodel_status(name, owner)
        return answer.status == api.VModelStatusInfo.NOT_FOUND

    await stage.until(unknown, f"vmodel {name} gone")


async def test_a_model_is_loaded_changed_and_deleted(stage: Stage) -> None:
    client = await running(stage)
    await stage.create(inference_service("m"))
    loaded = await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", available=True, **UP_TO_DATE)
    status = loaded["status"]
    address = f"grpc://modelmesh-serving.{stage.namespace}:8033"
    rest = f"http://modelmesh-serving.{stage.namespace}:8008"
    assert status["url"] == address
    assert status["components"]["predictor"] == {"url": address, "grpcUrl": address, "restUrl": rest}
    assert {one["type"] for one in status["conditions"]} == {"PredictorReady", "Ready"}
    first = (await client.infer_vmodel("m")).split(b":")[0].decode()
    assert first == id_of(inference_service("m"))
    # A new path is a new model, which takes over once it is loaded.
    second = id_of(inference_service("m", "q"))
    stage.runtime.load_delay_s = 1.0
    await stage.change(INFERENCE_SERVICES, "m", with_path("q"))
    await stage.until_status(
        INFERENCE_SERVICES, "m", transition="InProgress", active="Loaded", target="Loading", available=True
    )
    assert (await client.infer_vmodel("m")).startswith(first.encode())
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", **UP_TO_DATE)
    assert (await client.infer_vmodel("m")).startswith(second.encode())
    await stage.until_event("m", "ModelLoaded")
    await stage.delete(INFERENCE_SERVICES, "m")
    await until_unknown(stage, client, "m")
    await stage.until(lambda: not stage.runtime.loaded, "all unloaded")


async def test_a_load_that_fails_is_told_and_blocks_a_transition(stage: Stage) -> None:
    client = await running(stage)
    for path in ("bad", "worse"):
        refusal = (grpc.StatusCode.INVALID_ARGUMENT, f"{path} is no model")
        stage.runtime.refuse[id_of(inference_service("m", path))] = refusal
    await stage.create(inference_service("m", "bad"))
    failed = await stage.until_status(
        INFERENCE_SERVICES, "m", active="FailedToLoad", reason="ModelLoadFailed", available=False
    )
    told = flat_status(failed)
    assert "bad is no model" in told["message"]
    assert told["model"] == id_of(inference_service("m", "bad"))
    assert (told["total"], told["failed"]) == (1, 1)
    assert failed["status"]["modelStatus"]["lastFailureInfo"]["time"]
    assert "url" not in failed["status"]
    # With nothing that serves, a new model takes the place at once.
    await stage.change(INFERENCE_SERVICES, "m", with_path("good"))
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", available=True, **UP_TO_DATE)
    await stage.change(INFERENCE_SERVICES, "m", with_path("worse"))
    blocked = await stage.until_status(
        INFERENCE_SERVICES,
        "m",
        transition="BlockedByFailedLoad",
        active="Loaded",
        target="FailedToLoad",
        available=True,
        reason="ModelLoadFailed",
    )
    assert flat_status(blocked)["model"] == id_of(inference_service("m", "worse"))
    assert (await client.infer_vmodel("m")).startswith(id_of(inference_service("m", "good")).encode())
    await stage.until_event("m", "ModelLoadFailed", "worse is no model")


async def test_a_predictor_has_its_defaults_and_its_deprecated_fields(stage: Stage) -> None:
    client = await running(stage)
    created = await stage.create(predictor("p"))
    assert created["status"] == {
        "transitionStatus": "UpToDate",
        "activeModelState": "Pending",
        "targetModelState": "",
        "available": False,
        "failedCopies": 0,
        "totalCopies": 0,
    }
    old = predictor("old")
    old["spec"] = {
        "modelType": {"name": "ml"},
        "path": "p",
        "storage": {"s3": {"secretKey": "k", "bucket": "b"}},
    }
    await stage.create(old)
    for resource in (predictor("p"), old):
        name = resource["metadata"]["name"]
        loaded = await stage.until_status(PREDICTORS, name, active="Loaded", available=True, **UP_TO_DATE)
        assert loaded["status"]["grpcEndpoint"].startswith("grpc://modelmesh-serving.")
        assert loaded["status"]["httpEndpoint"].startswith("http://modelmesh-serving.")
        assert (await client.infer_vmodel(name)).startswith(id_of(resource).encode())
    both = {"spec": {"path": "a", "storage": {"path": "b"}}}
    await stage.change(PREDICTORS, "p", both)
    invalid = await stage.until_status(
        PREDICTORS,
        "p",
        transition="InvalidSpec",
        reason="InvalidPredictorSpec",
        active="Loaded",
        available=True,
    )
    assert flat_status(invalid)["message"] == "Only one of spec.path and spec.storage.path can be specified"
    assert (await client.infer_vmodel("p")).startswith(id_of(predictor("p")).encode())
    await stage.delete(PREDICTORS, "p")
    await until_unknown(stage, client, "p", "ksp")


async def test_what_is_written_wrongly_is_told_and_can_be_set_right(stage: Stage) -> None:
    await running(stage)
    wrong = inference_service("m")
    wrong["spec"]["predictor"]["model"]["storageUri"] = "s3://b/p"
    await stage.create(wrong)
    await stage.create(inference_service("policy", min_copies="many"))
    told = await stage.until_status(
        INFERENCE_SERVICES, "m", transition="InvalidSpec", reason="InvalidPredictorSpec", available=False
    )
    assert "storageUri" in flat_status(told)["message"]
    told = await stage.until_status(INFERENCE_SERVICES, "policy", transition="InvalidSpec")
    assert "modelmesh.serving.kserve.io/min-copies" in flat_status(told)["message"]
    await stage.until_event("policy", "InvalidPredictorSpec", "min-copies")
    await stage.change(INFERENCE_SERVICES, "m", {"spec": {"predictor": {"model": {"storageUri": None}}}})
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", available=True, **UP_TO_DATE)


async def test_a_model_that_no_runtime_supports_says_so(stage: Stage) -> None:
    await running(stage)
    unknown, pinned = inference_service("unknown"), inference_service("pinned")
    unknown["spec"]["predictor"]["model"]["modelFormat"]["name"] = "other"
    pinned["spec"]["predictor"]["model"]["runtime"] = "nothing"
    await stage.create(unknown)
    await stage.create(pinned)
    failed = {"active": "FailedToLoad", "available": False}
    await stage.until_status(
        INFERENCE_SERVICES,
        "unknown",
        reason="NoSupportingRuntime",
        message="No ServingRuntime supports specified model type and/or protocol",
        **failed,
    )
    await stage.until_status(
        INFERENCE_SERVICES,
        "pinned",
        reason="RuntimeNotRecognized",
        message="Specified runtime name not recognized",
        **failed,
    )


async def test_a_status_that_says_how_it_is_is_not_written_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_ONLY_STATUS_S", 0.1)
    await running(stage)
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no model")
    stage.runtime.refuse[id_of(inference_service("bad"))] = refusal
    unknown = inference_service("unknown")
    unknown["spec"]["predictor"]["model"]["modelFormat"]["name"] = "other"
    for resource in (unknown, inference_service("bad"), inference_service("good")):
        await stage.create(resource)
    await stage.until_status(INFERENCE_SERVICES, "good", active="Loaded")
    for name in ("unknown", "bad"):
        await stage.until_status(INFERENCE_SERVICES, name, active="FailedToLoad")

    async def versions() -> list[str]:
        found = await stage.call("GET", INFERENCE_SERVICES.path(stage.namespace))
        return [one["metadata"]["resourceVersion"] for one in found["items"]]

    await asyncio.sleep(1.5)
    before = await versions()
    await asyncio.sleep(1.5)
    assert await versions() == before


async def test_models_wait_for_pods_and_are_loaded_when_there_are_some(stage: Stage) -> None:
    await stage.start_controller()
    await stage.create(inference_service("m"))
    await stage.create(predictor("p"))
    waiting = {"reason": "RuntimeUnhealthy", "message": "Waiting for runtime Pod to become available"}
    await stage.until_status(INFERENCE_SERVICES, "m", **waiting)
    await stage.until_status(PREDICTORS, "p", active="Pending", available=False, **waiting)
    await stage.create(serving_runtime())
    await stage.start_mesh()
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", available=True, **UP_TO_DATE)
    await stage.until_status(PREDICTORS, "p", active="Loaded", available=True, **UP_TO_DATE)


async def test_of_two_resources_with_one_name_the_first_serves(stage: Stage) -> None:
    client = await running(stage)
    await stage.create(inference_service("m"))
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded")
    await stage.create(predictor("m"))
    await stage.until_status(
        PREDICTORS,
        "m",
        reason="InvalidPredictorSpec",
        message="Predictor already exists with the same name from a different source",
        available=False,
    )
    await stage.delete(PREDICTORS, "m")
    assert (await client.infer_vmodel("m")).startswith(b"m__isvc-")
    assert (await client.vmodel_status("m", "isvc")).status == api.VModelStatusInfo.DEFINED


async def test_annotations_set_policies_and_give_a_model_away(stage: Stage) -> None:
    client = await running(stage)
    model = id_of(inference_service("m"))
    await stage.create(inference_service("m", min_copies="2", pinned="true", priority="3", idle_ttl="30m"))

    async def policy() -> Any:
        return (await client.describe(model)).policy

    async def is_set() -> bool:
        found = await policy()
        return (found.min_copies, found.pinned, found.priority, found.idle_ttl_ms) == (2, True, 3, 1_800_000)

    await stage.until(is_set, "the policy")
    # The policy is not part of what is served: the model stays the same one.
    gone = {
        f"modelmesh.serving.kserve.io/{name}": None
        for name in ("min-copies", "pinned", "priority", "idle-ttl")
    }
    await stage.stop_controller()
    await stage.change(INFERENCE_SERVICES, "m", {"metadata": {"annotations": gone}})
    await stage.start_controller()

    async def is_default() -> bool:
        found = await policy()
        return (found.min_copies, found.pinned, found.priority, found.idle_ttl_ms) == (0, False, 0, 0)

    await stage.until(is_default, "the default policy")
    assert stage.mesh.loads(model) == 1
    await stage.change(INFERENCE_SERVICES, "m", {"metadata": {"annotations": {MODE: "Serverless"}}})
    await until_unknown(stage, client, "m")
    assert await stage.read(INFERENCE_SERVICES, "m") is not None


async def test_what_others_write_into_a_status_stays(stage: Stage) -> None:
    await running(stage)
    await stage.create(inference_service("m"))
    loaded = await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded")
    theirs = {"type": "TransformerReady", "status": "True"}
    status = {
        "conditions": [*loaded["status"]["conditions"], theirs],
        "components": {"transformer": {"url": "http://t"}},
        "address": {"url": "http://a"},
    }
    await stage.change(INFERENCE_SERVICES, "m", {"status": status}, "status")
    await stage.change(INFERENCE_SERVICES, "m", with_path("q"))
    await stage.until(lambda: len(stage.runtime.loads) == 2, "the second model")
    after = (await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", **UP_TO_DATE))["status"]
    assert theirs in after["conditions"]
    assert after["components"]["transformer"] == {"url": "http://t"}
    assert after["address"] == {"url": "http://a"}
    before = {one["type"]: one.get("lastTransitionTime") for one in loaded["status"]["conditions"]}
    now = {one["type"]: one.get("lastTransitionTime") for one in after["conditions"]}
    assert now["Ready"] == before["Ready"]


async def test_the_registry_tells_of_vmodels_that_are_not_as_they_should_be(stage: Stage) -> None:
    await stage.configure(podsPerRuntime=0)
    client = await running(stage)
    await stage.create(inference_service("m"))
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded")
    # Deleted behind the controller's back: it comes again. Made behind its back: it goes.
    await client.delete_vmodel("m", "isvc")

    async def again() -> bool:
        return (await client.vmodel_status("m", "isvc")).status == api.VModelStatusInfo.DEFINED

    await stage.until(again, "the vmodel")
    info = api.ModelInfo(type="mt:ml", path="p")
    await client.set_vmodel("orphan", "orphan__isvc-0123456789", info=info, owner="isvc")
    await client.set_vmodel("others", "others", info=info, owner="others")
    await until_unknown(stage, client, "orphan")
    # What was left while no controller ran goes when one starts.
    await stage.stop_controller()
    await client.set_vmodel("orphan", "orphan__ksp-0123456789", info=info, owner="ksp")
    await stage.delete(INFERENCE_SERVICES, "m")
    await stage.start_controller()
    await until_unknown(stage, client, "orphan", "ksp")
    await until_unknown(stage, client, "m")
    assert (await client.vmodel_status("others", "others")).status == api.VModelStatusInfo.DEFINED
    # So it does where no pod was ready at that time.
    await stage.stop_controller()
    await client.set_vmodel("orphan", "orphan__isvc-0123456789", info=info, owner="isvc")
    await stage.configure(modelMeshEndpoint="")
    controller = await stage.start_controller()
    await stage.until(lambda: controller.queues["predictor"].done, "a look at the orphan")
    await stage.configure(modelMeshEndpoint=client.address)
    await until_unknown(stage, client, "orphan")


async def test_a_mesh_that_speaks_tls_only_is_asked_by_its_certificates(stage: Stage) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert(f"modelmesh-serving.{stage.namespace}")
    key, chain, ca = (
        pem.bytes().decode() for pem in (leaf.private_key_pem, leaf.cert_chain_pems[0], authority.cert_pem)
    )
    server = grpc.aio.server()
    set_vmodel = grpc.unary_unary_rpc_method_handler(
        _always_loaded,
        request_deserializer=api.SetVModelRequest.FromString,
        response_serializer=api.VModelStatusInfo.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler("mmesh.ModelMesh", {"setVModel": set_vmodel})
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials(
        [(key.encode(), chain.encode())], ca.encode(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    await stage.configure(
        modelMeshEndpoint=f"127.0.0.1:{port}", tls={"secretName": "certificates", "clientAuth": "require"}
    )
    await stage.create(serving_runtime())
    await stage.create(inference_service("m"))
    await stage.start_controller()
    # The Secret comes later than what needs it.
    await stage.create(secret("certificates", **{"tls.crt": chain, "tls.key": key, "ca.crt": ca}))
    loaded = await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded", available=True)
    assert loaded["status"]["components"]["predictor"]["restUrl"].startswith("https://")
    deployment = await stage.until_object(DEPLOYMENTS, "modelmesh-serving-rt")
    mm = next(one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "mm")
    trusted = next(item["value"] for item in mm["env"] if item["name"] == "MM_TLS_TRUST_CERT_PATH")
    assert trusted.endswith("ca.crt")
    await stage.stop_controller()
    await server.stop(None)


async def _always_loaded(request: api.SetVModelRequest, _: Any) -> api.VModelStatusInfo:
    model = request.targetModelId
    return api.VModelStatusInfo(
        status=api.VModelStatusInfo.DEFINED,
        activeModelId=model,
        targetModelId=model,
        activeModelStatus=api.ModelStatusInfo(status=api.ModelStatusInfo.LOADED),
    )


async def test_kinds_can_be_switched_off(stage: Stage) -> None:
    client = await running(stage)
    await stage.stop_controller()
    await stage.create(inference_service("m"))
    await stage.create(predictor("p"))
    await stage.start_controller(inference_services=Switch.OFF)
    await stage.until_status(PREDICTORS, "p", active="Loaded")
    assert flat_status(await stage.read(INFERENCE_SERVICES, "m"))["active"] is None
    assert (await client.vmodel_status("m", "isvc")).status == api.VModelStatusInfo.NOT_FOUND
    await stage.stop_controller()
    await stage.start_controller(inference_services=Switch.ON)
    await stage.until_status(INFERENCE_SERVICES, "m", active="Loaded")


async def test_a_controller_that_starts_again_writes_nothing(stage: Stage) -> None:
    await running(stage)
    names = [f"m{i}" for i in range(5)]
    for name in names:
        await stage.create(inference_service(name))
    for name in names:
        await stage.until_status(INFERENCE_SERVICES, name, active="Loaded", **UP_TO_DATE)
    await asyncio.sleep(1)
    before = await stage.call("GET", INFERENCE_SERVICES.path(stage.namespace))
    await stage.stop_controller()
    loads = sum(stage.runtime.loads.values())
    controller = await stage.start_controller()
    await stage.until(lambda: controller.queues["predictor"].done >= len(names), "all looked at")
    after = await stage.call("GET", INFERENCE_SERVICES.path(stage.namespace))
    assert after["items"] == before["items"]
    assert sum(stage.runtime.loads.values()) == loads
