"""The contract between Python, which decides, and the Rust data plane, which moves bytes.

Nothing here blocks: each call takes a short lock on a table and returns. No thread of the data plane ever takes
the GIL; what it has to say lies in a queue behind ``event_fd`` until ``take_events`` fetches it.

Terms: an *endpoint* is somewhere to send a request (the local runtime or a peer's data plane); a *route* is the
list of endpoints that have a copy of a model; an *ask* is a request (or many for the same model) that waits for
Python to decide.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Literal, Self, final, overload

from mesh.dataplane.kinds import AskReason, EndpointKind

__all__ = [
    "SIZE_BOUNDS_BYTES",
    "TIME_BOUNDS_MS",
    "Ask",
    "Caller",
    "Comparison",
    "DataPlane",
    "Difference",
    "HistogramSample",
    "LogEntry",
    "Payload",
    "PayloadBatch",
    "PayloadQueue",
    "Scrape",
    "Server",
    "Talk",
    "Totals",
    "TracedRequest",
    "TracedStep",
    "Usage",
]

#: Upper bounds of the buckets of histograms of time, in milliseconds.
TIME_BOUNDS_MS: list[float]
#: Upper bounds of the buckets of histograms of size, in bytes.
SIZE_BOUNDS_BYTES: list[float]

@final
class Ask:
    """A request that waits for a decision. Answer it once, with one of the ``answer_*`` calls of `DataPlane`.

    First asks (``reason == "no_route"`` and ``attempt == 0``) for one model are merged: a thousand waiting
    requests are one ask. Later asks stand for one request each.
    """

    token: int
    reason: AskReason
    #: The id in the request: of a model, or of a vmodel where ``is_vmodel``. Ids in ``-bin`` headers are UTF-8.
    model_id: str
    is_vmodel: bool
    #: Of a vmodel's request, the model that its alias led to; empty where it has none. Where the alias splits requests,
    #: it is up to Python that the request gets to this model, and to none that the vmodel has left meanwhile.
    resolved_id: str
    #: The request came from a peer that believes this instance to have a copy: it must not be sent to another peer.
    from_peer: bool
    #: Full method name, ``package.Service/Method``.
    method: str
    #: The endpoint that failed, or -1.
    endpoint: int
    #: gRPC status code and message of the answer that is held back, or -1 and "".
    code: int
    message: str
    #: How often this request was sent somewhere so far.
    attempt: int
    #: Endpoints that were tried, in order.
    tried: list[int]
    #: ``mm-balanced: true`` was in the request: the caller spreads its requests over the instances by itself.
    balanced: bool
    #: Milliseconds since the newest attempt was sent, or -1 where there was none: what was true then may be over.
    sent_ms_ago: int
    #: Milliseconds until the request's deadline, or -1 where it has none. Of merged asks, the first one's: others may
    #: wait longer, so do not give up at it. Each request ends at its own deadline without help.
    deadline_ms: int
    #: Of the first of merged asks; as in `Call`.
    context: dict[str, str]
    #: W3C ``traceparent`` of the span that waits for the answer, that of the first of merged asks; empty where it is
    #: not sampled.
    traceparent: str

@final
class Call:
    """A unary call of the control API that Python answers itself, with `DataPlane.answer_call` or ``fail_call``."""

    token: int
    #: Full method name, ``package.Service/Method``.
    method: str
    #: The request as it was serialized, decompressed where it was compressed.
    message: bytes
    #: Values of the request headers that `DataPlane.set_logging` names, by their names in the log. Of a sampled request
    #: also ``trace_id`` and ``span_id``.
    context: dict[str, str]
    #: W3C ``traceparent`` of the span of this call; empty where it is not sampled.
    traceparent: str

@final
class LogEntry:
    """A request that is to be logged.

    ``invoked``: it is sent to the local runtime. ``failed``: a client's request ended with another status than OK.
    """

    kind: Literal["invoked", "failed"]
    #: Full method name.
    method: str
    #: Empty where unknown. Of a request that names several, all with commas between them; so in the next.
    model_id: str
    #: Empty where the request names no vmodel.
    vmodel_id: str
    #: Name of the gRPC status code.
    code: str
    #: Why, where the data plane itself refused the request, or it named several models; empty otherwise.
    message: str
    #: Since the request arrived here.
    milliseconds: float
    #: As in `Call`.
    context: dict[str, str]

@final
class TracedRequest:
    """A sampled request that ended here."""

    trace_id: int
    span_id: int
    #: 0 where the trace begins here.
    parent_id: int
    #: W3C ``tracestate`` of its parent, or empty.
    state: str
    #: Epoch nanoseconds, as all times here.
    began_ns: int
    ended_ns: int
    #: Full method name.
    method: str
    #: As in `LogEntry`, and so the next.
    model_id: str
    vmodel_id: str
    #: A peer forwarded it.
    from_peer: bool
    #: Name of the gRPC status code.
    code: str
    #: As in `LogEntry`.
    message: str
    #: In the order in which they began.
    steps: list[TracedStep]

@final
class TracedStep:
    """A part of a sampled request.

    ``queue``: it waited for a slot of the local copy. ``ask``: it waited for a decision. ``forward``, ``runtime``: it
    was sent to a peer, or to the local runtime, which saw this step as its parent.
    """

    kind: Literal["queue", "ask", "forward", "runtime"]
    span_id: int
    began_ns: int
    ended_ns: int
    #: Of an ask; empty otherwise.
    reason: AskReason | Literal[""]
    #: Of a request that was sent: the endpoint's name and address; empty otherwise.
    target: str
    address: str
    #: Name of the gRPC status code that the step ended with; empty where it has none, or was left.
    code: str
    message: str
    #: Trace id and span id of the ask that this one was merged with.
    joined: tuple[int, int] | None

@final
class Usage:
    """What was asked of the local copy of one model since the last `DataPlane.take_usage`."""

    model_id: str
    #: Epoch milliseconds of the newest request.
    last_used_ms: int
    #: Requests begun since the last call.
    requests: int
    #: Requests now at the local runtime or queued for it; open streams count.
    in_flight: int
    #: The highest ``in_flight`` was since the last call; bursts between two calls show here.
    most_in_flight: int
    #: Of those in flight, how many wait for a slot of a copy with limited concurrency.
    queued: int
    #: The highest ``queued`` was since the last call.
    most_queued: int
    #: Requests that the local runtime answered with OK since the last call.
    answers: int
    #: Milliseconds that it took for all of ``answers`` together, without the time in the queue: divided by them, the
    #: mean latency of the copy. A stream counts once, with its whole length.
    service_ms: float

@final
class Comparison:
    """What became of the requests of one vmodel that were to be mirrored to one model, since the last batch.

    An answer is equal where its message is, or differs only in that each has its own model's id in a field.
    """

    vmodel_id: str
    #: The shadow: the model that gets requests a second time.
    model_id: str
    #: Requests that both models answered with OK: ``equal + different``.
    compared: int
    equal: int
    different: int
    #: The shadow answered with another status, or not within a minute.
    shadow_failed: int
    #: The client's request ended with another status than OK; it was not mirrored.
    primary_failed: int
    #: Not compared for want of room, or no unary call with exactly one message in each direction.
    dropped: int
    #: Milliseconds that clients waited for the answers of all ``compared`` together.
    primary_ms: float
    #: The same of the shadow, with what it took to load it.
    shadow_ms: float
    #: The first few that were different or where the shadow failed.
    differences: list[Difference]

@final
class Difference:
    """One request whose shadow answered otherwise."""

    #: Full method name.
    method: str
    #: The model that the client's request went to.
    model_id: str
    #: Size of its message, without compression.
    primary_bytes: int
    primary_ms: float
    #: gRPC status code and message of the shadow; 0 and "" where it answered.
    shadow_code: int
    shadow_message: str
    shadow_bytes: int
    shadow_ms: float

@final
class Payload:
    """One message of a call that was tapped.

    Nothing of it is made an object of Python before it is asked for, and each time anew. What it refers to counts in
    `Totals.payload_bytes` until the last reference to any payload of the call, or to a view of its data, is gone.
    """

    #: Of the call, unique over processes.
    id: str
    kind: Literal["request", "response"]
    #: Empty where none was found, or the request named several.
    model_id: str
    #: Empty where the request named none.
    vmodel_id: str
    #: Full method name.
    method: str
    #: Name of the gRPC status code of the call; None of a request.
    status: str | None
    #: Names and values in order; those of ``-bin`` names are bytes. Of a response, what came before its messages.
    metadata: tuple[tuple[str, str | bytes], ...]
    #: The message without compression: a view where it is long and in one piece, a copy otherwise. None of a response
    #: without a message. Reading it raises ``ValueError`` where it is compressed and damaged.
    data: bytes | memoryview | None
    #: Bytes of ``data``.
    size: int
    #: Epoch seconds when the call arrived, or ended.
    time: float
    #: Which message of its kind in the call, from 0.
    sequence: int

@final
class PayloadBatch(Sequence[Payload]):
    """Payloads, which are made when they are looked at."""

    @overload
    def __getitem__(self, index: int) -> Payload: ...
    @overload
    def __getitem__(self, index: slice) -> PayloadBatch: ...
    def __len__(self) -> int: ...

@final
class PayloadQueue:
    """Where the payloads of tapped calls wait for one who processes them; made by `DataPlane.payload_queue`."""

    @property
    def id(self) -> int:
        """Its number, unique in its data plane."""

    @property
    def waiting(self) -> int:
        """Payloads in it."""

    def arm(self, least: int) -> bool:
        """Has `DataPlane.take_ready_queues` name it, once, as soon as ``least`` payloads wait.

        Returns: false where they do, and nobody will be told.
        """

    def take(self, most: int) -> PayloadBatch:
        """Returns: the oldest payloads, at most so many."""

    def close(self) -> None:
        """Takes nothing more: later payloads are lost. Those in it stay to be taken."""

    def losses(self) -> dict[str, int]:
        """Returns: payloads that were not taken since the queue was made, by reason.

        ``bytes``: the bound of all payloads' bytes was reached. ``queue_full``: ``capacity`` was. ``stream``: a
        stream had more than 1,000 messages in a direction, or more bytes in them than one message may have.
        ``shutdown``: the queue was closed.
        """

@final
class HistogramSample:
    """One series of a histogram, cumulative since the start of the process."""

    #: ``api_request_milliseconds``, ``invoke_model_milliseconds``, ``request_size_bytes``, ``response_size_bytes``,
    #: ``req_queue_delay_milliseconds``, or one of `DataPlane.add_histogram`.
    name: str
    #: Empty for all but requests.
    method: str
    #: Name of the gRPC status code, such as ``OK``; empty for all but requests.
    code: str
    #: Empty unless per-model metrics are on.
    model_id: str
    vmodel_id: str
    #: Value of the family's own label; empty where it has none.
    label: str
    #: Observations per bucket, not cumulative; one more than there are bounds, for +Inf.
    buckets: list[int]
    #: In the unit that the name says.
    sum: float

@final
class Totals:
    """Gauges and counters of the whole data plane."""

    #: Open connections from clients and peers.
    connections: int
    #: Such connections since the start.
    accepted: int
    #: Open connections to the local runtime, and to peers.
    runtime_connections: int
    peer_connections: int
    streams: int
    #: Requests that wait for an answer to an ask.
    waiting: int
    #: Requests queued for a slot of a model with limited concurrency.
    queued: int
    #: Bytes of requests kept to send them again if need be.
    retained_bytes: int
    requests: int
    #: Requests sent to a peer.
    forwarded: int
    #: Requests sent again after an attempt that was certainly not processed.
    replayed: int
    #: Resident size of the route table is about 200 bytes each.
    routes: int
    #: Mirrored requests that have not been answered, and the bytes of messages that are kept for comparing.
    shadows: int
    shadow_bytes: int
    #: Series of models, and observations that were counted without their model because there were too many.
    model_series: int
    beyond_series: int
    #: Bytes of messages that are kept for those who process payloads, or kept by them.
    payload_bytes: int

@final
class Scrape:
    """Histograms as text, made while it is read. Keeps the data plane's counters alive, nothing else."""

    def read(self) -> bytes:
        """Returns: the next piece; empty after the last. Releases the GIL."""

