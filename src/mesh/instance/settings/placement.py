"""Where models may go."""

from dataclasses import dataclass

from mesh.instance.settings.fields import setting, text
from mesh.placement import TypeConstraints


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """Conditions of placement. See `describe` for meanings."""

    type_constraints: TypeConstraints | None = setting(
        "MM_TYPE_CONSTRAINTS",
        TypeConstraints.parse,
        "JSON: labels that types of model require or prefer of an instance; the same on all instances",
        default=None,
    )
    type_constraints_path: str = setting(
        "MM_TYPE_CONSTRAINTS_PATH",
        text,
        "the same in a file; it may change while the instance runs",
        default="",
    )
