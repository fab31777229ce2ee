"""``fit`` and the inference objects: the one impure loop."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pymc as pm

from dvi.approximation import Approximation, as_seed
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError
from dvi.execution.lane import Problem, plan_problem
from dvi.execution.threads import ThreadsDriver
from dvi.inference.averaging import TailAverage
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.inference.training import VariationalTraining
from dvi.model.compile import LazyKernel
from dvi.model.graph import split
from dvi.model.layout import Layout
from dvi.progress import Progress
from dvi.settings import CONSTRUCTION, RUN, Callback, Settings, check_int, make_settings, refuse_unknown
from dvi.types import Driver, Family, FloatArray, Report, State

logger = logging.getLogger(__name__)

_BLOCK_SECONDS = 0.5  # of steps between two looks at the client
_START_SIGMA = 0.1
_TAIL = 0.2  # part of the steps whose iterates are averaged
_PEAK_RATE = 0.05
_FINAL_RATE = 0.01  # of the peak
_BETA2 = 0.99  # a shorter memory than Adam's usual: gradients shrink by orders of magnitude as the scales do


def fit(n: int = 10_000, method: Any = "advi", model: pm.Model | None = None, **settings: Any) -> Approximation:
    """Fit a variational approximation to the posterior of a model.

    Parameters
    ----------
    n : int
        Steps.
    method : str or Inference
        ``"advi"``, in upper or lower case, or an inference object such as ``dvi.ADVI()``.
    model : pm.Model, optional
        The model on the context stack by default.
    **settings
        ``random_seed`` : int, optional. The same seed gives the same bits, on any number of threads and workers.
        ``start`` : dict by variable name, or another approximation.
        ``start_sigma`` : dict by variable name; standard deviations at the start, of the unconstrained variables.
        ``inf_kwargs`` : dict, passed to the method.
        ``obj_optimizer`` : an optimizer such as ``dvi.adam(learning_rate=0.01)``. By default Adam whose step
        decays along half a cosine over the ``n`` steps.
        ``obj_n_mc`` : int, Monte Carlo draws of each step, 1 by default.
        ``total_grad_norm_constraint`` : float, optional. Longest gradient used as it is. Clipping biases posteriors.
        ``callbacks`` : list of ``f(approx, losses, i)``, each called after every step, or every ``f.every`` steps
        where it has that attribute. ``StopIteration`` ends the fit.
        ``progressbar`` : bool.
        ``score`` : bool, taken as PyMC takes it; the ELBO of every step is recorded in any case.
        ``client`` : distributed.Client. The active client by default, if there is one.
        ``threads`` : int. Threads of this process, where no client is used: the cores at hand by default.
        ``lanes`` : int. The unit of determinism, by default chosen from the data and the batch size.

    Returns
    -------
    Approximation
        Its parameters are the average of the iterates over the last fifth of the steps.

    Raises
    ------
    ArgumentError, ArgumentTypeError, ModelError, DataError
        Before anything is compiled.
    NonFiniteError
        When data or likelihood are not finite: names the array, chunk and row.
    ClusterError
        When no worker is left.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> y = dvi.Minibatch(np.random.default_rng(1).normal(3.0, 1.0, 10_000), batch_size=500)
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0, 10)
    ...     obs = pm.Normal("obs", mu, 1, observed=y)
    ...     approx = dvi.fit(2_000, random_seed=1, progressbar=False)
    >>> bool(abs(approx.mean.eval()[0] - 3.0) < 0.05)
    True
    """
    refuse_unknown(settings, (*CONSTRUCTION, *RUN, "inf_kwargs"))
    construction = {k: v for k, v in settings.items() if k in CONSTRUCTION} | dict(settings.get("inf_kwargs") or {})
    run = {k: v for k, v in settings.items() if k in RUN}
    make_settings(n, run)
    if isinstance(method, Inference):
        if construction:
            raise ArgumentError(f"{sorted(construction)} belong to the inference object; give them where it is made")
        return method.fit(n, **run)
    if not isinstance(method, str) or method.lower() not in _METHODS:
        known = ", ".join(repr(name) for name in _METHODS)
        raise ArgumentError(f"method={method!r} is not known; give {known} or an inference object")
    return _METHODS[method.lower()](model=model, **construction).fit(n, **run)


def ADVI(*, model: pm.Model | None = None, **construction: Any) -> Inference:  # noqa: N802
    """Mean-field automatic differentiation variational inference.

    Parameters
    ----------
    model : pm.Model, optional
        The model on the context stack by default.
    **construction
        ``random_seed``, ``start`` and ``start_sigma`` as in :func:`fit`.

    Returns
    -------
    Inference
        With ``fit(n, ...)``, ``refine(n)``, ``approx`` and ``hist``.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     advi = dvi.ADVI(random_seed=1)
    >>> advi.fit(100, progressbar=False).ndim
    1
    """
    refuse_unknown(construction, CONSTRUCTION)
    return Inference("advi", MeanFieldFamily, model, **construction)


_METHODS: Mapping[str, Callable[..., Inference]] = {"advi": ADVI}


class Inference:
    """A variational method bound to a model, with all that is needed to go on fitting. Made by :func:`ADVI`.

    Attributes
    ----------
    approx : Approximation
        The approximation so far.
    """

    def __init__(
        self,
        method: str,
        family: Callable[[int], Family],
        model: pm.Model | None,
        random_seed: object = None,
        start: Mapping[str, Any] | Approximation | None = None,
        start_sigma: Mapping[str, Any] | None = None,
    ) -> None:
        model = _model(model)
        seed = as_seed(random_seed)
        self._split = split(model, None if isinstance(start, Approximation) else start)
        layout = self._split.layout
        self._family = family(layout.ndim)
        mean = _mean_of(start, layout) if isinstance(start, Approximation) else self._split.start
        theta = self._family.initial(mean, _start_sigma(layout, start_sigma or {}))
        data = [term.batch.source.fingerprint() for term in self._split.terms]
        run = {"method": method, "seed": seed, "data": data}
        self.approx = Approximation(self._family, theta, layout, np.empty(0), run, model)
        self._prior = LazyKernel(self._split.prior)
        self._training: VariationalTraining | None = None
        self._state: State | None = None
        self._settings = Settings()

    def __repr__(self) -> str:
        return f"<dvi.Inference {self.approx.run['method']!r}: {self.approx!r}>"

    @property
    def hist(self) -> FloatArray:
        """Negative ELBO of every step, on the full-data scale."""
        return self.approx.hist

    def fit(self, n: int = 10_000, **settings: Any) -> Approximation:
        """Run ``n`` steps. Settings are those of :func:`dvi.fit`."""
        self._settings = make_settings(n, settings)
        self._training = self._state = None
        self.approx.hist = np.empty(0)
        return self._run(n)

    def refine(self, n: int, progressbar: bool | None = None) -> Approximation:
        """Run ``n`` more steps with the settings of the last fit.

        An optimizer given to :meth:`fit` goes on with its moments and counters; the default one starts another decay
        from the averaged parameters.
        """
        check_int("n", n, 0, "number of steps")
        if progressbar is not None:
            self._settings = replace(self._settings, progressbar=progressbar)
        return self._run(n)

    def _run(self, n: int) -> Approximation:
        if n == 0:
            return self.approx
        settings = self._settings
        problem = plan_problem(self._split.terms, settings.lanes, self.approx.run["seed"])
        self.approx.run["lanes"] = [term.plan.settings for term in problem.terms]
        state = self._begin(n)
        driver = _open_driver(self._training, problem, settings)
        try:
            self._loop(driver, state, n, problem)
        finally:
            driver.close()
        return self.approx

    def _begin(self, n: int) -> State:
        """The training of the next ``n`` steps and the state it starts from."""
        settings, before = self._settings, self._state
        done = 0 if before is None else before.step
        fresh = before is None or settings.optimizer is None
        origin = done if settings.optimizer is None else 0
        optimizer = settings.optimizer or adam(Cosine(_PEAK_RATE, steps=n, final=_FINAL_RATE), beta2=_BETA2)
        first = done + n - max(1, round(_TAIL * n))
        training = VariationalTraining(
            self._family, Elbo("stl"), optimizer, TailAverage(first), self._prior, settings.draws,
            self.approx.run["seed"], settings.max_norm, origin,
        )  # fmt: skip
        self._training = training
        if before is None or fresh:
            state = training.initial(self.approx.theta)
            return State(done, state.theta, state.slots, state.average)
        return State(done, before.theta, before.slots, training.averaging.init(before.theta))

    def _loop(self, driver: Driver, state: State, n: int, problem: Problem) -> None:
        """Blocks of steps, history, callbacks and progress, until done or stopped."""
        end, block = state.step + n, 1
        with Progress(
            n, enabled=self._settings.progressbar, n_rows=max((t.plan.n_rows for t in problem.terms), default=0),
            n_lanes=len(problem.leaves),
        ) as progress:  # fmt: skip
            driver.check(state)
            while state.step < end:
                started = time.perf_counter()
                report = driver.advance(state, min(block, self._due(state.step), end - state.step))
                elapsed = time.perf_counter() - started
                block = max(1, min(2 * block, int(len(report.elbos) * _BLOCK_SECONDS / max(elapsed, 1e-9))))
                state = report.state
                self._record(report)
                progress.update(len(report.elbos), self.approx.hist, report.n_rows, driver.n_hosts)
                if not self._call_back(state):
                    break

    def _record(self, report: Report) -> None:
        assert self._training is not None
        self._state = report.state
        self.approx.update(self._training.result(report.state), -report.elbos)

    def _due(self, step: int) -> int:
        """Steps until the next callback: each is called after every step, or every ``callback.every`` steps."""
        return min((_every(c) - step % _every(c) for c in self._settings.callbacks), default=sys.maxsize)

    def _call_back(self, state: State) -> bool:
        """Whether the callbacks let the fit go on."""
        try:
            for callback in self._settings.callbacks:
                if state.step % _every(callback) == 0:
                    callback(self.approx, self.approx.hist, state.step)
        except StopIteration as stop:
            logger.info("a callback ended the fit at step %d: %s", state.step, stop.value or stop)
            return False
        return True


def _every(callback: Callback) -> int:
    return max(1, int(getattr(callback, "every", 1)))


def _model(model: pm.Model | None) -> pm.Model:
    try:
        found = pm.modelcontext(model)
    except TypeError:
        raise ModelError("there is no model; call inside `with model:` or pass model=") from None
    if not isinstance(found, pm.Model):
        raise ArgumentTypeError(f"model={model!r} is of type {type(model).__name__}; give a pm.Model")
    return found


def _mean_of(start: Approximation, layout: Layout) -> FloatArray:
    difference = layout.difference(start.layout)
    if difference is not None:
        raise ArgumentError(f"start is an approximation of another model: {difference}")
    return start.family.mean(start.theta)


def _start_sigma(layout: Layout, given: Mapping[str, Any]) -> FloatArray:
    """Standard deviations at the start, shape (d,)."""
    sigma = np.full(layout.ndim, _START_SIGMA)
    for name, value in given.items():
        entry = layout.entry(name)
        sigma[entry.start : entry.stop] = np.broadcast_to(np.asarray(value, dtype=np.float64), entry.shape).ravel()
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ArgumentError("start_sigma has values that are not positive and finite; give standard deviations above 0")
    return sigma


def _open_driver(training: Any, problem: Problem, settings: Settings) -> Driver:
    """Workers of a client where one is given or active and threads are not asked for, else threads."""
    client = settings.client
    if client is None and settings.threads is None and "distributed" in sys.modules:
        from dvi.execution.cluster import active_client

        client = active_client()
    if client is None or not problem.leaves:
        return ThreadsDriver(training, problem, settings.threads or len(os.sched_getaffinity(0)))
    from dvi.execution.cluster import ClusterDriver

    return ClusterDriver(client, training, problem)
