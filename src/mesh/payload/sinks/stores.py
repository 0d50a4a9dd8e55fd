"""Where finished files of sinks go: a folder, or an object store."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from mesh.payload.processor import InvalidProcessor, Options


class FileStore(Protocol):
    """Takes whole files under names of their own."""

    async def put(self, part: Path, name: str) -> None:
        """Makes a file appear under its name, all of it at once, and removes the part.

        Args:
            part: the file.
            name: relative, with ``/`` between folders.

        Raises:
            Exception: it could not be stored now.
        """


class FolderStore:
    """A folder; parts are to be on its file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, part: Path, name: str) -> None:
        """Renames the part."""
        await asyncio.to_thread(self._rename, part, self._folder / name)

    def _rename(self, part: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # The name has to reach the disk, too.
            os.fsync(folder)
        finally:
            os.close(folder)


class ObjectStore:
    """An object store; objects appear when all of their bytes are there."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def put(self, part: Path, name: str) -> None:
        """Uploads the part, in pieces where it is large."""
        await obstore.put_async(self._store, name, part)
        await asyncio.to_thread(part.unlink)


def open_objects(url: str, config: dict[str, str], options: Options) -> ObjectStore:
    """Opens an object store.

    Args:
        url: as obstore reads it, such as ``s3://bucket/prefix``.
        config: of obstore, such as ``endpoint`` and ``region``; what is missing comes from the environment.
        options: of the processor.

    Raises:
        InvalidProcessor: it cannot be opened so.
    """
    if not urlsplit(url).netloc:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {url!r} has no bucket; it looks like s3://bucket/prefix"
        )
    try:
        # The sink tries again itself, for as long as it is configured to.
        store = from_url(
            url,
            config=config,  # type: ignore[call-overload]
            client_options={
                # Whether it is used is said by the endpoint.
                "allow_http": True,
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(minutes=10),
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: cannot open {url} with options.storage {sorted(config)}: {error}"
        ) from None
    return ObjectStore(store)
