"""A page on the scheduler's own dashboard: the ELBO, steps per second, and the lanes and the time of each host.

The client logs an event after each block of steps. A plugin of the scheduler collects them, and serves the page
``/dvi`` beside Dask's. Where the scheduler has no Bokeh there is no page, and a fit is as it would be without.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin

from dvi.types import Report

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

TOPIC = "dvi"
ROUTE = "/dvi"
_MOST = 2_000  # blocks that are shown
_PERIOD = 500  # milliseconds between two looks


@dataclass(frozen=True, slots=True)
class Beat:
    """What is told of a block of steps.

    Parameters
    ----------
    step : int
        At its end.
    seconds : float
        That it took.
    steps : int
        In it.
    elbo : float
        Mean over its steps.
    rows : int
        Read.
    lanes : mapping of str to int
        Lanes of each host, by the address of its worker.
    waits : mapping of str to float
        Mean seconds that a step waited for each host; empty where it is not known.
    """

    step: int
    seconds: float
    steps: int
    elbo: float
    rows: int
    lanes: Mapping[str, int]
    waits: Mapping[str, float]


def register(client: Client) -> None:
    """Have the scheduler collect and show what is told, unless it does already, or has no dvi to do it with."""
    try:
        client.register_plugin(Dashboard())
    except Exception as error:  # whatever loading the plugin there raises
        logger.info("no page on the dashboard: %s", error)


def tell(client: Client, report: Report, seconds: float, lanes: Mapping[str, int], waits: Mapping[str, float]) -> None:
    """Tell of a block of steps and the seconds it took; see :class:`Beat`. Costs a message, and waits for nothing."""
    steps = len(report.objectives)
    if steps:
        elbo = float(np.mean(report.objectives))
        beat = Beat(report.state.step, seconds, steps, elbo, report.n_rows, dict(lanes), dict(waits))
        client.log_event(TOPIC, asdict(beat))


def link(client: Client) -> str:
    """Address of the page."""
    return str(client.dashboard_link).rpartition("/")[0] + ROUTE


class Dashboard(SchedulerPlugin):
    """Collects what fits tell, on the scheduler, and serves it as a page."""

    name = "dvi-dashboard"
    idempotent = True

    def __init__(self) -> None:
        self.beats: deque[Beat] = deque(maxlen=_MOST)

    async def start(self, scheduler: Scheduler) -> None:
        """Add the page to the dashboard, if there is one."""
        try:
            from distributed.dashboard.core import BokehApplication
        except ImportError:  # without Bokeh
            return
        application = BokehApplication({ROUTE: self.page}, scheduler)
        scheduler.http_application.add_application(application)
        application.initialize(scheduler.loop)
        application.start()

    def log_event(self, topic: str, msg: Any) -> None:
        """Called by the scheduler for every event."""
        if topic == TOPIC:
            beat = Beat(**msg)
            if self.beats and beat.step <= self.beats[-1].step:
                self.beats.clear()  # another fit
            self.beats.append(beat)

    def page(self, scheduler: Scheduler, extra: Mapping[str, Any], doc: Any) -> None:
        """Fill a page that has been opened, and keep it up to date."""
        from bokeh.layouts import column, row

        elbo, speed, hosts = _line_plot("ELBO", "elbo"), _line_plot("steps/s", "rate"), _host_table()
        lines = elbo.select_one({"name": "line"}).data_source
        speed.select_one({"name": "line"}).data_source = lines
        head = _heading()

        def update() -> None:
            head.text = heading(self.beats)
            lines.data = line_data(self.beats)
            hosts.source.data = host_data(self.beats)

        update()
        doc.title = "dvi"
        doc.add_root(column(head, row(elbo, speed, sizing_mode="stretch_width"), hosts, sizing_mode="stretch_width"))
        doc.add_periodic_callback(update, _PERIOD)


def heading(beats: deque[Beat]) -> str:
    """What the top of the page says, as HTML.

    Examples
    --------
    >>> heading(deque([Beat(100, 0.5, 50, -3.25, 8_000, {"a": 2, "b": 2}, {})]))
    '<h1>dvi: step 100</h1><p>ELBO -3.25, 100 steps/s, 16,000 rows/s, 4 lanes on 2 hosts</p>'
    """
    if not beats:
        return "<h1>dvi</h1><p>No fit has told of itself yet.</p>"
    last = beats[-1]
    rate, rows = last.steps / last.seconds, last.rows / last.seconds
    return (
        f"<h1>dvi: step {last.step:,}</h1><p>ELBO {last.elbo:,.7g}, {rate:,.4g} steps/s, {rows:,.0f} rows/s, "
        f"{sum(last.lanes.values())} lanes on {len(last.lanes)} hosts</p>"
    )


def line_data(beats: deque[Beat]) -> dict[str, list[float]]:
    """Steps, ELBO and steps per second of every block."""
    return {
        "step": [beat.step for beat in beats],
        "elbo": [beat.elbo for beat in beats],
        "rate": [beat.steps / beat.seconds for beat in beats],
    }


def host_data(beats: deque[Beat]) -> dict[str, list[Any]]:
    """A row for each host: its lanes, the milliseconds that a step waits for it, and how that compares to the median.

    Examples
    --------
    >>> host_data(deque([Beat(1, 1.0, 1, 0.0, 0, {"a": 2, "b": 2, "c": 2}, {"a": 0.01, "b": 0.01, "c": 0.05})]))["slow"]
    ['', '', '5.0 times the median']
    """
    if not beats:
        return {"host": [], "lanes": [], "wait": [], "slow": []}
    last = beats[-1]
    median = float(np.median(list(last.waits.values()))) if last.waits else math.nan
    waits = [last.waits.get(host, math.nan) for host in last.lanes]
    return {
        "host": list(last.lanes),
        "lanes": list(last.lanes.values()),
        "wait": ["" if math.isnan(wait) else f"{1e3 * wait:.2f}" for wait in waits],
        "slow": [f"{wait / median:.1f} times the median" if wait > 2.0 * median else "" for wait in waits],
    }


def _heading() -> Any:
    from bokeh.models import Div

    return Div(text="", sizing_mode="stretch_width")


def _line_plot(title: str, name: str) -> Any:
    """A line over steps, of a source that has that name."""
    from bokeh.models import ColumnDataSource, NumeralTickFormatter
    from bokeh.plotting import figure

    plot = figure(
        title=title, height=300, sizing_mode="stretch_width", x_axis_label="step", tools="pan,wheel_zoom,reset"
    )
    plot.line("step", name, source=ColumnDataSource({"step": [], "elbo": [], "rate": []}), name="line", line_width=2)
    plot.xaxis.formatter = plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    return plot


def _host_table() -> Any:
    from bokeh.models import ColumnDataSource, DataTable, TableColumn

    titles = {"host": "host", "lanes": "lanes", "wait": "wait for a step (ms)", "slow": "straggler"}
    columns = [TableColumn(field=field, title=title) for field, title in titles.items()]
    source = ColumnDataSource({field: [] for field in titles})
    return DataTable(source=source, columns=columns, height=240, sizing_mode="stretch_width")
