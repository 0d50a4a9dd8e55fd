"""Models in OCI images: what lies below ``/models`` in their layers; type ``oci``."""

import base64
import binascii
import json
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from yarl import URL

from mesh.puller.archives import untar_file
from mesh.puller.clients import address, switch
from mesh.puller.contents import identity_of
from mesh.puller.failure import Code, PullFailure
from mesh.puller.http import allowance_for, trust_of
from mesh.puller.provider import Advance, Workshop, optional
from mesh.puller.web import Web, WebFile, WebSession

_ROOT = "models"
_DEFAULT_TAG = "latest"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEXES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_MANIFESTS = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
_IMAGE = re.compile(
    r"(?P<host>[^/]+)/(?P<repository>[a-z0-9._/-]+?)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class _Layer:
    digest: str
    size: int


class OciProvider:
    """A registry. A path is ``host/repository:tag`` or ``host/repository@digest``."""

    def __init__(self, config: Mapping[str, Any], workshop: Workshop) -> None:
        """Reads the configuration.

        Args:
            config: all optional: ``username`` and ``password``, or ``docker_config`` (the JSON of an image pull
                secret), ``certificate`` (authorities to trust besides the system's, as PEM), ``insecure`` (no TLS).
            workshop: of the puller.

        Raises:
            PullFailure: INVALID_ARGUMENT, naming the field.
        """
        self._config = config
        self._workshop = workshop
        self._scheme = "http" if switch(config, "oci", "insecure", default=False) else "https"
        self._trust = trust_of(config, "oci")

    async def find(self, path: str) -> "OciSource":
        """Reads the image's manifest."""
        image = _IMAGE.fullmatch(path.removesuffix("/"))
        if image is None:
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"model path '{path}' is no image; it looks like registry.example/team/model:1",
            )
        host, repository = image["host"], image["repository"]
        registry = URL(
            address({"registry": f"{self._scheme}://{host}"}, "oci", "registry", "https://registry.example")
        )
        reference = image["digest"] or image["tag"] or _DEFAULT_TAG
        login = _login(self._config, host)
        access = _Access(self._workshop, registry, repository, login, self._trust)
        layers = await access.layers(reference)
        return OciSource(access, layers, path)


