"""Payloads of inference calls, and what may be done with them. docs/payloads.md is the guide.

`Payload` is what there is to process and `PayloadProcessor` who processes it; a package of others adds a scheme with an
entry point. It knows nothing of the mesh it is in.
"""

from mesh.payload.definition import (
    STRING_CAPACITY,
    STRING_CONSUMERS,
    Definition,
    Named,
    check_name,
    parse_string,
    read_definition_text,
    read_file,
)
from mesh.payload.payload import Data, Metadata, Payload, PayloadKind, PlainPayload, last_values
from mesh.payload.pipeline import Pipeline, Status, Tap
from mesh.payload.processor import (
    Event,
    InvalidProcessor,
    NotDelivered,
    OpenProcessor,
    Options,
    PayloadProcessor,
    Report,
)
from mesh.payload.schemes import GROUP, known_schemes, open_processor, scheme_of
from mesh.payload.secrets import without_password, without_secrets

__all__ = [
    "GROUP",
    "STRING_CAPACITY",
    "STRING_CONSUMERS",
    "Data",
    "Definition",
    "Event",
    "InvalidProcessor",
    "Metadata",
    "Named",
    "NotDelivered",
    "OpenProcessor",
    "Options",
    "Payload",
    "PayloadKind",
    "PayloadProcessor",
    "Pipeline",
    "PlainPayload",
    "Report",
    "Status",
    "Tap",
    "check_name",
    "known_schemes",
    "last_values",
    "open_processor",
    "parse_string",
    "read_definition_text",
    "read_file",
    "scheme_of",
    "without_password",
    "without_secrets",
]
