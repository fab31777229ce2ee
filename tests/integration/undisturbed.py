"""What a fit that is disturbed has to equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm

import dvi
from tests.integration.faults import Injector, Site

SETTINGS: dict[str, Any] = {"obj_optimizer": dvi.adam(0.01), "progressbar": False}


def small_model() -> pm.Model:
    y = np.random.default_rng(0).normal(1.0, 2.0, 60_000)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(y, batch_size=8192))
    return model


def disturbed(model: pm.Model, site: Site, injector: Injector, staleness: int = 0) -> dvi.Inference:
    """A fit on a cluster that goes on until all has happened to it that should."""
    inference = dvi.ADVI(model=model, random_seed=7)
    inference.fit(10**8, client=site.client, callbacks=[injector], staleness=staleness, **SETTINGS)
    return inference


class Undisturbed:
    """The same fit on a thread, as long as it is needed, with its parameters every hundred steps."""

    every = Injector.every

    def __init__(self, model: pm.Model, staleness: int = 0) -> None:
        self._settings = {**SETTINGS, "staleness": staleness}
        self._inference = dvi.ADVI(model=model, random_seed=7)
        self._theta: dict[int, bytes] = {}

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        self._theta[i] = theta(self._inference)

    def equals(self, found: dvi.Inference) -> bool:
        """Whether a fit has the same losses and the same parameters, bit for bit."""
        n = len(found.hist)
        if not self._theta:
            self._inference.fit(n, threads=1, callbacks=[self], **self._settings)
        elif n > len(self._inference.hist):
            self._inference.refine(n - len(self._inference.hist))
        return found.hist.tobytes() == self._inference.hist[:n].tobytes() and theta(found) == self._theta[n]


def theta(inference: dvi.Inference) -> bytes:
    """Parameters of the last step, before any averaging."""
    assert inference._state is not None
    return inference._state.theta.tobytes()
