"""How far one sample is from another: the Kolmogorov-Smirnov test and the population stability index."""

import math
from dataclasses import dataclass

import numpy as np

from mesh.tensors import Array

#: A share that is never gone below in the index, so that an empty bin does not make it infinite.
SMALLEST_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of a two-sample test.

    Attributes:
        statistic: the largest distance between the two empirical distribution functions, 0 to 1.
        p_value: how probable a distance as large is between samples of one distribution.
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(reference: Array, sample: Array) -> Difference:
    """The two-sided test of Kolmogorov and Smirnov of two samples.

    The p-value is that of Kolmogorov's limit, with the correction of Stephens ("Use of the Kolmogorov-Smirnov,
    Cramer-von Mises and related statistics without extensive tables", J. R. Stat. Soc. B 32, 1970) for finite samples.
    Where values repeat it is too large rather than too small.

    Args:
        reference: in ascending order, not empty, without NaN.
        sample: in any order, not empty, without NaN.
    """
    ordered = np.sort(sample)
    values = np.concatenate([reference, ordered])
    distance = float(
        np.abs(
            np.searchsorted(reference, values, "right") / len(reference)
            - np.searchsorted(ordered, values, "right") / len(ordered)
        ).max()
    )
    size = math.sqrt(len(reference) * len(ordered) / (len(reference) + len(ordered)))
    return Difference(distance, kolmogorov_survival((size + 0.12 + 0.11 / size) * distance))


def kolmogorov_survival(distance: float) -> float:
    """The probability that Kolmogorov's limiting distribution gives to distances above this one."""
    if distance < 0.2:
        # 1 to within 1e-12, where the series below would need many terms.
        return 1.0
    terms = ((-1) ** (index - 1) * math.exp(-2 * (index * distance) ** 2) for index in range(1, 40))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def population_stability_index(expected: Array, actual: Array) -> float:
    """How far the shares of bins have moved: the sum of (a - e) ln(a / e).

    By custom in credit scoring, below 0.1 is no change to speak of and above 0.2 (some say 0.25) is one to look at
    (Siddiqi, "Credit Risk Scorecards", 2006).

    Args:
        expected: counts in the reference, by bin.
        actual: counts in the sample, by the same bins.
    """
    before = np.maximum(expected / max(expected.sum(), 1), SMALLEST_SHARE)
    after = np.maximum(actual / max(actual.sum(), 1), SMALLEST_SHARE)
    return float(np.sum((after - before) * np.log(after / before)))


def quantile_edges(values: Array, bins: int) -> Array:
    """Edges that put about as many values into each of some bins.

    A value that alone fills more than one bin gets one of its own, so that its share is seen to change.

    Args:
        values: in ascending order, not empty, without NaN.
        bins: at most so many and one for each such value.

    Returns: in ascending order, each the last value that belongs to its bin; a further bin has what is above the last.
    """
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    edges, times = np.unique(quantiles, return_counts=True)
    own = edges[times > 1]
    if values[0] == values[-1]:
        own = edges
    return np.unique(np.concatenate([np.nextafter(own, -np.inf), edges]))


def bin_counts(values: Array, edges: Array) -> Array:
    """How many values are in each bin; NaN has one of its own, the last."""
    missing = np.isnan(values)
    bins = np.searchsorted(edges, values[~missing], "left")
    counts = np.bincount(bins, minlength=len(edges) + 2)
    counts[-1] = np.count_nonzero(missing)
    return counts
