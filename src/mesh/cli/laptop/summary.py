"""What a person needs once the mesh is up."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mesh.cli import words
from mesh.cli.client import DEFAULT_ADDRESS
from mesh.cli.laptop.catalog import CatalogModel
from mesh.cli.laptop.plan import Plan
from mesh.cli.views.models import plain_table


def summary(plan: Plan, models: Sequence[CatalogModel]) -> RenderableType:
    """Addresses, a request to paste, how to look inside, where the logs are, how to end it."""
    options = plan.options
    total = sum(model.size_bytes for model in models)
    memory = options.capacity * options.instances
    addresses = [f"{reachable(options.host)}:{instance.port}" for instance in plan.instances]
    table = plain_table("instance", "requests (gRPC)", "metrics", "memory for models")
    for instance, address in zip(plan.instances, addresses, strict=True):
        metrics = f"http://{reachable(options.host)}:{instance.metrics_port}/metrics"
        table.add_row(
            instance.instance_id,
            address,
            metrics if instance.metrics_port else "off (--metrics-port)",
            words.size(options.capacity),
        )
    page = plan.instances[0].page_port
    shown = next((model for model in models if model.has_samples), models[0])
    given = "" if shown.has_samples else " --input '[[5.1, 3.5, 1.4, 0.2]]'"
    first = "" if addresses[0] == DEFAULT_ADDRESS else f" --address {addresses[0]}"
    lines: list[RenderableType] = [
        Text(),
        Text(
            f"The mesh is up: {words.count(len(models), 'model')}, {words.size(total)} on disk; "
            f"{words.count(options.instances, 'instance')} with memory for {words.size(memory)} together.",
            style="bold",
        ),
        Text(),
        Padding(table, (0, 0, 0, 2), expand=False),
        Text(),
        Text("In another terminal, ask a model; the first request loads it:"),
        Text(f"  mesh infer {shown.model_id}{given} --repeat 2{first}", style="cyan"),
    ]
    if len(addresses) > 1:
        lines += [
            Text("Any instance answers for any model:"),
            Text(f"  mesh infer {shown.model_id}{given} --address {addresses[1]}", style="cyan"),
        ]
    lines += [
        Text("See what the mesh does, in a browser or here:"),
        *([] if page is None else [Text(f"  http://{reachable(options.host)}:{page}", style="cyan")]),
        Text(f"  mesh top{first}", style="cyan"),
        Text(f"  mesh explain {shown.model_id}{first}", style="cyan"),
        Text("Or from Python, with tritonclient; the metadata names the model:"),
        Text(
            f'  tritonclient.grpc.InferenceServerClient("{addresses[0]}")'
            f'.infer("{shown.model_id}", inputs, headers={{"mm-model-id": "{shown.model_id}"}})',
            style="cyan",
        ),
        *_monitoring(plan),
        Text(),
        Text(f"Logs are in {plan.run}. Ctrl-C ends it all."),
    ]
    return Group(*lines)


def _monitoring(plan: Plan) -> Sequence[RenderableType]:
    lines = []
    if plan.options.prometheus_config is not None:
        lines += [
            Text("Graphs, once Prometheus runs (docs/observability.md):"),
            Text(f"  prometheus --config.file={plan.options.prometheus_config}", style="cyan"),
        ]
    if plan.tracing.on:
        lines.append(Text(f"Requests are traced (docs/tracing.md), to {plan.tracing.url}"))
    return lines


def reachable(host: str) -> str:
    """The address of ``host`` for a client on this machine."""
    if host in {"0.0.0.0", "::", ""}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
