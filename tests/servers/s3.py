"""A real S3 server, versitygw: objects are plain files, so that a test can look at them and damage them."""

from collections.abc import Mapping
from pathlib import Path

import obstore

from tests.servers.cache import Recipe, go_recipe
from tests.servers.process import ServerProcess, free_port, http_ok

_VERSION = "1.8.0"
_PACKAGE = f"github.com/versity/versitygw/cmd/versitygw@v{_VERSION}"


def recipe() -> Recipe:
    """Versitygw, built by Go."""
    return go_recipe(
        "versitygw", _VERSION, _PACKAGE, "the S3 server of the tests (versitygw)", "about 2 minutes"
    )


class S3Server:
    """An S3 endpoint with one user and buckets that are folders."""

    region = "us-east-1"
    access_key_id = "mesh-test"
    secret_access_key = "mesh-test-secret"

    def __init__(self, program: Path, folder: Path, host: str = "127.0.0.1") -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For objects and log.
            host: The address to listen on.
        """
        self._objects = folder / "buckets"
        self._objects.mkdir(parents=True)
        metadata = folder / "metadata"
        metadata.mkdir()
        self._host = host
        self._port = free_port()
        self.process = ServerProcess(
            "versitygw",
            [
                program / "versitygw",
                f"--port={host}:{self._port}",
                f"--access={self.access_key_id}",
                f"--secret={self.secret_access_key}",
                f"--region={self.region}",
                "--health=/health",
                "--keep-alive",
                "posix",
                f"--sidecar={metadata}",
                self._objects,
            ],
            folder / "versitygw.log",
        )

    @property
    def endpoint(self) -> str:
        """The address, such as ``http://127.0.0.1:9000``."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.process.start()
        self.process.wait_until(lambda: http_ok(f"{self.endpoint}/health"))

    def stop(self) -> None:
        """Ends the server; its objects stay."""
        self.process.stop()

    def create_bucket(self, bucket: str) -> None:
        """Makes an empty bucket."""
        (self._objects / bucket).mkdir()

    def store(self, bucket: str) -> obstore.store.S3Store:
        """A client for a bucket, as its owner."""
        return obstore.store.S3Store(
            bucket,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Uploads objects, by key, into a bucket that is made if need be."""
        if not (self._objects / bucket).exists():
            self.create_bucket(bucket)
        store = self.store(bucket)
        for key, content in objects.items():
            obstore.put(store, key, content)

    def path(self, bucket: str, key: str) -> Path:
        """The file that holds an object."""
        return self._objects / bucket / key

    def storage_config(self, **more: str) -> dict[str, str]:
        """The storage configuration entry, as KServe writes it, for this server."""
        return {
            "type": "s3",
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "endpoint_url": self.endpoint,
            "region": self.region,
            **more,
        }
