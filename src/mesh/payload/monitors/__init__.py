"""Watches the tensors of calls for drift and outliers. docs/monitoring-models.md is the guide."""

from mesh.payload.members import require
from mesh.payload.processor import Options, PayloadProcessor


def open_monitor(uri: str, options: Options) -> PayloadProcessor:
    """Opens the processor of the scheme ``monitor``.

    Raises:
        InvalidProcessor: a member of the options cannot be, or numpy is not installed.
    """
    require(options, "numpy", "payload", "a monitor")
    from mesh.payload.monitors.monitor import open_monitor as opened

    return opened(uri, options)
