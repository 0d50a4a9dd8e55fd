"""Which volume claims the pods of a runtime mount."""

import json
from collections.abc import Iterable, Mapping


def claims_of_storage(entries: Mapping[str, bytes]) -> tuple[set[str], list[str]]:
    """The claims that the entries of the storage Secret name.

    Args:
        entries: of the Secret, decoded: a JSON object each.

    Returns:
        The claims, and what is wrong with entries that cannot be read; they do not keep the others from counting.
    """
    claims: set[str] = set()
    problems = []
    for name, written in entries.items():
        try:
            entry = json.loads(written)
        except ValueError as problem:
            problems.append(f"entry {name} of the storage Secret is no JSON: {problem}")
            continue
        if not isinstance(entry, dict):
            problems.append(f"entry {name} of the storage Secret must be a JSON object")
        elif entry.get("type") == "pvc" and isinstance(entry.get("name"), str) and entry["name"]:
            claims.add(entry["name"])
    return claims, problems


def mounted_claims(
    of_storage: Iterable[str], of_models: Iterable[str], existing: Iterable[str], *, any_claim: bool
) -> tuple[str, ...]:
    """The claims to mount, in an order that does not change by itself.

    Args:
        of_storage: that the storage Secret names; mounted whether they exist or not, so that the pod says what is
            missing.
        of_models: that models of the runtime name.
        existing: of the namespace.
        any_claim: whether models may name claims at all.
    """
    named = set(of_models) & set(existing) if any_claim else set()
    return tuple(sorted(set(of_storage) | named))
