"""Instances: how many, who leads, how full they are."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mesh.cli import words
from mesh.cli.views.models import plain_table
from mesh.protos import admin_pb2


def memory_bar(used: int, capacity: int, width: int = 20) -> Text:
    """A bar of ``width`` characters, green while there is room, yellow from 95 %.

    A full cache is nothing bad, so it is not red.
    """
    share = min(1.0, used / capacity) if capacity else 0.0
    filled = round(share * width)
    style = "green" if share < 0.95 else "yellow"
    return Text.assemble(("█" * filled, style), ("░" * (width - filled), "dim"))


def mesh_status(reply: admin_pb2.ListInstancesReply, now_ms: int) -> RenderableType:
    """The mesh in numbers, then its instances."""
    capacity = sum(instance.capacity_bytes for instance in reply.instances)
    used = sum(instance.used_bytes for instance in reply.instances)
    loaded = sum(instance.models for instance in reply.instances)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("instances", str(len(reply.instances)))
    facts.add_row("leader", reply.leader or Text("none elected", style="yellow"))
    facts.add_row("models", f"{reply.models_registered:,} registered, {words.count(loaded, 'loaded copy')}")
    facts.add_row("memory", f"{words.size(used)} used of {words.size(capacity)}")
    facts.add_row("answered by", reply.self)
    return Group(facts, Text(), instances_table(reply.instances, reply.leader, now_ms))


def instances_table(instances: Iterable[admin_pb2.Instance], leader: str, now_ms: int) -> RenderableType:
    """One line for each instance, in order of their ids."""
    table = plain_table(
        "instance",
        "memory",
        "used",
        "of",
        "models",
        "loading",
        "req/min",
        "up",
        "oldest use",
        "",
        numeric=("used", "of", "models", "loading", "req/min"),
    )
    instances = sorted(instances, key=lambda instance: instance.instance_id)
    ((rules, _),) = Counter(instance.type_rules for instance in instances).most_common(1) or (("", 0),)
    for instance in instances:
        router = instance.capacity_bytes == 0
        table.add_row(
            instance.instance_id,
            Text("routes only", style="dim")
            if router
            else memory_bar(instance.used_bytes, instance.capacity_bytes),
            "-" if router else words.size(instance.used_bytes),
            "-" if router else words.size(instance.capacity_bytes),
            str(instance.models),
            str(instance.loads_in_progress) if instance.loads_in_progress else "-",
            str(instance.requests_per_minute),
            words.duration(now_ms - instance.start_time_ms) if instance.start_time_ms else "-",
            words.ago(instance.oldest_used_ms, now_ms) if instance.oldest_used_ms else "-",
            _remarks(instance, leader, rules),
        )
    return table


def _remarks(instance: admin_pb2.Instance, leader: str, rules: str) -> Text:
    remarks = []
    if instance.instance_id == leader:
        remarks.append(Text("leader", style="cyan"))
    if instance.shutting_down:
        remarks.append(Text("shutting down", style="yellow"))
    if not instance.reachable:
        remarks.append(Text("unreachable: figures are from its record", style="red"))
    if instance.type_rules != rules:
        remarks.append(Text("type constraints differ from those of most", style="yellow"))
    if instance.zone:
        remarks.append(Text(f"zone {instance.zone}", style="dim"))
    if instance.labels:
        remarks.append(Text(f"labels {','.join(instance.labels)}", style="dim"))
    return Text(", ").join(remarks)
