"""What the instances agree on: records of models, vmodels and instances in a shared store.

Open a store with `open_store`, mirror its prefixes with `Mirror`, hold keys with a `Session`, elect a leader
with an `Election`; a `Registry` is all of these for one instance.
"""

from mesh.registry.codecs import INSTANCES, MODELS, TEXT, VMODELS, Codec, RecordCodec, TextCodec
from mesh.registry.connection import EtcdConnection, MemoryConnection, parse_connection
from mesh.registry.copy_changes import (
    ALONE,
    AddCopy,
    Company,
    ConfirmCopy,
    CopyChange,
    CopyRefused,
    CorrectStart,
    ForgetInstances,
    LearnSize,
    MoveToFailures,
    NotAdded,
    NoteUse,
    RemoveCopy,
    RemoveFailure,
    ResignCopy,
    RestoreCopy,
    apply_together,
)
from mesh.registry.election import Election
from mesh.registry.errors import (
    Compacted,
    InvalidConnection,
    InvalidRecord,
    LeaseGone,
    OutcomeUnknown,
    RegistryError,
    StoreDenied,
    StoreRefused,
    StoreUnavailable,
)
from mesh.registry.etcd import EtcdStore
from mesh.registry.keys import Keys
from mesh.registry.memory import MemoryCluster, MemoryStore
from mesh.registry.mirror import Mirror, Subscriber
from mesh.registry.opening import open_store
from mesh.registry.records import EMPTY_CACHE, UNTYPED, InstanceRecord, ModelRecord, Record, VModelRecord
from mesh.registry.registry import Registry
from mesh.registry.session import Session, SessionState
from mesh.registry.snapshot import InvalidSnapshot, Snapshot, SnapshotFile
from mesh.registry.store import Batch, Delete, Entry, Event, Listing, Outcome, Page, Put, Store
from mesh.registry.update import KEEP, Keep, update_together

__all__ = [
    "ALONE",
    "EMPTY_CACHE",
    "INSTANCES",
    "KEEP",
    "MODELS",
    "TEXT",
    "UNTYPED",
    "VMODELS",
    "AddCopy",
    "Batch",
    "Codec",
    "Compacted",
    "Company",
    "ConfirmCopy",
    "CopyChange",
    "CopyRefused",
    "CorrectStart",
    "Delete",
    "Election",
    "Entry",
    "EtcdConnection",
    "EtcdStore",
    "Event",
    "ForgetInstances",
    "InstanceRecord",
    "InvalidConnection",
    "InvalidRecord",
    "InvalidSnapshot",
    "Keep",
    "Keys",
    "LearnSize",
    "LeaseGone",
    "Listing",
    "MemoryCluster",
    "MemoryConnection",
    "MemoryStore",
    "Mirror",
    "ModelRecord",
    "MoveToFailures",
    "NotAdded",
    "NoteUse",
    "Outcome",
    "OutcomeUnknown",
    "Page",
    "Put",
    "Record",
    "RecordCodec",
    "Registry",
    "RegistryError",
    "RemoveCopy",
    "RemoveFailure",
    "ResignCopy",
    "RestoreCopy",
    "Session",
    "SessionState",
    "Snapshot",
    "SnapshotFile",
    "Store",
    "StoreDenied",
    "StoreRefused",
    "StoreUnavailable",
    "Subscriber",
    "TextCodec",
    "VModelRecord",
    "apply_together",
    "open_store",
    "parse_connection",
    "update_together",
]
