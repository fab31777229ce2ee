"""Rewrites that make one loop of a likelihood and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.logprob.utils import CheckParameterValue
from pytensor.compile.mode import Mode
from pytensor.graph.traversal import ancestors
from scipy.special import expit

from dvi.model.compile import INTERPRETED
from dvi.model.rewrites import FOR_FUSION, differentiable

REWRITTEN = INTERPRETED.register((FOR_FUSION, 48.5))


def compiled(inputs: list[Any], output: Any, mode: Mode) -> Any:
    return pytensor.function(inputs, output, mode=mode)


def ops(function: Any) -> list[str]:
    return [str(node.op) for node in function.maker.fgraph.toposort()]


def test_what_is_broadcast_is_divided_by_once() -> None:
    x, y = pt.matrix("x"), pt.vector("y")
    plain, rewritten = (compiled([x, y], x / y, mode) for mode in (INTERPRETED, REWRITTEN))
    assert any("True_div" in op for op in ops(plain))
    assert not any("True_div" in op for op in ops(rewritten))
    rows, scale = np.random.default_rng(0).normal(size=(5, 3)), np.array([0.1, 2.0, -3.0])
    np.testing.assert_allclose(rewritten(rows, scale), rows / scale, rtol=1e-15)


@pytest.mark.parametrize("shape", ["same", "integers"])
def test_other_divisions_stay(shape: str) -> None:
    x = pt.matrix("x") if shape == "same" else pt.imatrix("x")
    y = pt.matrix("y") if shape == "same" else pt.ivector("y")
    rewritten = compiled([x, y], x / y, REWRITTEN)
    assert any("True_div" in op for op in ops(rewritten))


def test_a_check_of_parameters_is_made_behind_the_sum() -> None:
    x, sigma = pt.vector("x"), pt.scalar("sigma")
    total = pm.logp(pm.Normal.dist(0, sigma), x).sum()
    rewritten = compiled([x, sigma], total, REWRITTEN)
    (checked,) = [n for n in rewritten.maker.fgraph.toposort() if isinstance(n.op, CheckParameterValue)]
    assert any("Sum" in str(v.owner.op) for v in ancestors([checked.inputs[0]]) if v.owner is not None)
    assert float(rewritten(np.ones(3), 2.0)) == pytest.approx(float(total.eval({x: np.ones(3), sigma: 2.0})))
    with pytest.raises(pm.logprob.utils.ParameterValueError):
        rewritten(np.ones(3), -1.0)


def gradient_of(logp: Any, inputs: list[Any]) -> Any:
    total = differentiable(logp.sum())
    return compiled(inputs, [total, pt.grad(total, inputs[0])], INTERPRETED)


@pytest.mark.parametrize("by", ["logit_p", "p"])
def test_the_gradient_of_a_certain_outcome_that_does_not_happen_is_finite(by: str) -> None:
    x, y = pt.vector("x"), pt.vector("y")
    settings = {"logit_p": x} if by == "logit_p" else {"p": pt.sigmoid(x)}
    function = gradient_of(pm.logp(pm.Bernoulli.dist(**settings), y), [x, y])
    at = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
    for outcome in (0.0, 1.0):
        value, gradient = function(at, np.full(7, outcome))
        sign = 1.0 if outcome else -1.0
        np.testing.assert_allclose(value, -np.logaddexp(0.0, -sign * at).sum(), rtol=1e-12)
        np.testing.assert_allclose(gradient, sign * expit(-sign * at), rtol=1e-12)


def test_a_logistic_likelihood_has_one_function_for_both_outcomes() -> None:
    x, y = pt.vector("x"), pt.vector("y")
    total = differentiable(pm.logp(pm.Bernoulli.dist(logit_p=x), y).sum())
    names = [str(v.owner.op) for v in ancestors([total]) if v.owner is not None]
    assert sum("oftplus" in name for name in names) == 1
    assert not any("igmoid" in name for name in names)
    with pytest.raises(pm.logprob.utils.ParameterValueError):
        compiled([x, y], total, INTERPRETED)(np.array([0.0, np.nan]), np.zeros(2))


def test_functions_of_unlike_arguments_and_other_checks_stay() -> None:
    x, i = pt.vector("x"), pt.ivector("i")
    for graph in (pt.switch(x > 0, pt.exp(x), pt.exp(i)), pt.switch(x > 0, pt.exp(x), pt.log(x)),
                  pt.switch(x > 0, pt.sigmoid(x) >= 0.5, pt.sigmoid(x) < 1)):  # fmt: skip
        at = np.array([0.3, 2.0, 0.9])
        inputs = {v: at.astype(v.dtype) for v in (x, i) if v in set(ancestors([graph]))}
        before = graph.eval(inputs)
        rewritten = differentiable(graph)
        assert "Switch" in str(rewritten.owner.op)
        np.testing.assert_array_equal(rewritten.eval(inputs), before)


def test_the_graph_of_the_model_is_left_as_it_is() -> None:
    x = pt.vector("x")
    inner = pt.log(1.0 - pt.sigmoid(x))
    total = inner.sum()
    before = pytensor.dprint(total, file="str")
    assert pytensor.dprint(differentiable(total), file="str") != before
    assert pytensor.dprint(total, file="str") == before
