"""Names that stand for models."""

from dataclasses import dataclass

from mesh.instance.settings.fields import integer, setting, text
from mesh.placement.vmodels import PATIENCE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class VModelSettings:
    """Of the vmodels of the mesh. See `describe` for meanings."""

    default_owner: str = setting(
        "MM_DEFAULT_VMODEL_OWNER",
        text,
        "owner of vmodels that are created without one",
        default="",
    )
    patience_ms: int = setting(
        "MESH_VMODEL_PATIENCE_MS",
        integer(0),
        "a vmodel's target that is loaded waits at most so long for as many copies as the active model has, ms",
        default=PATIENCE_MS,
    )
    review_interval_ms: int = setting(
        "MESH_VMODEL_REVIEW_INTERVAL_MS",
        integer(100),
        "time between two looks of the leader at all vmodels, which try failed transitions again, ms",
        default=30_000,
    )
    audit_interval_ms: int = setting(
        "MESH_VMODEL_AUDIT_INTERVAL_MS",
        integer(100),
        "time between two checks that every model's count of references is right, ms",
        default=300_000,
    )
