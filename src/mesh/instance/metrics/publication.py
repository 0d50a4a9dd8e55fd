"""Where the metrics of an instance go, as its settings say."""

import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from mesh.instance.http import HttpEndpoint, TlsSource
from mesh.instance.metrics.collector import InstanceCollector
from mesh.instance.metrics.endpoint import MetricsApp
from mesh.instance.metrics.statsd_sender import StatsdSender
from mesh.instance.settings import Settings

log = logging.getLogger(__name__)


class Publication:
    """The endpoint for Prometheus, or what is sent to StatsD; nothing where metrics are off.

    Raises:
        OSError: the port cannot be bound, a certificate not read, or the StatsD server's host is not known.
    """

    def __init__(self, settings: Settings, collector: InstanceCollector) -> None:
        self._settings = settings
        self._endpoint: HttpEndpoint | None = None
        self._statsd: StatsdSender | None = None
        metrics, options = settings.metrics, settings.metrics_options
        if metrics.off_because:
            log.error("there are no metrics: %s", metrics.off_because)
        if metrics.port is not None:
            app = MetricsApp(
                collector, full_method_names=metrics.full_method_names, log_scrapes=options.log_scrapes
            )
            tls = _tls(settings) if metrics.https else None
            self._endpoint = HttpEndpoint(app, settings.host, metrics.port, "MM_METRICS", tls)
        if metrics.statsd_port is not None:
            self._statsd = StatsdSender(
                collector,
                options.statsd_host,
                metrics.statsd_port,
                full_method_names=metrics.full_method_names,
                legacy=metrics.statsd_legacy,
            )

    @property
    def port(self) -> int | None:
        """Where Prometheus scrapes; None without such a port."""
        return None if self._endpoint is None else self._endpoint.port

    def loop(self) -> Coroutine[Any, Any, None] | None:
        """What is to run as long as the instance is there, if anything is."""
        if self._statsd is None:
            return None
        return self._statsd.run(self._settings.metrics_options.statsd_interval_ms / 1_000)

    def close(self) -> None:
        """Stops listening."""
        if self._endpoint is not None:
            self._endpoint.close()


def _tls(settings: Settings) -> TlsSource:
    # Not needed, nor loaded, for plain scrapes.
    from mesh.instance.metrics.certificates import FromFiles, SelfSigned

    options = settings.metrics_options
    if options.certificate:
        return FromFiles(Path(options.certificate), Path(options.key))
    return SelfSigned(settings.instance_id, ("localhost", "127.0.0.1", "::1", settings.address))
