"""Settings of the controller's process, from its environment and its flags."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mesh.controller.cluster import Terms

DEFAULT_ETCD_SECRET = "model-serving-etcd"  # noqa: S105
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEPLOYMENT = re.compile(r"(.*)-.*-.*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0}


class InvalidSetting(ValueError):
    """A setting cannot be used. The message names it, its value and the remedy."""


class Switch(Enum):
    """Whether a kind of objects is followed."""

    OFF = "off"
    ON = "on"
    WHERE_POSSIBLE = "where possible"


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What the process is started with; the names of variables are KServe ModelMesh's.

    Attributes:
        namespace: the controller's own.
        identity: of this process among several.
        deployment: the controller's own, which owns what it makes where it has no namespaces.
        etcd_secret: name of the Secret with the connection.
        cluster_scope: whether it runs meshes in all namespaces that ask for one.
        inference_services: whether they are followed.
        cluster_runtimes: whether ClusterServingRuntimes are followed.
        secrets: whether changes of the storage Secret are followed.
        config_map: name of the user's configuration.
        defaults_file: of the configuration; None for the built-in defaults.
        election: None for a controller that leads alone.
        webhook_port: 0 for no webhook.
        webhook_certificates: directory of ``tls.crt`` and ``tls.key``; None for the controller to make them.
    """

    namespace: str
    identity: str
    deployment: str
    etcd_secret: str = DEFAULT_ETCD_SECRET
    cluster_scope: bool = True
    inference_services: Switch = Switch.WHERE_POSSIBLE
    cluster_runtimes: Switch = Switch.WHERE_POSSIBLE
    secrets: Switch = Switch.WHERE_POSSIBLE
    config_map: str = "model-serving-config"
    defaults_file: Path | None = None
    election: Terms | None = None
    metrics_address: tuple[str, int] = ("", 8080)
    probe_address: tuple[str, int] = ("", 8081)
    webhook_port: int = 0
    webhook_certificates: Path | None = None


def read_settings(environment: Mapping[str, str], **flags: object) -> ControllerSettings:
    """Reads the environment; flags that are not None go before the defaults.

    Raises:
        InvalidSetting: a value cannot be used.
    """
    pod = environment.get("POD_NAME", "")
    found = _DEPLOYMENT.fullmatch(pod)
    defaults = environment.get(
        "CONFIG_DEFAULTS_FILE", "/etc/model-serving/config/default/config-defaults.yaml"
    )
    return ControllerSettings(
        namespace=environment.get("NAMESPACE") or _own_namespace(),
        identity=pod or f"{os.uname().nodename}-{os.getpid()}",
        deployment=environment.get("CONTROLLER_DEPLOYMENT")
        or (found.group(1) if found else "modelmesh-controller"),
        etcd_secret=environment.get("ETCD_SECRET_NAME") or DEFAULT_ETCD_SECRET,
        cluster_scope=environment.get("NAMESPACE_SCOPE") != "true",
        inference_services=_switch(environment, "ENABLE_ISVC_WATCH"),
        cluster_runtimes=_switch(environment, "ENABLE_CSR_WATCH"),
        secrets=_switch(environment, "ENABLE_SECRET_WATCH"),
        defaults_file=Path(defaults) if Path(defaults).exists() else None,
        **{name: value for name, value in flags.items() if value is not None},  # type: ignore[arg-type]
    )


def read_duration(text: str) -> float:
    """Seconds of a text such as ``15s``, ``500ms``, ``1m`` or ``15``.

    Raises:
        InvalidSetting: it is no duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidSetting(f"{text!r} is no duration such as 15s, 500ms or 1m")
    return float(found.group(1)) * _SECONDS[found.group(2)]


def read_address(text: str) -> tuple[str, int]:
    """Host ("" for all) and port of a text such as ``:8080`` or ``127.0.0.1:8080``; port 0 for none.

    Raises:
        InvalidSetting: it is no address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise InvalidSetting(f"{text!r} is no address such as :8080 or 127.0.0.1:8080")
    return host, int(port)


def _switch(environment: Mapping[str, str], name: str) -> Switch:
    match environment.get(name, ""):
        case "":
            return Switch.WHERE_POSSIBLE
        case "true":
            return Switch.ON
        case "false":
            return Switch.OFF
        case other:
            raise InvalidSetting(f'{name} is {other!r}: it must be "true", "false", or not be set')


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "model-serving"
