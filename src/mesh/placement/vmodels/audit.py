"""Finds models whose count of references is not that of the vmodels which refer to them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mesh.placement.vmodels.values import VModel


def count_references(vmodels: Iterable[VModel]) -> Counter[str]:
    """Counts how many vmodels refer to each model."""
    return Counter(model_id for vmodel in vmodels for model_id in vmodel.models)


def miscounted(vmodels: Iterable[VModel], references: Mapping[str, int]) -> dict[str, int]:
    """Finds the models whose count is wrong.

    A registry that KServe ModelMesh wrote may have such: it loses count where a transition is reverted or forced.

    Args:
        references: as the records have them; a model that is missing has none.

    Returns: models to the references that they really have. A model that is not registered may be among them.
    """
    counted = count_references(vmodels)
    return {
        model_id: counted[model_id]
        for model_id in counted.keys() | references.keys()
        if counted[model_id] != references.get(model_id, 0)
    }
