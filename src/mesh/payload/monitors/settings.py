"""What a monitor is configured with: the members of its options."""

from typing import Annotated, Literal, TypeAlias

import msgspec

from mesh.payload.monitors.reference import FEWEST_ROWS
from mesh.payload.monitors.watch import Limits
from mesh.payload.monitors.windows import WindowShape

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Window(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of which rows a window is; see `WindowShape`."""

    rows: Annotated[int, msgspec.Meta(ge=20, le=100_000)] = 1_000
    every_rows: Count | None = None
    seconds: Seconds | None = None
    every_seconds: Seconds | None = None
    fewest_rows: Count = 100

    def shape(self) -> WindowShape:
        """As windows are kept."""
        every = self.every_rows or self.rows
        return WindowShape(
            self.rows, every, self.seconds, self.every_seconds, min(self.fewest_rows, self.rows)
        )


class DriftLimits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What counts as drift; see `Limits`."""

    stability_index: Annotated[float, msgspec.Meta(gt=0)] = 0.2
    p_value: Share = 0.05
    outlier_share: Share = 0.05

    def limits(self) -> Limits:
        """As windows are judged."""
        return Limits(self.stability_index, self.p_value, self.outlier_share)


class MonitorMembers(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The members of a monitor's options.

    Attributes:
        sides: of calls that are watched: inputs of requests, outputs of responses.
        by: whether each concrete model is watched for itself, or all models of a vmodel as one.
        reference: path of a file with rows of when all was well; ``{model}`` and ``{side}`` stand for whose. Empty, or
            a file that is not there: the first rows that come are learnt, and kept there where it ends with ``.json``.
        learn_rows: how many are learnt.
        categorical: tensors or features whose numbers are categories.
        bins: of numbers, for the stability index.
        categories: that are told apart in a feature; others are one.
        most_elements: of a tensor's row that are watched one by one; a tensor with more is watched by summaries.
        outlier_share: of the reference's rows that lie beyond the outlier threshold.
        window: of which rows a window is.
        limits: what counts as drift.
        events: address (http or https) that gets events as CloudEvents, beside the log.
        most_models: that are watched at a time, by the newest use.
        metric_features: features of a model that have series of their own, those that have drifted furthest.
    """

    sides: Annotated[list[Literal["request", "response"]], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["request"]
    )
    by: Literal["model", "vmodel"] = "model"
    reference: str = ""
    learn_rows: Annotated[int, msgspec.Meta(ge=FEWEST_ROWS, le=1_000_000)] = 1_000
    categorical: list[str] = []
    bins: Annotated[int, msgspec.Meta(ge=2, le=100)] = 10
    categories: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 20
    most_elements: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    outlier_share: Share = 0.01
    window: Window = msgspec.field(default_factory=Window)
    limits: DriftLimits = msgspec.field(default_factory=DriftLimits)
    events: str = ""
    most_models: Count = 32
    metric_features: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 64
