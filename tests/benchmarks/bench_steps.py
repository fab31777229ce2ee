"""One step of mean-field inference against the step of ``pm.fit`` and of NumPyro, same model, optimizer and batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.model.graph import split
from tests.benchmarks.measuring import Measurement, bytes_a_second, faster, in_turn, seconds_a_step

Report = Callable[[Measurement], None]
THREADS = 2
RATE = 1e-3


def tutorial(lib: Any, rows: int, columns: int, batch: int) -> pm.Model:
    """Means and standard deviations of columns."""
    rng = np.random.default_rng(0)
    x = rng.random((rows, columns)) * rng.integers(1, 10, size=columns) + 10 * rng.random(columns)
    with pm.Model() as model:
        mu, sd = pm.Normal("mu", 0, 1e5, shape=columns), pm.HalfNormal("sd", 100, shape=columns)
        observed = lib.Minibatch(x, batch_size=batch) if batch < rows or lib is dvi else x
        pm.Normal("x", mu, sd, observed=observed, total_size=(rows, columns) if lib is dvi else rows)
    return model


def logistic(lib: Any, rows: int, columns: int, batch: int) -> pm.Model:
    x, y = binary(rows, columns)
    xs, ys = lib.Minibatch(x, y, batch_size=batch)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1, shape=columns)
        pm.Bernoulli("y", logit_p=xs @ b, observed=ys, total_size=rows)
    return model


def hierarchical(lib: Any, rows: int, columns: int, batch: int, groups: int = 1000) -> pm.Model:
    x, g, y = grouped(rows, columns, groups)
    xs, gs, ys = lib.Minibatch(x, g, y, batch_size=batch)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1, shape=columns)
        a = pm.Normal("a", pm.Normal("m", 0, 1), pm.HalfNormal("s", 1), shape=groups)
        pm.Normal("y", xs @ b + a[gs], pm.HalfNormal("e", 1), observed=ys, total_size=rows)
    return model


def tiny(lib: Any, rows: int, columns: int, batch: int) -> pm.Model:
    y = np.random.default_rng(0).normal(size=rows)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("s", 1), observed=y)
    return model


@functools.lru_cache(maxsize=1)
def binary(rows: int, columns: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, columns))
    p = 1 / (1 + np.exp(-x @ rng.normal(size=columns) / np.sqrt(columns)))
    return x, (rng.random(rows) < p).astype(np.float64)


@functools.lru_cache(maxsize=1)
def grouped(rows: int, columns: int, groups: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(rows, columns)), rng.integers(0, groups, size=rows)
    return x, g, x @ rng.normal(size=columns) + rng.normal(size=groups)[g] + rng.normal(size=rows)


def runner(model: pm.Model, draws: int = 1) -> Callable[[int], object]:
    """Steps of dvi."""
    inference = dvi.ADVI(random_seed=1, model=model)
    return lambda n: inference.fit(n, obj_n_mc=draws, obj_optimizer=dvi.adam(RATE), progressbar=False, threads=THREADS)


def peer(model: pm.Model) -> Callable[[int], object]:
    """Steps of PyMC: the function that ``pm.fit`` calls in its loop."""
    with model:
        step = pm.ADVI(random_seed=1).objective.step_function(obj_optimizer=pm.adam(learning_rate=RATE), score=True)

    def run(n: int) -> None:
        for _ in range(n):
            step()

    return run


def reading(model: pm.Model) -> float:
    """Seconds in which the rows of a step can be read once, which no step that looks at them undercuts.

    From memory, or from the cache where all rows of the data, over which steps go again and again, are there.
    """
    sources = [(t.batch.batch_size, t.batch.source) for t in split(model).terms]
    return sum(
        batch * source.row_nbytes / bytes_a_second(THREADS, source.n_rows * source.row_nbytes)
        for batch, source in sources
    )


CASES = [  # row, name, model, rows, columns, batch, steps, target
    (1, "ADVI step, tutorial, batch 500", tutorial, 40_000, 100, 500, 1000, 3.0),
    (2, "ADVI step, tutorial, full batch", tutorial, 40_000, 100, 40_000, 60, 5.0),
    (3, "ADVI step, logistic, batch 8192", logistic, 200_000, 100, 8192, 200, 3.0),
    (4, "ADVI step, hierarchical, batch 8192", hierarchical, 200_000, 10, 8192, 200, 5.0),
    (5, "ADVI step, 2 parameters, 200 rows", tiny, 200, 1, 200, 3000, 1.0),
]


@pytest.mark.parametrize(("row", "name", "make", "rows", "columns", "batch", "steps", "target"), CASES)
def bench_step_against_pymc(
    report: Report, row: int, name: str, make: Any, rows: int, columns: int, batch: int, steps: int, target: float
) -> None:
    model = make(dvi, rows, columns, batch)
    ours, theirs = runner(model), peer(make(pm, rows, columns, batch))
    ours(5), theirs(5)
    pairs = in_turn(lambda: seconds_a_step(ours, steps), lambda: seconds_a_step(theirs, steps))
    report(faster(row, name, "pm.fit", pairs, target, least=reading(model) or None))


def bench_draws(report: Report) -> None:
    """Ten draws of a step against ten steps of one draw, without what a step costs besides."""
    rows, columns, batch, draws = 200_000, 100, 8192, 10
    model = logistic(dvi, rows, columns, batch)
    one, ten = runner(model), runner(model, draws)
    one(5), ten(5)
    pairs = in_turn(lambda: seconds_a_step(ten, 40), lambda: draws * seconds_a_step(one, 100))
    report(faster(11, "obj_n_mc=10, logistic, batch 8192", "ten single draws", pairs, 1 / 0.7))


def numpyro_runner(kind: str, rows: int, columns: int, batch: int, quick: bool) -> Callable[[int], object]:
    """Steps of NumPyro's SVI in one compiled loop, with its own subsampling plate or with quicker indices."""
    jax = pytest.importorskip("jax")
    numpyro = pytest.importorskip("numpyro")
    from jax import lax, random
    from jax import numpy as jnp
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    jax.config.update("jax_enable_x64", True)
    arrays = tuple(map(jnp.asarray, binary(rows, columns) if kind == "logistic" else grouped(rows, columns, 1000)))

    def normal(n: int) -> Any:
        return dist.Normal(0.0, 1.0).expand([n]).to_event(1)

    def logistic_model(x: Any, y: Any, index: Any = None) -> None:
        b = numpyro.sample("b", normal(columns))
        with _plate(numpyro, rows, batch, index) as taken:
            numpyro.sample("y", dist.Bernoulli(logits=x[taken] @ b), obs=y[taken])

    def hierarchical_model(x: Any, g: Any, y: Any, index: Any = None) -> None:
        b = numpyro.sample("b", normal(columns))
        m, s = numpyro.sample("m", dist.Normal(0.0, 1.0)), numpyro.sample("s", dist.HalfNormal(1.0))
        e, a = (
            numpyro.sample("e", dist.HalfNormal(1.0)),
            numpyro.sample("a", dist.Normal(m, s).expand([1000]).to_event(1)),
        )
        with _plate(numpyro, rows, batch, index) as taken:
            numpyro.sample("y", dist.Normal(x[taken] @ b + a[g[taken]], e), obs=y[taken])

    model = logistic_model if kind == "logistic" else hierarchical_model
    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(RATE), Trace_ELBO())
    first = jnp.arange(batch) if quick else None
    state = svi.init(random.PRNGKey(0), *arrays, first)

    @functools.partial(jax.jit, static_argnums=1)
    def loop(state: Any, n: int) -> Any:
        def body(i: Any, state: Any) -> Any:
            index = random.randint(random.fold_in(random.PRNGKey(1), i), (batch,), 0, rows) if quick else None
            return svi.update(state, *arrays, index)[0]

        return lax.fori_loop(0, n, body, state)

    def run(n: int) -> None:
        jax.block_until_ready(loop(state, n))

    return run


