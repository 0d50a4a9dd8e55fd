"""What a processor of payloads is: the interface that packages of others implement.

A package adds a scheme by an entry point of the group ``mesh.payload`` whose name is the scheme and whose object is an
`OpenProcessor`. What every processor would need is done around it, by settings that all have: which calls it gets
(models, vmodels, methods, a share of them), a queue of its own, batches, several at once, a deadline for each batch,
further attempts with back-off, and counts of what is lost.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from prometheus_client.metrics_core import Metric

from mesh.payload.payload import Payload


class PayloadProcessor(Protocol):
    """Takes payloads somewhere, or learns from them.

    All of it is called on one event loop, in a thread beside that of the instance, which all processors share: what
    takes long belongs into a thread of its own. Memory: a batch, its payloads and views of their data may be kept as
    long as they are needed, and nothing is to be given back; see `Payload` for what that costs.
    """

    async def process(self, batch: Sequence[Payload]) -> None:
        """Takes a batch, in the order in which calls ended.

        Returning says that the batch is taken. It is called again before it has returned where the processor has
        several ``consumers``. It is cancelled at its deadline, and at shutdown; a cancelled batch counts as lost, or
        is tried again where attempts are left.

        Raises:
            NotDelivered: some or all of the batch was not taken.
            Exception: any other stands for all of the batch, to be tried again.
        """

    async def close(self, timeout_s: float) -> None:
        """Writes out what it keeps and releases what it holds. No batch comes any more.

        It is cancelled ``timeout_s`` after; until then it is to tell by `Report.lost` what it cannot bring to safety.
        """

    def collect(self) -> Iterable[Metric]:
        """Families of metrics of its own at this moment, with names that begin with ``modelmesh_``.

        It is called from the thread of a scrape, and so must not wait. Several processors may give the same family;
        each adds a label ``processor`` with `Options.name` to tell theirs apart.
        """


class NotDelivered(Exception):
    """Payloads were not taken by what a processor brings them to.

    Args:
        why: for people; it goes to the log.
        payloads: which ones, of those of the batch; all where it is None.
        retry: whether another attempt may do better.
        retry_after_s: what the other side asks to wait for, if it does.
        reason: a short word by which they are counted if they are lost; ``failed`` or ``refused`` where empty.
    """

    def __init__(
        self,
        why: str,
        payloads: Sequence[Payload] | None = None,
        *,
        retry: bool = True,
        retry_after_s: float | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(why)
        self.payloads = payloads
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.reason = reason or ("failed" if retry else "refused")


@dataclass(frozen=True, slots=True)
class Event:
    """Something about a model's payloads that people are to see, such as drift.

    It goes to the log, and among the model's decisions that ``mesh explain`` shows.

    Attributes:
        model_id: empty where it is about none.
        summary: one line for people.
        values: what a machine may want to know of it.
        warning: whether somebody ought to look.
    """

    model_id: str
    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    warning: bool = False


class Report(Protocol):
    """What a processor tells beside the results of its calls. It may be called from any thread."""

    def lost(self, count: int, reason: str) -> None:
        """Counts payloads that had been taken and were lost later, such as out of a file that could not be stored.

        Args:
            reason: a short word, since it is a label of a metric.
        """

    def event(self, event: Event) -> None:
        """Tells people of something."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a processor is opened with, beside its URI.

    Attributes:
        name: of this processor, unique in its instance: a label of metrics.
        members: the processor's own settings, the member ``options`` of its configuration; JSON values. Empty where
            it is configured by its URI alone. A member that is not known is to be refused.
        instance_id: of the instance that it works in.
        timeout_s: what each call of `PayloadProcessor.process` has, seconds.
        ca_file: path of the certificates that servers are trusted by, where it is not the system's; of all processors,
            so that a member of a processor's own goes before it.
        report: takes what it has to tell.
    """

    name: str
    report: Report
    members: Mapping[str, Any] = field(default_factory=dict)
    instance_id: str = ""
    timeout_s: float = 10.0
    ca_file: str = ""


OpenProcessor: TypeAlias = Callable[[str, Options], PayloadProcessor]
"""Makes a processor of a URI, whose scheme is the entry point's name; on the event loop, without waiting for a server.

The URI is as it was configured, without its fragment. Raises `InvalidProcessor` for what cannot be.
"""


class InvalidProcessor(ValueError):
    """A processor cannot be as it is configured; the message names the member, its value and the remedy."""
