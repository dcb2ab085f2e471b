"""Parts of a dashboard: panels in rows, the variables of all dashboards, links between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    VariableRefresh,
    VariableSort,
)

TAG = "klais"
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "$__rate_interval"

Query = tuple[str, str]


def of(name: str, **labels: str) -> str:
    """A metric of the chosen jobs and instances; a label value with a leading ``~`` or ``!`` includes its operator."""
    chosen = ['job=~"$job"', 'instance=~"$instance"']
    for label, value in labels.items():
        operator, text = ("=~", value[1:]) if value.startswith("~") else ("=", value)
        chosen.append(f'{label}{operator}"{text}"')
    return f"{name}{{{', '.join(chosen)}}}"


def rate(name: str, by: str = "", **labels: str) -> str:
    """Growth per second of a counter, summed."""
    return f"sum{f' by ({by})' if by else ''} (rate({of(name, **labels)}[{RATE}]))"


def quantile(q: float, name: str, by: str = "", **labels: str) -> str:
    """A quantile of a histogram (s)."""
    return f"histogram_quantile({q}, {rate(name + '_bucket', ', '.join(filter(None, ('le', by))), **labels)})"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title, unit : str
        The unit by Grafana's id.
    queries : sequence of (expression, legend)
        PromQL.
    description : str
        Description for the reader.
    always : bool
        Whether it has values in every running system.
    kind : str
        ``graph``, or ``number`` for the newest value.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    description: str = ""
    always: bool = True
    kind: Literal["graph", "number"] = "graph"


@dataclass(frozen=True)
class Board:
    """One dashboard: ``rows`` of panels that share the width."""

    uid: str
    title: str
    description: str
    rows: Sequence[Sequence[Panel]]

    def panels(self) -> list[Panel]:
        """All panels in order."""
        return [panel for row in self.rows for panel in row]

    def build(self) -> Any:
        """The dashboard as Grafana's model."""
        board = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .refresh("30s")
            .time("now-1h", "now")
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
        )
        for variable in variables():
            board = board.with_variable(variable)
        board = board.link(
            dashboard.DashboardLink("KLAIS").type(DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True)
            .include_vars(True).keep_time(True)
        ).link(
            dashboard.DashboardLink("Live page").type(DashboardLinkType.LINK).url("${ui}").target_blank(True)
        )  # fmt: skip
        number, y = 1, 0
        for row in self.rows:
            width = WIDTH // len(row)
            height = STAT_HEIGHT if all(panel.kind == "number" for panel in row) else HEIGHT
            for k, panel in enumerate(row):
                board = board.with_panel(_built(panel, number, GridPos(height, width, k * width, y)))
                number += 1
            y += height
        return board.build()


def variables() -> list[Any]:
    """Data source, job and instance, and the address of the live page."""
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _query_variable("job", "Job", 'label_values(klais_build_info{job=~"klais.*"}, job)'),
        _query_variable("instance", "Instance", 'label_values(klais_build_info{job=~"$job"}, instance)'),
        dashboard.TextBoxVariable("ui").label("Live page").default_value("http://127.0.0.1:6066/ui/"),
    ]


def _query_variable(name: str, label: str, query: str) -> Any:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _built(panel: Panel, number: int, at: GridPos) -> Any:
    built: Any
    if panel.kind == "number":
        built = stat.Panel()
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
        built = timeseries.Panel().fill_opacity(8).legend(legend.show_legend(True)).tooltip(tooltip)
    built = (
        built.id(number)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(SOURCE)
        .grid_pos(at)
    )
    for k, (expr, legend_format) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).legend_format(legend_format).ref_id("ABCDEFGHIJ"[k]).range()
        built = built.with_target(query.datasource(SOURCE))
    return built
