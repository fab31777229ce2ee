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

from dvi.model.compile import INTERPRETED
from dvi.model.rewrites import FOR_FUSION

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
