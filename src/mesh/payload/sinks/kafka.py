"""The schemes ``kafka`` and ``kafka+ssl``: a Kafka record for each payload."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from prometheus_client.metrics_core import Metric

from mesh.payload.members import read_members, require
from mesh.payload.payload import Payload
from mesh.payload.processor import InvalidProcessor, NotDelivered, Options
from mesh.payload.records import encode_record
from mesh.payload.sinks.deadlines import within_s
from mesh.payload.sinks.events import EventMembers, Events
from mesh.payload.tls import tls_context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

_CLOSING_S = 0.2


class KafkaMembers(EventMembers, frozen=True, kw_only=True):
    """The members of the options; those of `EventMembers` are for the format ``cloudevents``.

    Attributes:
        format: ``record``, the JSON object that the other sinks write, or ``cloudevents``, binary content mode of the
            CloudEvents binding for Kafka.
        decoded: tensors in records as the protocol's REST form has them, instead of messages in base64.
        key: by which partitions are chosen: that of the call, so that a response follows its request, of the model, or
            none.
        client_id: as brokers log it; empty: the instance.
        acks: whether all replicas in sync, or the leader, must have a record before it counts as taken.
        compression: of batches of records.
        linger_ms: that records wait for others, to be sent together.
        max_message_bytes: larger records are not sent, and counted as lost; brokers take 1 MiB unless told otherwise.
        request_timeout_ms: for a broker's answer.
        ca_file: certificates in PEM that alone are trusted.
        tls_skip_verify: whether brokers need not prove who they are.
        sasl_mechanism: by which the mesh proves who it is; empty: it does not.
        sasl_username: for that.
        sasl_password_file: file that holds the password alone.
    """

    format: Literal["record", "cloudevents"] = "record"
    decoded: bool = False
    key: Literal["call", "model", "none"] = "call"
    client_id: str = ""
    acks: Literal["all", "leader"] = "all"
    compression: Literal["none", "gzip"] = "none"
    linger_ms: Annotated[int, msgspec.Meta(ge=0)] = 20
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1)] = 2**20
    request_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    ca_file: str = ""
    tls_skip_verify: bool = False
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    sasl_username: str = ""
    sasl_password_file: str = ""


def open_kafka(uri: str, options: Options) -> "Kafka":
    """Opens the sink; the URI is ``kafka://host:9092,host:9092/topic``.

    Raises:
        InvalidProcessor: a library is missing, or the URI or a member of the options cannot be.
    """
    require(options, "aiokafka", "payload-kafka", "Kafka")
    members = read_members(options, KafkaMembers)
    if members.decoded or (members.format == "cloudevents" and members.body == "json"):
        require(options, "numpy", "payload", "options.decoded, or options.body")
    parts = urlsplit(uri)
    topic = unquote(parts.path.strip("/"))
    if not parts.netloc or "@" in parts.netloc or not topic or "/" in topic:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {parts.scheme}:// must name brokers and a topic, as in "
            f"{parts.scheme}://host:9092,host:9092/topic"
        )
    return Kafka(topic, _settings(parts.netloc, parts.scheme, members, options), members, options)


def _settings(brokers: str, scheme: str, members: KafkaMembers, options: Options) -> dict[str, Any]:
    protocol = "SSL" if scheme.lower() == "kafka+ssl" else "PLAINTEXT"
    settings: dict[str, Any] = {
        "bootstrap_servers": brokers,
        "client_id": members.client_id or options.instance_id or "model-mesh",
        "acks": "all" if members.acks == "all" else 1,
        # A record that is sent again after a lost answer is written once.
        "enable_idempotence": members.acks == "all",
        "compression_type": None if members.compression == "none" else members.compression,
        "linger_ms": members.linger_ms,
        "max_request_size": members.max_message_bytes,
        "request_timeout_ms": members.request_timeout_ms,
    }
    if protocol == "SSL":
        settings["ssl_context"] = tls_context(
            options, ca_file=members.ca_file, verify=not members.tls_skip_verify
        )
    if members.sasl_mechanism:
        protocol = f"SASL_{protocol}"
        try:
            password = Path(members.sasl_password_file).read_text().strip()
        except OSError as error:
            raise InvalidProcessor(
                f"payload processor {options.name!r}: options.sasl_password_file cannot be read: {error}"
            ) from None
        settings |= {
            "sasl_mechanism": members.sasl_mechanism,
            "sasl_plain_username": members.sasl_username,
            "sasl_plain_password": password,
        }
    return settings | {"security_protocol": protocol}


class _Record(NamedTuple):
    payload: Payload
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class Kafka:
    """Sends records and waits until brokers have them."""

    def __init__(self, topic: str, settings: dict[str, Any], members: KafkaMembers, options: Options) -> None:
        """Prepares; connects with the first batch.

        Args:
            topic: of all records.
            settings: of the producer.
            members: of the configuration.
            options: of the processor.
        """
        self._topic = topic
        self._settings = settings
        self._members = members
        self._events = Events(members, options.instance_id)
        self._within_s = within_s(options)
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def process(self, batch: Sequence[Payload]) -> None:
        """Sends a record for each payload.

        Raises:
            NotDelivered: no broker was reached, or some records were not taken.
        """
        from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError

        too_large = (MessageSizeTooLargeError, RecordTooLargeError)
        until = time.monotonic() + self._within_s
        producer = await self._connected()
        records = self._records(batch)
        sent: dict[asyncio.Future[Any], Payload] = {}
        failed: list[Payload] = []
        large: list[Payload] = []
        why = ""
        for record in records:
            try:
                future = await producer.send(
                    self._topic, record.value, key=record.key, headers=record.headers
                )
            except too_large:
                large.append(record.payload)
            except KafkaError as error:
                failed.append(record.payload)
                why = repr(error)
            else:
                sent[future] = record.payload
        if sent:
            # Not gathered: a batch that is given up must not take records back that are on their way.
            await asyncio.wait(sent, timeout=max(0.0, until - time.monotonic()))
        late = [payload for future, payload in sent.items() if not future.done()]
        for future, payload in sent.items():
            problem = future.exception() if future.done() else None
            if isinstance(problem, too_large):
                large.append(payload)
            elif problem is not None:
                failed.append(payload)
                why = repr(problem)
        where = f"topic {self._topic} at {self._settings['bootstrap_servers']}"
        if late:
            raise NotDelivered(f"{where}: no answer in time", [*late, *failed, *large], reason="timeout")
        if failed:
            raise NotDelivered(f"{where}: {why}", [*failed, *large])
        if large:
            why = f"{len(large)} records are larger than options.max_message_bytes, or than brokers take"
            raise NotDelivered(f"{where}: {why}", large, retry=False, reason="too_large")

    async def close(self, timeout_s: float) -> None:
        """Closes the connections."""
        if self._producer is not None:
            async with asyncio.timeout(max(0.0, timeout_s - _CLOSING_S)):
                await self._producer.stop()

    def collect(self) -> Iterable[Metric]:
        """None."""
        return ()

    async def _connected(self) -> "AIOKafkaProducer":
        from aiokafka import AIOKafkaProducer
        from aiokafka.errors import KafkaError

        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._settings)
                try:
                    await producer.start()
                except BaseException as error:
                    await producer.stop()
                    if isinstance(error, KafkaError | OSError):
                        brokers = self._settings["bootstrap_servers"]
                        raise NotDelivered(f"no broker of {brokers} was reached: {error!r}") from error
                    raise
                self._producer = producer
            return self._producer

    def _records(self, batch: Sequence[Payload]) -> list[_Record]:
        if self._members.format == "cloudevents":
            return [
                _Record(
                    payload,
                    self._key(payload),
                    event.body,
                    [
                        *((f"ce_{name}", text.encode()) for name, text in event.attributes.items()),
                        ("content-type", event.content_type.encode()),
                    ],
                )
                for payload, event in self._events.of(batch, time.time())
            ]
        return [
            _Record(payload, self._key(payload), encode_record(payload, decoded=self._members.decoded), [])
            for payload in batch
        ]

    def _key(self, payload: Payload) -> bytes | None:
        keys = {"call": payload.id, "model": payload.model_id or payload.vmodel_id, "none": ""}
        return keys[self._members.key].encode() or None
