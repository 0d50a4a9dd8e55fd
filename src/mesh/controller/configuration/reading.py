"""Reads the configuration: built-in defaults, the defaults file, and the user's ConfigMap, in this order."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mesh.controller.configuration.values import Configuration, Image, Metrics, Resources, RestProxy, Tls
from mesh.controller.quantities import InvalidQuantity, parse_quantity


class InvalidConfiguration(ValueError):
    """The configuration cannot be used. The message names the key, the value and the remedy."""


#: Defaults as in KServe ModelMesh, but for the images and for what the mesh's container needs.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "inferenceServiceName": "modelmesh-serving",
        "inferenceServicePort": 8033,
        "podsPerRuntime": 2,
        "headlessService": True,
        "storageSecretName": "storage-config",
        "serviceAccountName": "",
        "enableAccessLogging": False,
        "grpcMaxMessageSizeBytes": 16777216,
        "metrics": {
            "enabled": True,
            "port": 2112,
            "scheme": "https",
            "perModelMetrics": False,
            "disablePrometheusOperatorSupport": False,
        },
        "scaleToZero": {"enabled": True, "gracePeriodSeconds": 60},
        "restProxy": {
            "enabled": True,
            "port": 8008,
            "skipVerify": False,
            "image": {"name": "kserve/rest-proxy", "tag": "latest", "digest": ""},
            "resources": {
                "requests": {"cpu": "50m", "memory": "96Mi"},
                "limits": {"cpu": "1", "memory": "512Mi"},
            },
        },
        "modelMeshImage": {"name": "model-mesh", "tag": "latest", "digest": "", "command": []},
        "modelMeshResources": {
            "requests": {"cpu": "300m", "memory": "256Mi"},
            "limits": {"cpu": "3", "memory": "512Mi"},
        },
        "builtInServerTypes": ["triton", "mlserver", "ovms", "torchserve"],
        "payloadProcessors": [],
        "runtimePodLabels": {},
        "runtimePodAnnotations": {},
        "imagePullSecrets": [],
        "allowAnyPVC": False,
        "tls": {"secretName": "", "clientAuth": ""},
        "internalModelMeshEnvVars": [],
        "modelMeshEndpoint": "",
        "etcdSecretName": "",
        # The puller and the adapters run inside the mesh's container; their images have no effect.
        "storageHelperImage": {"name": "", "tag": "", "digest": "", "command": []},
        "storageHelperResources": {"requests": {}, "limits": {}},
    }
)
#: Members whose own members are the user's, named as they like.
_FREE = {("runtimePodLabels",), ("runtimePodAnnotations",)}
_RESOURCES = {("modelMeshResources",), ("storageHelperResources",), ("restProxy", "resources")}
_WITHOUT_EFFECT = ("storageHelperImage", "storageHelperResources")


def read_configuration(*layers: Mapping[str, Any]) -> Configuration:
    """Makes the configuration of layers that were read from YAML.

    Keys are known in any case; those of labels, annotations and resources stay as they are. Members of a later layer
    replace those of an earlier one, lists as a whole. A tag in a later layer goes before a digest in an earlier one.

    Args:
        layers: earlier ones first, on top of the built-in defaults.

    Raises:
        InvalidConfiguration: a value is not of its type, out of range, or no quantity.
    """
    warnings: list[str] = []
    tree: dict[str, Any] = _copied(DEFAULTS)
    for layer in layers:
        _overlay(tree, layer, (), warnings)
    warnings.extend(
        f"{name} has no effect: the puller and the adapters run in the mesh's container (modelMeshImage)"
        for name in _WITHOUT_EFFECT
        if tree[name] != DEFAULTS[name]
    )
    return _made(tree, tuple(warnings))


def _made(tree: Mapping[str, Any], warnings: tuple[str, ...]) -> Configuration:
    metrics, rest, scaling = tree["metrics"], tree["restProxy"], tree["scaleToZero"]
    return Configuration(
        service_name=_name(tree["inferenceServiceName"], "inferenceServiceName"),
        service_port=_port(tree["inferenceServicePort"], "inferenceServicePort"),
        headless=tree["headlessService"],
        pods_per_runtime=_in_range(tree["podsPerRuntime"], "podsPerRuntime", 0, 65_535),
        storage_secret_name=_name(tree["storageSecretName"], "storageSecretName"),
        service_account_name=tree["serviceAccountName"],
        access_logging=tree["enableAccessLogging"],
        max_message_bytes=tree["grpcMaxMessageSizeBytes"],
        metrics=Metrics(
            enabled=metrics["enabled"],
            port=_port(metrics["port"], "metrics.port"),
            scheme=_one_of(metrics["scheme"], "metrics.scheme", ("https", "http")),
            per_model=metrics["perModelMetrics"],
            monitor=not metrics["disablePrometheusOperatorSupport"],
        ),
        scale_to_zero_after_s=(
            _in_range(scaling["gracePeriodSeconds"], "scaleToZero.gracePeriodSeconds", 0, 65_535)
            if scaling["enabled"]
            else None
        ),
        rest_proxy=RestProxy(
            enabled=rest["enabled"],
            port=_port(rest["port"], "restProxy.port"),
            skip_verify=rest["skipVerify"],
            image=_image(rest["image"]),
            resources=_resources(rest["resources"], "restProxy.resources"),
        ),
        mesh_image=_image(tree["modelMeshImage"]),
        mesh_resources=_resources(tree["modelMeshResources"], "modelMeshResources"),
        built_in_server_types=tuple(tree["builtInServerTypes"]),
        payload_processors=_without_spaces(tree["payloadProcessors"]),
        pod_labels=_texts(tree["runtimePodLabels"], "runtimePodLabels"),
        pod_annotations=_texts(tree["runtimePodAnnotations"], "runtimePodAnnotations"),
        image_pull_secrets=_members(tree["imagePullSecrets"], "imagePullSecrets", "name"),
        allow_any_pvc=tree["allowAnyPVC"],
        tls=Tls(
            tree["tls"]["secretName"],
            _one_of(tree["tls"]["clientAuth"], "tls.clientAuth", ("", "optional", "require")),
        ),
        environment=_environment(tree["internalModelMeshEnvVars"]),
        mesh_endpoint=tree["modelMeshEndpoint"],
        etcd_secret_name=tree["etcdSecretName"],
        warnings=warnings,
    )


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copied(value)
        if isinstance(value, Mapping)
        else list(value)
        if isinstance(value, list)
        else value
        for name, value in tree.items()
    }


def _overlay(
    tree: dict[str, Any], layer: Mapping[str, Any], where: tuple[str, ...], warnings: list[str]
) -> None:
    known = {name.lower(): name for name in tree}
    for written, value in layer.items():
        name = known.get(str(written).lower())
        path = ".".join((*where, str(written)))
        if name is None:
            near = difflib.get_close_matches(str(written), tree, 1)
            warnings.append(f"{path} is not known" + (f": do you mean {near[0]}?" if near else ""))
            continue
        at = (*where, name)
        if value is None:
            continue
        if at in _FREE:
            tree[name] |= _mapping(value, path)
        elif at in _RESOURCES:
            for kind, amounts in _mapping(value, path).items():
                tree[name].setdefault(str(kind).lower(), {}).update(_mapping(amounts, f"{path}.{kind}"))
        elif isinstance(tree[name], dict):
            own = _mapping(value, path)
            if "digest" in tree[name] and any(str(key).lower() in {"tag", "name"} for key in own):
                tree[name]["digest"] = ""
            _overlay(tree[name], own, at, warnings)
        else:
            tree[name] = _READERS[type(tree[name])](value, path)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidConfiguration(f"{path} is {value!r}: it must be a mapping")
    return value


def _truth(value: Any, path: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    truth = words.get(str(value).lower())
    if truth is None:
        raise InvalidConfiguration(f"{path} is {value!r}: it must be true or false")
    return truth


def _whole(value: Any, path: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise InvalidConfiguration(f"{path} is {value!r}: it must be a whole number") from None


def _text(value: Any, path: str) -> str:
    if isinstance(value, Mapping | list):
        raise InvalidConfiguration(f"{path} is {value!r}: it must be a text")
    return str(value)


def _list(value: Any, path: str) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list):
        raise InvalidConfiguration(f"{path} is {value!r}: it must be a list")
    return value


_READERS: Mapping[type, Callable[[Any, str], Any]] = {bool: _truth, int: _whole, str: _text, list: _list}


def _in_range(value: int, path: str, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidConfiguration(f"{path} is {value}: it must be {least} to {most}")
    return value


def _port(value: int, path: str) -> int:
    return _in_range(value, path, 1, 65_535)


def _name(value: str, path: str) -> str:
    if not value:
        raise InvalidConfiguration(f"{path} is empty: name it, or leave it out for the default")
    return value


def _one_of(value: str, path: str, choices: Sequence[str]) -> str:
    if value not in choices:
        told = ", ".join(repr(choice) for choice in choices)
        raise InvalidConfiguration(f"{path} is {value!r}: it must be one of {told}")
    return value


def _image(tree: Mapping[str, Any]) -> Image:
    return Image(tree["name"], tree["tag"], tree["digest"], tuple(map(str, tree.get("command") or ())))


def _resources(tree: Mapping[str, Any], path: str) -> Resources:
    kinds: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for kind, amounts in kinds.items():
        for name, amount in (tree.get(kind) or {}).items():
            try:
                parse_quantity(str(amount))
            except InvalidQuantity as problem:
                raise InvalidConfiguration(f"{path}.{kind}.{name}: {problem}") from problem
            amounts[str(name)] = str(amount)
    return Resources(**kinds)


def _without_spaces(processors: Sequence[Any]) -> tuple[str, ...]:
    for processor in processors:
        if " " in str(processor):
            raise InvalidConfiguration(
                f"payloadProcessors has {processor!r}: endpoint must not contain spaces."
            )
    return tuple(map(str, processors))


def _texts(tree: Mapping[Any, Any], path: str) -> Mapping[str, str]:
    return {str(name): _text(value, f"{path}.{name}") for name, value in tree.items()}


def _members(items: Sequence[Any], path: str, member: str) -> tuple[str, ...]:
    found = []
    for item in items:
        if not isinstance(item, Mapping) or not item.get(member):
            raise InvalidConfiguration(f"{path} has {item!r}: each must be a mapping with {member}")
        found.append(str(item[member]))
    return tuple(found)


def _environment(items: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    names = _members(items, "internalModelMeshEnvVars", "name")
    return tuple(zip(names, (str(item.get("value", "")) for item in items), strict=True))
