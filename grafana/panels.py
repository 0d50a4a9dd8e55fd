"""Words for Grafana's builders: what panels of all dashboards share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel = timeseries.Panel | stat.Panel | table.Panel

#: Name of the variable with which a user chooses the Prometheus that is asked.
DATASOURCE = "DS_PROMETHEUS"
#: Columns of Grafana's grid.
FULL_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, with variables of the dashboard and of Grafana.
        legend: template of the series' names; ``__auto`` lets Grafana choose.
        points: draw these series as points, whatever the panel does.
        exemplars: mark traced requests in the panel, where Prometheus keeps exemplars.
    """

    expr: str
    legend: str = "__auto"
    points: bool = False
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a value is worth a look, and from where on it is bad; either may be left out.

    Attributes:
        low: whether small values are the bad ones.
    """

    warn: float | None = None
    bad: float | None = None
    low: bool = False

    def steps(self) -> dashboard_builders.ThresholdsConfig:
        """As Grafana colours values."""
        reached = [(self.warn, "orange"), (self.bad, "red")]
        if self.low:
            # Each colour reaches up to the next value.
            base = "red" if self.bad is not None else "orange"
            reached = [(self.bad, "orange" if self.warn is not None else "green"), (self.warn, "green")]
        else:
            base = "green"
        steps = [dashboard.Threshold(value=None, color=base)]
        steps += [
            dashboard.Threshold(value=value, color=color) for value, color in reached if value is not None
        ]
        return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def datasource() -> common.DataSourceRef:
    """The Prometheus that the user chose."""
    return common.DataSourceRef(type_val="prometheus", uid=f"${{{DATASOURCE}}}")


def datasource_variable() -> dashboard_builders.DatasourceVariable:
    """Lets the user choose among the Prometheus servers that Grafana knows."""
    return dashboard_builders.DatasourceVariable(DATASOURCE).label("data source").type("prometheus")


def option(*values: str) -> dashboard.VariableOption:
    """A variable's value, or its values where it may have several."""
    chosen: str | list[str] = values[0] if len(values) == 1 else list(values)
    return dashboard.VariableOption(selected=True, text=chosen, value=chosen)


def graph(
    title: str,
    queries: Sequence[Query],
    *,
    unit: str = "",
    description: str = "",
    bars: bool = False,
    interval: str = "",
    limits: Limits | None = None,
    figures: bool = False,
) -> timeseries.Panel:
    """Lines (or bars) over time, with a legend below.

    Args:
        unit: Grafana's id of the unit; empty for plain numbers.
        description: what the panel shows and what to make of it.
        interval: least distance of two points, such as ``5m``; empty leaves it to Grafana.
        limits: drawn as dashed lines.
        figures: tell the last and the largest value of each series in the legend.
    """
    legend = (
        common_builders.VizLegendOptions()
        .show_legend(show_legend=True)
        .placement(common.LegendPlacement.BOTTOM)
        .display_mode(common.LegendDisplayMode.TABLE if figures else common.LegendDisplayMode.LIST)
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(datasource())
        .legend(legend.calcs(["lastNotNull", "max"]) if figures else legend)
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .fill_opacity(100 if bars else 10)
        .line_width(1)
        .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
        .show_points(common.VisibilityMode.NEVER)
    )
    if unit:
        panel = panel.unit(unit)
    if description:
        panel = panel.description(description)
    if interval:
        panel = panel.interval(interval)
    if limits:
        panel = panel.thresholds(limits.steps()).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    for position, query in enumerate(queries):
        panel = panel.with_target(_target(query, position).range())
        if query.points:
            panel = panel.override_by_query(
                _ref_id(position),
                [
                    dashboard.DynamicConfigValue(id_val="custom.drawStyle", value="points"),
                    dashboard.DynamicConfigValue(id_val="custom.pointSize", value=5),
                ],
            )
    return panel


def figure(
    title: str, queries: Sequence[Query], *, description: str, unit: str = "", limits: Limits | None = None
) -> stat.Panel:
    """One number, or a few, as they are now, in the colour of the limits."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(datasource())
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE if limits else common.BigValueColorMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("none")
    )
    if unit:
        panel = panel.unit(unit)
    if limits:
        panel = panel.thresholds(limits.steps())
    for position, query in enumerate(queries):
        panel = panel.with_target(_target(query, position).instant())
    return panel


def listing(
    title: str,
    query: Query,
    *,
    description: str,
    columns: Sequence[str],
    value: str,
    unit: str = "",
    links: Mapping[str, str] | None = None,
) -> table.Panel:
    """A row for each series, the largest value first.

    Args:
        columns: labels of the series; a variable of the dashboard may stand for one.
        value: heading of the series' values.
        unit: of the values.
        links: where a click on a value leads, by its column.
    """
    order = {name: position for position, name in enumerate((*columns, "Value"))}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(datasource())
        .with_target(_target(query, 0).instant().format(PromQueryFormat.TABLE))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": order,
                    "renameByName": {"Value": value},
                },
            )
        )
        .sort_by([common_builders.TableSortByFieldState().display_name(value).desc(desc=True)])
        .override_by_name(value, [dashboard.DynamicConfigValue(id_val="unit", value=unit or "short")])
    )
    for column, url in (links or {}).items():
        link = {"title": "Open ${__value.text}", "url": url}
        panel = panel.override_by_name(column, [dashboard.DynamicConfigValue(id_val="links", value=[link])])
    return panel


def _target(query: Query, position: int) -> prometheus.Dataquery:
    built = (
        prometheus.Dataquery()
        .datasource(datasource())
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(_ref_id(position))
    )
    return built.exemplar(exemplar=True) if query.exemplars else built


def _ref_id(position: int) -> str:
    """Grafana's name of the query at this position: A, B, C..."""
    return chr(ord("A") + position)
