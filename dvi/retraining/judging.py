"""Whether a candidate is as good as the promoted run: on rows that neither has seen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from dvi.approximation import Approximation
from dvi.prediction import log_likelihood
from dvi.types import FloatArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pymc as pm

    from dvi.retraining.config import JudgeConfig

_SHOWN = 5  # variables that drifted most, in a record


@dataclass(frozen=True, slots=True)
class Evidence:
    """Numbers on which a verdict rests; None where there is nothing to compare with.

    Parameters
    ----------
    rows : int
        Held-out observations.
    log_density : float
        Mean log predictive density of one of them.
    difference, standard_error : float
        Of it to that of the promoted run, row by row, and the standard error of that.
    khat : float
        Of the candidate's importance weights.
    diagnosis : str
        ``ok``, or the codes of what was found.
    drift : float
        The largest way of a posterior mean from where the promoted run has it, in standard deviations of that one.
    drifted : dict
        The elements that went furthest.
    """

    rows: int
    log_density: float
    difference: float | None
    standard_error: float | None
    khat: float | None
    diagnosis: str
    drift: float | None
    drifted: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to promote, and why."""

    promote: bool
    reason: str
    evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not finite as text."""
        plain = {
            k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self.evidence).items()
        }
        return {"promote": self.promote, "reason": self.reason, "evidence": plain}


def log_densities(
    approx: Approximation, model: pm.Model, draws: int, seed: int, where: Mapping[str, Any]
) -> FloatArray:
    r"""Log predictive density of every observation of a model, ``(n,)``.

    :math:`\log \frac{1}{S} \sum_s p(y_i \mid z_s)`, of an observation with several elements jointly.

    Parameters
    ----------
    approx : Approximation
    model : pm.Model
        Of the rows to predict.
    draws, seed : int
    where : mapping
        Keywords ``client`` and ``threads``.
    """
    tree = log_likelihood(approx, model=model, draws=draws, random_seed=seed, progressbar=False, **where)
    found = []
    for array in tree["log_likelihood"].data_vars.values():
        values = array.values[0]
        joint = values.reshape(*values.shape[:2], -1).sum(axis=-1)
        found.append(logsumexp(joint, axis=0) - math.log(draws))
    return np.concatenate(found)


def weigh(
    candidate: FloatArray, promoted: FloatArray | None, new: Approximation, old: Approximation | None
) -> Evidence:
    """The evidence in log densities ``(n,)`` of both, and in the two posteriors."""
    diagnosis = new.run.get("diagnosis") or {"numbers": {}, "findings": []}
    khat = diagnosis["numbers"].get("khat")
    gains = None if promoted is None else candidate - promoted
    drift = {} if old is None else drifts(new, old)
    worst = sorted(drift, key=lambda name: -abs(drift[name]))[:_SHOWN]
    return Evidence(
        len(candidate), float(np.mean(candidate)), None if gains is None else float(np.mean(gains)),
        None if gains is None else float(np.std(gains, ddof=1)) / math.sqrt(len(gains)),
        None if khat is None else float(khat),
        ", ".join(finding["code"] for finding in diagnosis["findings"]) or "ok",
        abs(drift[worst[0]]) if worst else None, {name: drift[name] for name in worst},
    )  # fmt: skip


def drifts(new: Approximation, old: Approximation) -> dict[str, float]:
    """Way of each unconstrained mean, in standard deviations of the old posterior; none if the variables differ."""
    if new.layout.difference(old.layout) is not None:
        return {}
    way = (new.family.mean(new.theta) - old.family.mean(old.theta)) / old.family.std(old.theta)
    return dict(zip(new.layout.names(), way.tolist(), strict=True))


def decide(config: JudgeConfig, evidence: Evidence) -> Verdict:
    """The rule for promotion.

    The log density is finite, not lower than that of the promoted run by more than ``tolerance`` standard errors, and
    k-hat and drift are within their limits, where there are any.
    """
    difference, error = evidence.difference, evidence.standard_error
    if not math.isfinite(evidence.log_density):
        return Verdict(False, "the log predictive density is not finite", evidence)
    if difference is not None and error is not None and not difference >= -config.tolerance * error:
        reason = f"it predicts worse: {difference:.4g} nats a row, with a standard error of {error:.2g}"
        return Verdict(False, reason, evidence)
    for name, limit in (("khat", config.max_khat), ("drift", config.max_drift)):
        found = getattr(evidence, name)
        if limit is not None and found is not None and not found <= limit:
            return Verdict(False, f"{name} is {found:.3g}, above {limit:g}", evidence)
    if difference is None:
        return Verdict(True, "there was nothing to compare it with", evidence)
    return Verdict(True, f"it predicts no worse: {difference:.4g} nats a row", evidence)
