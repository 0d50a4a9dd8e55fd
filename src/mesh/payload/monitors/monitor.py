"""The processor behind the scheme ``monitor``: watches models' inputs and outputs for drift and outliers."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from prometheus_client.metrics_core import Metric

from mesh.payload.members import read_members, require
from mesh.payload.messages import NotReadable, parse, tensors_of
from mesh.payload.monitors.alerts import AlertPost, alerts
from mesh.payload.monitors.families import Watched, families
from mesh.payload.monitors.features import Columns, columns_of, stacked
from mesh.payload.monitors.reference import Reference
from mesh.payload.monitors.reference_files import load, save
from mesh.payload.monitors.settings import MonitorMembers
from mesh.payload.monitors.watch import Watch
from mesh.payload.payload import Payload
from mesh.payload.processor import Event, InvalidProcessor, Options
from mesh.payload.tls import client_tls
from mesh.tensors import Tensor

_log = logging.getLogger(__name__)


class Monitor:
    """Watches each model that payloads are of, with memory bounded by the number of models and the window's size.

    Payloads are decoded and windows judged in a thread, one batch after the other.
    """

    def __init__(self, members: MonitorMembers, options: Options, post: AlertPost | None) -> None:
        """Begins without models.

        Args:
            members: of the configuration.
            options: of the processor.
            post: takes events to others, if configured.
        """
        self._members = members
        self._options = options
        self._post = post
        self._watches: OrderedDict[Watched, Watch] = OrderedDict()
        self._changing = Lock()
        self._turn = Lock()

    async def process(self, batch: Sequence[Payload]) -> None:
        """Learns from, or judges, the rows of a batch. What cannot be read is counted as lost."""
        await asyncio.to_thread(self._observe, batch, asyncio.get_running_loop())

    async def close(self, timeout_s: float) -> None:
        """Waits for events under way."""
        if self._post is not None:
            await self._post.close(timeout_s)

    def collect(self) -> Iterable[Metric]:
        """Families of drift and outliers."""
        with self._changing:
            watches = list(self._watches.items())
        return families(self._options.name, watches, self._members.metric_features)

    def _observe(self, batch: Sequence[Payload], loop: asyncio.AbstractEventLoop) -> None:
        # A batch whose deadline passes goes on in its thread, while the next one is given to another.
        with self._turn:
            for event in self._look(batch):
                self._options.report.event(event)
                if self._post is not None:
                    loop.call_soon_threadsafe(self._post.put, event)

    def _look(self, batch: Sequence[Payload]) -> Iterator[Event]:
        grouped: dict[Watched, list[tuple[list[Tensor], float]]] = {}
        for payload in batch:
            watched = self._whose(payload)
            if watched is None:
                continue
            try:
                tensors = tensors_of(parse(payload))
            except NotReadable as error:
                self._unreadable(watched, error)
                continue
            grouped.setdefault(watched, []).append((tensors, payload.time))
        for watched, messages in grouped.items():
            watch = self._watches.get(watched)
            if watch is None:
                reference, told = self._load(watched)
                yield from told
                watch = Watch(
                    reference,
                    self._members.window.shape(),
                    self._members.limits.limits(),
                    self._members.learn_rows,
                )
            self._keep(watched, watch)
            at = max(time for _, time in messages)
            for tensors in stacked([tensors for tensors, _ in messages]):
                try:
                    columns = columns_of(tensors, self._members.categorical, most=self._members.most_elements)
                except NotReadable as error:
                    self._unreadable(watched, error)
                    continue
                yield from self._add(watched, watch, columns, at)

    def _unreadable(self, watched: Watched, error: NotReadable) -> None:
        _log.debug("a %s of %s: %s", watched.side, watched.model, error)
        self._options.report.lost(1, "unreadable")

    def _keep(self, watched: Watched, watch: Watch) -> None:
        with self._changing:
            self._watches[watched] = watch
            self._watches.move_to_end(watched)
            if len(self._watches) > self._members.most_models:
                self._watches.popitem(last=False)

    def _whose(self, payload: Payload) -> Watched | None:
        if payload.kind not in self._members.sides or payload.data is None:
            return None
        if self._members.by == "vmodel" and payload.vmodel_id:
            return Watched("", payload.vmodel_id, payload.kind)
        return Watched(payload.model_id, "", payload.kind) if payload.model_id else None

    def _add(self, watched: Watched, watch: Watch, columns: Columns, at: float) -> Iterator[Event]:
        columns = watch.learn(columns)
        if watch.ready_to_learn:
            yield self._learn(watched, watch)
        if watch.reference is None:
            return
        before = watch.latest
        for judgement in watch.add(columns, at):
            yield from alerts(watched, before, judgement)
            before = judgement

    def _learn(self, watched: Watched, watch: Watch) -> Event:
        columns = watch.take_learnt()
        path = self._path(watched)
        kept = ""
        try:
            if path is not None and path.suffix == ".json":
                if path.exists():
                    # Another instance has learnt, too, and was first.
                    columns = self._read(path)
                else:
                    save(path, columns)
                kept = f", kept in {path}"
        except (OSError, ValueError) as error:
            kept = f", which could not be kept: {error}"
        try:
            reference = self._reference(columns)
        except ValueError as error:
            return Event(
                watched.model,
                f"{watched.side}s: nothing was learnt: {error}",
                {"kind": "learnt"},
                warning=True,
            )
        watch.begin(reference)
        what = f"{len(reference.features)} features of {reference.rows} rows"
        return Event(watched.model, f"{watched.side}s: learnt {what} as reference{kept}", {"kind": "learnt"})

    def _load(self, watched: Watched) -> tuple[Reference | None, Sequence[Event]]:
        path = self._path(watched)
        if path is None:
            return None, ()
        try:
            return self._reference(self._read(path)), ()
        except FileNotFoundError:
            if path.suffix == ".json":
                return None, ()
            problem = f"reference {path} is not there"
        except (OSError, ValueError) as error:
            problem = str(error)
        summary = f"{watched.side}s: {problem}; the first {self._members.learn_rows} rows are learnt instead"
        return None, (Event(watched.model, summary, {"kind": "reference"}, warning=True),)

    def _path(self, watched: Watched) -> Path | None:
        if not self._members.reference:
            return None
        names = {"model": quote(watched.model, safe=""), "side": watched.side}
        return Path(self._members.reference.format_map(names))

    def _read(self, path: Path) -> Columns:
        return load(path, self._members.categorical, self._members.most_elements)

    def _reference(self, columns: Columns) -> Reference:
        members = self._members
        return Reference.of(
            columns, bins=members.bins, categories=members.categories, outlier_share=members.outlier_share
        )


def open_monitor(uri: str, options: Options) -> Monitor:
    """Opens a monitor; the URI is ``monitor:``, everything else is in the options.

    Raises:
        InvalidProcessor: a member of the options cannot be.
    """
    members = read_members(options, MonitorMembers)
    if members.reference:
        _check_reference(members, options)
    post = None
    if members.events:
        post = AlertPost(members.events, options.instance_id, client_tls(options, members.events))
    return Monitor(members, options, post)


def _check_reference(members: MonitorMembers, options: Options) -> None:
    path = members.reference
    try:
        path.format_map({"model": "m", "side": "request"})
    except (KeyError, ValueError, IndexError):
        raise InvalidProcessor(
            f"payload processor {options.name!r}: options.reference {path!r} may have {{model}} and {{side}} in "
            "it, and no other braces"
        ) from None
    if len(members.sides) > 1 and "{side}" not in path:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: options.reference {path!r} is of one side, and both are watched: put "
            "{side} into it"
        )
    if path.endswith(".parquet"):
        require(options, "pyarrow", "payload-parquet", "a reference in Parquet")
