"""Brings model data to the local disk, and removes it again."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mesh.puller.contents import CACHE_NAME, Contents, identity_of
from mesh.puller.directory import ModelDirectories
from mesh.puller.disk import check_space, disk_failure
from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import PullerSettings, Source, Workshop
from mesh.puller.providers import open_provider
from mesh.puller.request import StorageRequest, resolve
from mesh.puller.storage_config import read_storage_config
from mesh.puller.turns import Turn, Turns

_log = logging.getLogger(__name__)
_PREFIX = "Failed to pull model from storage due to error: "


@dataclass(frozen=True, slots=True)
class Pulled:
    """Model data that is on the local disk.

    Attributes:
        path: of the model; absolute.
        key: for the runtime: ``model_type``, ``disk_size_bytes``, local ``schema_path``; no credentials.
        disk_size_bytes: of the model's files.
    """

    path: str
    key: str
    disk_size_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is.

    Attributes:
        done_bytes: here so far.
        total_bytes: to be here in the end; 0 while that is not known.
    """

    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the data of a model that is here came from, and what it was."""

    path: str
    key: str
    identity: str


@dataclass(eq=False, slots=True)
class _Pull:
    """A pull under way, for all who wait for it."""

    model_id: str
    path: str
    key: str
    turn: Turn
    staging: Path
    waiters: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    to_write_bytes: int = 0
    published: bool = False
    identity: str = ""
    task: "asyncio.Task[Pulled]" = field(init=False)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, count: int) -> None:
        with self._counting:
            self.done_bytes += count

    @property
    def spoken_for_bytes(self) -> int:
        return max(0, self.to_write_bytes - self.done_bytes)


class Puller:
    """Brings model data to ``<root>/<model id>``.

    Pulls of different models run at once; those of one model and its deletions run in the order in which they
    were asked for. All who ask for the same data at the same time share one download.
    """

    def __init__(self, settings: PullerSettings) -> None:
        self._settings = settings
        # More than downloads: mounted storage that hangs must not stop them from being written.
        self._threads = ThreadPoolExecutor(2 * settings.max_downloads, thread_name_prefix="puller")
        self._workshop = Workshop(settings, self._threads, asyncio.Semaphore(settings.max_downloads))
        self._directories = ModelDirectories(settings.root)
        self._contents = Contents(self._directories.root / CACHE_NAME, settings.max_idle_bytes)
        # Two models with one content fetch it once; and the contents' own files are for one thread at a time.
        self._fetching = Turns()
        self._keeping = asyncio.Lock()
        self._turns = Turns()
        self._to_join: dict[str, _Pull] = {}
        self._running: set[_Pull] = set()
        self._origins: dict[str, _Origin] = {}
        self._measuring = asyncio.Lock()

    @property
    def progress(self) -> Mapping[str, Progress]:
        """How far the pulls under way are, by model id."""
        return {pull.model_id: Progress(pull.done_bytes, pull.total_bytes) for pull in self._running}

    async def model_ids(self) -> list[str]:
        """The models whose data is here, of earlier pullers as well.

        Raises:
            PullFailure: the disk refused.
        """
        try:
            return await self._workshop.run(self._directories.model_ids)
        except OSError as error:
            raise disk_failure(error, "list the directory of models") from error

    async def purge(self) -> list[str]:
        """Removes what earlier pullers left below the root; for the start, before any pull.

        Returns:
            The names of the directories removed.

        Raises:
            PullFailure: the disk refused.
        """
        try:
            removed = await self._workshop.run(self._directories.purge)
            async with self._keeping:
                await self._workshop.run(self._contents.load)
            return removed
        except OSError as error:
            raise disk_failure(error, "clear the directory of models") from error

    async def pull(self, model_id: str, path: str, key: str) -> Pulled:
        """Brings a model here, in place of what an earlier pull of it has brought.

        Either all of it is there afterwards or, where this raises, nothing new is. The download stops, and is
        cleared away, once all who wait for it are cancelled.

        Args:
            model_id: whose data it is.
            path: of the model in its storage.
            key: says where that is and with which credentials, see `mesh.puller.request.resolve`.

        Raises:
            PullFailure: why it could not be brought here.
        """
        pull = self._to_join.get(model_id)
        if pull is None or (pull.path, pull.key) != (path, key):
            pull = self._begin(model_id, path, key)
        pull.waiters += 1
        try:
            return await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if pull.task.cancelled() and this is not None and not this.cancelling():
                raise PullFailure(Code.UNAVAILABLE, "the puller is shutting down") from None
            raise
        finally:
            pull.waiters -= 1
            if pull.waiters == 0 and not pull.task.done():
                self._no_longer_join(pull)
                pull.task.cancel()

    async def size(self, path: str, key: str) -> int:
        """Looks up how many bytes a model has in its storage; brings nothing here.

        Raises:
            PullFailure: it could not be looked up.
        """
        request = await self._workshop.run(self._resolve, path, key)
        with _worded():
            found = await open_provider(request.type, request.config, self._workshop).find(request.path)
        return found.size_bytes

    async def changed(self) -> Mapping[str, str]:
        """Looks up whether the models that are here are in their storage as they were when they were pulled.

        Models whose storage tells of no content (claims, local directories, servers without entity tags) are left out,
        and those whose storage cannot be asked now.

        Returns:
            What is there now, in words, by model id; only of those that have changed.
        """
        found = {}
        for model_id, origin in list(self._origins.items()):
            try:
                _, now = await self._look_up(await self._workshop.run(self._resolve, origin.path, origin.key))
            except PullFailure as failure:
                if failure.code is not Code.NOT_FOUND:
                    _log.info("cannot tell whether the data of model %s has changed: %s", model_id, failure)
                    continue
                change = failure.message
            else:
                change = "other data is there now"
                if now in {"", origin.identity}:
                    continue
            # It may have been pulled again meanwhile.
            if self._origins.get(model_id) is origin:
                found[model_id] = change
        return found

    async def delete(self, model_id: str) -> None:
        """Removes the data of a model; none being there is fine. Waits for a pull of it that is under way.

        Raises:
            PullFailure: the disk refused.
        """
        self._to_join.pop(model_id, None)
        async with self._turns.turn(model_id):
            self._origins.pop(model_id, None)
            try:
                await self._workshop.run(self._directories.delete, model_id)
                async with self._keeping:
                    await self._workshop.run(self._contents.release, model_id)
            except OSError as error:
                raise disk_failure(error, "delete model from local filesystem") from error

    async def close(self) -> None:
        """Stops all pulls; what was pulled stays."""
        tasks = [pull.task for pull in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, model_id: str, path: str, key: str) -> _Pull:
        turn = self._turns.take(model_id)
        pull = _Pull(model_id, path, key, turn, self._directories.new_staging())
        pull.task = asyncio.get_running_loop().create_task(self._run(pull), name=f"pull {model_id}")
        pull.task.add_done_callback(lambda task: self._end(pull, task))
        self._to_join[model_id] = pull
        self._running.add(pull)
        return pull

    def _end(self, pull: _Pull, task: "asyncio.Task[Pulled]") -> None:
        pull.turn.end()
        self._no_longer_join(pull)
        self._running.discard(pull)
        if not task.cancelled() and task.exception() is not None and pull.waiters == 0:
            _log.info(
                "pull of %s, which nobody waits for any more, failed: %s", pull.model_id, task.exception()
            )

    def _no_longer_join(self, pull: _Pull) -> None:
        if self._to_join.get(pull.model_id) is pull:
            del self._to_join[pull.model_id]

    async def _run(self, pull: _Pull) -> Pulled:
        await pull.turn.come()
        directory = self._directories.path(pull.model_id)
        request = await self._workshop.run(self._resolve, pull.path, pull.key)
        began = time.monotonic()
        telling = asyncio.get_running_loop().create_task(self._keep_telling(pull, began))
        try:
            with _worded():
                size = await self._bring(request, pull)
                await self._workshop.run(self._publish, pull)
                async with self._keeping:
                    await self._workshop.run(self._contents.hand_over, str(pull.staging), pull.model_id)
        except BaseException:
            await self._clear_up(pull)
            raise
        finally:
            telling.cancel()
        self._origins.pop(pull.model_id, None)
        if pull.identity:
            self._origins[pull.model_id] = _Origin(pull.path, pull.key, pull.identity)
        _log.info(
            "pulled %s from %s storage: %d bytes in %.1f s",
            pull.model_id,
            request.type,
            size,
            time.monotonic() - began,
            extra={"model": pull.model_id},
        )
        schema = str(directory / request.schema_name) if request.schema_path is not None else None
        return Pulled(str(directory / request.name), request.key_for_runtime(size, schema), size)

    async def _keep_telling(self, pull: _Pull, began: float) -> None:
        """Logs how far a pull is that takes long."""
        while True:
            await asyncio.sleep(self._settings.tell_every_s)
            _log.info(
                "pulling %s: %d of %d bytes after %.0f s",
                pull.model_id,
                pull.done_bytes,
                pull.total_bytes,
                time.monotonic() - began,
                extra={"model": pull.model_id},
            )

    def _resolve(self, path: str, key: str) -> StorageRequest:
        config_dir = self._settings.storage_config_dir
        return resolve(path, key, lambda name: read_storage_config(config_dir, name))

    async def _bring(self, request: StorageRequest, pull: _Pull) -> int:
        for _ in range(self._settings.attempts - 1):
            try:
                return await self._bring_as_found(request, pull)
            except PullFailure as failure:
                if failure.code is not Code.ABORTED:
                    raise
                # The data was being replaced: look again, once the writer may have finished.
                _log.info("pull of %s begins anew: %s", pull.model_id, failure.message)
            pull.done_bytes = pull.to_write_bytes = 0
            await self._workshop.run(self._directories.discard, pull.staging)
            async with self._keeping:
                await self._workshop.run(self._contents.release, str(pull.staging))
            await asyncio.sleep(self._settings.retry_delay_s)
        return await self._bring_as_found(request, pull)

    async def _bring_as_found(self, request: StorageRequest, pull: _Pull) -> int:
        parts, pull.identity = await self._look_up(request)
        pull.total_bytes = sum(source.size_bytes for source, _ in parts)
        await self._workshop.run(self._directories.stage, pull.staging, pull.model_id)
        size_bytes, *_ = [await self._place(source, pull.staging / name, pull) for source, name in parts]
        return size_bytes

    async def _look_up(self, request: StorageRequest) -> tuple[list[tuple[Source, str]], str]:
        """Finds a model and its schema, with their local names; tells what they are made of, where that is known."""
        provider = open_provider(request.type, request.config, self._workshop)
        parts: list[tuple[Source, str]] = [(await provider.find(request.path), request.name)]
        if request.schema_path is not None:
            parts.append((await provider.find(request.schema_path), request.schema_name))
        identities = [source.identity for source, _ in parts]
        return parts, identity_of(identities) if all(identities) else ""

    async def _place(self, source: Source, target: Path, pull: _Pull) -> int:
        """Brings one source to its place, from the disk where its content is there; returns its size in bytes."""
        identity = source.identity
        if not identity:
            return await self._fetch(source, target, pull)
        async with self._fetching.turn(identity):
            async with self._keeping:
                size_bytes = await self._workshop.run(
                    self._contents.take, identity, str(pull.staging), target
                )
            if size_bytes is not None:
                pull.advance(source.size_bytes)
                return size_bytes
            size_bytes = await self._fetch(source, target, pull)
            async with self._keeping:
                await self._workshop.run(self._contents.keep, identity, str(pull.staging), target, size_bytes)
            return size_bytes

    async def _fetch(self, source: Source, target: Path, pull: _Pull) -> int:
        if source.copied:
            await self._speak_for_space(pull, source.size_bytes)
        await source.fetch(target, pull.advance)
        return source.size_bytes

    async def _speak_for_space(self, pull: _Pull, wanted: int) -> None:
        if not wanted:
            return
        # One at a time, or two that fit one after the other would refuse each other.
        async with self._measuring:
            spoken_for = sum(other.spoken_for_bytes for other in self._running)
            await self._workshop.run(
                check_space, self._directories.root, wanted, spoken_for, self._settings.reserved_bytes
            )
            pull.to_write_bytes += wanted

    def _publish(self, pull: _Pull) -> None:
        self._directories.publish(pull.staging, pull.model_id)
        pull.published = True

    async def _clear_up(self, pull: _Pull) -> None:
        if pull.published:
            self._origins.pop(pull.model_id, None)
        try:
            await self._workshop.run(self._withdraw, pull)
            async with self._keeping:
                await self._workshop.run(self._contents.release, str(pull.staging))
                if pull.published:
                    await self._workshop.run(self._contents.release, pull.model_id)
        except (OSError, PullFailure) as error:
            # Those who wait are to hear why the pull failed; the next start clears what is left.
            _log.warning("could not remove what a failed pull of %s left: %s", pull.model_id, error)

    def _withdraw(self, pull: _Pull) -> None:
        # Cancelled at the very last moment, after the work was done.
        if pull.published:
            self._directories.delete(pull.model_id)
        self._directories.discard(pull.staging)


@contextmanager
def _worded() -> Iterator[None]:
    """Words failures as KServe ModelMesh does; clients match on it."""
    try:
        yield
    except PullFailure as error:
        raise PullFailure(error.code, f"{_PREFIX}{error.message}") from error
    except OSError as error:
        failure = disk_failure(error, "store the model")
        raise PullFailure(failure.code, f"{_PREFIX}{failure.message}") from error
