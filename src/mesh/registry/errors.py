"""What can go wrong with a registry, each with a text that says where and what to do."""


class RegistryError(Exception):
    """The base of what this room raises on its own account."""


class StoreUnavailable(RegistryError):
    """No member answered in time, and the call has had no effect. A later try may succeed."""


class OutcomeUnknown(StoreUnavailable):
    """A write was sent and no answer came: it may have been applied, now or a little later."""


class StoreDenied(RegistryError):
    """The store refuses this user, password or certificate; trying again does not help."""


class StoreRefused(RegistryError):
    """The store found the request itself faulty, such as a value that is too large."""


class Compacted(RegistryError):
    """The wanted revision is gone: list again and go on from there.

    Attributes:
        oldest: the oldest revision that is left, or 0 where the store does not tell.
    """

    def __init__(self, message: str, oldest: int = 0) -> None:
        super().__init__(message)
        self.oldest = oldest


class LeaseGone(RegistryError):
    """The lease has ended and its keys with it; ask for another."""


class InvalidRecord(RegistryError):
    """A stored value is not what its key promises.

    Attributes:
        key: under which it is stored, or the record's id where the key is not known.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key


class InvalidConnection(RegistryError, ValueError):
    """A ``KV_STORE`` setting, or the file it names, is faulty."""
