"""Finds models whose count of references is not that of the vmodels which refer to them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mesh.placement.vmodels.values import VModel


def count_references(vmodels: Iterable[VModel]) -> Counter[str]:
    """Counts how many vmodels refer to each model."""
    return Counter(model_id for vmodel in vmodels for model_id in vmodel.models)


def miscounted(counted: Mapping[str, int], recorded: Mapping[str, int]) -> dict[str, int]:
    """Finds the models whose recorded count is wrong.

    A registry that KServe ModelMesh wrote may have such: it loses count where a transition is reverted or forced.

    Args:
        counted: vmodels that refer to a model; one that is missing has none.
        recorded: what the models' records say, alike.

    Returns: models to the references that they really have. A model that is not registered may be among them.
    """
    return {
        model_id: counted.get(model_id, 0)
        for model_id in counted.keys() | recorded.keys()
        if counted.get(model_id, 0) != recorded.get(model_id, 0)
    }
