"""The volumes of a pod, as folders."""

import base64
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kubelet.environment import NotThereYetError, field_of
from tests.servers.kubernetes import ControlPlane

_PATHS = {"Secret": "secrets", "ConfigMap": "configmaps"}
#: How old what is known of a Secret or ConfigMap may be, seconds.
_FRESH_S = 1.0


class Sources:
    """The Secrets and ConfigMaps of a cluster, read again when what is known is old."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._known: dict[tuple[str, str, str], tuple[float, dict[str, bytes] | None]] = {}

    def read(self, namespace: str, kind: str, name: str) -> dict[str, bytes] | None:
        """The data of one; None where it is not there."""
        key = (namespace, kind, name)
        before, data = self._known.get(key, (0.0, None))
        if time.monotonic() - before < _FRESH_S:
            return data
        found = self._plane.find(f"/api/v1/namespaces/{namespace}/{_PATHS[kind]}/{name}")
        if found is None:
            data = None
        else:
            encoded = found.get("data" if kind == "Secret" else "binaryData") or {}
            data = {name: base64.b64decode(value) for name, value in encoded.items()}
            if kind == "ConfigMap":
                data |= {name: value.encode() for name, value in (found.get("data") or {}).items()}
        self._known[key] = (time.monotonic(), data)
        return data


class Volumes:
    """Those of one pod, below a folder."""

    def __init__(
        self,
        pod: Mapping[str, Any],
        folder: Path,
        plane: ControlPlane,
        sources: Sources,
        addresses: Mapping[str, str],
    ) -> None:
        self._pod = pod
        self._namespace = pod["metadata"]["namespace"]
        self._folder = folder
        self._plane = plane
        self._sources = sources
        self._addresses = addresses
        self._contents: dict[str, dict[str, bytes]] = {}
        self._paths: dict[str, Path] = {}

    def prepare(self) -> None:
        """Makes the folders.

        Raises:
            NotThereYetError: a Secret, ConfigMap or claim is missing.
        """
        for volume in self._pod["spec"].get("volumes") or ():
            self._paths[volume["name"]] = self._place(volume)
        self.refresh()

    def refresh(self) -> None:
        """Brings files up to date whose Secrets and ConfigMaps have changed."""
        for volume in self._pod["spec"].get("volumes") or ():
            content = self._content(volume)
            if content is not None and self._contents.get(volume["name"]) != content:
                _replace(self._paths[volume["name"]], content)
                self._contents[volume["name"]] = content

    def mounts(self, container: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
        """Source, target and whether for reading only, outer ones first."""
        read_only = {
            volume["name"]
            for volume in self._pod["spec"].get("volumes") or ()
            if any(kind in volume for kind in ("secret", "configMap", "projected"))
            or (volume.get("persistentVolumeClaim") or {}).get("readOnly")
        }
        found = []
        for mount in container.get("volumeMounts") or ():
            source = self._paths[mount["name"]] / mount.get("subPath", "")
            only = bool(mount.get("readOnly")) or mount["name"] in read_only
            found.append((str(source), mount["mountPath"], only))
        return sorted(found, key=lambda mount: mount[1].count("/"))

    def remove(self) -> None:
        """Deletes what was the pod's own."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, volume: Mapping[str, Any]) -> Path:
        if "persistentVolumeClaim" in volume:
            return self._claimed(volume["persistentVolumeClaim"]["claimName"])
        if "hostPath" in volume:
            return Path(str(volume["hostPath"]["path"]))
        place = self._folder / str(volume["name"])
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _claimed(self, name: str) -> Path:
        claim = self._plane.find(f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{name}")
        bound = claim and claim["spec"].get("volumeName")
        volume = bound and self._plane.find(f"/api/v1/persistentvolumes/{bound}")
        if not volume:
            raise NotThereYetError(f"PersistentVolumeClaim {name} is not bound")
        return Path(str(volume["spec"]["hostPath"]["path"]))

    def _content(self, volume: Mapping[str, Any]) -> dict[str, bytes] | None:
        if "secret" in volume:
            return self._chosen("Secret", volume["secret"], volume["secret"]["secretName"])
        if "configMap" in volume:
            return self._chosen("ConfigMap", volume["configMap"], volume["configMap"]["name"])
        if "projected" not in volume:
            return None
        content: dict[str, bytes] = {}
        for source in volume["projected"].get("sources") or ():
            for kind, member in (("Secret", "secret"), ("ConfigMap", "configMap")):
                if member in source:
                    content |= self._chosen(kind, source[member], source[member]["name"])
            for item in (source.get("downwardAPI") or {}).get("items") or ():
                value = field_of(self._pod, self._addresses, item["fieldRef"]["fieldPath"])
                content[item["path"]] = value.encode()
            if "serviceAccountToken" in source:
                content |= self._token(volume["name"], source["serviceAccountToken"])
        return content

    def _chosen(self, kind: str, reference: Mapping[str, Any], name: str) -> dict[str, bytes]:
        data = self._sources.read(self._namespace, kind, name)
        if data is None:
            if reference.get("optional"):
                return {}
            raise NotThereYetError(f'{kind} "{name}" not found')
        if not reference.get("items"):
            return dict(data)
        return {item["path"]: data[item["key"]] for item in reference["items"] if item["key"] in data}

    def _token(self, volume: str, wanted: Mapping[str, Any]) -> dict[str, bytes]:
        known = self._contents.get(volume, {}).get(wanted["path"])
        if known is None:
            account = self._pod["spec"]["serviceAccountName"]
            made = self._plane.call(
                "POST",
                f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
                {"spec": {"expirationSeconds": wanted.get("expirationSeconds", 3600)}},
            )
            known = made["status"]["token"].encode()
        return {wanted["path"]: known}


def _replace(folder: Path, content: Mapping[str, bytes]) -> None:
    """Changes all files at once: they are links into a folder that a link names, which is replaced."""
    generation = folder / f"..{time.time_ns()}"
    for path, data in content.items():
        file = generation / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    generation.mkdir(exist_ok=True)
    current, made = folder / "..data", folder / "..data_tmp"
    before = current.resolve() if current.is_symlink() else None
    made.symlink_to(generation.name)
    made.replace(current)
    names = {path.split("/")[0] for path in content}
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    if before is not None:
        shutil.rmtree(before)
