"""Metrics for Prometheus and StatsD: names, labels and buckets are those of KServe ModelMesh, and more are added.

The data plane keeps all histograms, bounds them and writes them as text; counters and gauges are here.

Another part of an instance adds families of its own by handing `Metrics.register` a collector of prometheus-client: an
object whose ``collect()`` yields families. What it has to keep to:

- It is called once per scrape, in the scrape's thread while the event loop goes on: it copies what others change, and
  neither waits nor takes long.
- Each family has `PREFIX` and one meaning, and is yielded also while it has no series. Counters are `CounterFamily`,
  without ``_total``; gauges and histograms are those of ``prometheus_client.core``.
- A histogram is made with `DataPlane.add_histogram` and fed with `DataPlane.observe` instead: by model where that is
  wanted, bounded, and with exemplars.
- Labels take few values that are known beforehand. Where a label is a model, the collector bounds how many there are
  and forgets those no longer in use.
- Each family stands in the table of ``docs/metrics.md``, which a test holds against a live scrape.

A single gauge without labels needs no collector: `Metrics.show`.
"""

from mesh.instance.metrics.collector import InstanceCollector
from mesh.instance.metrics.families import PREFIX, CounterFamily
from mesh.instance.metrics.gauges import ClusterGauges, InstanceGauges
from mesh.instance.metrics.observations import Metrics
from mesh.instance.metrics.publication import Publication

__all__ = [
    "PREFIX",
    "ClusterGauges",
    "CounterFamily",
    "InstanceCollector",
    "InstanceGauges",
    "Metrics",
    "Publication",
]
