"""Prometheus metrics: names, labels and buckets are those of KServe ModelMesh, and more are added.

Histograms of requests come from the data plane and are read in one batch per scrape; what happens around loads is
counted here.

Another part of an instance adds families of its own by handing `Metrics.register` a collector of prometheus-client: an
object whose ``collect()`` yields families. What it has to keep to:

- It is called once per scrape, in the scrape's thread while the event loop goes on: it copies what others change, and
  neither waits nor takes long.
- Each family has `PREFIX` and one meaning, and is yielded also while it has no series. Counters are `CounterFamily`,
  without ``_total``; gauges and histograms are those of ``prometheus_client.core``.
- Labels take few values that are known beforehand. Where a label is a model, the collector bounds how many there are
  and forgets those no longer in use.
- Each family stands in the table of ``docs/metrics.md``, which a test holds against a live scrape.

A single gauge without labels needs no collector: `Metrics.show`.
"""

from mesh.instance.metrics.collector import InstanceCollector
from mesh.instance.metrics.endpoint import serve_metrics
from mesh.instance.metrics.families import PREFIX, CounterFamily
from mesh.instance.metrics.gauges import ClusterGauges, InstanceGauges
from mesh.instance.metrics.observations import Metrics

__all__ = [
    "PREFIX",
    "ClusterGauges",
    "CounterFamily",
    "InstanceCollector",
    "InstanceGauges",
    "Metrics",
    "serve_metrics",
]