@final
class DataPlane:
    """One instance's listeners, routes and connections.

    A unary request whose id header is repeated is for several models: each gets the same bytes, at most
    ``multi_parallelism`` at once, and the client their answers joined in the order of the ids, which for protobuf is
    the merge of the messages. Each of the models is looked up, asked about and sent to as if it were the only one. A
    model for which an ask is answered with NOT_FOUND is left out, or fails the request where ``mm-required: all`` is
    in it; any other failure is the request's, and withdraws it from the models that have not answered. The joined
    answer has the metadata of none of them, and is as large as one message may be.

    Raises ``ValueError`` naming the argument for a bad one, ``OSError`` where an address cannot be bound.
    """

    def __new__(
        cls,
        *,
        shards: int = 1,
        max_message_bytes: int = 16 << 20,
        max_metadata_bytes: int = 8 << 10,
        max_retained_bytes: int = 256 << 20,
        max_payload_bytes: int = 64 << 20,
        max_hops: int = 3,
        multi_parallelism: int = 4,
        connect_timeout_ms: int = 2_000,
        keepalive_interval_ms: int = 10_000,
        max_connection_age_ms: int = 0,
        max_connection_age_grace_ms: int = 0,
        per_model_metrics: bool = False,
        max_model_series: int = 10_000,
        model_series_idle_ms: int = 3_600_000,
    ) -> Self: ...
    @property
    def event_fd(self) -> int:
        """Readable while `take_events` has something to give."""

    def listen(self, address: str, *, peers: bool) -> str:
        """Listens on ``host:port``, ``[ipv6]:port`` or ``unix:/path``; port 0 picks one.

        Peers and clients never share a listener: only on one with ``peers`` are the mesh's own headers (``mm-hop``,
        ``mm-from-peer``) believed; elsewhere they are dropped.

        Clients of gRPC's C core take the escaped path of a unix socket, or a list of addresses, as authority, which
        HTTP/2 here refuses as malformed: give them the channel option ``grpc.default_authority``.

        Returns: the bound address in the same form.
        """

    def set_control(
        self,
        address: str,
        prefixes: Sequence[str],
        peer_prefixes: Sequence[str],
        calls: Sequence[str] = (),
    ) -> None:
        """Requests whose path starts with one of ``prefixes`` go to the gRPC server at ``address`` (this process).

        ``peer_prefixes`` hold on listeners for peers only; elsewhere such paths are refused as UNIMPLEMENTED.

        Methods among them that are named in ``calls`` do not go there: `take_calls` gives them to Python whole, which
        costs a small part of a call of a gRPC server.
        """

    def set_rpcs(
        self, rpcs: Mapping[str, tuple[Sequence[int], bool]] | None, allow_other: bool = True
    ) -> None:
        """Which methods clients may call, and where in a message the model id is (spec of `MM_DATAPLANE_CONFIG`).

        ``rpcs`` maps full method names to the path of field numbers (empty: use the headers) and whether the id
        found is a vmodel's. ``None`` allows every method.
        """

    def set_runtime_methods(self, methods: Mapping[str, Sequence[int]], allow_any: bool = False) -> None:
        """Which methods the local runtime serves, with the path at which the model id is to be written, if any.

        Empty ``methods`` allow all. Others are refused as UNIMPLEMENTED.
        """

    def set_status_rules(
        self, rules: Sequence[tuple[int, str, str, Literal["lost", "unavailable", "exhausted"]]]
    ) -> None:
        """Answers of the local runtime that ask for a decision instead of going back to the client.

        Each rule is a status code, a prefix and a suffix of the message (empty: any), and the ask's reason. The first
        match counts. They apply only before the first response message.
        """

    def add_endpoint(self, address: str, kind: EndpointKind, name: str) -> int:
        """Returns: the endpoint's number. Connections are made when first needed, and kept. ``name`` is for logs."""

    def remove_endpoint(self, endpoint: int) -> None:
        """Takes it out of every route; requests under way end by themselves, then its connections close."""

    def set_route(
        self, model_id: str, endpoints: Sequence[int], *, max_concurrency: int = 0, max_queued: int = 0
    ) -> None:
        """Makes ``endpoints`` the copies of the model; counts of requests in flight survive.

        A request takes the copy with the fewest requests in flight, the local one among equals, else by turns. With
        ``mm-balanced: true`` it takes the local copy if that has no limit. An endpoint that could not be connected to
        within the last second is the last choice, and a copy without room none.

        Args:
            max_concurrency: requests that the local copy takes at once, 0 for any number.
            max_queued: requests that may wait for a slot of the local copy before more are refused as
                RESOURCE_EXHAUSTED "Model queue overload"; negative for any number.
        """

    def set_routes(self, routes: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Many at once, without limits."""

    def remove_route(self, model_id: str) -> None: ...
    def route(self, model_id: str) -> list[int]:
        """Returns: the route's endpoints, empty where there is none."""

    def close_local(self, model_id: str) -> int:
        """Takes the local runtime out of the route if no request is in flight or queued there.

        Returns: 0 where it is out now, else the requests in flight (and nothing has changed).
        """

    def local_in_flight(self, model_id: str) -> int:
        """Returns: requests at or queued for the local runtime, also after its copy left the route."""

    def set_alias(
        self,
        vmodel_id: str,
        targets: Sequence[tuple[str, int]],
        mirror: tuple[str, float] | None = None,
    ) -> None:
        """Requests for the vmodel go to one of the models.

        Args:
            targets: models with their weights. Each gets its part of any run of requests: evenly, not by chance. A
                request that has been given to one stays with it.
            mirror: a model that gets a share, above 0 and at most 1, of the vmodel's unary requests a second time once
                they have been answered; see `take_comparisons`. It changes nothing of what the client gets, or when.
                At most 64 at once are under way, and 64 MiB of messages kept, for all mirrors together. Streams, and
                requests for several models, are not mirrored.
        """

    def remove_alias(self, vmodel_id: str) -> None: ...
    def take_events(self) -> list[Ask]:
        """Returns: the asks since the last call, oldest first."""

    def answer_route(self, token: int, model_id: str = "") -> None:
        """Look the route up again, leaving out endpoints already tried; ``model_id`` names a vmodel's model."""

    def answer_endpoint(self, token: int, endpoint: int, model_id: str = "") -> None:
        """Send to this endpoint, whatever the route says."""

    def answer_status(self, token: int, code: int, message: str, details: bytes = b"") -> None:
        """End with this status; ``details`` is a serialized ``google.rpc.Status`` for ``grpc-status-details-bin``.

        NOT_FOUND says that there is no such model, which a request for several models may go on without.
        """

    def answer_not_here(self, token: int) -> None:
        """Tell the peer that sent the request that there is no copy here; its data plane asks anew, ``not_here``."""

    def take_calls(self) -> list[Call]:
        """Returns: the calls since the last time, oldest first. To be called after `take_events`."""

    def answer_call(self, token: int, message: bytes) -> None:
        """End a call with its serialized reply."""

    def fail_call(self, token: int, code: int, message: str, details: bytes = b"") -> None:
        """End a call with this status; ``details`` as in `answer_status`."""

    def answer_held(self, token: int) -> None:
        """Give the client the answer that is held back, unchanged. Only after a status rule matched."""

    def set_logging(self, *, each_invocation: bool, headers: Sequence[tuple[str, str]]) -> None:
        """What `take_log` is to give besides failed requests.

        Args:
            each_invocation: every request that is sent to the local runtime, too.
            headers: request headers and the names by which their values go into the log; those that end in ``-bin``
                are read as UTF-8.
        """

    def take_log(self) -> tuple[list[LogEntry], int]:
        """Returns: what is to be logged since the last call, oldest first, and how many more there were."""

    def set_tracing(self, *, share: float, follow_parents: bool) -> None:
        """From now on requests are traced; before, the trace contexts in their heads go through as they are.

        A sampled request gets a span of its own here (`take_traces`), and whatever it is sent to sees the span of that
        attempt as its parent. What is not sampled is told so to whatever it is sent to. Management calls are traced
        where their caller does so.

        Args:
            share: of traces that are sampled, 0 to 1, by the lower half of their id as OpenTelemetry's
                ``TraceIdRatioBased`` does it.
            follow_parents: that holds only for requests without a parent; what has one is sampled as that is.
        """

    def take_traces(self) -> tuple[list[TracedRequest], int]:
        """Sampled requests that ended.

        Returns: those since the last call, of which 2048 are kept, and how many more there were since the start.
        """

    def take_usage(self) -> list[Usage]:
        """Returns: local copies used since the last call, and those with requests in flight now."""

    def take_comparisons(self) -> list[Comparison]:
        """Returns: what came of mirrored requests since the last call; vmodels that had none are not in it."""

    def payload_queue(self, capacity: int) -> PayloadQueue:
        """Makes a queue for at most so many payloads; a stream with more is taken by an empty queue all the same."""

    def set_taps(self, taps: Sequence[tuple[PayloadQueue, Sequence[str], Sequence[str], float]]) -> None:
        """Which calls of clients leave their messages in which queues, once they have ended; replaces what was set.

        They are kept by reference as they pass, small ones as copies, at most ``max_payload_bytes`` in all. It
        changes nothing of what the client gets, or when.

        Args:
            taps: queues, each with the ids of models and vmodels whose calls it gets (none: of any, even of calls
                that name no model that there is), full names of methods (none: any), and a share of these calls from
                0 to 1. Shares are of the same draw: the calls of a smaller one are among those of a larger.
        """

    def take_ready_queues(self) -> list[int]:
        """Returns: the numbers of queues that have as many payloads as they were armed for, each once."""

    def add_histogram(self, name: str, text: str, bounds: Sequence[float], label: str = "") -> None:
        """Makes a family of histograms for `observe`.

        Args:
            text: what is observed.
            bounds: upper bounds of its buckets, ascending.
            label: name of a label besides those of the model; empty for none.
        """

    def observe(
        self, name: str, value: float, *, model_id: str = "", label: str = "", trace_id: int = 0
    ) -> None:
        """Adds to a family of `add_histogram`, by model where there are per-model metrics.

        Args:
            label: value of the family's own label, of which there are to be few.
            trace_id: of the sampled request that this is about, which makes it the example of its bucket; or 0.
        """

    def take_histograms(self, *, full_method_names: bool = False) -> list[HistogramSample]:
        """Returns: every live series of all shards together. Does not reset them.

        Methods that are shown by the same name are one, as are those of `scrape`. The series of models that were not
        used for ``model_series_idle_ms`` are dropped, here and by `scrape`.

        Args:
            full_method_names: with package and service.
        """

    def scrape(
        self,
        *,
        prefix: str,
        before: bytes,
        after: bytes,
        openmetrics: bool = False,
        gzip: bool = False,
        full_method_names: bool = False,
        names: Set[str] | None = None,
    ) -> Scrape:
        """Begins an answer to Prometheus with every live series.

        Args:
            prefix: of all names.
            before: text that comes first.
            after: text that comes last.
            openmetrics: OpenMetrics 1.0, with exemplars, instead of the text format 0.0.4.
            gzip: compressed, ``before`` and ``after`` too.
            full_method_names: as for `take_histograms`.
            names: only these families, or samples of theirs (``..._count``); with prefix, and empty for all.
        """

    def totals(self) -> Totals: ...
    def start_drain(self) -> None:
        """Stops accepting connections and tells clients to go elsewhere (GOAWAY) once their requests have ended.

        The listener for peers goes on.
        """

    def close(self, grace_ms: int) -> bool:
        """Ends everything; waits at most so long for requests under way. Releases the GIL while it waits.

        Returns: whether all of them ended by themselves.
        """

@final
class Caller:
    """Makes gRPC calls of other servers over plain-text HTTP/2, on a thread of its own.

    Nothing here blocks but ``close``. Connections are made when they are first needed, and again when they are lost;
    a call that was certainly not processed is sent again.
    """

    def __new__(cls, *, connect_timeout_ms: int = 2_000) -> Self: ...
    @property
    def event_fd(self) -> int:
        """Readable while `take` has something to give."""

    def server(self, address: str, *, authority: str = "", ping_interval_ms: int = 0) -> Server:
        """Somewhere to call.

        Args:
            address: ``host:port``, ``[ipv6]:port`` or ``unix:/path``.
            authority: told to the server in place of the address.
            ping_interval_ms: a connection that does not answer a ping within the time between two is given up; 0 for
                no pings.

        Raises:
            ValueError: naming the argument.
        """

    def flush(self) -> None:
        """Begins the calls since the last time; to wake the thread once for many of them costs less."""

    def cancel(self, token: int) -> None:
        """Ends a call whose answer nobody wants any more; `take` may have it all the same."""

    def take(self) -> list[tuple[int, int, bytes | str]]:
        """Returns: what servers said since the last time, each with the token of its call.

        ``bytes`` are a serialized message: the reply that ended a unary call, or one message of a stream. A ``str`` is
        the message of the status, before it its gRPC code, that ended a stream or a unary call without a reply.
        """

    def close(self) -> None:
        """Ends all calls, none of which is answered any more. Releases the GIL while it waits for the thread."""

@final
class Server:
    """A server to call, and the connections to it."""

    def call(
        self,
        method: str,
        message: bytes,
        timeout_s: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> int:
        """Takes a call, which begins with the next `Caller.flush`.

        Args:
            method: ``/package.Service/Method``.
            message: the serialized request.
            timeout_s: after which it ends as DEADLINE_EXCEEDED; told to the server, too.
            metadata: names in lower case, values in ASCII.

        Returns: its token.

        Raises:
            ValueError: naming the argument.
        """

    def open(self, method: str, metadata: Sequence[tuple[str, str]] = ()) -> Talk:
        """Takes a stream in both directions, which begins with the next `Caller.flush`; arguments as in `call`."""

    def close(self) -> None:
        """Makes no connection any more; calls under way end by themselves, then the connections close."""

@final
class Talk:
    """Our side of a stream; letting go of it ends the stream."""

    token: int

    def send(self, message: bytes) -> bool:
        """Sends a serialized message; false where the stream has ended."""
