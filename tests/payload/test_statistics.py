"""The statistics of monitors, against scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from scipy.spatial import distance
from sklearn import covariance

from mesh.payload.monitors.outliers import OutlierScore, ledoit_wolf
from mesh.payload.monitors.statistics import (
    SMALLEST_SHARE,
    bin_counts,
    kolmogorov_smirnov,
    kolmogorov_survival,
    population_stability_index,
    quantile_edges,
)
from mesh.tensors import Array

# Few different values, so that they repeat; many, so that they do not.
SAMPLES = st.builds(
    lambda seed, rows, different: np.random.default_rng(seed).integers(0, different, rows) * 0.25,
    st.integers(0, 2**32 - 1),
    st.integers(20, 300),
    st.sampled_from([3, 30, 10**9]),
)


@given(reference=SAMPLES, sample=SAMPLES)
def test_the_kolmogorov_smirnov_test_is_that_of_scipy(reference: Array, sample: Array) -> None:
    ours = kolmogorov_smirnov(np.sort(reference), sample)
    theirs = stats.ks_2samp(reference, sample, method="asymp")
    assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-12)
    # Scipy's has the distribution of finite samples, ours the limit's with a correction: alike where it matters.
    size = len(reference) * len(sample) / (len(reference) + len(sample))
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.16 / np.sqrt(size))


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(0, 0.4))
def test_small_p_values_are_of_the_right_size(seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    reference, sample = random.normal(size=2_000), random.normal(shift, size=1_000)
    ours = kolmogorov_smirnov(np.sort(reference), sample).p_value
    theirs = stats.ks_2samp(reference, sample, method="asymp").pvalue
    assert np.log10(max(ours, 1e-12)) == pytest.approx(np.log10(max(theirs, 1e-12)), abs=0.15)


@given(st.floats(0, 8))
def test_kolmogorovs_limit_is_that_of_scipy(value: float) -> None:
    assert kolmogorov_survival(value) == pytest.approx(stats.kstwobign.sf(value), abs=1e-9)


@given(
    st.integers(1, 20).flatmap(
        lambda bins: st.tuples(*[arrays.arrays(np.int64, bins, elements=st.integers(1, 10_000))] * 2)
    )
)
def test_the_stability_index_is_the_divergence_both_ways(counts: tuple[Array, Array]) -> None:
    expected, actual = counts
    before = np.maximum(expected / expected.sum(), SMALLEST_SHARE)
    after = np.maximum(actual / actual.sum(), SMALLEST_SHARE)
    divergence = stats.entropy(after, before) * after.sum() + stats.entropy(before, after) * before.sum()
    both = np.sum((after - before) * (np.log(after) - np.log(before)))
    assert population_stability_index(expected, actual) == pytest.approx(both, abs=1e-9)
    if min(expected.min() / expected.sum(), actual.min() / actual.sum()) > SMALLEST_SHARE:
        assert population_stability_index(expected, actual) == pytest.approx(divergence, abs=1e-9)
    assert population_stability_index(expected, expected) == 0
    assert population_stability_index(expected, actual) >= 0


@given(values=SAMPLES, bins=st.integers(2, 20), sample=SAMPLES)
def test_every_value_is_in_one_bin(values: Array, bins: int, sample: Array) -> None:
    edges = quantile_edges(np.sort(values), bins)
    with_missing = np.concatenate([sample, [np.nan, np.nan]])
    counts = bin_counts(with_missing, edges)
    assert counts.sum() == len(with_missing)
    assert counts[-1] == 2
    assert counts[0] == np.count_nonzero(sample <= edges[0])
    assert counts[-2] == np.count_nonzero(sample > edges[-1])


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(50, 300), bins=st.integers(2, 10))
def test_bins_of_different_values_hold_as_many_of_the_reference(seed: int, rows: int, bins: int) -> None:
    values = np.random.default_rng(seed).permutation(rows) * 0.5
    counts = bin_counts(values, quantile_edges(np.sort(values), bins))[:-1]
    assert len(counts) == bins
    # One more or less at either edge, by how quantiles are rounded.
    assert counts.max() - counts.min() <= 2


def test_a_frequent_value_has_a_bin_of_its_own() -> None:
    values = np.concatenate([np.zeros(90), np.arange(1.0, 11.0)])
    counts = bin_counts(values, quantile_edges(values, 10))
    assert 90 in counts
    constant = quantile_edges(np.full(50, 3.0), 10)
    assert bin_counts(np.array([2.9, 3.0, 3.0, 3.1]), constant).tolist() == [1, 2, 1, 0]


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 200), width=st.integers(1, 12))
def test_the_shrunk_covariance_is_that_of_scikit_learn(seed: int, rows: int, width: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, width)) @ random.normal(size=(width, width))
    centred = values - values.mean(axis=0)
    theirs, _ = covariance.ledoit_wolf(centred, assume_centered=True)
    np.testing.assert_allclose(ledoit_wolf(centred), theirs, rtol=1e-7, atol=1e-9)


def test_the_score_is_a_mahalanobis_distance() -> None:
    random = np.random.default_rng(7)
    rows = random.normal(size=(2_000, 4)) @ random.normal(size=(4, 4)) + [5, -2, 0, 1]
    score = OutlierScore.learn(rows, 0.01)
    scaled = (rows - score.centre) / score.scale
    theirs = [distance.mahalanobis(row, score.mean, score.precision) / 2 for row in scaled[:50]]
    np.testing.assert_allclose(score.of(rows[:50]), theirs)
    # Of normal values a known share is beyond any distance; this is the one that was asked for.
    assert np.mean(score.of(rows) > score.threshold) == pytest.approx(0.01, abs=0.006)
    assert score.threshold**2 * 4 == pytest.approx(stats.chi2.isf(0.01, 4), rel=0.25)


def test_a_few_wild_rows_in_the_reference_do_not_hide_others() -> None:
    random = np.random.default_rng(8)
    rows = random.normal(size=(1_000, 3))
    rows[:5] = 1e6
    score = OutlierScore.learn(rows, 0.02)
    assert np.mean(score.of(random.normal(size=(1_000, 3))) > score.threshold) < 0.06
    assert np.all(score.of(random.normal(12, size=(100, 3))) > score.threshold)


def test_features_that_never_varied_or_depend_on_others_do_not_break_the_score() -> None:
    random = np.random.default_rng(9)
    one = random.normal(size=500)
    rows = np.column_stack([one, 2 * one, np.zeros(500), np.full(500, np.nan)])
    score = OutlierScore.learn(rows, 0.01)
    usual, unusual = np.array([[0.1, 0.2, 0, np.nan]]), np.array([[0.1, 0.2, 3, np.nan]])
    assert score.of(usual)[0] <= score.threshold < score.of(unusual)[0]
    assert score.of(np.array([[2.0, -4.0, 0, np.nan]]))[0] > score.threshold
