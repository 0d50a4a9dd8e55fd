"""What the mesh's own dashboards share: variables that choose a mesh, links between them, rows."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import (
    CustomVariable,
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableRefresh,
    VariableSort,
)

from grafana.panels import Panel, datasource, datasource_variable, option
from grafana.promql import MESH
from grafana.rows import Section

#: By which the dashboards find each other.
TAG = "modelmesh"


def new(title: str, uid: str, description: str) -> Dashboard:
    """A dashboard with the variables that choose a mesh, and links to the others."""
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .editable()
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            DashboardLink("Dashboards of the mesh")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=True)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .variables(
            [
                datasource_variable(),
                labels("namespace", "modelmesh_instance_ready", "namespace", several=False),
                labels("job", 'modelmesh_instance_ready{namespace=~"$namespace"}', "job", several=False),
                CustomVariable("by")
                .label("instances by")
                .description("The label that tells instances apart: pod in Kubernetes, else instance.")
                .values("pod,instance")
                .current(option("pod")),
                labels("instance", f"modelmesh_instance_ready{{{MESH}}}", "$by", several=True),
            ]
        )
    )


def labels(name: str, series: str, label: str, *, several: bool, everything: bool = True) -> QueryVariable:
    """A variable with the values of a label.

    Args:
        series: that have the label.
        several: whether more than one may be chosen.
        everything: whether all may be chosen together, which is so at first.
    """
    variable = (
        QueryVariable(name)
        .datasource(datasource())
        .query(f"label_values({series}, {label})")
        .definition(f"label_values({series}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=several)
    )
    if not everything:
        return variable
    chosen = option("$__all")
    chosen.text = "All"
    return variable.include_all(include_all=True).all_value(".*").current(chosen)


def assemble(board: Dashboard, sections: Sequence[Section]) -> Dashboard:
    """Adds the sections as rows. Panels get ids that hold while others are added to other rows."""
    for number, section in enumerate(sections, start=1):
        row = Row(section.title).id(100 * number)
        placed = [
            panel.id(100 * number + position).span(width).height(section.height)
            for position, (width, panel) in enumerate(section.panels, start=1)
        ]
        if section.open:
            board = _with_panels(board.with_row(row), placed)
        else:
            for panel in placed:
                row = row.with_panel(panel)
            board = board.with_row(row)
    return board


def _with_panels(board: Dashboard, panels: Sequence[Panel]) -> Dashboard:
    for panel in panels:
        board = board.with_panel(panel)
    return board
