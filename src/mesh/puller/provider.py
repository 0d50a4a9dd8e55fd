"""What the puller asks of a place of storage.

A provider is one module with a `Provider`; `mesh.puller.providers` names them by their type.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

from mesh.puller.failure import Code, PullFailure

P = ParamSpec("P")
T = TypeVar("T")

Advance: TypeAlias = Callable[[int], None]
"""Told of bytes that were written, by any thread; negative where bytes are to be fetched again."""


@dataclass(frozen=True, slots=True)
class PullerSettings:
    """How a puller works.

    Attributes:
        root: where models go, one directory each; no other puller may use it.
        storage_config_dir: the mounted secret with storage configurations.
        pvc_mounts_dir: where volume claims are mounted, each under its name.
        local_roots: directories of the host below which models of type ``local`` may lie; none: type refused.
        max_downloads: files that are fetched at once, over all models.
        max_idle_bytes: contents of models that are not loaded any more are kept up to so many bytes.
        piece_bytes: objects of at least twice that are fetched in pieces of it, several at once.
        reserved_bytes: free space on the disk of ``root`` that pulls leave alone.
        max_objects: of one model; protects against a path that names a whole archive.
        max_unpacked_bytes: of one archive; protects against a small one that unpacks to very much.
        attempts: how often a transient failure is tried in all, at least 1.
        retry_delay_s: before the second attempt; doubled, with jitter, for each further one.
        max_retry_delay_s: bound of that.
        connect_timeout_s: to reach a store.
        tell_every_s: between two lines of the log about a pull under way.
        stall_timeout_s: without a single byte, after which a transfer counts as broken.
    """

    root: Path = Path("/models")
    storage_config_dir: Path = Path("/storage-config")
    pvc_mounts_dir: Path = Path("/pvc_mounts")
    local_roots: tuple[Path, ...] = ()
    max_downloads: int = 8
    max_idle_bytes: int = 0
    piece_bytes: int = 64 << 20
    reserved_bytes: int = 0
    max_objects: int = 100_000
    max_unpacked_bytes: int = 100 << 30
    attempts: int = 5
    retry_delay_s: float = 0.2
    max_retry_delay_s: float = 10.0
    connect_timeout_s: float = 5.0
    stall_timeout_s: float = 30.0
    tell_every_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all pulls of a puller share.

    Attributes:
        settings: of the puller.
        threads: for blocking file work.
        downloads: a slot for each file that is fetched at once.
        other_tags: buckets where entity tags that look like MD5 are none.
    """

    settings: PullerSettings
    threads: Executor
    downloads: asyncio.Semaphore = field(repr=False)
    other_tags: set[str] = field(default_factory=set, repr=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs file work in a thread.

        A cancelled caller leaves only once the work has ended: what it writes is about to be removed.
        """
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self.threads, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            done.exception()  # the cancelled caller does not want it
            raise


class Source(Protocol):
    """Model data found in a place of storage."""

    @property
    def size_bytes(self) -> int:
        """Of all its files."""

    @property
    def identity(self) -> str:
        """Equal for equal contents, see `mesh.puller.contents.identity_of`; empty where that cannot be told."""

    @property
    def copied(self) -> bool:
        """Whether `fetch` writes the bytes here; a link takes no space."""

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Makes ``target``, which does not exist yet, a file, a directory or a link with the data.

        Raises:
            PullFailure: what was written so far is the caller's to remove.
        """


class Provider(Protocol):
    """One place of storage, with the credentials of one pull."""

    async def find(self, path: str) -> Source:
        """Looks data up.

        Raises:
            PullFailure: NOT_FOUND, naming the place and the path; or why it could not be looked up.
        """


ProviderFactory: TypeAlias = Callable[[Mapping[str, Any], Workshop], Provider]
"""Makes a provider of the fields of a storage configuration; raises `PullFailure`, INVALID_ARGUMENT."""


def required(config: Mapping[str, Any], kind: str, name: str) -> str:
    """Takes a field of a storage configuration.

    Raises:
        PullFailure: INVALID_ARGUMENT, it is missing, empty or no string.
    """
    value = config.get(name)
    if not isinstance(value, str) or not value:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type '{kind}' needs '{name}'; set it in the storage config or the parameters",
        )
    return value


def optional(config: Mapping[str, Any], name: str) -> str:
    """Takes a field of a storage configuration; empty where it is missing or no string."""
    value = config.get(name)
    return value if isinstance(value, str) else ""
