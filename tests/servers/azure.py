"""A real enough Azure Blob Storage: Azurite, Microsoft's own emulator."""

import base64
import hashlib
import hmac
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

import obstore

from tests.servers.cache import Build, Recipe, require_program
from tests.servers.process import ServerProcess, free_port, http_answers

_VERSION = "3.37.0"
#: The account and key that every Azurite has, published with it.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _build(build: Build) -> None:
    npm = require_program("npm", "the Azure storage of the tests (Azurite)", "install Node.js 20 or newer")
    build.run(
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--omit=dev",
        "--ignore-scripts",
        f"--prefix={build.folder}",
        f"azurite@{_VERSION}",
    )


def recipe() -> Recipe:
    """Azurite, from npm."""
    return Recipe("azurite", _VERSION, ["--ignore-scripts"], "about a minute", _build)


class AzureServer:
    """An Azure Blob endpoint with one account."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For blobs and log.
        """
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        self._root = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.process = ServerProcess(
            "azurite",
            [
                "node",
                program / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js",
                "--blobHost=127.0.0.1",
                f"--blobPort={port}",
                f"--location={folder}",
                "--silent",
                "--skipApiVersionCheck",
                # Without it, it would tell its maker of each start.
                "--disableTelemetry",
            ],
            folder / "azurite.log",
        )

    @property
    def connection_string(self) -> str:
        """For the account, with its key."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.endpoint};"
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.process.start()
        self.process.wait_until(lambda: http_answers(self._root))

    def stop(self) -> None:
        """Ends the server."""
        self.process.stop()

    def put(self, container: str, blobs: Mapping[str, bytes]) -> None:
        """Uploads blobs, by name, into a container that is made if need be."""
        self._create(container)
        store = obstore.store.AzureStore(
            container,
            account_name=ACCOUNT,
            account_key=KEY,
            endpoint=self.endpoint,
            client_options={"allow_http": True},
        )
        for name, content in blobs.items():
            obstore.put(store, name, content)

    def _create(self, container: str) -> None:
        """Makes a container; the client library can make none."""
        date, version = formatdate(usegmt=True), "2021-12-02"
        signed = (
            "PUT\n\n\n\n\n\n\n\n\n\n\n\n"
            f"x-ms-date:{date}\nx-ms-version:{version}\n"
            f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
        )
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"{self.endpoint}/{container}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            },
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