class _Access:
    """One repository of a registry, with a token where the registry wants one."""

    def __init__(self, workshop: Workshop, registry: URL, repository: str, login: str, trust: Any) -> None:
        self.workshop = workshop
        self._base = registry / "v2" / repository
        self._repository = repository
        self._login = login
        self._trust = trust
        self._authorization = f"Basic {login}" if login else ""
        self._place = f"{registry.authority}/{repository}"

    def web(self) -> Web:
        headers = {"Authorization": [self._authorization]} if self._authorization else {}
        secrets = [self._authorization.partition(" ")[2]]
        return Web(
            self.workshop, self._place, self._base, headers=headers, trust=self._trust, secrets=secrets
        )

    async def layers(self, reference: str) -> Sequence[_Layer]:
        await self._log_in(reference)
        async with self.web().session() as session:
            manifest = await self._manifest(session, reference)
            if manifest.get("mediaType", "") in _INDEXES or "manifests" in manifest:
                manifest = await self._manifest(session, _for_this_machine(manifest, self._place))
        try:
            return [_layer(told, self._place) for told in manifest["layers"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._malformed() from None

    def blob(self, digest: str, size: int) -> WebFile:
        return WebFile(self._base / "blobs" / digest, size, sha256=digest.removeprefix("sha256:"))

    async def _manifest(self, session: WebSession, reference: str) -> dict[str, Any]:
        accepted = {"Accept": ", ".join(sorted(_INDEXES | _MANIFESTS))}
        body, _ = await session.document(
            self._base / "manifests" / reference, f"read the manifest '{reference}'", accepted
        )
        try:
            manifest = json.loads(body)
        except ValueError:
            raise self._malformed() from None
        if not isinstance(manifest, dict):
            raise self._malformed()
        return manifest

    async def _log_in(self, reference: str) -> None:
        """Gets a token where the registry asks for one and tells where it is to be had."""
        async with self.web().session() as session:
            challenge = await session.challenge(self._base / "manifests" / reference)
        if not challenge.lower().startswith("bearer "):
            return
        told = dict(_CHALLENGE.findall(challenge))
        realm = address({"realm": told.get("realm", "")}, "oci", "realm", "https://auth.example/token")
        if not realm:
            raise self._malformed()
        query = {"scope": f"repository:{self._repository}:pull"}
        if told.get("service"):
            query["service"] = told["service"]
        url = URL(realm).update_query(query)
        headers = {"Authorization": [f"Basic {self._login}"]} if self._login else {}
        web = Web(
            self.workshop,
            str(url.with_query(None)),
            url,
            headers=headers,
            trust=self._trust,
            secrets=[self._login],
        )
        async with web.session() as session:
            body, _ = await session.document(url, "get a token")
        try:
            answer = json.loads(body)
            token = str(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PullFailure(
                Code.UNAUTHENTICATED,
                f"{web.place} gives no token for {self._place}; check the storage config",
            ) from None
        self._authorization = f"Bearer {token}"

    def _malformed(self) -> PullFailure:
        return PullFailure(
            Code.UNAVAILABLE, f"{self._place} answers what is no image manifest; check the address"
        )


class OciSource:
    """The layers of an image."""

    copied = True

    def __init__(self, access: _Access, layers: Sequence[_Layer], path: str) -> None:
        """Takes what was found."""
        self._access = access
        self._layers = layers
        self._path = path
        self._size = sum(layer.size for layer in layers)

    @property
    def identity(self) -> str:
        """By the digests of the layers, whatever image they are of."""
        return identity_of([layer.digest for layer in self._layers])

    @property
    def size_bytes(self) -> int:
        """Of the layers, packed; once fetched, of the model's files."""
        return self._size

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Fetches layer by layer and unpacks what is below ``/models``; each must hash to its digest."""
        workshop = self._access.workshop
        allowance = allowance_for(workshop, target.parent)
        await workshop.run(target.mkdir)
        async with self._access.web().session() as session:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".layers-") as folder:
                for number, layer in enumerate(self._layers):
                    packed = Path(folder, str(number))
                    async with workshop.downloads:
                        blob = self._access.blob(layer.digest, layer.size)
                        await session.fetch(blob, packed, f"fetch layer {layer.digest}", advance)
                    await workshop.run(untar_file, packed, self._path, target, allowance, _below_root)
                    await workshop.run(packed.unlink)
        if allowance.files == 0:
            raise PullFailure(
                Code.NOT_FOUND,
                f"image '{self._path}' has nothing below /{_ROOT}; put the model's files there",
            )
        self._size = allowance.bytes


def _below_root(path: PurePosixPath) -> PurePosixPath | None:
    if path.parts[:1] != (_ROOT,) or path.name.startswith(".wh."):
        # Layers after the first mark by such names what they remove; a model's image has no reason to.
        return None
    return PurePosixPath(*path.parts[1:])


def _layer(told: Mapping[str, Any], place: str) -> _Layer:
    digest, kind = str(told["digest"]), str(told.get("mediaType", ""))
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise PullFailure(
            Code.INVALID_ARGUMENT, f"{place} has a layer with digest '{digest}'; only sha256 is known"
        )
    if kind.endswith(("+zstd", ".zstd")):
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"{place} has a layer packed with zstd, which is not known here; push it with gzip",
        )
    return _Layer(digest, int(told["size"]))


def _for_this_machine(index: Mapping[str, Any], place: str) -> str:
    machine = _MACHINES.get(platform.machine(), platform.machine())
    for told in index.get("manifests") or ():
        wanted = told.get("platform") or {}
        if wanted.get("os", "linux") == "linux" and wanted.get("architecture") == machine:
            return str(told["digest"])
    raise PullFailure(Code.NOT_FOUND, f"{place} has no image for linux/{machine}; push one for it")


def _login(config: Mapping[str, Any], host: str) -> str:
    """User and password as a registry wants them, from their fields or from an image pull secret."""
    user, password = optional(config, "username"), optional(config, "password")
    if bool(user) != bool(password):
        missing = "password" if user else "username"
        raise PullFailure(
            Code.INVALID_ARGUMENT, f"storage of type 'oci' has no '{missing}'; give both or neither"
        )
    if user:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    text = optional(config, "docker_config")
    if not text:
        return ""
    try:
        logins = json.loads(text)["auths"]
        names = (host, f"https://{host}", host.partition(":")[0])
        found: dict[str, Any] = next((logins[name] for name in names if name in logins), {})
        login = str(found.get("auth", ""))
        base64.b64decode(login, validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            "storage of type 'oci' has a 'docker_config' that is none; give .dockerconfigjson",
        ) from None
    return login
