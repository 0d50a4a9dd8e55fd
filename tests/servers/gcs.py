"""A real enough Google Cloud Storage, fake-gcs-server: objects are plain files in a folder."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import Recipe, go_recipe
from tests.servers.process import ServerProcess, free_port, http_ok

_VERSION = "1.56.1"
_PACKAGE = f"github.com/fsouza/fake-gcs-server@v{_VERSION}"


def recipe() -> Recipe:
    """fake-gcs-server, built by Go."""
    return go_recipe(
        "fake-gcs-server",
        _VERSION,
        _PACKAGE,
        "the Google storage of the tests (fake-gcs-server)",
        "about 2 minutes",
    )


class GcsServer:
    """A Google Cloud Storage endpoint that asks for no credentials."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For objects and log.
        """
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        objects = folder / "objects"
        objects.mkdir(parents=True)
        self.process = ServerProcess(
            "fake-gcs-server",
            [
                program / "fake-gcs-server",
                "-scheme=http",
                "-host=127.0.0.1",
                f"-port={port}",
                f"-external-url={self.endpoint}",
                f"-public-host=127.0.0.1:{port}",
                "-backend=filesystem",
                f"-filesystem-root={objects}",
            ],
            folder / "fake-gcs-server.log",
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.process.start()
        self.process.wait_until(lambda: http_ok(f"{self.endpoint}/_internal/healthcheck"))

    def stop(self) -> None:
        """Ends the server."""
        self.process.stop()

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Uploads objects, by key, into a bucket that is made if need be."""
        self._post("/storage/v1/b", json.dumps({"name": bucket}).encode(), may_exist=True)
        for key, content in objects.items():
            name = urllib.parse.quote(key, safe="")
            self._post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", content)

    def _post(self, path: str, body: bytes, *, may_exist: bool = False) -> None:
        request = urllib.request.Request(self.endpoint + path, body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if not (may_exist and error.code == 409):
                raise
