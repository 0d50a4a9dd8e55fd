"""Writes this instance's copies and failures to the models' records, in order for each model.

What is to be removed is removed in the end, also where the registry is away for a while: such changes are kept
and tried again. A copy is added at once or not at all, since a load waits for it.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from mesh.registry import (
    ALONE,
    AddCopy,
    Company,
    ConfirmCopy,
    CopyChange,
    CopyRefused,
    CorrectStart,
    Keep,
    LearnSize,
    ModelRecord,
    MoveToFailures,
    NotAdded,
    NoteUse,
    OutcomeUnknown,
    Registry,
    RegistryError,
    RemoveCopy,
    RemoveFailure,
    ResignCopy,
    RestoreCopy,
    SessionState,
    StoreDenied,
    StoreUnavailable,
    apply_together,
)

log = logging.getLogger(__name__)

# Named, because annotations of a function that is made for each write are worked out each time.
_Current = ModelRecord | None
_Wanted = ModelRecord | Keep | None

#: Between two tries while the registry is away, seconds.
RETRY_INTERVAL_S = 1.0
#: A load does not wait longer than this for its registration, seconds: a write's deadline and one try more.
REGISTER_TIMEOUT_S = 7.0
#: A session that was lost is there again within this, seconds, where the registry answers.
NEW_SESSION_S = 0.5
#: Records written at a time where no load waits: a model server that is gone may have had thousands of copies.
WRITERS_IN_NO_HURRY = 64


class Registration:
    """What one instance writes about its own copies.

    Args:
        is_live: whether an instance is there; copies of others are no obstacle to a load.
        is_leaving: whether an instance is about to go.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        instance_id: str,
        is_live: Callable[[str], bool],
        is_leaving: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._instance_id = instance_id
        self._is_live = is_live
        self._is_leaving = is_leaving
        self._now_ms = now_ms
        self._pending: dict[str, list[CopyChange]] = {}
        #: Those who wait for a copy to be entered.
        self._asked: dict[AddCopy, asyncio.Future[NotAdded | None]] = {}
        self._resigning: dict[str, ResignCopy] = {}
        #: What was learned of sizes and is written together with the next change of the record.
        self._sizes: dict[str, int] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._in_no_hurry = asyncio.Semaphore(WRITERS_IN_NO_HURRY)

    async def add_copy(self, model_id: str, last_used_ms: int, company: Company = ALONE) -> NotAdded | None:
        """Enters this instance as one that loads the model, unless the model has copies enough.

        Args:
            company: the copies elsewhere with which it may be.

        Returns: why not, or None where it is entered.
        """
        change = AddCopy(
            self._instance_id,
            self._now_ms(),
            last_used_ms,
            company.beside,
            self._is_live,
            enough=company.copies,
            replaced=company.replaced,
            is_leaving=self._is_leaving,
        )
        if not self._registry.joined:
            return self._add_unwritten(model_id, change)
        if (trouble := await self._trouble()) is not None:
            return trouble
        answer = self._asked[change] = asyncio.get_running_loop().create_future()
        self._add(model_id, change)
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            if change in self._pending.get(model_id, []):
                self._pending[model_id].remove(change)
            # It may be written after all; the record must not promise a copy that nobody loads.
            self.remove_copy(model_id)
            return NotAdded(f"the registry did not take the registration within {REGISTER_TIMEOUT_S:g} s")
        finally:
            del self._asked[change]

    async def _trouble(self) -> NotAdded | None:
        """Why nothing can be entered now; None where it can.

        An instance without a session is not one of the mesh, and a registry that has been away for so long will hardly
        be there within a write's deadline: those who wait are told at once.
        """
        session = self._registry.session
        if session.state is SessionState.LIVE:
            return None
        try:
            await session.wait_live(NEW_SESSION_S)
        except TimeoutError as error:
            return NotAdded(f"the registry is away: {error}")
        return None

    def _add_unwritten(self, model_id: str, change: AddCopy) -> NotAdded | None:
        """Decides by what is remembered of the registry, and enters the copy once the registry is there.

        An instance that started without the registry has nothing loaded, and would be of no use otherwise. At worst
        another one loads the model, too.
        """
        apply_together(self._registry.models.get(model_id), [change])
        if change.refusal is None:
            self.restore_copy(model_id, change.started_ms)
        return change.refusal

    async def resign_copy(self, model_id: str, *, keep: int, pause_ms: int = 0) -> bool:
        """Takes this instance out of the model's copies where the mesh can do without the one here.

        Args:
            keep: copies that must stay elsewhere.
            pause_ms: no other copy may have been unloaded within this, milliseconds.

        Returns: whether it is out; the copy is still loaded then, and `is_resigning` until `resigned` is called.
        """
        now_ms = self._now_ms()
        change = ResignCopy(self._instance_id, now_ms, keep, self._stays, now_ms - pause_ms)
        self._resigning[model_id] = change
        self._add(model_id, change)
        writer = self._writers[model_id]
        await asyncio.wait([writer], timeout=REGISTER_TIMEOUT_S)
        if change.done and change not in self._pending.get(model_id, []):
            return True
        if change in self._pending.get(model_id, []):
            self._pending[model_id].remove(change)
        self.resigned(model_id)
        return False

    def is_resigning(self, model_id: str) -> bool:
        """Whether the record rightly does not list the copy here, or soon will not."""
        return model_id in self._resigning

    def resigned(self, model_id: str) -> None:
        """The copy here is on its way out, or stays."""
        self._resigning.pop(model_id, None)

    def _stays(self, instance_id: str) -> bool:
        return self._is_live(instance_id) and not self._is_leaving(instance_id)

    def confirm_copy(self, model_id: str) -> None:
        """Tells the others that the copy here is loaded, where they would not look for it yet."""
        self._add(model_id, ConfirmCopy(self._instance_id))

    def restore_copy(self, model_id: str, started_ms: int) -> None:
        """Enters a copy again that is loaded here and that the record does not know any more."""
        self._add(model_id, RestoreCopy(self._instance_id, started_ms))

    def remove_copy(self, model_id: str, last_used_ms: int = 0) -> None:
        """Removes this instance from the model's copies.

        Args:
            last_used_ms: of the copy, epoch milliseconds; 0 where it was never used.
        """
        self._add(model_id, RemoveCopy(self._instance_id, self._now_ms(), last_used_ms))

    def correct_start(self, model_id: str, started_ms: int) -> None:
        """Writes down when the load of the copy here began."""
        self._add(model_id, CorrectStart(self._instance_id, started_ms))

    def note_use(self, model_id: str, used_ms: int) -> None:
        """Writes down when the copy here was used last."""
        self._add(model_id, NoteUse(used_ms))

    def move_to_failures(self, model_id: str, message: str, reason: str) -> None:
        """Records that the load failed here, and why, for people and for machines."""
        self._add(model_id, MoveToFailures(self._instance_id, self._now_ms(), message, reason))

    def remove_failure(self, model_id: str) -> None:
        """Forgets that a load failed here."""
        self._add(model_id, RemoveFailure(self._instance_id))

    def learn_size(self, model_id: str, units: int) -> None:
        """Has the record tell how large a copy is, as soon as it is written for another reason."""
        record = self._registry.models.get(model_id)
        if record is not None and record.size_units == units:
            self._sizes.pop(model_id, None)
        else:
            self._sizes[model_id] = units

    @property
    def unwritten(self) -> list[str]:
        """Models whose records are still to be changed."""
        return sorted(self._writers)

    async def settle(self, timeout_s: float) -> bool:
        """Waits until everything is written; returns whether it is after ``timeout_s`` seconds."""
        writers = tuple(self._writers.values())
        if not writers:
            return True
        _, pending = await asyncio.wait(writers, timeout=timeout_s)
        return not pending

    async def close(self) -> None:
        """Gives up what is not written yet."""
        writers = tuple(self._writers.values())
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)

    def _add(self, model_id: str, change: CopyChange) -> None:
        pending = self._pending.setdefault(model_id, [])
        pending.append(change)
        if (units := self._sizes.pop(model_id, 0)) > 0:
            pending.append(LearnSize(units))
        if model_id not in self._writers:
            self._writers[model_id] = asyncio.get_running_loop().create_task(self._write_all(model_id))

    async def _write_all(self, model_id: str) -> None:
        try:
            if any(isinstance(change, AddCopy) for change in self._pending[model_id]):
                await self._write(model_id)
            else:
                async with self._in_no_hurry:
                    await self._write(model_id)
        finally:
            del self._writers[model_id]

    async def _write(self, model_id: str) -> None:
        while changes := self._pending.pop(model_id, None):
            try:
                await self._registry.models.update(model_id, partial(apply_together, changes=changes))
            except (StoreUnavailable, StoreDenied) as error:
                self._refuse(changes, f"the registry is away: {error}")
                kept = [change for change in changes if not isinstance(change, AddCopy)]
                if isinstance(error, OutcomeUnknown) and len(kept) < len(changes):
                    # Before what was asked for since, which may be that the copy be added after all.
                    kept.append(RemoveCopy(self._instance_id, self._now_ms()))
                self._pending[model_id] = kept + self._pending.get(model_id, [])
                if self._pending[model_id]:
                    await asyncio.sleep(RETRY_INTERVAL_S)
            except CopyRefused:
                self._tell(changes)
            except RegistryError as error:
                log.exception("record not written", extra={"model": model_id})
                self._refuse(changes, f"the registry refused: {error}")
            else:
                self._tell(changes)

    def _tell(self, changes: list[CopyChange]) -> None:
        for change in changes:
            if isinstance(change, AddCopy):
                self._answer(change, change.refusal)

    def _refuse(self, changes: list[CopyChange], message: str) -> None:
        for change in changes:
            if isinstance(change, AddCopy):
                self._answer(change, NotAdded(message))

    def _answer(self, change: AddCopy, refusal: NotAdded | None) -> None:
        answer = self._asked.get(change)
        if answer is not None and not answer.done():
            answer.set_result(refusal)
