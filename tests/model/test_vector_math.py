"""Functions of several rows at once, against those of one number in more digits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.link.numba.linker import NumbaLinker

import dvi
from dvi.model import vector_math
from dvi.model.compile import _REWRITES, compile_kernel
from dvi.model.graph import split
from dvi.model.rewrites import FOR_FUSION
from dvi.types import FloatArray

NUMBA = Mode(NumbaLinker(), _REWRITES)
REWRITTEN = NUMBA.register((FOR_FUSION, 48.5))
here = pytest.mark.skipif(not vector_math.variants("exp"), reason="needs glibc's libmvec")

type _Exact = Callable[[Any], Any]
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], _Exact, tuple[float, float]]] = {
    "exp": (pt.exp, np.exp, (-740.0, 705.0)),
    "log": (pt.log, np.log, (1e-300, 1e3)),
    "log1p": (pt.log1p, np.log1p, (-0.999, 1e3)),
    "expm1": (pt.expm1, np.expm1, (-40.0, 700.0)),
    "tanh": (pt.tanh, np.tanh, (-25.0, 25.0)),
    "sigmoid": (pt.sigmoid, lambda x: 1 / (1 + np.exp(-x)), (-700.0, 40.0)),
    "softplus": (pt.softplus, lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), (-700.0, 700.0)),
}


@pytest.fixture(scope="module")
def functions() -> dict[str, Callable[[FloatArray], FloatArray]]:
    """Each as a loop over a vector, compiled as kernels are."""
    x = pt.vector("x")
    return {name: pytensor.function([x], f(x), mode=REWRITTEN) for name, (f, *_) in FUNCTIONS.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_a_few_units_in_the_last_place(name: str, functions: dict[str, Any]) -> None:
    _, exact, (low, high) = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(low, high, 20_003), rng.normal(size=5_001), rng.normal(size=999) * 1e-9])
    x = x[(x > low) & (x < high)]
    expected = exact(x.astype(np.longdouble))
    error = np.abs(functions[name](x) - expected) / np.spacing(np.abs(expected.astype(np.float64)))
    assert error.max() <= (6.0 if name in ("sigmoid", "softplus") else 4.0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 7, 8, 40])
def test_what_is_not_finite_is_as_in_numpy(name: str, n: int, functions: dict[str, Any]) -> None:
    with np.errstate(all="ignore"):
        for value in (np.inf, -np.inf, np.nan, 0.0, -1.0, 1e308, -1e308):
            expected = {
                "sigmoid": {np.inf: 1.0, -np.inf: 0.0, 1e308: 1.0, -1e308: 0.0},
                "softplus": {np.inf: np.inf, -np.inf: 0.0, 1e308: 1e308, -1e308: 0.0},
            }.get(name, {}).get(value, FUNCTIONS[name][1](np.float64(value)))  # fmt: skip
            np.testing.assert_allclose(functions[name](np.full(n, value)), expected, rtol=1e-15)


@here
def test_loops_call_functions_of_several_numbers() -> None:
    x = pt.vector("x")
    text = _machine_code(x, REWRITTEN)
    assert any(symbol in text for symbol, _ in vector_math.variants("exp"))
    assert "_ZGV" not in _machine_code(x, NUMBA)


def _machine_code(x: Any, mode: Mode) -> str:
    with pytensor.config.change_flags(numba__cache=False):  # what was loaded has no text
        function = pytensor.function([x], pt.exp(x).sum(), mode=mode)
        function(np.zeros(100))
    return "".join(function.vm.jit_fn.inspect_asm().values())


@here
@pytest.mark.parametrize(("x", "double"), [(pt.fvector("x"), False), (pt.ivector("x"), True)])
def test_functions_are_of_what_is_double_or_becomes_it(x: Any, double: bool) -> None:
    rewritten = pytensor.function([x], pt.exp(x), mode=REWRITTEN)
    (node,) = [n for n in rewritten.maker.fgraph.toposort() if hasattr(n.op, "scalar_op")]
    inner = getattr(node.op.scalar_op, "fgraph", None)
    kinds = [type(node.op.scalar_op)] if inner is None else [type(n.op) for n in inner.toposort()]
    assert (vector_math.Exp in kinds) == double
    np.testing.assert_allclose(rewritten(np.arange(5, dtype=x.dtype)), np.exp(np.arange(5.0)), rtol=1e-6)


def test_a_machine_without_them_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_math, "variants", lambda name: ())
    x = pt.vector("x")
    rewritten = pytensor.function([x], pt.softplus(x), mode=REWRITTEN)
    assert not any(
        "vector_math" in type(getattr(n.op, "scalar_op", None)).__module__ for n in rewritten.maker.fgraph.toposort()
    )
    np.testing.assert_allclose(rewritten(np.array([0.0, 1.0])), np.log1p(np.exp([0.0, 1.0])))


@here
@pytest.mark.parametrize("setting", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_ENABLE_AVX": "0"}], ids=str)
def test_a_processor_that_numba_is_told_to_compile_for_has_what_it_has(setting: dict[str, str]) -> None:
    code = "from dvi.model.vector_math import variants; print(variants('exp'))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | setting, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "()"


@pytest.mark.parametrize("kind", ["logistic", "scales", "log-normal"])
def test_kernels_have_the_density_and_the_gradient_of_the_model(kind: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(101, 3)), rng.random(101)
    X, Y = dvi.Minibatch(x, (y < 0.4).astype(float) if kind == "logistic" else y, batch_size=101)
    with pm.Model() as model:
        eta = X @ pm.Normal("b", 0, 1, shape=3)
        if kind == "logistic":
            pm.Bernoulli("y", logit_p=eta, observed=Y)
        elif kind == "scales":
            pm.Normal("y", 0.3, pm.math.exp(eta), observed=Y)
        else:
            pm.LogNormal("y", eta, pm.math.log1pexp(eta), observed=Y)
    term = split(model).terms[0]
    kernel = compile_kernel(term.program, (np.zeros((2, 3)), np.zeros(2)))
    z = np.array([0.5, -1.0, 2.0])
    value, gradient = kernel(z[None], *term.batch.source.head(101))

    def density(b: FloatArray) -> float:
        e, t = x @ b, np.asarray(term.batch.source.head(101)[1])
        if kind == "logistic":
            return float((t * e - np.logaddexp(0, e)).sum())
        mean, sd = (0.3, np.exp(e)) if kind == "scales" else (e, np.logaddexp(0, e))
        u = t if kind == "scales" else np.log(t)
        jacobian = 0.0 if kind == "scales" else u.sum()
        return float((-0.5 * ((u - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)).sum() - jacobian)

    assert value[0] == pytest.approx(density(z), rel=1e-12)
    steps = 1e-5 * np.eye(3)
    expected = [(density(z + s) - density(z - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-6)
