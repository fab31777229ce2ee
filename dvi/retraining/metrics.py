"""How a run is going, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dvi.callbacks.base import Callback
from dvi.errors import ArgumentError

if TYPE_CHECKING:
    from dvi.approximation import Approximation
    from dvi.retraining.config import MetricsConfig
    from dvi.types import FloatArray

_GAUGES = {
    "dvi_steps": "Steps of the fit so far",
    "dvi_rows_per_second": "Rows that the fit evaluates in a second",
    "dvi_elbo": "Evidence lower bound of the last steps on the full-data scale, in nats",
    "dvi_lanes": "Lanes of the fit, which all have a host while steps are done",
    "dvi_workers": "Workers of the cluster that are alive; 0 without a cluster",
    "dvi_rows": "Rows of the data",
    "dvi_last_promotion_timestamp_seconds": "When the last promotion was, in seconds since 1970; 0 if there was none",
    "dvi_last_run_promoted": "Whether the last run was promoted",
}
_MEAN_OF = 50  # last steps, for the ELBO


class Metrics(Callback):
    """Gauges that a fit sets as it goes. Without a place to show them, nothing is kept.

    Parameters
    ----------
    gauges : dict
    port : int, optional
        On which they are served.
    """

    every = 20

    def __init__(self, gauges: dict[str, Any], port: int | None = None) -> None:
        self.gauges, self.port = gauges, port
        self.client: Any = None
        self._before = (0, time.monotonic())

    def set(self, name: str, value: float) -> None:
        """Set a gauge by its name without ``dvi_``."""
        if self.gauges:
            self.gauges[f"dvi_{name}"].set(value)

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        if not self.gauges:
            return
        (step, then), now = self._before, time.monotonic()
        self._before = (i, now)
        lanes = approx.run.get("lanes") or []
        batch = sum(int(term.get("batch_size", 0)) for term in lanes)
        if i > step and now > then:
            self.set("rows_per_second", (i - step) * batch / (now - then))
        self.set("steps", i)
        self.set("elbo", -float(losses[-_MEAN_OF:].mean()))
        self.set("lanes", sum(int(term.get("lanes", 0)) for term in lanes))
        self.set("workers", 0 if self.client is None else len(self.client.nthreads()))


@contextmanager
def metrics(config: MetricsConfig) -> Iterator[Metrics]:
    """Metrics that are served while this lasts, or written at its end.

    Raises
    ------
    ArgumentError
        If ``prometheus-client`` is not installed, or the port is taken.
    """
    if config.port is None and config.textfile is None:
        yield Metrics({})
        return
    try:
        import prometheus_client as prometheus
    except ImportError as error:
        raise ArgumentError(
            "[metrics] needs prometheus-client, which is not installed: pip install 'dask-vi[metrics]'."
        ) from error
    registry = prometheus.CollectorRegistry()
    gauges = {name: prometheus.Gauge(name, text, registry=registry) for name, text in _GAUGES.items()}
    server = thread = None
    if config.port is not None:
        try:
            server, thread = prometheus.start_http_server(config.port, registry=registry)
        except OSError as error:
            raise ArgumentError(f"metrics.port = {config.port} cannot be served ({error}): choose another.") from error
    try:
        yield Metrics(gauges, None if server is None else server.server_port)
    finally:
        if server is not None and thread is not None:
            server.shutdown()
            server.server_close()
            thread.join()
        if config.textfile is not None:
            prometheus.write_to_textfile(config.textfile, registry)
