"""From statistics to words: which of them say that a fit is not right, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dvi.diagnostics.history import Trend
from dvi.diagnostics.scores import ScoreFit
from dvi.diagnostics.weights import Weights
from dvi.types import FloatArray

MOST_SHIFT = 0.3  # posterior standard deviations
MOST_SCALE = 1.25  # factor either way
MOST_UNDERSTATED = 2.0  # factor by which independent scales are too small for correlated variables
MOST_STRETCH = 1.5  # factor in any direction, of a family that has all of them
MOST_NONLINEAR = 0.38  # part of the variance of a score
_NONLINEAR = 0.2  # from which a k-hat above its threshold is taken for a sign of it: its error is about 0.2 itself
ERRORS = 4.0  # standard errors that a statistic has to exceed as well
_WORTH_A_NOTE = 1.1  # factor by which standard deviations are too small
_FAR = 3.0  # posterior standard deviations from which correlation and shape of the posterior cannot be seen
_STRETCHED = 1.2  # factor in some direction that explains a heavy tail of the weights
_EVEN = 0.1  # standard deviation of log weights below which their tail cannot matter


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a diagnosis has found.

    Parameters
    ----------
    code : str
        ``mean``, ``scale``, ``covariance``, ``correlation``, ``shape``, ``weights``, ``falling``, ``dimensions`` or
        ``nonfinite``.
    what : str
        What was found.
    advice : str
        What to do about it.

    Examples
    --------
    >>> print(Finding("mean", "the mean is 0.5 sd off.", "Fit more steps."))
    mean: the mean is 0.5 sd off. Fit more steps.
    """

    code: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.code}: {self.what} {self.advice}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What findings are drawn from.

    Parameters
    ----------
    names : sequence of str
        Of the elements of the unconstrained vector.
    fit : ScoreFit
    weights : Weights or None
        None for particles, which have no density.
    spread : float
        Standard deviation of the log weights; NaN for particles.
    trend : Trend or None
    richer : str
        A method for correlated variables, empty where the family has all correlations.
    particles : bool
    """

    names: Sequence[str]
    fit: ScoreFit
    weights: Weights | None
    spread: float
    trend: Trend | None
    richer: str
    particles: bool = False


def faults(evidence: Evidence) -> tuple[Finding, ...]:
    """What says that the fit is not right. These are the rules.

    - ``mean``: a mean is more than 0.3 posterior standard deviations from where it would go;
    - ``scale``: a standard deviation is off by a factor of more than 1.25 from what the ELBO asks for;
    - ``covariance``: in some direction, that factor is above 1.5 for a family that has all correlations;
    - ``correlation``: for a family that lacks them, correlations make a standard deviation less than half of the
      posterior's, as those of a pair with the correlation 0.87 do;
    - ``shape``: more than 38 % of the variance of some score is left when means and covariance are right, or more than
      20 % and k-hat is above its threshold although the standard deviations are right within a factor of 1.2 in every
      direction.

    The first four also have to be more than four standard errors. The last two are not looked for where a mean is more
    than 3 posterior standard deviations off: what the scores say there is not of the posterior.
    """
    found = [_mean(evidence), _scale(evidence), _covariance(evidence)]
    if np.abs(evidence.fit.shift).max() <= _FAR:
        found += [_correlation(evidence), _shape(evidence)]
    return tuple(finding for finding in found if finding is not None)


def remarks(evidence: Evidence) -> tuple[Finding, ...]:
    """What is good to know of a fit, and does not make it wrong."""
    return tuple(_remarks(evidence))


def _mean(e: Evidence) -> Finding | None:
    size = np.where(np.abs(e.fit.shift) > ERRORS * e.fit.shift_error, np.abs(e.fit.shift), 0.0)
    if size.max() <= MOST_SHIFT:
        return None
    worst = int(size.argmax())
    return Finding(
        "mean",
        f"the mean of {e.names[worst]} is about {size[worst]:.2g} posterior standard deviations from where it would "
        f"go{_others(size > MOST_SHIFT)}.",
        _go_on(e),
    )


def _scale(e: Evidence) -> Finding | None:
    log_scale = np.log(e.fit.scale)
    size = np.where(np.abs(log_scale) > ERRORS * e.fit.scale_error, np.abs(log_scale), 0.0)
    if size.max() <= math.log(MOST_SCALE):
        return None
    worst = int(size.argmax())
    way = "small" if log_scale[worst] > 0 else "large"
    return Finding(
        "scale",
        f"the standard deviation of {e.names[worst]} is too {way} by a factor of {math.exp(size[worst]):.2g}"
        f"{_others(size > math.log(MOST_SCALE))}.",
        _go_on(e),
    )


def _covariance(e: Evidence) -> Finding | None:
    stretch = max(e.fit.widest, 1.0 / e.fit.narrowest)
    if e.richer or not e.fit.joint or stretch <= MOST_STRETCH * (1.0 + ERRORS * float(e.fit.scale_error.max())):
        return None
    return Finding(
        "covariance",
        f"along some direction in which variables go together, the standard deviation is off by a factor of "
        f"{stretch:.2g}.",
        _go_on(e),
    )


def _correlation(e: Evidence) -> Finding | None:
    understated = e.fit.sd / e.fit.scale
    limit = MOST_UNDERSTATED * (1.0 + ERRORS * e.fit.scale_error)
    if not e.richer or not e.fit.joint or (understated <= limit).all():
        return None
    worst = int((understated / limit).argmax())
    return Finding(
        "correlation",
        f"correlations that the approximation cannot have make its standard deviations too small: that of "
        f"{e.names[worst]} by a factor of {understated[worst]:.2g}{_partner(e, worst)}.",
        f"Use {e.richer}, or write the model with parameters that depend less on each other.",
    )


def _shape(e: Evidence) -> Finding | None:
    if not e.fit.joint:
        return None
    worst = int(np.nan_to_num(e.fit.nonlinear).argmax())
    part = e.fit.nonlinear[worst]
    if part > MOST_NONLINEAR:
        what = (
            f"the posterior has another shape than the approximation in {e.names[worst]}: means, scales and "
            f"correlations leave {100 * part:.0f} % of the variance of its score unexplained, "
            "as with skewness, heavy tails, a funnel or several modes."
        )
    elif _heavy(e) and part > _NONLINEAR and max(e.fit.widest, 1.0 / e.fit.narrowest) < _STRETCHED:
        assert e.weights is not None
        what = (
            f"k-hat is {e.weights.khat:.2f}, above {e.weights.threshold:.2f}: the posterior has mass where the "
            f"approximation has next to none, and it is least normal in {e.names[worst]}."
        )
    else:
        return None
    return Finding(
        "shape",
        what,
        "Write the model in other parameters (non-centred, log scale), or use a flow (method='nfvi') or pm.sample.",
    )


def _remarks(e: Evidence) -> Iterator[Finding]:
    understated = e.fit.sd / e.fit.scale
    if e.richer and e.fit.joint and _WORTH_A_NOTE < understated.max() <= MOST_UNDERSTATED:
        worst = int(understated.argmax())
        yield Finding(
            "correlation",
            f"standard deviations are too small by a factor of up to {understated[worst]:.2f} ({e.names[worst]}), "
            f"because the approximation ignores correlations{_partner(e, worst)}.",
            f"{e.richer} has them right.",
        )
    if _heavy(e):
        assert e.weights is not None
        yield Finding(
            "weights",
            f"k-hat is {e.weights.khat:.2f}, above {e.weights.threshold:.2f}.",
            "Do not use corrected values or resampled draws. In many dimensions this says little of single variables.",
        )
    if e.trend is not None and e.trend.falling:
        yield Finding(
            "falling",
            f"the mean loss fell by {e.trend.fall:.3g} over the last tenth of the steps.",
            "It may fall further; the distances above say whether that matters.",
        )
    if not e.fit.joint:
        yield Finding(
            "dimensions",
            "there are too few draws for so many dimensions to see correlations and shape.",
            f"Give draws={5 * (len(e.names) + 1)} to look at them.",
        )


def _heavy(e: Evidence) -> bool:
    return e.weights is not None and e.weights.khat > e.weights.threshold and e.spread > _EVEN


def _others(bad: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    n = int(np.count_nonzero(bad)) - 1
    return f", and {n} other{'s' if n > 1 else ''} {'are' if n > 1 else 'is'} off too" if n > 0 else ""


def _partner(e: Evidence, element: int) -> str:
    """The variable that one is most correlated with."""
    correlation: FloatArray | None = e.fit.correlation
    if correlation is None or len(e.names) < 2:
        return ""
    row = np.where(np.arange(len(e.names)) == element, 0.0, correlation[element])
    other = int(np.abs(row).argmax())
    return f"; its correlation with {e.names[other]} is about {row[other]:.2f}"


def _go_on(e: Evidence) -> str:
    """What to do about a fit that has not arrived."""
    if e.particles:
        return "Fit more steps, or use more particles."
    if e.trend is not None and not e.trend.falling:
        return "The loss no longer falls: let the learning rate decay (the default does), or use a larger batch."
    return "Fit more steps, with a learning rate that decays at the end (the default does)."
