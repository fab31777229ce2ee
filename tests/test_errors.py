"""What errors about names say: what was given, what there is, and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.errors import ArgumentError, ArgumentTypeError, UnknownNameError, suggestion


@pytest.fixture(scope="module")
def approx() -> dvi.Approximation:
    y = dvi.Minibatch(np.zeros(50), batch_size=10)
    with pm.Model():
        pm.Normal("delay", pm.Normal("effect", shape=2).sum(), 1.0, observed=y)
        return dvi.fit(5, random_seed=1, progressbar=False)


Call = Callable[[dvi.Approximation], object]
MISSPELLED: list[tuple[Call, type[Exception], str]] = [
    (lambda a: dvi.fit(5, model=a.model, start={"efect": 0.0}), ArgumentError, "'efect'.*did you mean 'effect'"),
    (lambda a: dvi.fit(5, model=a.model, start={"effect": np.zeros(7)}), ArgumentError, "does not fit the shapes"),
    (lambda a: a.layout.entry("efect"), ArgumentError, "no free variable 'efect'.*did you mean 'effect'"),
    (lambda a: a.sample_node("effect"), ArgumentTypeError, r"give model\['effect'\]"),
    (lambda a: a.sample_node("efect"), ArgumentTypeError, "did you mean 'effect'"),
    (lambda a: a.sample_node(np.zeros(2)), ArgumentTypeError, "is not a variable of the model"),
    (lambda a: dvi.predict(a, var_names=["dela"]), UnknownNameError, "did you mean 'delay'"),
    (lambda a: dvi.log_likelihood(a, var_names=["dela"]), UnknownNameError, "did you mean 'delay'"),
    (lambda a: dvi.predict(a, kind="sumary"), ArgumentError, "did you mean 'summary'"),
    (lambda a: dvi.linear_response(a, var_names=["efect"]), UnknownNameError, "did you mean 'effect'"),
    (lambda a: dvi.Group(["effect"], "mean_feild"), UnknownNameError, "did you mean 'mean_field'"),
    (lambda a: dvi.ADVI(model=a.model, init="laplce"), ArgumentError, "did you mean 'laplace'"),
    (lambda _: dvi.callbacks.Tracker(mean=lambda: 0)["maen"], ArgumentError, "did you mean 'mean'"),
]


@pytest.mark.parametrize(("call", "kind", "message"), MISSPELLED)
def test_what_was_probably_meant_is_said(
    call: Call, kind: type[Exception], message: str, approx: dvi.Approximation
) -> None:
    with pytest.raises(kind, match=message):
        call(approx)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("bta", "; did you mean 'beta'?"),
        (["bta", "alhpa", "beat"], "; did you mean 'beta', 'alpha'?"),
        ("beta", ""),
        (7, ""),
        ([], ""),
    ],
)
def test_suggestion(given: object, said: str) -> None:
    assert suggestion(given, ["alpha", "beta"]) == said
