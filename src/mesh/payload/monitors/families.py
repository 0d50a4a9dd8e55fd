"""What monitors tell as metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from mesh.payload.monitors.watch import Watch

_LABELS = ("processor", "modelId", "vModelId", "side")


@dataclass(frozen=True, slots=True)
class Watched:
    """Whose calls a watch is of: a concrete model's or a vmodel's, and which side of them."""

    model_id: str
    vmodel_id: str
    side: str

    @property
    def model(self) -> str:
        """Whichever of both it is."""
        return self.model_id or self.vmodel_id


def families(name: str, watches: Iterable[tuple[Watched, Watch]], most_features: int) -> Iterator[Metric]:
    """The families of one monitor.

    Args:
        name: of the processor.
        watches: what it watches.
        most_features: of one watch that get series.
    """
    index = GaugeMetricFamily(
        "modelmesh_drift_stability_index",
        "Population stability index of a feature in the newest window",
        labels=(*_LABELS, "feature"),
    )
    distance = GaugeMetricFamily(
        "modelmesh_drift_distance",
        "Kolmogorov-Smirnov statistic of a feature in the newest window",
        labels=(*_LABELS, "feature"),
    )
    largest = GaugeMetricFamily(
        "modelmesh_drift_largest_stability_index",
        "Largest population stability index of all features in the newest window",
        labels=_LABELS,
    )
    drifted = GaugeMetricFamily(
        "modelmesh_drift_features", "Features that have drifted in the newest window", labels=_LABELS
    )
    windows = CounterMetricFamily("modelmesh_drift_windows", "Windows that were judged", labels=_LABELS)
    newest = GaugeMetricFamily(
        "modelmesh_drift_newest_window_timestamp_seconds", "When the newest window ended", labels=_LABELS
    )
    learning = GaugeMetricFamily(
        "modelmesh_drift_learning_rows", "Rows so far, while a reference is being learnt", labels=_LABELS
    )
    rows = CounterMetricFamily("modelmesh_outlier_scored_rows", "Rows that were scored", labels=_LABELS)
    outliers = CounterMetricFamily(
        "modelmesh_outlier_rows", "Rows beyond the outlier threshold", labels=_LABELS
    )
    share = GaugeMetricFamily(
        "modelmesh_outlier_share", "Share of rows of the newest window beyond the threshold", labels=_LABELS
    )
    score = GaugeMetricFamily(
        "modelmesh_outlier_largest_score", "Largest outlier score of the newest window", labels=_LABELS
    )
    threshold = GaugeMetricFamily("modelmesh_outlier_threshold", "Scores above are outliers", labels=_LABELS)
    for watched, watch in watches:
        labels = (name, watched.model_id, watched.vmodel_id, watched.side)
        if watch.reference is None:
            learning.add_metric(labels, watch.learnt_rows)
            continue
        windows.add_metric(labels, watch.windows)
        if watch.reference.outliers is not None:
            rows.add_metric(labels, watch.rows)
            outliers.add_metric(labels, watch.outliers)
            threshold.add_metric(labels, watch.reference.outliers.threshold)
        latest = watch.latest
        if latest is None:
            continue
        newest.add_metric(labels, latest.at)
        drifted.add_metric(labels, len(latest.drifted))
        if latest.outlier_share is not None and latest.largest_score is not None:
            share.add_metric(labels, latest.outlier_share)
            score.add_metric(labels, latest.largest_score)
        furthest = sorted(latest.features, key=lambda feature: feature.stability_index, reverse=True)
        largest.add_metric(labels, furthest[0].stability_index)
        for feature in furthest[:most_features]:
            index.add_metric((*labels, feature.name), feature.stability_index)
            if feature.distance is not None:
                distance.add_metric((*labels, feature.name), feature.distance)
    yield from (
        index,
        distance,
        largest,
        drifted,
        windows,
        newest,
        learning,
        rows,
        outliers,
        share,
        score,
        threshold,
    )
