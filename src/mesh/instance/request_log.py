"""Logs what the data plane tells of single requests: those that failed, and where that is wanted each invocation."""

import asyncio
import logging

from mesh.dataplane import DataPlane, LogEntry
from mesh.instance.dynamic import DynamicSettings
from mesh.instance.settings import RequestLogSettings
from mesh.instance.settings.fields import boolean

log = logging.getLogger(__name__)

#: How often the data plane is asked, seconds.
TAKE_EVERY_S = 0.5


class RequestLog:
    """The log of one data plane's requests.

    The config key ``log_each_invocation`` goes before ``MM_LOG_EACH_INVOKE`` while it is there, as in KServe ModelMesh.
    """

    def __init__(self, dataplane: DataPlane, settings: RequestLogSettings, dynamic: DynamicSettings) -> None:
        self._dataplane = dataplane
        self._settings = settings
        self._apply(None)
        dynamic.on("log_each_invocation", boolean, self._apply)

    def _apply(self, each_invocation: bool | None) -> None:
        if each_invocation is None:
            each_invocation = self._settings.each_invocation
        self._dataplane.set_logging(each_invocation=each_invocation, headers=self._settings.headers)

    async def run(self) -> None:
        """Logs until cancelled."""
        while True:
            entries, missed = self._dataplane.take_log()
            for entry in entries:
                _log(entry)
            if missed:
                log.warning("%d more requests are not logged: there were too many at a time", missed)
            await asyncio.sleep(TAKE_EVERY_S)


def _log(entry: LogEntry) -> None:
    context: dict[str, object] = {"method": entry.method}
    if entry.model_id:
        context["model"] = entry.model_id
    if entry.vmodel_id:
        context["vmodel"] = entry.vmodel_id
    if entry.kind == "invoked":
        log.info("invoking model runtime gRPC method: %s", entry.method, extra={**entry.context, **context})
        return
    context |= {"status": entry.code, "milliseconds": round(entry.milliseconds, 1)}
    # That a client gave up is its own affair.
    level = logging.INFO if entry.code == "CANCELLED" else logging.ERROR
    why = f": {entry.message}" if entry.message else ""
    log.log(level, "request failed with %s%s", entry.code, why, extra={**entry.context, **context})
