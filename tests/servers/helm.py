"""Helm, which renders the chart."""

import subprocess
from pathlib import Path

from tests.servers.cache import Recipe, go_recipe

_VERSION = "4.3.1"


def recipe() -> Recipe:
    """A release of Helm."""
    return go_recipe(
        "helm", _VERSION, f"helm.sh/helm/v4/cmd/helm@v{_VERSION}", "the chart's tests", "about 3 minutes"
    )


def render(program: Path, chart: Path, namespace: str, *values: str) -> str:
    """The manifests of a chart.

    Args:
        program: the folder that `recipe` installs into.
        chart: folder of the chart.
        namespace: it is installed in.
        values: ``name=value`` each.

    Raises:
        subprocess.CalledProcessError: the chart is faulty.
    """
    command: list[str | Path] = [program / "helm", "template", "mesh", chart, "--namespace", namespace]
    done = subprocess.run(
        [*command, *(f"--set={value}" for value in values)], check=True, capture_output=True, text=True
    )
    return done.stdout
