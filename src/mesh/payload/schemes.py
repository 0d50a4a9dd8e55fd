"""Finds what a scheme of a URI stands for: built in, or of a package with an entry point."""

import re
from importlib.metadata import EntryPoint, entry_points

from mesh.payload.processor import InvalidProcessor, OpenProcessor, Options, PayloadProcessor

#: The group of entry points by which packages add schemes.
GROUP = "mesh.payload"

#: Schemes of our own, as entry points, so that none of what they need is imported before it is used.
_BUILT_IN: dict[str, str] = {
    "cloudevents+http": "mesh.payload.sinks.cloudevents:open_cloudevents",
    "cloudevents+https": "mesh.payload.sinks.cloudevents:open_cloudevents",
    "http": "mesh.payload.web:open_web",
    "https": "mesh.payload.web:open_web",
    "jsonl": "mesh.payload.sinks.jsonl:open_json_lines",
    "kafka": "mesh.payload.sinks.kafka:open_kafka",
    "kafka+ssl": "mesh.payload.sinks.kafka:open_kafka",
    "logger": "mesh.payload.logger:open_logger",
    "monitor": "mesh.payload.monitors:open_monitor",
    "parquet": "mesh.payload.sinks.parquet:open_parquet",
    "parquet+az": "mesh.payload.sinks.parquet:open_parquet",
    "parquet+gs": "mesh.payload.sinks.parquet:open_parquet",
    "parquet+s3": "mesh.payload.sinks.parquet:open_parquet",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def known_schemes() -> list[str]:
    """All schemes that processors can have here, in alphabetical order."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def scheme_of(uri: str) -> str:
    """The scheme of a URI, in lower case.

    Raises:
        InvalidProcessor: the URI has none, or one that nothing here knows.
    """
    match = _SCHEME.match(uri)
    known = ", ".join(known_schemes())
    if match is None:
        raise InvalidProcessor(f"payload processor {uri!r} has no scheme: it must begin with one of {known}")
    scheme = match[1].lower()
    if _find(scheme) is None:
        raise InvalidProcessor(
            f"payload processor {uri!r}: nothing here knows the scheme {scheme!r}; there are {known}. A package adds "
            f"one by an entry point of the group {GROUP!r}"
        )
    return scheme


def open_processor(uri: str, options: Options) -> PayloadProcessor:
    """Makes the processor that a URI names.

    Args:
        uri: without a fragment.

    Raises:
        InvalidProcessor: there is no such scheme, its package cannot be imported, or it refuses the URI or options.
    """
    scheme = scheme_of(uri)
    point = _find(scheme)
    assert point is not None  # noqa: S101 - scheme_of has found it
    try:
        opened: OpenProcessor = point.load()
    except (ImportError, AttributeError) as error:
        raise InvalidProcessor(
            f"payload processor {uri!r}: {point.value} cannot be loaded: {error}"
        ) from error
    return opened(uri, options)


def _find(scheme: str) -> EntryPoint | None:
    if scheme in _BUILT_IN:
        return EntryPoint(scheme, _BUILT_IN[scheme], GROUP)
    return next(iter(entry_points(group=GROUP, name=scheme)), None)
