"""How unlike a reference a row is: the Mahalanobis distance, made to bear constant, dependent and odd features."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mesh.tensors import Array

#: Reference values further than this many robust deviations from the median count as so far, so that a few wrong ones
#: do not make everything look usual.
_CLIP = 5.0
#: Of a normal distribution: one standard deviation over the median of absolute deviations.
_FROM_MEDIAN_DEVIATION = 1.4826
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class OutlierScore:
    """Scores rows by their distance from a reference.

    Features are centred at their median and scaled by their median absolute deviation (by the standard deviation, where
    more than half of the values are the same); the covariance is shrunk as Ledoit and Wolf have it ("A well-conditioned
    estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88, 2004), so that it can be inverted
    however few rows there are. The score is the Mahalanobis distance (1936), divided by the root of the number of
    features: about 1 for a usual row.

    Attributes:
        centre: of each feature.
        scale: of each feature.
        mean: of the scaled features.
        precision: inverse of their covariance.
        threshold: the score that a given share of rows of the reference, which the covariance had not seen, is above.
    """

    centre: Array
    scale: Array
    mean: Array
    precision: Array
    threshold: float

    @classmethod
    def learn(cls, rows: Array, share: float) -> Self:
        """Learns what is usual.

        Args:
            rows: of the reference, a column for each feature; NaN where a value is missing.
            share: of such rows that is to be above the threshold.
        """
        present = np.where(np.isfinite(rows), rows, np.nan)
        # A feature without any value has nothing that would be usual.
        present[:, np.isnan(present).all(axis=0)] = 0.0
        centre: Array = np.nanmedian(present, axis=0)
        deviations = np.abs(present - centre)
        robust: Array = np.nanmedian(deviations, axis=0) * _FROM_MEDIAN_DEVIATION
        scale: Array = np.where(robust > 0, robust, np.sqrt(np.nanmean(deviations**2, axis=0)))
        scale = np.where(scale > 0, scale, 1.0)
        # What is nearly always the same has nothing but rare values to tell how it varies.
        clip = np.where(robust > 0, _CLIP, np.inf)
        scaled = np.clip(_scaled(rows, centre, scale), -clip, clip)
        # One half to fit, the other to see how far rows are that it was not fitted to.
        fitted = scaled[::2]
        mean = fitted.mean(axis=0)
        covariance = ledoit_wolf(fitted - mean)
        # Where hardly anything was shrunk, features that depend on one another still have to be told apart.
        covariance += np.eye(len(mean)) * (_RIDGE * np.trace(covariance) / len(mean))
        precision = np.linalg.inv(covariance)
        learnt = cls(centre, scale, mean, precision, 0.0)
        threshold = float(np.quantile(learnt.of(rows[1::2]), 1 - share))
        return cls(centre, scale, mean, precision, threshold)

    def of(self, rows: Array) -> Array:
        """The score of each row."""
        offsets = _scaled(rows, self.centre, self.scale) - self.mean
        squares = np.einsum("ij,jk,ik->i", offsets, self.precision, offsets, optimize=True)
        scores: Array = np.sqrt(np.maximum(squares, 0) / max(1, rows.shape[1]))
        return scores


def ledoit_wolf(centred: Array) -> Array:
    """The shrunk covariance of rows with a mean of zero; the identity where nothing varies."""
    count, width = centred.shape
    covariance: Array = centred.T @ centred / count
    variance = np.trace(covariance) / width
    if not variance > 0:
        return np.eye(width)
    # Distance of the sample's covariance from a multiple of the identity, and how much of that is noise.
    distance = np.sum(covariance**2) / width - variance**2
    squares = centred**2
    noise = (np.sum(squares.T @ squares) / count - np.sum(covariance**2)) / (count * width)
    shrinkage = 1.0 if distance <= 0 else min(noise, distance) / distance
    shrunk: Array = (1 - shrinkage) * covariance + shrinkage * variance * np.eye(width)
    return shrunk


def _scaled(rows: Array, centre: Array, scale: Array) -> Array:
    # A value that is missing is taken for a usual one.
    return np.nan_to_num((rows - centre) / scale, nan=0.0, posinf=1e6, neginf=-1e6)
