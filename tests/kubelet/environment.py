"""The variables and the command of a container, as its pod says them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.controller.quantities import parse_quantity

_REFERENCE = re.compile(r"\$(\$|\(([^()]+)\))")

#: Reads the data of a Secret or ConfigMap: kind and name; None where it is not there.
Read = Callable[[str, str], Mapping[str, bytes] | None]


class NotThereYetError(Exception):
    """What a container needs is not there; the message says what."""


def environment_of(
    container: Mapping[str, Any], pod: Mapping[str, Any], addresses: Mapping[str, str], read: Read
) -> dict[str, str]:
    """The variables of a container.

    Args:
        container: of the pod.
        pod: the whole object.
        addresses: of the pod and its node, by their paths, such as ``status.podIP``.
        read: finds what variables are taken from.

    Raises:
        NotThereYetError: a Secret, a ConfigMap or a key of it is missing.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        for kind, member in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            if member in source:
                reference = source[member]
                data = read(kind, reference["name"])
                if data is None and not reference.get("optional"):
                    raise NotThereYetError(f"{kind} {reference['name']} not found")
                prefix = source.get("prefix", "")
                found |= {prefix + name: value.decode() for name, value in (data or {}).items()}
    for variable in container.get("env") or ():
        if "valueFrom" not in variable:
            found[variable["name"]] = expanded(variable.get("value", ""), found)
        elif (value := _taken(variable["valueFrom"], container, pod, addresses, read)) is not None:
            found[variable["name"]] = value
    return found


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """A text with ``$(NAME)`` for the variables' values; ``$$`` is a dollar, and unknown names stay as they are."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else variables.get(found[2], found[0])

    return _REFERENCE.sub(value, text)


def command_of(
    container: Mapping[str, Any], entrypoint: Sequence[str], variables: Mapping[str, str]
) -> list[str]:
    """The command line of a container, whose image's is ``entrypoint``."""
    own = [expanded(part, variables) for part in container.get("command") or ()]
    return [*(own or entrypoint), *(expanded(part, variables) for part in container.get("args") or ())]


def field_of(pod: Mapping[str, Any], addresses: Mapping[str, str], path: str) -> str:
    """A field of a pod, as a text."""
    if path in addresses:
        return addresses[path]
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part) or {}
    return value if isinstance(value, str) else ""


def _taken(
    source: Mapping[str, Any],
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    addresses: Mapping[str, str],
    read: Read,
) -> str | None:
    if "fieldRef" in source:
        return field_of(pod, addresses, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return _amount(source["resourceFieldRef"], container, pod)
    kind, member = (
        ("Secret", "secretKeyRef") if "secretKeyRef" in source else ("ConfigMap", "configMapKeyRef")
    )
    reference = source[member]
    data = read(kind, reference["name"])
    if data is not None and reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    raise NotThereYetError(f"{kind} {reference['name']} has no {reference['key']}")


def _amount(reference: Mapping[str, Any], container: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    name = reference.get("containerName", container["name"])
    [other] = [one for one in pod["spec"]["containers"] if one["name"] == name]
    kind, resource = reference["resource"].split(".", 1)
    amount = parse_quantity(str(((other.get("resources") or {}).get(kind) or {}).get(resource, "0")))
    return str(math.ceil(amount / (parse_quantity(str(reference.get("divisor") or "1")) or 1)))
