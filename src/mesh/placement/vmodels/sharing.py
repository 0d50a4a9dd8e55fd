"""How a vmodel's requests are shared out among its models."""

from collections.abc import Callable
from dataclasses import replace

from mesh.placement.vmodels.values import Portion, VModel

#: Weights of a vmodel's models are parts of this, so that a share of one in a million is not lost.
WHOLE = 1_000_000

Targets = list[tuple[str, int]]
Mirror = tuple[str, float] | None


def ready(vmodel: VModel, is_loaded: Callable[[str], bool]) -> VModel:
    """The vmodel without a canary or shadow that has no loaded copy: requests must not wait for one on trial."""
    if vmodel.canary is None and vmodel.shadow is None:
        return vmodel
    return replace(
        vmodel, canary=_if_loaded(vmodel.canary, is_loaded), shadow=_if_loaded(vmodel.shadow, is_loaded)
    )


def _if_loaded(portion: Portion | None, is_loaded: Callable[[str], bool]) -> Portion | None:
    return portion if portion is not None and is_loaded(portion.model) else None


def shares(vmodel: VModel) -> tuple[Targets, Mirror]:
    """Works out who gets which requests.

    Returns: the models that answer, with weights that add up to `WHOLE`, and the model that gets copies of a share.
    """
    mirror = None if vmodel.shadow is None else (vmodel.shadow.model, vmodel.shadow.share)
    if vmodel.canary is None:
        return [(vmodel.active, WHOLE)], mirror
    weight = min(WHOLE - 1, max(1, round(vmodel.canary.share * WHOLE)))
    return [(vmodel.active, WHOLE - weight), (vmodel.canary.model, weight)], mirror
