"""Payloads as CloudEvents, with the attributes that KServe's inference logger gives them."""

import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from mesh.payload.messages import NotReadable, parse, to_json
from mesh.payload.payload import Payload
from mesh.payload.records import rfc3339, text_metadata

_TYPES = {
    "request": "org.kubeflow.serving.inference.request",
    "response": "org.kubeflow.serving.inference.response",
}
_IDS = uuid.UUID("5c5f7f6e-2d6c-4c53-9a8d-6f2b6f1f0c11")
_REMEMBERED_CALLS = 10_000

JSON = "application/json"
BINARY = "application/octet-stream"


class EventMembers(msgspec.Struct, frozen=True, kw_only=True):
    """The members of the options of every sink that writes CloudEvents.

    Attributes:
        mode: which payloads become events; with ``request`` and ``response`` the other side is left out.
        errors: responses other than ``OK``, too; KServe has none.
        body: ``json``, the message in the form of the Open Inference Protocol's REST API, or ``message``, its bytes as
            they were sent. What cannot be read as a message of the protocol is sent as bytes in both.
        metadata_headers: headers of requests that events tell of, in any case; as KServe's ``metadataHeaders``.
        annotations: told with every event; as KServe's ``metadataAnnotations``.
        inference_service: name of the InferenceService; empty: the vmodel's, or else the model's.
        namespace: of the InferenceService.
        component: of the InferenceService.
        endpoint: of the InferenceService.
        source: of the events; empty: the instance.
        model_attributes: further attributes ``modelid``, ``vmodelid`` and ``method``, which KServe does not have.
    """

    mode: Literal["all", "request", "response"] = "all"
    errors: bool = False
    body: Literal["json", "message"] = "json"
    metadata_headers: list[str] = []
    annotations: dict[str, str] = {}
    inference_service: str = ""
    namespace: str = ""
    component: str = "predictor"
    endpoint: str = ""
    source: str = ""
    model_attributes: bool = False


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event.

    Attributes:
        attributes: by name, without ``ce-``; none is empty.
        content_type: of the body.
        body: the data.
    """

    attributes: Mapping[str, str]
    content_type: str
    body: bytes


class Events:
    """Makes events of payloads. Remembers of requests what their responses are to be told with."""

    def __init__(self, members: EventMembers, instance_id: str) -> None:
        """Begins.

        Args:
            members: of the configuration.
            instance_id: the source, where the members name none.
        """
        self._members = members
        self._source = members.source or instance_id or "model-mesh"
        self._headers = frozenset(name.lower() for name in members.metadata_headers)
        self._calls: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def of(self, batch: Sequence[Payload], now: float) -> list[tuple[Payload, CloudEvent]]:
        """Makes the events of a batch, each with its payload; some payloads have none.

        Args:
            batch: in order, requests before their responses.
            now: epoch seconds.
        """
        events = []
        for payload in batch:
            identity, metadata = self._call(payload)
            if self._wanted(payload):
                events.append((payload, self._event(payload, identity, metadata, now)))
        return events

    def _wanted(self, payload: Payload) -> bool:
        if self._members.mode not in ("all", payload.kind):
            return False
        return payload.kind == "request" or payload.status == "OK" or self._members.errors

    def _call(self, payload: Payload) -> tuple[str, str]:
        if payload.kind == "request":
            headers = text_metadata(payload.metadata)
            kept = {
                canonical(name): [text for other, text in _texts(payload) if other == name]
                for name in headers
                if name in self._headers
            }
            call = (headers.get("ce-id") or event_id(payload.id), json.dumps(kept, separators=(",", ":")))
            if kept or "ce-id" in headers:
                self._calls[payload.id] = call
                if len(self._calls) > _REMEMBERED_CALLS:
                    self._calls.popitem(last=False)
            return call
        return self._calls.get(payload.id, (event_id(payload.id), "{}"))

    def _event(self, payload: Payload, identity: str, metadata: str, now: float) -> CloudEvent:
        members = self._members
        attributes = {
            "specversion": "1.0",
            "type": _TYPES[payload.kind],
            "id": identity,
            "source": self._source,
            "time": rfc3339(payload.time),
            "recordedtime": rfc3339(now),
            "inferenceservicename": members.inference_service or payload.vmodel_id or payload.model_id,
            "namespace": members.namespace,
            "component": members.component,
            "endpoint": members.endpoint,
            "metadata": metadata,
            "annotations": json.dumps(members.annotations, separators=(",", ":"))
            if members.annotations
            else "",
        }
        if payload.sequence:
            # Events with the same source and id are the same event, unless something tells them apart.
            attributes["sequence"] = str(payload.sequence)
        if members.model_attributes:
            attributes |= {
                "modelid": payload.model_id,
                "vmodelid": payload.vmodel_id,
                "method": payload.method,
            }
        content_type, body = _body(payload, members.body)
        return CloudEvent({name: text for name, text in attributes.items() if text}, content_type, body)


def event_id(call_id: str) -> str:
    """The id of a call's events where its request brought none: a UUID that is the same for both of them."""
    return str(uuid.uuid5(_IDS, call_id))


def canonical(name: str) -> str:
    """A header's name as Go's ``http.Header`` and therefore KServe has it, such as ``X-Request-Id``."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _texts(payload: Payload) -> list[tuple[str, str]]:
    return [(name, text_metadata(((name, value),))[name]) for name, value in payload.metadata]


def _body(payload: Payload, form: str) -> tuple[str, bytes]:
    if form == "json" and payload.data is not None:
        try:
            return JSON, msgspec.json.encode(to_json(parse(payload)))
        except NotReadable:
            pass
    return BINARY, b"" if payload.data is None else bytes(payload.data)
