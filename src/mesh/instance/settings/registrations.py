"""Models and vmodels that instances register by themselves when they start."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from mesh.instance.settings.fields import setting


class StaticModelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model is; as ``ModelInfo`` of the management API."""

    type: str
    path: str = ""
    key: str = ""


class StaticModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One entry of the list.

    Attributes:
        model_id: of the model.
        model_info: what it is.
        v_model_id: a vmodel that is to stand for it; empty for none.
        retain_after_transition: whether the model stays when that vmodel gets another target.
        ensure_loaded: whether the instance is ready only once the model is loaded somewhere, and does not start
            where its load fails.
    """

    model_id: str
    model_info: StaticModelInfo
    v_model_id: str = ""
    retain_after_transition: bool = False
    ensure_loaded: bool = False


_List = msgspec.json.Decoder(list[StaticModel])


def static_models(value: str) -> tuple[StaticModel, ...]:
    """The entries of a JSON list, as KServe ModelMesh has it."""
    if not value.strip():
        return ()
    try:
        models = tuple(_List.decode(value))
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"{error}; it is a list of objects with modelId, modelInfo {{type, path, key}}, and where wanted vModelId,"
            " retainAfterTransition, ensureLoaded"
        ) from None
    for model in models:
        if not model.model_id or not model.model_info.type:
            raise ValueError(f"{model}: modelId and modelInfo.type must not be empty")
    return models


def static_models_file(value: str) -> tuple[StaticModel, ...]:
    """The same from a file."""
    return static_models(Path(value).read_text(encoding="utf-8")) if value else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationSettings:
    """What is registered at the start. See `describe` for meanings."""

    listed: tuple[StaticModel, ...] = setting(
        "MM_AUTO_REGISTER_MODELS MM_AUTO_REGISTER_MODEL",
        static_models,
        "JSON list of models that are registered at the start",
        default=(),
    )
    in_file: tuple[StaticModel, ...] = setting(
        "MM_AUTO_REGISTER_MODEL_PATH MM_AUTO_REGISTER_MODELS_PATH",
        static_models_file,
        "file with such a list; both may be given",
        default=(),
    )

    @property
    def models(self) -> tuple[StaticModel, ...]:
        """All of them."""
        return self.listed + self.in_file
