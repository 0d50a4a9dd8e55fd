"""A real OCI registry, that of go-containerregistry."""

import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import Recipe, go_recipe
from tests.servers.process import ServerProcess, free_port, http_ok

_VERSION = "0.22.1"
_PACKAGE = f"github.com/google/go-containerregistry/cmd/crane@v{_VERSION}"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def recipe() -> Recipe:
    """Crane, built by Go."""
    return go_recipe("crane", _VERSION, _PACKAGE, "the image registry of the tests (crane)", "about a minute")


class OciRegistry:
    """A registry in memory that anyone may push to and pull from."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For the log.
        """
        self.host = f"127.0.0.1:{free_port()}"
        self.process = ServerProcess(
            "crane", [program / "crane", "registry", "serve", f"--address={self.host}"], folder / "crane.log"
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.process.start()
        self.process.wait_until(lambda: http_ok(f"http://{self.host}/v2/"))

    def push(
        self, repository: str, tag: str, layers: list[Mapping[str, bytes]], *, media_type: str = _LAYER
    ) -> str:
        """Pushes an image of layers with files by name; returns its digest."""
        packed = [_pack(files) for files in layers]
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(repository, config.encode(), _CONFIG),
            "layers": [self._blob(repository, layer, media_type) for layer in packed],
        }
        return self._manifest(repository, tag, manifest)

    def push_index(self, repository: str, tag: str, images: Mapping[str, str]) -> None:
        """Pushes an index of images, by machine."""
        manifests = [
            {
                "mediaType": _MANIFEST,
                "digest": digest,
                "size": 1,
                "platform": {"os": "linux", "architecture": machine},
            }
            for machine, digest in images.items()
        ]
        self._manifest(repository, tag, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests})

    def _manifest(self, repository: str, tag: str, manifest: Mapping[str, object]) -> str:
        body = json.dumps(manifest).encode()
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", body, str(manifest["mediaType"]))
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def _blob(self, repository: str, content: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._send(
            "POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content, "application/octet-stream"
        )
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _send(self, method: str, path: str, body: bytes, kind: str) -> None:
        request = urllib.request.Request(
            f"http://{self.host}{path}", body, {"Content-Type": kind}, method=method
        )
        urllib.request.urlopen(request, timeout=10).close()


def _pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
