"""What decisions about vmodels are made of, and how many references each model has."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Portion:
    """A model besides the active one, and the share of the vmodel's requests that it gets.

    Attributes:
        model: its id.
        share: above 0, at most 1.
    """

    model: str
    share: float


@dataclass(frozen=True, slots=True)
class VModel:
    """A name that stands for a model, and for the next one while that is made ready.

    Attributes:
        active: id of the model that serves its requests.
        target: id of the model that will; equal to ``active`` outside a transition.
        owner: who may change it, empty for anyone.
        failed: whether the target could not be loaded.
        canary: answers a share of the requests; None where the active model answers all.
        shadow: gets copies of a share of the requests, and its answers go nowhere; None where there is none.
    """

    active: str
    target: str
    owner: str = ""
    failed: bool = False
    canary: Portion | None = None
    shadow: Portion | None = None

    @property
    def in_transition(self) -> bool:
        """Whether another model is to become the active one."""
        return self.active != self.target

    @property
    def models(self) -> frozenset[str]:
        """The models that it refers to; each counts once."""
        portions = (portion.model for portion in (self.canary, self.shadow) if portion is not None)
        return frozenset((self.active, self.target, *portions))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What makes a model this model and no other; they never change."""

    type: str
    path: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Referent:
    """A model as vmodels see it.

    Attributes:
        references: vmodels that refer to it.
        auto_delete: whether it goes with its last reference.
        last_used_ms: epoch milliseconds.
    """

    attributes: Attributes
    references: int = 0
    auto_delete: bool = False
    last_used_ms: int = 0


Referents = Mapping[str, Referent | None]
"""Models by id; None stands for one that is not registered."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written, all of it or nothing.

    Attributes:
        vmodel: as it is to be; None where it is to be deleted, or stays absent.
        models: those that change, None for one to be deleted.
    """

    vmodel: VModel | None
    models: Referents = field(default_factory=dict)


class Refused(StrEnum):
    """Why a vmodel stays as it is."""

    VMODEL_NOT_FOUND = "vmodel_not_found"
    MODEL_NOT_FOUND = "model_not_found"
    UNEXPECTED_TARGET = "unexpected_target"
    OTHER_OWNER = "other_owner"
    OTHER_ATTRIBUTES = "other_attributes"
    ACTIVE_MODEL = "active_model"


class VModelRefused(Exception):
    """A call asked for what must not be.

    Attributes:
        reason: for machines.
        message: for people.
    """

    def __init__(self, reason: Refused, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def changed(before: VModel | None, after: VModel | None, models: Referents) -> Change:
    """Moves references along with a vmodel's change. Nothing else ever changes how many a model has.

    The counts follow from what the vmodel refers to before and after, whatever led there, so that none is left over
    by a transition that is reverted, forced or cut short. KServe ModelMesh counts step by step, and loses count.

    Args:
        models: every model that the vmodel refers to before or after.

    Returns: the change, with each model whose count differs; one that loses its last reference goes if it is to.
    """
    had = before.models if before is not None else frozenset()
    has = after.models if after is not None else frozenset()
    wanted: dict[str, Referent | None] = {}
    for model_id in has - had:
        if (model := models[model_id]) is not None:
            wanted[model_id] = replace(model, references=model.references + 1)
    for model_id in had - has:
        if (model := models[model_id]) is not None:
            left = max(0, model.references - 1)
            wanted[model_id] = None if left == 0 and model.auto_delete else replace(model, references=left)
    return Change(after, wanted)
