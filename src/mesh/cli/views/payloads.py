"""Who gets the payloads of requests."""

import json

from rich.console import Group, RenderableType
from rich.text import Text

from mesh.cli.views.models import plain_table
from mesh.protos import payloads_pb2


def processors_table(reply: payloads_pb2.ListProcessorsReply) -> RenderableType:
    """One line for each processor."""
    if not reply.processors:
        return Text("no payload processors; `mesh payloads set NAME URI` adds one")
    table = plain_table(
        "name",
        "of",
        "uri",
        "calls",
        "delivered",
        "waiting",
        "lost",
        "",
        numeric=("delivered", "waiting", "lost"),
    )
    for processor in reply.processors:
        uri, calls = _described(processor.definition)
        table.add_row(
            processor.name,
            processor.origin,
            uri,
            calls,
            f"{processor.delivered:,}",
            f"{processor.waiting + processor.in_flight:,}",
            ", ".join(f"{count:,} {reason}" for reason, count in sorted(processor.lost.items()) if count)
            or "0",
            Text(processor.trouble, style="yellow" if processor.working else "red"),
        )
    return Group(table, Text(f"counts are of instance {reply.instance_id}", style="dim"))


def _described(definition: str) -> tuple[str, str]:
    """Returns: the URI, and which calls; of what cannot be read the text as it is."""
    try:
        members = json.loads(definition)
    except ValueError:
        return definition, ""
    if not isinstance(members, dict):
        return definition, ""
    calls = [
        ", ".join(map(str, members.get("models") or ())) or "any model",
        ", ".join(map(str, members.get("methods") or ())),
        f"{members['sample']:.3g} of calls" if members.get("sample", 1) != 1 else "",
    ]
    return str(members.get("uri", definition)), "; ".join(filter(None, calls))
