"""What runtimes can serve, as labels of their pods, and what types of models ask of them."""

from collections import defaultdict
from collections.abc import Iterable

from mesh.controller.runtimes.runtime import Runtime

#: Types of models that no runtime serves require this label, which no pod has.
NO_RUNTIME_LABEL = "_no_runtime"
#: A protocol that the REST proxy adds to one that a runtime speaks, as in KServe ModelMesh.
_THROUGH_REST = {"grpc-v2": "v2"}


def labels_of(runtime: Runtime, *, rest_proxy: bool) -> frozenset[str]:
    """The labels that pods of a runtime have in the mesh (``MM_LABELS``).

    Args:
        runtime: one that the mesh runs.
        rest_proxy: whether its pods have one.
    """
    return frozenset({f"rt:{runtime.name}", *_types(runtime), *_protocols(runtime, rest_proxy=rest_proxy)})


def serves_type(runtime: Runtime, model_type: str, *, rest_proxy: bool) -> bool:
    """Whether pods of a runtime may load models of a type, such as ``mt:sklearn:0|pv:grpc-v2`` or ``rt:triton-2.x``."""
    return labels_of(runtime, rest_proxy=rest_proxy).issuperset(model_type.split("|"))


def type_constraints(runtimes: Iterable[Runtime], *, rest_proxy: bool) -> dict[str, dict[str, list[str]]]:
    """The labels that each type of model requires of an instance, and those it prefers (``MM_TYPE_CONSTRAINTS``).

    Types that no runtime serves require a label that none has. Where runtimes of different priority serve a type, the
    first of them is preferred; the others take what finds no room there.

    Args:
        runtimes: all that count in the namespace.
        rest_proxy: whether pods have one.
    """
    rules: dict[str, dict[str, list[str]]] = {"_default": {"required": [NO_RUNTIME_LABEL]}}
    ranks: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for runtime in sorted(runtimes, key=lambda runtime: runtime.name):
        if not runtime.serves:
            continue
        own = f"rt:{runtime.name}"
        rules[own] = {"required": [own]}
        for kind, priority in _types(runtime).items():
            rules[kind] = {"required": [kind]}
            ranks[kind][priority].append(own)
            for protocol in _protocols(runtime, rest_proxy=rest_proxy):
                rules[f"{kind}|{protocol}"] = {"required": [kind, protocol]}
                ranks[f"{kind}|{protocol}"][priority].append(own)
    for kind, by_priority in ranks.items():
        if len(by_priority) > 1:
            rules[kind]["preferred"] = by_priority[max(by_priority)]
    return dict(sorted(rules.items()))


def _types(runtime: Runtime) -> dict[str, int]:
    """Labels of the formats that models find by themselves, each with its highest priority."""
    labels: dict[str, int] = {}
    for model_format in runtime.formats:
        if not model_format.auto_select:
            continue
        names = [f"mt:{model_format.name}"]
        if model_format.version:
            names.append(f"mt:{model_format.name}:{model_format.version}")
        for name in names:
            labels[name] = max(labels.get(name, 0), model_format.priority)
    return labels


def _protocols(runtime: Runtime, *, rest_proxy: bool) -> set[str]:
    spoken = set(runtime.protocols)
    if rest_proxy:
        spoken |= {_THROUGH_REST[protocol] for protocol in runtime.protocols if protocol in _THROUGH_REST}
    return {f"pv:{protocol}" for protocol in spoken}
