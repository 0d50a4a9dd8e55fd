"""Sets models' policies of copies."""

import json
from collections.abc import Callable

from mesh.instance.errors import changing_record, invalid, model_not_found, read_only
from mesh.placement import CopyPolicy, InvalidPolicy
from mesh.registry import ModelRecord, Registry

#: The member of a model's key, where that is a JSON object, that holds its first policy.
KEY_MEMBER = "policy"


class Policies:
    """The policies in models' records.

    Args:
        read_only: whether records are not to be changed.
    """

    def __init__(self, registry: Registry, *, read_only: bool = False) -> None:
        self._registry = registry
        self._read_only = read_only

    async def change(self, model_id: str, change: Callable[[CopyPolicy], CopyPolicy]) -> CopyPolicy:
        """Changes a model's policy; what it asks for is done soon after.

        Args:
            change: makes the new policy from the one there is; called again where the record changed meanwhile.

        Raises:
            MeshError: MODEL_NOT_FOUND, INVALID_ARGUMENT or REGISTRY_UNAVAILABLE.
        """
        policy = CopyPolicy()

        def change_record(record: ModelRecord | None) -> ModelRecord:
            nonlocal policy
            if record is None:
                raise model_not_found(model_id)
            policy = change(CopyPolicy.from_members(record.policy))
            _check(policy, model_id)
            return record.but(policy=policy.members(record.policy))

        if self._read_only:
            raise read_only(model_id)
        with changing_record(model_id):
            await self._registry.models.update(model_id, change_record)
        return policy


def policy_in_key(model_id: str, key: str) -> CopyPolicy:
    """The policy that a model is registered with: the member ``policy`` of its key, with names as in its record.

    Keys are the model server's, and free in form: one that is no JSON object, or has no such member, asks for nothing.

    Raises:
        MeshError: INVALID_ARGUMENT: the member is there and cannot be used.
    """
    if KEY_MEMBER not in key:
        return CopyPolicy()
    try:
        attributes = json.loads(key)
    except ValueError:
        return CopyPolicy()
    members = attributes.get(KEY_MEMBER) if isinstance(attributes, dict) else None
    if members is None:
        return CopyPolicy()
    if not isinstance(members, dict):
        raise invalid(f"{KEY_MEMBER} in the key of model {model_id} is {members!r}: it must be an object")
    policy = CopyPolicy.from_members(members)
    read = policy.members()
    for name, value in members.items():
        if value and read.get(name) != value:
            known = ", ".join(CopyPolicy.member_names())
            raise invalid(
                f"{KEY_MEMBER}.{name} in the key of model {model_id} is {value!r}: there are {known}, all whole "
                "numbers but pinned, which is true or false"
            )
    _check(policy, model_id)
    return policy


def _check(policy: CopyPolicy, model_id: str) -> None:
    try:
        policy.check()
    except InvalidPolicy as error:
        raise invalid(f"policy of model {model_id}: {error}") from None