def _plate(numpyro: Any, rows: int, batch: int, index: Any) -> Any:
    @contextlib.contextmanager
    def entered() -> Any:
        if index is None:
            with numpyro.plate("rows", rows, subsample_size=batch) as taken:
                yield taken
        else:
            with numpyro.handlers.scale(scale=rows / batch), numpyro.plate("rows", batch):
                yield index

    return entered()


@pytest.mark.parametrize("quick", [False, True], ids=["plate", "randint"])
@pytest.mark.parametrize(
    ("row", "kind", "make", "columns", "target"),
    [(3, "logistic", logistic, 100, 1.3), (4, "hierarchical", hierarchical, 10, 5.0)],
)
def bench_step_against_numpyro(
    report: Report, row: int, kind: str, make: Any, columns: int, target: float, quick: bool
) -> None:
    rows, batch, steps = 200_000, 8192, 60
    model = make(dvi, rows, columns, batch)
    ours, theirs = runner(model), numpyro_runner(kind, rows, columns, batch, quick)
    ours(5), theirs(steps), theirs(4 * steps)  # compiled for so many steps
    pairs = in_turn(lambda: seconds_a_step(ours, steps), lambda: seconds_a_step(theirs, steps))
    indices = "quicker indices" if quick else "its own plate"
    report(faster(row, f"ADVI step, {kind}, batch 8192", f"NumPyro, {indices}", pairs, target, least=reading(model)))
