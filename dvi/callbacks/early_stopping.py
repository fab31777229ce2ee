"""A callback that ends a fit when held-out rows are no longer predicted better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.callbacks.base import Callback
from dvi.callbacks.held_out import HeldOut, checked_data, hold_out
from dvi.errors import ArgumentError
from dvi.inference.settings import count, not_negative
from dvi.memory import check_draws_fit
from dvi.randomness import keyed_generator
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation


class EarlyStopping(Callback):
    r"""Ends the fit once held-out rows are no longer predicted better, at the best parameters.

    Every ``every`` steps the expected log likelihood of a held-out row under the approximation :math:`q`,

    .. math::

        \frac{1}{n} \sum_{i=1}^n \mathbb{E}_{q(z)} \log p(y_i \mid z),

    is estimated with the same noise at every check. The fit ends after ``patience`` checks in a row without an
    improvement.

    Parameters
    ----------
    data : mapping or list
        Held-out array of each Minibatch variable: ``{x: x_test, y: y_test}``, or ``[x_test, y_test]`` in the order of
        the one Minibatch call. Arrays are what ``dvi.Minibatch`` takes, on disk too, and are read chunk by chunk in the
        process that started the fit. A likelihood none of whose variables is named is left out.
    every : int
        Steps between two checks.
    patience : int
        Checks in a row without an improvement, at least 1.
    tolerance : float
        Least rise that is an improvement, in nats per row, at least 0.
    draws : int
        Monte Carlo draws of a check, ``S``. A check costs as much as ``S`` steps of one draw on so many rows.
    restore : bool
        Whether to leave the approximation at the parameters of the best check when the fit is ended here; after a fit
        that ends otherwise, :meth:`restore_best` does it.
    random_seed : int
        Seed of the noise.

    Attributes
    ----------
    hist : dict
        Lists ``"step"`` and ``"loglik"``, one value a check.
    best_step : int or None
        Step of the best check.
    best_loglik : float
        Its value; minus infinity before the first.

    References
    ----------
    Prechelt, *Early stopping - but when?*, doi:10.1007/978-3-642-35289-8_5.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> rows = np.random.default_rng(1).normal(3.0, 1.0, 1_200)
    >>> y = dvi.Minibatch(rows[:1_000], batch_size=100)
    >>> stopping = dvi.callbacks.EarlyStopping({y: rows[1_000:]}, every=100, patience=2)
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0, 10)
    ...     obs = pm.Normal("obs", mu, 1, observed=y)
    ...     approx = dvi.fit(500, random_seed=1, callbacks=[stopping], progressbar=False)
    >>> stopping.hist["loglik"][0] < stopping.best_loglik
    True
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 500,
        patience: int = 5,
        tolerance: float = 0.0,
        draws: int = 32,
        restore: bool = True,
        random_seed: int = 0,
    ) -> None:
        self._data = checked_data(data)
        self.every = count("every", every, 1)
        self.patience = count("patience", patience, 1)
        self.tolerance = not_negative("tolerance", tolerance)
        self.draws = count("draws", draws, 1)
        self.restore = bool(restore)
        self.random_seed = count("random_seed", random_seed, 0)
        self._model: Any = None
        self._held_out: HeldOut | None = None  # of that model
        self.clear()

    def __repr__(self) -> str:
        best = "no check yet" if self.best_step is None else f"best {self.best_loglik:.6g} at step {self.best_step}"
        return (
            f"EarlyStopping(every={self.every}, patience={self.patience}, tolerance={self.tolerance:g}, "
            f"draws={self.draws}, restore={self.restore}; {best})"
        )

    def clear(self) -> None:
        """Forget all checks."""
        self.hist: dict[str, list[Any]] = {"step": [], "loglik": []}
        self.best_step: int | None = None
        self.best_loglik = -np.inf
        self._best_theta: FloatArray | None = None
        self._stale = 0  # checks since the best

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        last = self.hist["step"][-1] if self.hist["step"] else 0
        if i <= last or approx.model is not self._model:  # another fit
            self.clear()
            last = 0
        if i - last < self.every:
            return
        loglik = self.expected_log_likelihood(approx)
        self.hist["step"].append(i)
        self.hist["loglik"].append(loglik)
        if np.isfinite(loglik) and loglik > self.best_loglik + (self.tolerance if self.best_step is not None else 0.0):
            self.best_step, self.best_loglik, self._best_theta = i, loglik, approx.theta.copy()
            self._stale = 0
            return
        self._stale += 1
        if self._stale >= self.patience:
            self._stale = 0
            raise StopIteration(self._stop(approx, i, loglik))

    def expected_log_likelihood(self, approx: Approximation) -> float:
        """Estimate the expected log likelihood of a held-out row under an approximation. Compiles at first."""
        if approx.model is None:
            raise ArgumentError("the approximation has no model, so held-out rows have no likelihood; load it with one")
        if self._held_out is None or approx.model is not self._model:
            self._held_out, self._model = hold_out(approx.model, self._data), approx.model
        shape = (self.draws, approx.family.noise_dim)
        check_draws_fit(self.draws, approx.family, "draws of a check")
        eps = keyed_generator(self.random_seed, "sample").standard_normal(shape)
        return self._held_out.mean_log_likelihood(approx.family.draw(approx.theta, eps))

    def restore_best(self, approx: Approximation) -> None:
        """Put the parameters of the best check into an approximation; nothing where no check was finite."""
        if self._best_theta is not None:
            approx.update(self._best_theta, np.empty(0))

    def _stop(self, approx: Approximation, i: int, loglik: float) -> str:
        if self.best_step is None:
            return f"no check until step {i} had a finite log likelihood of held-out rows, the last had {loglik}"
        if self.restore:
            self.restore_best(approx)
        kept = "; the parameters of that step are restored" if self.restore else ""
        return (
            f"the log likelihood of a held-out row, {loglik:.6g} at step {i}, has not risen by more than "
            f"{self.tolerance:g} since step {self.best_step}, where it was {self.best_loglik:.6g}{kept}"
        )
