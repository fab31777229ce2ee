"""The logarithm of the gamma function and its derivative in loops, against SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.link.numba.linker import NumbaLinker
from pytensor.scalar.math import GammaLn, Psi
from scipy import special, stats

import dvi
from dvi.model import gamma_functions, vector_math
from dvi.model.compile import _OURS, _REWRITES, _arguments, _build, compile_kernel
from dvi.model.graph import split
from dvi.model.kernel_cache import signature
from dvi.types import FloatArray

MACHINE = Mode(NumbaLinker(), _REWRITES).register(*_OURS)
PYTHON = Mode("py", _REWRITES).register(*_OURS)
here = pytest.mark.skipif(not vector_math.variants("log"), reason="needs glibc's libmvec")
FUNCTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "gammaln": (pt.gammaln, special.gammaln),
    "psi": (pt.psi, special.psi),
}
x = pt.vector("x")


def kinds(function: Any) -> set[type]:
    """Of functions of numbers that are left."""
    nodes = [node for node in function.maker.fgraph.toposort() if hasattr(node.op, "scalar_op")]
    found = {type(node.op.scalar_op) for node in nodes}
    for node in nodes:
        inner = getattr(node.op.scalar_op, "fgraph", None)
        found |= {type(n.op) for n in inner.toposort()} if inner is not None else set()
    return found


@pytest.fixture(scope="module")
def functions() -> dict[str, Callable[[FloatArray], FloatArray]]:
    return {name: pytensor.function([x], f(x), mode=MACHINE) for name, (f, _) in FUNCTIONS.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_above_zero_within_a_few_units_of_one_or_of_the_value(name: str, functions: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    at = np.concatenate([
        rng.uniform(0, 25, 50_000), 10.0 ** rng.uniform(-300, 300, 20_000), np.arange(1.0, 200.0),
        1 + 1e-6 * rng.normal(size=1000), 2 + 1e-3 * rng.normal(size=1000), [8.0, np.nextafter(8.0, 0.0)],
    ])  # fmt: skip
    expected = FUNCTIONS[name][1](at)
    error = np.abs(functions[name](at) - expected)
    assert (error <= np.maximum(2e-14, 2e-15 * np.abs(expected))).all()


def test_below_zero(functions: dict[str, Any]) -> None:
    at = -np.random.default_rng(1).uniform(0, 30, 20_000)
    np.testing.assert_allclose(functions["gammaln"](at), special.gammaln(at), rtol=1e-13, atol=1e-13)
    # SciPy loses digits at poles; its values above 0 are brought here by psi(x) = psi(x + 1) - 1 / x.
    expected = special.psi(at + 31) - sum(1 / (at + k) for k in range(31))
    np.testing.assert_allclose(functions["psi"](at), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_finite_is_as_in_scipy(name: str, n: int, functions: dict[str, Any]) -> None:
    for value in (np.inf, np.nan, 0.0, -1.0, -7.0, 1e308):
        np.testing.assert_allclose(functions[name](np.full(n, value)), FUNCTIONS[name][1](value), rtol=1e-15)
    assert functions["gammaln"](np.full(n, -np.inf)).tolist() == [np.inf] * n


@here
@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_do_several_rows(name: str) -> None:
    with pytensor.config.change_flags(numba__cache=False):
        function = pytensor.function([x], FUNCTIONS[name][0](x).sum(), mode=MACHINE)
        function(np.ones(100))
    text = "".join(function.vm.jit_fn.inspect_asm().values())
    assert any(symbol in text for symbol, _ in vector_math.variants("log"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_python_computes_the_same(name: str) -> None:
    at = np.array([-3.5, 0.25, 1.0, 9.0, 300.0])
    function = pytensor.function([x], FUNCTIONS[name][0](x), mode=PYTHON)
    np.testing.assert_allclose(function(at), FUNCTIONS[name][1](at), rtol=1e-13, atol=2e-14)


@here
def test_integers_are_numbers_too() -> None:
    i = pt.lvector("i")
    function = pytensor.function([i], pt.gammaln(i + 1), mode=MACHINE)
    assert GammaLn not in kinds(function)
    np.testing.assert_allclose(function(np.arange(30)), special.gammaln(np.arange(1, 31)), rtol=2e-15, atol=2e-14)


@pytest.mark.parametrize("given", [pt.scalar("a"), pt.fvector("f"), pt.vector("one", shape=(1,))])
def test_numbers_that_are_not_of_rows_keep_their_functions(given: Any) -> None:
    assert kinds(pytensor.function([given], [pt.gammaln(given), pt.psi(given)], mode=MACHINE)) >= {GammaLn, Psi}


def test_a_machine_without_logarithms_of_several_rows_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gamma_functions, "variants", lambda name: ())
    assert GammaLn in kinds(pytensor.function([x], pt.gammaln(x), mode=MACHINE))


ETA, Y = np.random.default_rng(2).normal(size=(101, 3)), np.random.default_rng(3)
LIKELIHOODS: dict[str, tuple[Any, Any, Callable[[FloatArray, float], FloatArray]]] = {
    "negative binomial": (
        Y.poisson(3.0, 101),
        lambda e, s, y: pm.NegativeBinomial("y", mu=pm.math.exp(e), alpha=s, observed=y),
        lambda e, s: stats.nbinom(s, s / (s + np.exp(e))).logpmf(LIKELIHOODS["negative binomial"][0]),
    ),
    "gamma": (
        Y.gamma(2.0, 1.0, 101),
        lambda e, s, y: pm.Gamma("y", mu=pm.math.exp(e), sigma=s, observed=y),
        lambda e, s: stats.gamma(np.exp(2 * e) / s**2, scale=s**2 / np.exp(e)).logpdf(LIKELIHOODS["gamma"][0]),
    ),
    "beta-binomial": (
        Y.binomial(9, 0.4, 101),
        lambda e, s, y: pm.BetaBinomial("y", n=9, alpha=pm.math.exp(e), beta=s, observed=y),
        lambda e, s: stats.betabinom(9, np.exp(e), s).logpmf(LIKELIHOODS["beta-binomial"][0]),
    ),
    "Poisson": (
        Y.poisson(3.0, 101),
        lambda e, s, y: pm.Poisson("y", pm.math.exp(e) + s, observed=y),
        lambda e, s: stats.poisson(np.exp(e) + s).logpmf(LIKELIHOODS["Poisson"][0]),
    ),
}


def term_of(name: str) -> Any:
    observed, likelihood, _ = LIKELIHOODS[name]
    X, y = dvi.Minibatch(ETA, observed, batch_size=101)
    with pm.Model() as model:
        likelihood(X @ pm.Normal("b", 0, 1, shape=3), pm.math.exp(pm.Normal("log_s", 0, 1)), y)
    (term,) = split(model).terms
    return term


@here
def test_a_long_loop_with_numbers_of_the_model_does_several_rows() -> None:
    """PyTensor gives them to it by a function of its own, which LLVM leaves in a loop that is long."""
    term = term_of("negative binomial")
    with pytensor.config.change_flags(numba__cache=False):  # what was loaded has no text
        kernel = _build(term.program, (np.zeros((2, 3)), np.zeros(2, np.int64)))
        kernel.function.compile(signature(kernel.function, _arguments(term.program, kernel)))
    text = "".join(kernel.function.inspect_asm().values())
    assert any(symbol in text for symbol, _ in vector_math.variants("log"))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_kernels_have_the_density_and_the_gradient_of_the_model(name: str) -> None:
    observed, _, logp = LIKELIHOODS[name]
    term = term_of(name)
    kernel = compile_kernel(term.program, (np.zeros((2, 3)), np.zeros(2, observed.dtype)))
    z = np.array([0.3, -0.2, 0.5, 0.4])

    def density(at: FloatArray) -> float:
        return float(logp(ETA @ at[:3], np.exp(at[3])).sum())

    value, gradient = kernel(z[None], *term.batch.source.head(101))
    assert value[0] == pytest.approx(density(z), rel=1e-12)
    steps = 1e-5 * np.eye(4)
    differences = [(density(z + s) - density(z - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(gradient[0], differences, rtol=1e-6, atol=1e-6)
