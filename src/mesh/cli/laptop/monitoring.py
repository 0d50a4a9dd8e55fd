"""A configuration with which Prometheus scrapes the mesh of ``mesh up``."""

import json
from collections.abc import Sequence
from pathlib import Path

from mesh.cli.laptop.plan import InstancePlan, PlanError

#: By this first line a file is known to be one that may be written anew.
_FIRST_LINE = "# Written by `mesh up`, and written anew whenever it starts with --prometheus-config."
#: Label values that stand for what a cluster has, so that dashboards need no others.
NAMESPACE = "laptop"
JOB = "mesh"


def configuration(instances: Sequence[InstancePlan], host: str) -> str:
    """The configuration, as YAML; `pod` is the instance's id, as it is in Kubernetes.

    Args:
        instances: those without metrics are left out.
        host: under which Prometheus finds them.
    """
    targets = "\n".join(
        f"      - targets: [{json.dumps(f'{host}:{instance.metrics_port}')}]\n"
        f"        labels: {{namespace: {NAMESPACE}, pod: {instance.instance_id}}}"
        for instance in instances
        if instance.metrics_port is not None
    )
    return f"""{_FIRST_LINE}
global:
  scrape_interval: 5s
  evaluation_interval: 5s
# Those of the repository are in deploy/prometheus/rules. Paths are relative to this file; there may be none.
rule_files: [rules/*.yaml]
scrape_configs:
  - job_name: {JOB}
    static_configs:
{targets}
"""


def check(path: Path) -> None:
    """Finds out whether the file may be written.

    Raises:
        PlanError: it is somebody else's, or has no directory.
    """
    if not path.parent.is_dir():
        raise PlanError(f"--prometheus-config {path}: there is no directory {path.parent}")
    try:
        with path.open(encoding="utf-8") as file:
            is_ours = file.readline().rstrip("\n") == _FIRST_LINE
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"--prometheus-config {path} cannot be read: {error}") from None
    if not is_ours:
        raise PlanError(
            f"--prometheus-config {path} is there already, and not of `mesh up`: name another file"
        )


def write(path: Path, text: str) -> None:
    """Writes the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
