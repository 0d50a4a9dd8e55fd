"""Watches one side of one model's calls: learns a reference if it has none, then judges windows against it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesh.payload.monitors.features import Columns, count_rows, joined, split
from mesh.payload.monitors.reference import Feature, Reference
from mesh.payload.monitors.statistics import kolmogorov_smirnov, population_stability_index
from mesh.payload.monitors.windows import Windows, WindowShape
from mesh.tensors import Array

_LOOSE_PARTS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as drift, and as too many outliers.

    Attributes:
        stability_index: of a feature, at least.
        p_value: of a feature's Kolmogorov-Smirnov test, less than this divided by the number of numeric features
            (Bonferroni's correction: many features would otherwise differ by chance). Drift of a number needs both,
            for in large windows differences are significant that do not matter; for a category, and for a number
            that is missing more or less often, the index alone decides.
        outlier_share: of a window's rows, more.
    """

    stability_index: float = 0.2
    p_value: float = 0.05
    outlier_share: float = 0.05


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How far one feature of a window is from the reference.

    Attributes:
        name: of the feature.
        stability_index: see `population_stability_index`.
        distance: the Kolmogorov-Smirnov statistic; None of categories, and where there are no values.
        p_value: of the same.
        drifted: whether it is beyond the limits.
    """

    name: str
    stability_index: float
    distance: float | None
    p_value: float | None
    drifted: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """One window compared with the reference.

    Attributes:
        at: seconds, when its last row came.
        rows: of the window.
        features: in the reference's order.
        outlier_share: of the window's rows; None where there is no score.
        largest_score: of the window's rows.
        too_many_outliers: whether the share is beyond the limit.
    """

    at: float
    rows: int
    features: tuple[FeatureDrift, ...]
    outlier_share: float | None
    largest_score: float | None
    too_many_outliers: bool

    @property
    def drifted(self) -> list[FeatureDrift]:
        """The features that have drifted, the furthest first."""
        return sorted(
            (feature for feature in self.features if feature.drifted),
            key=lambda feature: feature.stability_index,
            reverse=True,
        )


class Watch:
    """The state of one side of one model's calls. Memory does not grow with calls.

    Attributes:
        reference: what is compared with; None while it is being learnt.
        learnt_rows: kept so far to learn from.
        rows: scored so far.
        outliers: of these.
        windows: judged so far.
        latest: the newest judgement.
    """

    def __init__(
        self, reference: Reference | None, shape: WindowShape, limits: Limits, learn_rows: int
    ) -> None:
        """Begins.

        Args:
            reference: None to learn one.
            shape: of the windows.
            limits: of drift.
            learn_rows: to learn a reference from.
        """
        self.reference = reference
        self.learnt_rows = 0
        self.rows = 0
        self.outliers = 0
        self.windows = 0
        self.latest: Judgement | None = None
        self._shape = shape
        self._limits = limits
        self._learn_rows = learn_rows
        self._learning: list[Columns] = []
        self._windows = self._open(reference)

    def learn(self, columns: Columns) -> Columns:
        """Keeps rows to learn from, while there is no reference and as far as they are needed.

        Returns: the rest.
        """
        if self.reference is not None:
            return columns
        kept, rest = split(columns, self._learn_rows - self.learnt_rows)
        self._learning.append(kept)
        if len(self._learning) > _LOOSE_PARTS:
            # Many small arrays take many times the memory of what is in them.
            self._learning = [joined(self._learning)]
        self.learnt_rows += count_rows(kept)
        return rest

    def add(self, columns: Columns, at: float) -> Iterator[Judgement]:
        """Judges each window that rows of one message complete; there must be a reference."""
        assert self.reference is not None and self._windows is not None  # noqa: S101, PT018
        encoded = self.reference.encode(columns)
        self.rows += len(encoded)
        self.outliers += int(np.count_nonzero(self._beyond(encoded)))
        for window in self._windows.add(encoded, at):
            self.latest = self._judge(window, at)
            self.windows += 1
            yield self.latest

    @property
    def ready_to_learn(self) -> bool:
        """Whether there is no reference, but all the rows to make one of."""
        return self.reference is None and self.learnt_rows >= self._learn_rows

    def take_learnt(self) -> Columns:
        """Gives the rows to make a reference of, and forgets them."""
        columns = joined(self._learning)
        self._learning, self.learnt_rows = [], 0
        return columns

    def begin(self, reference: Reference) -> None:
        """Compares with a reference from now on."""
        self.reference = reference
        self._windows = self._open(reference)

    def _open(self, reference: Reference | None) -> Windows | None:
        return Windows(self._shape, len(reference.features)) if reference else None

    def _beyond(self, encoded: Array) -> Array:
        assert self.reference is not None  # noqa: S101 - nothing is scored before
        scores = self.reference.scores(encoded)
        if scores is None or self.reference.outliers is None:
            return np.zeros(len(encoded), bool)
        beyond: Array = scores > self.reference.outliers.threshold
        return beyond

    def _judge(self, window: Array, at: float) -> Judgement:
        assert self.reference is not None  # noqa: S101 - there is no window before
        numbers = sum(not feature.categories for feature in self.reference.features)
        p_value = self._limits.p_value / max(1, numbers)
        features = tuple(
            self._compare(feature, window[:, index], p_value)
            for index, feature in enumerate(self.reference.features)
        )
        scores = self.reference.scores(window)
        share = None if scores is None else float(np.mean(self._beyond(window)))
        return Judgement(
            at,
            len(window),
            features,
            share,
            None if scores is None else float(scores.max()),
            share is not None and share > self._limits.outlier_share,
        )

    def _compare(self, feature: Feature, values: Array, p_limit: float) -> FeatureDrift:
        counts = feature.count(values)
        index = population_stability_index(feature.counts, counts)
        beyond = index >= self._limits.stability_index
        present = values[~np.isnan(values)]
        if feature.categories or not len(present) or not len(feature.ordered):
            return FeatureDrift(feature.name, index, None, None, beyond)
        test = kolmogorov_smirnov(feature.ordered, present)
        missing = population_stability_index(_presence(feature.counts), _presence(counts))
        certain = test.p_value < p_limit or missing >= self._limits.stability_index
        return FeatureDrift(feature.name, index, test.statistic, test.p_value, beyond and certain)


def _presence(counts: Array) -> Array:
    return np.array([counts[:-1].sum(), counts[-1]])
