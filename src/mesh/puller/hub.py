"""Models of the Hugging Face Hub; type ``hf``."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from yarl import URL

from mesh.puller.clients import address
from mesh.puller.contents import identity_of
from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import split_path
from mesh.puller.provider import Advance, Workshop, optional
from mesh.puller.web import UNKNOWN_SIZE, Web, WebFile, WebSession

_ENDPOINT = "https://huggingface.co"
_NAMELESS = 2
"""Segments of a path that are the model's own: its owner and its name."""
_IGNORED = (".gitattributes",)


class HubProvider:
    """The hub, or one that speaks its API.

    A path is ``owner/model``, ``owner/model:revision``, or that and a path below it. A revision is a branch, a tag or a
    commit; whichever it is, all files are of the commit that it stood for when the pull began.
    """

    def __init__(self, config: Mapping[str, Any], workshop: Workshop) -> None:
        """Reads the configuration.

        Args:
            config: all optional: ``token`` (for private models; default the environment's ``HF_TOKEN``),
                ``endpoint_url`` (default ``HF_ENDPOINT``, else that of the hub), ``revision`` (where the path names
                none; default ``main``), ``allow_patterns`` and ``ignore_patterns``, separated by commas, of file
                names, in which ``*`` stands for any characters.
            workshop: of the puller.

        Raises:
            PullFailure: INVALID_ARGUMENT, naming the field.
        """
        config = {
            **config,
            "endpoint_url": optional(config, "endpoint_url") or os.environ.get("HF_ENDPOINT", _ENDPOINT),
        }
        self._hub = URL(address(config, "hf", "endpoint_url", _ENDPOINT))
        self._revision = optional(config, "revision") or "main"
        self._allowed = _patterns(config, "allow_patterns")
        self._ignored = (*_patterns(config, "ignore_patterns"), *_IGNORED)
        token = optional(config, "token") or os.environ.get("HF_TOKEN", "")
        self._web = Web(
            workshop,
            str(self._hub),
            self._hub,
            headers={"Authorization": [f"Bearer {token}"]} if token else {},
            secrets=[token],
        )

    async def find(self, path: str) -> "HubSource":
        """Lists the files of a model as of one commit."""
        segments = split_path(path, "model path")
        if len(segments) < _NAMELESS:
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"model path '{path}' is none of the hub; it looks like owner/model:revision",
            )
        owner, (name, _, revision) = segments[0], segments[1].partition(":")
        below = segments[_NAMELESS:]
        revision = revision or self._revision
        model = f"{owner}/{name}"
        listing = self._hub.joinpath("api", "models", owner, name, "revision", revision, encoded=False)
        async with self._web.session() as session:
            body, _ = await session.document(listing.with_query(blobs="true"), f"list '{model}:{revision}'")
        files = list(self._files(body, model, revision, below))
        if not files:
            raise PullFailure(
                Code.NOT_FOUND,
                f"there is no file '{'/'.join(below) or '*'}' in '{model}:{revision}' at {self._hub}",
            )
        return HubSource(self._web, files)

    def _files(
        self, listing: bytes, model: str, revision: str, below: Sequence[str]
    ) -> Iterator[tuple[tuple[str, ...], WebFile]]:
        try:
            told = json.loads(listing)
            commit, siblings = str(told["sha"]), list(told["siblings"])
            for sibling in siblings:
                name = str(sibling["rfilename"])
                segments = tuple(split_path(name, "file of the model"))
                if segments[: len(below)] != tuple(below) or not self._wanted(name):
                    continue
                large = sibling.get("lfs") or {}
                size = int(large.get("size", sibling.get("size", UNKNOWN_SIZE)) or 0)
                url = self._hub.joinpath(*model.split("/"), "resolve", commit, *segments)
                yield segments[len(below) :], WebFile(url, size, sha256=str(large.get("sha256", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PullFailure(
                Code.UNAVAILABLE,
                f"cannot list '{model}:{revision}' at {self._hub}: the answer is none of a hub; check 'endpoint_url'",
            ) from None

    def _wanted(self, name: str) -> bool:
        allowed = not self._allowed or any(fnmatchcase(name, pattern) for pattern in self._allowed)
        return allowed and not any(fnmatchcase(name, pattern) for pattern in self._ignored)


class HubSource:
    """Files of one commit."""

    copied = True

    def __init__(self, web: Web, files: Sequence[tuple[tuple[str, ...], WebFile]]) -> None:
        """Takes what was found: segments below the target, none where the file is the target, and the file."""
        self._web = web
        self._files = files

    @property
    def identity(self) -> str:
        """By the files' addresses, which name the commit."""
        return identity_of(
            [(segments, str(file.url), file.size, file.sha256) for segments, file in self._files]
        )

    @property
    def size_bytes(self) -> int:
        """Of all files, as listed."""
        return sum(max(0, file.size) for _, file in self._files)

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Fetches the files, many at once; the first that fails ends it. Large ones must hash to what the hub tells."""
        workshop = self._web.workshop
        waiting = iter(self._files)
        try:
            async with self._web.session() as session, asyncio.TaskGroup() as group:
                for _ in range(min(len(self._files), workshop.settings.max_downloads)):
                    group.create_task(self._work(session, waiting, target, advance))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _work(
        self,
        session: WebSession,
        waiting: Iterator[tuple[tuple[str, ...], WebFile]],
        target: Path,
        advance: Advance,
    ) -> None:
        workshop = self._web.workshop
        for segments, file in waiting:
            place = target.joinpath(*segments)
            await workshop.run(place.parent.mkdir, parents=True, exist_ok=True)
            async with workshop.downloads:
                await session.fetch(file, place, f"fetch '{'/'.join(segments) or target.name}'", advance)


def _patterns(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in optional(config, name).split(",") if pattern.strip())
