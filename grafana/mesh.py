"""The dashboard of a mesh: from whether all is well down to single parts."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.board import assemble, new
from grafana.rows import cache, glance, internals, loading, payloads, placement, requests


def dashboard() -> Dashboard:
    """All rows and panels."""
    return assemble(
        new("Mesh", "modelmesh-mesh", "A mesh: what it serves, where models live, and what it waits for."),
        [
            glance.section(),
            requests.section(),
            placement.section(),
            loading.section(),
            loading.cold_starts(),
            cache.section(),
            payloads.section(),
            internals.section(),
        ],
    )
