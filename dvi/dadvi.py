"""Deterministic variational inference: draws made once, all rows, and Newton's method."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import numpy as np
import pymc as pm
from threadpoolctl import threadpool_limits

from dvi.approximation import Approximation
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.fitting import Inference
from dvi.full_data import Evaluator, all_rows
from dvi.groups import make_approximation, model_of
from dvi.inference.fixed_draws import FixedDraws, Point, fixed_noise
from dvi.inference.newton import minimise
from dvi.memory import check_draws_fit
from dvi.model.graph import split
from dvi.progress import Progress
from dvi.settings import CONSTRUCTION, TOLERANCE, Callback, Settings, refuse_unknown
from dvi.types import GaussianFamily, Times
from dvi.underway import Underway

logger = logging.getLogger(__name__)

DRAWS = 30
_NOT_USED = {
    "optimizer": ("obj_optimizer", "Newton's method takes its steps"),
    "max_norm": ("total_grad_norm_constraint", "gradients have no noise"),
    "lanes": ("lanes", "every pass reads all rows, in as many lanes as the data allow"),
    "checkpoint": ("checkpoint", "ten steps or so are soon repeated, and dvi.callbacks.Checkpoint saves between them"),
}


class DADVI(Inference):
    r"""Deterministic automatic differentiation variational inference.

    The noise of the draws is made once, so that the ELBO of the full data at these draws is a smooth function. Newton's
    method finds its maximum, and knows that it has: there is no learning rate and no number of steps to choose. Each
    evaluation is a pass over all rows, whatever the batch size; a fit takes about ten steps of two passes.

    The result differs from the maximum of the ELBO by what so few draws leave out. For a normal posterior that is
    nothing in the means, and nothing in the standard deviations up to half as many dimensions as there are draws.

    Parameters
    ----------
    model : pm.Model, optional
        The model on the context stack by default.
    full_rank : bool
        A normal distribution of any covariance in place of independent ones. It needs at least twice as many draws as
        there are dimensions: with fewer, it could collapse onto them.
    **construction
        ``random_seed``, ``start`` and ``start_sigma`` as in :func:`dvi.fit`.

    Notes
    -----
    ``n`` of :meth:`fit`, or ``max_steps`` with ``n=None``, is the most steps there may be, and ``max_seconds`` the most
    time, looked at after each of them; ``obj_n_mc`` the number of draws, even, as they come in
    antithetic pairs: 30 by default, and for a full rank at least four times as many as there are dimensions. A loss is
    recorded for each step; ``approx.run["dadvi"]`` says how the fit ended.

    References
    ----------
    Giordano, Ingram and Broderick, *Black box variational inference with a deterministic objective: faster, more
    accurate, and even more black box*, arXiv:2304.05527.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> from dvi.dadvi import DADVI
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 3.0, 2.0)
    ...     approx = DADVI(random_seed=1).fit(progressbar=False)
    >>> approx.mean.eval().round(6).tolist(), approx.std.eval().round(6).tolist()
    ([3.0], [2.0])
    >>> approx.run["dadvi"]["converged"]
    True
    """

    def __init__(self, *, full_rank: bool = False, model: pm.Model | None = None, **construction: Any) -> None:
        refuse_unknown(construction, (*CONSTRUCTION, "full_rank"))
        family = FullRankFamily if full_rank else MeanFieldFamily
        super().__init__(make_approximation(model_of(model), family, method="dadvi", **construction))

    def _run(self, run: Underway | None = None, *, fresh: bool = False) -> Approximation:
        settings = self._settings
        assert settings is not None
        draws = self._checked(settings)
        if self._split.stale or settings.more_replacements is not self._replacements:
            self._replacements = settings.more_replacements
            assert self.approx.model is not None
            self._split = split(self.approx.model, more_replacements=self._replacements)
        if settings.n == 0:
            return self.approx
        approx, record = self.approx, self.approx.run
        eps = fixed_noise(record["seed"], draws, approx.family.noise_dim)
        with all_rows(self._split, settings.client, settings.threads) as evaluate:
            problem = evaluate.problem
            record["data"] = [term.source.fingerprint() for term in problem.terms]
            record["lanes"] = [term.settings for term in problem.terms]
            n_rows = max((t.plan.n_rows for t in problem.terms), default=0)
            with Progress(
                None, enabled=settings.progressbar, n_rows=n_rows, n_lanes=len(problem.leaves), measure=self.measure,
                courses=record.setdefault("course", []),
            ) as progress:  # fmt: skip
                objective = FixedDraws(cast("GaussianFamily", approx.family), eps, evaluate)
                self._minimise(settings, objective, evaluate, progress)
        return approx

    def _checked(self, settings: Settings) -> int:
        """The number of draws, once it is clear that nothing was asked for that has no meaning here."""
        for name, (keyword, why) in _NOT_USED.items():
            if getattr(settings, name) is not None:
                raise ArgumentTypeError(f"{keyword} has no use in deterministic inference: {why}; leave it out")
        if settings.staleness:
            raise ArgumentTypeError("staleness has no use in deterministic inference, whose steps need the one before")
        if settings.tolerance != TOLERANCE:
            raise ArgumentTypeError(
                "tolerance has no use in deterministic inference, which ends where the gradient is as good as zero; "
                "leave it out"
            )
        family = self.approx.family
        full_rank = isinstance(family, FullRankFamily)
        draws = settings.draws or (max(DRAWS, 4 * family.ndim) if full_rank else DRAWS)
        if draws % 2:
            raise ArgumentError(f"obj_n_mc={draws} is odd; give an even number, as draws come in antithetic pairs")
        if full_rank and draws < 2 * family.ndim:
            raise ArgumentError(
                f"obj_n_mc={draws} is too few for a covariance of {family.ndim} dimensions, which could collapse onto "
                f"so few draws; give at least {2 * family.ndim}"
            )
        check_draws_fit(draws, family)
        return draws

    def _minimise(self, settings: Settings, objective: FixedDraws, evaluate: Evaluator, progress: Progress) -> None:
        approx, n_rows, times, steps = self.approx, 0, Times(), len(self.approx.hist)
        started, late = time.monotonic(), False

        def watch(point: Point) -> bool:
            nonlocal n_rows, times, late
            approx.update(point.theta, np.array([point.loss]))
            read, spent = evaluate.n_rows - n_rows, evaluate.times - times
            progress.update(1, approx.hist, read, evaluate.n_hosts, times=spent)
            n_rows, times = evaluate.n_rows, evaluate.times
            late = settings.max_seconds is not None and time.monotonic() - started >= settings.max_seconds
            return self._enough(settings.callbacks) or late

        status = {"draws": len(objective.eps), "converged": False, "reason": "interrupted"}
        try:
            with threadpool_limits(limits=1):  # BLAS splits its sums by its thread count
                found = minimise(objective, approx.theta, settings.n or settings.max_steps, watch)
        except KeyboardInterrupt:
            logger.warning("interrupted at step %d; the approximation is as it was there", len(approx.hist))
        else:
            approx.theta = found.point.theta
            reason = "max_seconds are over" if late and not found.converged else found.reason
            status |= {"converged": found.converged, "reason": reason, "gradient": found.slope}
            level = logging.INFO if found.converged else logging.WARNING
            logger.log(level, "%s after %d steps", reason, len(approx.hist) - steps)
        approx.run["dadvi"] = {**status, "steps": len(approx.hist) - steps, "passes": evaluate.n_passes}

    def _enough(self, callbacks: tuple[Callback, ...]) -> bool:
        """Call those callbacks that are due; whether one of them ends the fit."""
        step = len(self.approx.hist)
        try:
            for callback in callbacks:
                if step % max(1, int(getattr(callback, "every", 1))) == 0:
                    callback(self.approx, self.approx.hist, step)
        except StopIteration as stop:
            logger.info("a callback ended the fit at step %d: %s", step, stop.value or stop)
            return True
        return False
