"""Writes a simulated instance's copies and failures to the models' records, in order for each model."""

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.registry import (
    AddCopy,
    Company,
    ConfirmCopy,
    CopyChange,
    CopyRefused,
    LearnSize,
    MoveToFailures,
    NotAdded,
    OutcomeUnknown,
    RegistryError,
    RemoveCopy,
    RemoveFailure,
    RestoreCopy,
    StoreUnavailable,
    apply_together,
)
from mesh.simulation.agenda import Signal

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: Between two tries while the registry is away; as in an instance.
RETRY_INTERVAL_US = 1_000_000
#: A load does not wait longer than this for its registration; as in an instance.
REGISTER_TIMEOUT_US = 7_000_000


class Registration:
    """What one simulated instance writes about its own copies."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._pending: dict[str, list[CopyChange]] = {}
        self._asked: dict[AddCopy, Signal] = {}
        self._writing: set[str] = set()
        #: What was learned of sizes and is written together with the next change of the record.
        self._sizes: dict[str, int] = {}

    @property
    def settled(self) -> bool:
        """Everything is written."""
        return not self._writing

    def add_copy(self, model_id: str, last_used_ms: int, company: Company) -> Signal:
        """Enters this instance as one that loads the model; the signal's value is None, or a `NotAdded`."""
        instance = self._instance
        change = AddCopy(
            instance.instance_id,
            instance.now_ms,
            last_used_ms,
            company.beside,
            instance.is_live,
            enough=company.copies,
            replaced=company.replaced,
            is_leaving=instance.is_leaving,
        )
        answer = self._asked[change] = Signal()
        self._add(model_id, change)
        if instance.registry_troubled:
            instance.after(REGISTER_TIMEOUT_US, self._give_up, model_id, change)
        return answer

    def _give_up(self, model_id: str, change: AddCopy) -> None:
        if change not in self._asked:
            return
        if change in self._pending.get(model_id, []):
            self._pending[model_id].remove(change)
        # It may be written after all; the record must not promise a copy that nobody loads.
        self.remove_copy(model_id)
        self._answer(change, NotAdded("the registry did not take the registration"))

    def confirm_copy(self, model_id: str) -> None:
        """Tells the others that the copy here is loaded, where they would not look for it yet."""
        self._add(model_id, ConfirmCopy(self._instance.instance_id))

    def restore_copy(self, model_id: str, started_ms: int) -> None:
        """Enters a copy again that is loaded here and that the record does not know any more."""
        self._add(model_id, RestoreCopy(self._instance.instance_id, started_ms))

    def remove_copy(self, model_id: str) -> None:
        """Removes this instance from the model's copies."""
        self._add(model_id, RemoveCopy(self._instance.instance_id, self._instance.now_ms))

    def move_to_failures(self, model_id: str, message: str, reason: str) -> None:
        """Records that the load failed here."""
        self._add(
            model_id, MoveToFailures(self._instance.instance_id, self._instance.now_ms, message, reason)
        )

    def remove_failure(self, model_id: str) -> None:
        """Forgets that a load failed here."""
        self._add(model_id, RemoveFailure(self._instance.instance_id))

    def learn_size(self, model_id: str, units: int) -> None:
        """Has the record tell how large a copy is, as soon as it is written for another reason."""
        record = self._instance.client.model(model_id)
        if record is not None and record.size_units == units:
            self._sizes.pop(model_id, None)
        else:
            self._sizes[model_id] = units

    def _add(self, model_id: str, change: CopyChange) -> None:
        pending = self._pending.setdefault(model_id, [])
        pending.append(change)
        if (units := self._sizes.pop(model_id, 0)) > 0:
            pending.append(LearnSize(units))
        if model_id not in self._writing:
            self._writing.add(model_id)
            # After what is being done now, as a task would be: several changes are one write.
            self._instance.after(0, self._begin, model_id)

    def _begin(self, model_id: str) -> None:
        self._instance.start(self._write(model_id))

    def _write(self, model_id: str) -> Generator[Any, Any, None]:
        while changes := self._pending.pop(model_id, None):
            try:
                yield from self._instance.client.update_model(
                    model_id, partial(apply_together, changes=changes)
                )
            except StoreUnavailable as error:
                self._refuse(changes, f"the registry is away: {error}")
                kept = [change for change in changes if not isinstance(change, AddCopy)]
                if isinstance(error, OutcomeUnknown) and len(kept) < len(changes):
                    # Before what was asked for since, which may be that the copy be added after all.
                    kept.append(RemoveCopy(self._instance.instance_id, self._instance.now_ms))
                self._pending[model_id] = kept + self._pending.get(model_id, [])
                if self._pending[model_id]:
                    yield RETRY_INTERVAL_US
            except CopyRefused:
                self._tell(changes)
            except RegistryError as error:
                self._refuse(changes, f"the registry refused: {error}")
            else:
                self._tell(changes)
        self._writing.discard(model_id)

    def _tell(self, changes: list[CopyChange]) -> None:
        for change in changes:
            if isinstance(change, AddCopy):
                self._answer(change, change.refusal)

    def _refuse(self, changes: list[CopyChange], message: str) -> None:
        for change in changes:
            if isinstance(change, AddCopy):
                self._answer(change, NotAdded(message))

    def _answer(self, change: AddCopy, refusal: NotAdded | None) -> None:
        answer = self._asked.pop(change, None)
        if answer is not None:
            answer.set(refusal)
