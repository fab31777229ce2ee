"""The result of a diagnosis: numbers, findings, and the draws they came from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dvi.diagnostics.findings import Finding
from dvi.diagnostics.rendering import as_html, as_text
from dvi.errors import ArgumentError, DviWarning
from dvi.memory import check_fits
from dvi.randomness import keyed_generator
from dvi.sampling import as_seed, check_draws
from dvi.types import FloatArray

if TYPE_CHECKING:
    import xarray as xr

_KEPT = 20  # elements in JSON, those that are furthest off


@dataclass(frozen=True, slots=True)
class Element:
    """One element of the unconstrained vector.

    Parameters
    ----------
    name : str
    mean, sd : float
        Of the approximation.
    shift, shift_error : float
        Way from the mean to where it would go, and its standard error, in posterior standard deviations.
    scale : float
        Factor on ``sd`` that the ELBO asks for.
    posterior_sd : float
        Standard deviation of the normal distribution that the scores suggest, correlations included.
    corrected_mean, corrected_sd : float
        By smoothed importance weights; NaN for particles.
    """

    name: str
    mean: float
    sd: float
    shift: float
    shift_error: float
    scale: float
    posterior_sd: float
    corrected_mean: float
    corrected_sd: float


@dataclass(frozen=True, slots=True)
class WeightedDraws:
    """Draws ``Z (S, d)`` with log weights ``(S,)``, and what makes a DataTree of some of them."""

    Z: FloatArray
    log_weights: FloatArray
    tree: Callable[[FloatArray], xr.DataTree]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What :func:`dvi.diagnose` has found. Printed, it is a table.

    Parameters
    ----------
    findings : tuple of Finding
        What is wrong; empty where nothing is.
    notes : tuple of Finding
        What is good to know.
    numbers : dict
        By name, None where not available: ``elbo`` and ``elbo_error`` in nats; ``khat`` and its ``khat_threshold``;
        ``ess``, effective draws by their weights; ``improvement``, nats to the best of the family; ``snr``, signal to
        noise of the full-data gradient of one draw in the means; ``narrowest`` and ``widest``, posterior standard
        deviation over that of the approximation in the directions where it is least and greatest; ``nonlinear``, the
        largest part of the variance of a score that is left when means and covariance are right; ``fall`` and
        ``fall_error`` of the mean loss over the last tenth of the steps; ``stein``, squared discrepancy of particles.
    elements : tuple of Element
        One for each unconstrained dimension; of a diagnosis that was read back, the 20 furthest off.
    family : str
    ndim, draws, seed, steps : int
        Dimensions, draws, their seed, and steps of the fit at the time.
    sample : WeightedDraws, optional
        Not stored.

    Examples
    --------
    >>> Diagnosis((), (), {}, (), "MeanField", 1, 1000, 0, 100).verdict
    'ok'
    """

    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    numbers: Mapping[str, float | None]
    elements: tuple[Element, ...]
    family: str
    ndim: int
    draws: int
    seed: int
    steps: int
    sample: WeightedDraws | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """``ok``, or the codes of the findings."""
        return "ok" if self.ok else ", ".join(finding.code for finding in self.findings)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def worst(self, n: int) -> tuple[Element, ...]:
        """The ``n`` elements that are furthest off, the worst first."""
        return tuple(sorted(self.elements, key=_distance, reverse=True)[:n])

    def resample(self, draws: int = 1000, random_seed: int | None = None) -> xr.DataTree:
        """Draws from the posterior: those of the approximation, taken as often as their weights say.

        Parameters
        ----------
        draws : int
            More than ``numbers["ess"]`` of them are mostly copies.
        random_seed : int, optional

        Returns
        -------
        xarray.DataTree
            As that of ``approx.sample``.

        Warns
        -----
        DviWarning
            If k-hat is above its threshold, where the weights are not to be trusted.
        """
        if self.sample is None:
            raise ArgumentError("a diagnosis that was read back, or that has no weights, has no draws; diagnose again")
        khat, threshold = self.numbers.get("khat"), self.numbers.get("khat_threshold")
        if khat is not None and threshold is not None and khat > threshold:
            text = f"k-hat is {khat:.2f}, above {threshold:.2f}: resampled draws are not those of the posterior"
            warnings.warn(text, DviWarning, stacklevel=2)
        generator = keyed_generator(as_seed(random_seed), "sample")
        weights = np.exp(self.sample.log_weights)
        check_fits(check_draws(draws), "draws", 8 * (1 + self.ndim))
        taken = generator.choice(len(weights), draws, p=weights / weights.sum())
        return self.sample.tree(self.sample.Z[taken])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: everything but the draws, and the 20 elements that are furthest off."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "notes": [asdict(finding) for finding in self.notes],
            "numbers": {name: _plain(value) for name, value in self.numbers.items()},
            "elements": [{k: _plain(v) for k, v in asdict(element).items()} for element in self.worst(_KEPT)],
            **{name: getattr(self, name) for name in ("family", "ndim", "draws", "seed", "steps")},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The diagnosis that :meth:`to_json` wrote, for instance ``approx.run["diagnosis"]``."""
        findings, notes = (tuple(Finding(**item) for item in record[name]) for name in ("findings", "notes"))
        numbers = {name: _number(value) for name, value in record["numbers"].items()}
        elements = tuple(
            Element(**{k: v if k == "name" else _number(v, math.nan) for k, v in item.items()})
            for item in record["elements"]
        )
        ndim, draws, seed, steps = (int(record[name]) for name in ("ndim", "draws", "seed", "steps"))
        return cls(findings, notes, numbers, elements, str(record["family"]), ndim, draws, seed, steps)


def _distance(element: Element) -> float:
    return max(abs(element.shift), abs(math.log(element.scale)), abs(math.log(element.posterior_sd / element.sd)))


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: Any, missing: Any = None) -> Any:
    return missing if value is None else float(value)
