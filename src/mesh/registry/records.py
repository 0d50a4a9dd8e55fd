"""The records of the registry and their JSON, which is that of KServe ModelMesh.

Records are values: a change makes a new one. Members at their default are left out of the JSON; members that
this release does not know are kept and written back, so that old and new instances can share a registry.
Times are milliseconds since the epoch, UTC.
"""

from collections.abc import Mapping
from sys import intern
from types import MappingProxyType
from typing import Any, Self

import msgspec
from msgspec.structs import force_setattr, replace

EMPTY_CACHE = 2**63 - 1
"""`InstanceRecord.oldest_use` of an instance that holds no model."""
UNTYPED = "NLCLASSIFIER"
"""The model type of a record that has none, as in KServe ModelMesh."""
FEW_COPIES = 2
"""A model with so few copies left has no `last_unload`, as in KServe ModelMesh."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Record(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """What all records have in common.

    Attributes:
        actionable: a flag that KServe ModelMesh may set on any record.
        unknown: members that this release does not know, as they were read.
    """

    actionable: bool = False
    unknown: Mapping[str, msgspec.Raw] = msgspec.field(
        default=_NOTHING, name=" members unknown to this release"
    )

    def but(self, **changes: object) -> Self:
        """Returns the record with some attributes changed."""
        return replace(self, **changes)


class ModelRecord(
    Record, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """A registered model.

    Attributes:
        type: its format; `UNTYPED` where the stored record has none.
        key: further attributes, a JSON object by convention.
        path: where its data is.
        copies: instance to the time its load began; loaded and loading copies alike.
        failures: instance to the time a load failed there.
        failure_messages: instance to an object whose ``msg`` tells why; use `failure_message`.
        refs: vmodels that refer to it; above 0 it must not be deleted.
        auto_delete: whether it goes when `refs` becomes 0.
        last_used: updated lazily, hours late.
        last_unload: when a copy was last unloaded while many were left, else 0.
        size_units: memory that a copy takes, units of 8 KiB, as a model server last told; 0 where none has. A member
            of ours, written when the record is written for another reason.
        ready: instances in `copies` that said to have it loaded. Only a copy that was added beside others says so,
            since those who know of the others would go on without it until it is taken to be loaded. A member of ours.
        policy: how many copies it is to have, and how they are treated: members of a
            `mesh.placement.CopyPolicy` as it names them. A member of ours, kept as it was read, so that what
            a later release adds to it survives a rewrite; KServe ModelMesh ignores it.
    """

    # Written always: a factory's result, unlike a plain default, is never left out.
    type: str = msgspec.field(default_factory=lambda: UNTYPED)
    key: str = msgspec.field(default="", name="encKey")
    path: str = msgspec.field(default="", name="mPath")
    copies: Mapping[str, int] = msgspec.field(default=_NOTHING, name="instanceIds")
    failures: Mapping[str, int] = msgspec.field(default=_NOTHING, name="failedIn")
    failure_messages: Mapping[str, Mapping[str, Any]] = msgspec.field(default=_NOTHING, name="fails")
    refs: int = 0
    auto_delete: bool = msgspec.field(default=False, name="autoDel")
    last_used: int = msgspec.field(default=0, name="lu")
    last_unload: int = msgspec.field(default=0, name="lul")
    size_units: int = msgspec.field(default=0, name="sizeUnits")
    ready: tuple[str, ...] = ()
    policy: Mapping[str, Any] = _NOTHING

    def __post_init__(self) -> None:
        # A hundred thousand records share few types and keys, and most have no copy and no failure.
        force_setattr(self, "type", intern(self.type))
        force_setattr(self, "key", intern(self.key))
        if not self.copies:
            force_setattr(self, "copies", _NOTHING)
        if not self.failures:
            force_setattr(self, "failures", _NOTHING)
        if not self.failure_messages:
            force_setattr(self, "failure_messages", _NOTHING)
        if not self.policy:
            force_setattr(self, "policy", _NOTHING)

    @property
    def max_copies(self) -> int:
        """Copies that its policy allows, 0 for any number; ``maxCopies`` of a `mesh.placement.CopyPolicy`."""
        most = self.policy.get("maxCopies", 0)
        return most if type(most) is int else 0

    def with_copy(self, instance: str, started: int) -> Self:
        """Adds a copy whose load began at `started`, or moves that time."""
        return replace(self, copies={**self.copies, instance: started}, ready=self._ready_but(instance))

    def with_ready(self, instance: str) -> Self:
        """Notes that a copy is loaded."""
        return replace(self, ready=tuple(sorted({*self.ready, instance})))

    def _ready_but(self, instance: str) -> tuple[str, ...]:
        return tuple(other for other in self.ready if other != instance) if self.ready else ()

    def without_copy(self, instance: str, *, unloaded: int | None = None) -> Self:
        """Removes a copy.

        Args:
            instance: where it was; no harm where there is none.
            unloaded: now, where the copy was unloaded while it could still serve; None where it never
                loaded or its instance is gone, which leaves `last_unload` as it is.
        """
        copies = _without(self.copies, instance)
        last_unload = self.last_unload if unloaded is None else unloaded
        return replace(
            self,
            copies=copies,
            ready=self._ready_but(instance),
            last_unload=last_unload if len(copies) > FEW_COPIES else 0,
        )

    def with_failure(self, instance: str, failed: int, message: str = "", reason: str = "") -> Self:
        """Records that a load failed at an instance; its copies are left alone.

        Args:
            instance: where it failed.
            failed: when.
            message: why, for people.
            reason: why, for machines; a member of ours.
        """
        messages = _without(self.failure_messages, instance)
        told = {"msg": message, "reason": reason}
        if told := {name: text for name, text in told.items() if text}:
            messages = {**messages, instance: told}
        return replace(self, failures={**self.failures, instance: failed}, failure_messages=messages)

    def without_failure(self, instance: str) -> Self:
        """Forgets that a load failed at an instance."""
        return replace(
            self,
            failures=_without(self.failures, instance),
            failure_messages=_without(self.failure_messages, instance),
        )

    def without_failures_before(self, time: int) -> Self:
        """Forgets the failures before a time."""
        failures = {instance: failed for instance, failed in self.failures.items() if failed >= time}
        messages = {
            instance: message for instance, message in self.failure_messages.items() if instance in failures
        }
        return replace(self, failures=failures, failure_messages=messages)

    def failure_message(self, instance: str) -> str:
        """Returns why the load at an instance failed, or an empty text."""
        message = self.failure_messages.get(instance, _NOTHING).get("msg", "")
        return message if isinstance(message, str) else str(message)

    def failure_reason(self, instance: str) -> str:
        """Returns the reason for machines of a failed load, or an empty text where none was told."""
        reason = self.failure_messages.get(instance, _NOTHING).get("reason", "")
        return reason if isinstance(reason, str) else str(reason)

    def with_use(self, used: int) -> Self:
        """Moves `last_used` forward, never back."""
        return replace(self, last_used=used) if used > self.last_used else self


class InstanceRecord(
    Record, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """An instance as it tells the others of itself; there while its session lives.

    Attributes:
        start_time: of its process.
        version: a number that grows with releases, 0 where unknown.
        location: host or node it is on.
        zone: failure domain.
        labels: for type constraints, sorted.
        oldest_use: last use of the least recently used model; `EMPTY_CACHE` where it holds none.
        count: models held.
        capacity: units of 8 KiB for models, without the buffer for unloads.
        used: units of them in use.
        loading_threads: loads that may run at once.
        loads_in_progress: loads queued, waiting and running.
        request_rate: per minute; in latency mode busyness in tenths of a percent.
        shutting_down: whether it is to be treated as gone.
        endpoint: ``host:port`` where other instances reach it. A member of ours: KServe ModelMesh finds its
            peers by registrations of its own, and ignores this one.
        type_rules: tells whether two instances have the same type constraints; empty for none. A member of ours.
    """

    start_time: int = msgspec.field(default=0, name="startTime")
    version: int = msgspec.field(default=0, name="vers")
    location: str = msgspec.field(default="", name="loc")
    zone: str = ""
    labels: tuple[str, ...] = ()
    actionable: bool = False
    oldest_use: int = msgspec.field(default=0, name="lruTime")
    count: int = 0
    capacity: int = msgspec.field(default=0, name="cap")
    used: int = 0
    loading_threads: int = msgspec.field(default=0, name="lThreads")
    loads_in_progress: int = msgspec.field(default=0, name="lInProg")
    request_rate: int = msgspec.field(default=0, name="rpm")
    shutting_down: bool = msgspec.field(default=False, name="shutdown")
    endpoint: str = ""
    type_rules: str = msgspec.field(default="", name="typeRules")

    def __post_init__(self) -> None:
        force_setattr(self, "labels", tuple(sorted(self.labels)))


class VModelRecord(
    Record, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """A name that stands for a model, and for the next one while that is made ready.

    Attributes:
        owner: who may change it, empty for anyone.
        active: id of the model that serves its requests.
        target: id of the model that will; equal to `active` outside a transition.
        failed: whether the target could not be loaded.
        canary: model that answers a share of the requests: ``model``, its id, and ``share``, above 0 and below
            1; empty where there is none. A member of ours, which KServe ModelMesh ignores.
        shadow: model that gets copies of a share of them, alike.
    """

    owner: str = msgspec.field(default="", name="o")
    active: str = msgspec.field(default="", name="amid")
    target: str = msgspec.field(default="", name="tmid")
    failed: bool = False
    canary: Mapping[str, Any] = _NOTHING
    shadow: Mapping[str, Any] = _NOTHING

    def __post_init__(self) -> None:
        if not self.canary:
            force_setattr(self, "canary", _NOTHING)
        if not self.shadow:
            force_setattr(self, "shadow", _NOTHING)


def _without(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in members:
        return members
    return {other: value for other, value in members.items() if other != name}
