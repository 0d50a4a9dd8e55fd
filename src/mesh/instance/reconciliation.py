"""Keeps the copies here and the records of the registry in step, whoever changed the records and however.

What an instance writes itself is in step by itself. Records change under it when models are unregistered, when the
registry was restored from a backup, or when people and other tools write to it; and what an earlier process of the
same id wrote is still there when the next one starts.
"""

from collections.abc import Callable

from mesh.instance.loader import Loader
from mesh.instance.registration import Registration
from mesh.instance.sizing import known_size
from mesh.placement import CopyPolicy, CopyState, ProtectionChanged, RemovalReason, SizeDeclared
from mesh.registry import ModelRecord, Registry


class Reconciliation:
    """Follows the models' records on behalf of one instance.

    Args:
        is_leaving: whether copies here are being handed over, so that records rightly lose them.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        registration: Registration,
        loader: Loader,
        is_leaving: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._registration = registration
        self._loader = loader
        self._is_leaving = is_leaving
        self._now_ms = now_ms

    def start(self) -> None:
        """Forgets what an earlier process of this id had or failed to load, and follows every change from now on.

        Where the registry is away, what it had is to be brought back. No load may have been asked for yet.
        """
        for model_id, record in self._registry.models.items():
            if self._instance_id in record.copies and self._registry.joined:
                self._registration.remove_copy(model_id)
            if self._instance_id in record.failures:
                self._registration.remove_failure(model_id)
            self._protect(model_id, None, record)
        self._registry.models.subscribe(self._changed)

    def _protect(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        if (protection := _protection(new)) != _protection(old):
            priority, pinned = protection
            self._loader.handle(ProtectionChanged(model_id, priority, pinned))

    def _declare(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        declared = known_size(new).declared if new is not None else 0
        if declared != (known_size(old).declared if old is not None else 0):
            self._loader.handle(SizeDeclared(model_id, declared))

    def copy_changed(self, model_id: str) -> None:
        """A copy here begins or ends to serve; its record may have lost sight of it while it was on its way."""
        record = self._registry.models.get(model_id)
        if record is not None and self._loader.is_serving(model_id):
            self._changed(model_id, record, record)

    def _changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        loader = self._loader
        self._protect(model_id, old, new)
        self._declare(model_id, old, new)
        if new is None:
            if loader.cache.copy(model_id) is not None:
                loader.remove(model_id, RemovalReason.UNREGISTERED)
        elif self._is_leaving():
            return
        elif model_id not in loader.cache:
            if self._instance_id in new.copies:
                self._registration.remove_copy(model_id)
        elif old is not None and _attributes(old) != _attributes(new):
            # Models never change: it was deleted, and another one has its name.
            loader.remove(model_id, RemovalReason.RECONCILED)
        elif old is not None and self._is_forgiven(model_id, old, new):
            loader.remove(model_id, RemovalReason.RECONCILED)
        elif (
            self._instance_id not in new.copies
            and loader.is_serving(model_id)
            and not self._registration.is_resigning(model_id)
        ):
            self._registration.restore_copy(model_id, self._now_ms())

    def _is_forgiven(self, model_id: str, old: ModelRecord, new: ModelRecord) -> bool:
        """Whether the record has lost a failure that is still remembered here.

        It was deleted and registered again, or its owner wants it tried again: the next request is to do so.
        """
        own_id, copy = self._instance_id, self._loader.cache.copy(model_id)
        cleared = own_id in old.failures and own_id not in new.failures
        return cleared and copy is not None and copy.state is CopyState.FAILED


def _protection(record: ModelRecord | None) -> tuple[int, bool]:
    """Priority of a model's copies, and whether they must not be evicted: it may not have more than it is to keep."""
    if record is None or not record.policy:
        return 0, False
    policy = CopyPolicy.from_members(record.policy)
    return policy.priority, policy.pinned or 0 < len(record.copies) <= policy.kept_copies


def _attributes(record: ModelRecord) -> tuple[str, str, str]:
    return record.type, record.path, record.key
