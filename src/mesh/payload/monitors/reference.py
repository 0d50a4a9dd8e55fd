"""What a model's features were when all was well, kept small."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from mesh.payload.monitors.features import count_rows
from mesh.payload.monitors.outliers import OutlierScore
from mesh.payload.monitors.statistics import bin_counts, quantile_edges
from mesh.tensors import Array

#: Fewer rows say too little to compare with.
FEWEST_ROWS = 50
#: The code of a category that the reference has not, or that is too rare there to be one of its own.
OTHER = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One feature in the reference.

    Attributes:
        name: as `columns_of` has it.
        categories: by code; empty where it is a number.
        ordered: its values in ascending order, thinned out evenly where there are many; empty for categories.
        edges: of the bins of the stability index.
        counts: in these bins, the last one for missing values; of categories by code, the last one for others.
    """

    name: str
    categories: tuple[str, ...]
    ordered: Array
    edges: Array
    counts: Array

    def encode(self, values: Array) -> Array:
        """Values as numbers: themselves, or the codes of their categories."""
        if not self.categories:
            return values if values.dtype.kind == "f" else np.full(len(values), np.nan)
        codes = {name: float(code) for code, name in enumerate(self.categories)}
        return np.fromiter((codes.get(name, OTHER) for name in values.tolist()), np.float64, len(values))

    def count(self, encoded: Array) -> Array:
        """How many values are in each bin, or of each category."""
        if not self.categories:
            return bin_counts(encoded, self.edges)
        known = encoded[encoded >= 0].astype(int)
        counts = np.bincount(known, minlength=len(self.categories) + 1)
        counts[-1] = len(encoded) - len(known)
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What windows are compared with.

    Attributes:
        features: in a fixed order, that of the columns of encoded rows.
        rows: that it was made of.
        outliers: scores rows by their numbers; None where no feature is one.
    """

    features: tuple[Feature, ...]
    rows: int
    outliers: OutlierScore | None

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Array],
        *,
        bins: int = 10,
        sample: int = 2_000,
        categories: int = 20,
        outlier_share: float = 0.01,
    ) -> Self:
        """Makes a reference of rows.

        Args:
            columns: by feature, at least `FEWEST_ROWS` rows.
            bins: of the stability index of numbers.
            sample: values kept of each number for the Kolmogorov-Smirnov test.
            categories: that are told apart, the most frequent ones.
            outlier_share: of usual rows that may be taken for outliers.

        Raises:
            ValueError: there are too few rows, or no features.
        """
        rows = count_rows(columns)
        if rows < FEWEST_ROWS:
            raise ValueError(f"a reference of {rows} rows is too small, it needs {FEWEST_ROWS} at least")
        features = tuple(
            _categories(name, values, categories)
            if values.dtype.kind == "O"
            else _numbers(name, values, bins, sample)
            for name, values in columns.items()
        )
        numbers = [columns[feature.name] for feature in features if not feature.categories]
        outliers = OutlierScore.learn(np.column_stack(numbers), outlier_share) if numbers else None
        return cls(features, rows, outliers)

    def encode(self, columns: Mapping[str, Array]) -> Array:
        """Rows as a matrix with a column for each feature: NaN where it is missing, codes for categories."""
        matrix = np.full((count_rows(columns), len(self.features)), np.nan)
        for index, feature in enumerate(self.features):
            values = columns.get(feature.name)
            if values is not None:
                matrix[:, index] = feature.encode(values)
            elif feature.categories:
                matrix[:, index] = OTHER
        return matrix

    def scores(self, encoded: Array) -> Array | None:
        """The outlier score of each row; None where no feature is a number."""
        if self.outliers is None:
            return None
        return self.outliers.of(encoded[:, [not feature.categories for feature in self.features]])


def _numbers(name: str, values: Array, bins: int, sample: int) -> Feature:
    ordered = np.sort(values[~np.isnan(values)])
    # One that was always missing is compared by that alone.
    edges = quantile_edges(ordered, bins) if len(ordered) else np.empty(0)
    counts = bin_counts(values, edges)
    if len(ordered) > sample:
        ordered = ordered[np.linspace(0, len(ordered) - 1, sample).round().astype(int)]
    return Feature(name, (), ordered, edges, counts)


def _categories(name: str, values: Array, most: int) -> Feature:
    frequent: Sequence[tuple[str, int]] = Counter(values.tolist()).most_common(most)
    counts = [count for _, count in frequent]
    # Never empty, for that would make it a number.
    names = tuple(category for category, _ in frequent)
    return Feature(name, names, np.empty(0), np.empty(0), np.array([*counts, len(values) - sum(counts)]))
