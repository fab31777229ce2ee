"""The same models fitted by dvi and its peers, against posteriors that are known.

``python -m tests.benchmarks.side_by_side > docs/explanation/side-by-side.csv`` writes the table of the documentation,
with a row for each model and each of the peers that are installed. Versions go to standard error.
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm

import dvi

SEEDS = (1, 2, 3)
STEPS = 10_000  # what dvi.fit and pm.fit do by default
DRAWS = 5_000
PACKAGES = ("dask-vi", "pymc", "pymc-extras", "numpyro", "jax")

type Draws = dict[str, np.ndarray]  # (draws, ...) by variable


@dataclass(frozen=True, slots=True)
class Case:
    """A model with a posterior that is known.

    Parameters
    ----------
    name : str
    data : tuple of array
        Their rows belong together.
    batch : int
        Rows of a step, of those who take batches.
    pymc : callable
        Defines the variables in a model, given batches of the data, and ``total_size`` where it has to be said.
    numpyro : callable
        The same of NumPyro, given the data and the size of a batch.
    exact : callable
        Means and standard deviations by variable.
    """

    name: str
    data: tuple[np.ndarray, ...]
    batch: int
    pymc: Callable[..., None]
    numpyro: Callable[..., None]
    exact: Callable[[], dict[str, tuple[np.ndarray, np.ndarray]]]


# The models


def conjugate() -> Case:
    """A normal mean for each of ten columns."""
    y = np.random.default_rng(0).normal(np.arange(10.0), 1.0, size=(10_000, 10))

    def in_pymc(y: Any, total: int | None) -> None:
        pm.Normal("y", pm.Normal("mu", 0, 10, shape=10), 1.0, observed=y, total_size=total)

    def in_numpyro(batch: int, y: Any) -> None:
        import numpyro
        from numpyro import distributions as dist

        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0).expand([10]).to_event(1))
        with numpyro.plate("rows", len(y), subsample_size=batch) as rows:
            numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y[rows])

    def exact() -> dict[str, tuple[np.ndarray, np.ndarray]]:
        precision = len(y) + 0.01
        return {"mu": (y.sum(axis=0) / precision, np.full(10, precision**-0.5))}

    return Case("conjugate normal, 10,000 rows", (y,), 100, in_pymc, in_numpyro, exact)


def logistic() -> Case:
    """Logistic regression, whose posterior is as good as normal with so many rows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50_000, 20))
    y = (rng.random(50_000) < 1 / (1 + np.exp(-x @ rng.normal(size=20) / 4))).astype(np.float64)

    def in_pymc(x: Any, y: Any, total: int | None) -> None:
        pm.Bernoulli("y", logit_p=x @ pm.Normal("beta", 0, 1, shape=20), observed=y, total_size=total)

    def in_numpyro(batch: int, x: Any, y: Any) -> None:
        import numpyro
        from numpyro import distributions as dist

        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
        with numpyro.plate("rows", len(y), subsample_size=batch) as rows:
            numpyro.sample("y", dist.Bernoulli(logits=x[rows] @ beta), obs=y[rows])

    def exact() -> dict[str, tuple[np.ndarray, np.ndarray]]:
        beta = np.zeros(20)
        for _ in range(20):
            p = 1 / (1 + np.exp(-x @ beta))
            hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(20)
            beta += np.linalg.solve(hessian, x.T @ (y - p) - beta)
        return {"beta": (beta, np.sqrt(np.diag(np.linalg.inv(hessian))))}

    return Case("logistic regression, 50,000 x 20", (x, y), 500, in_pymc, in_numpyro, exact)


def hierarchical() -> Case:
    """Twenty groups around a mean, not centred."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(20), 500)
    y = (0.5 + 0.3 * rng.normal(size=20))[group] + rng.normal(size=10_000)
    order = rng.permutation(10_000)
    group, y = group[order], y[order]

    def in_pymc(group: Any, y: Any, total: int | None) -> None:
        m, s, z = pm.Normal("m", 0, 1), pm.HalfNormal("s", 1), pm.Normal("z", 0, 1, shape=20)
        pm.Normal("y", (m + s * z)[group], 1.0, observed=y, total_size=total)

    def in_numpyro(batch: int, group: Any, y: Any) -> None:
        import numpyro
        from numpyro import distributions as dist

        m, s = numpyro.sample("m", dist.Normal(0.0, 1.0)), numpyro.sample("s", dist.HalfNormal(1.0))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
        with numpyro.plate("rows", len(y), subsample_size=batch) as rows:
            numpyro.sample("y", dist.Normal((m + s * z)[group[rows]], 1.0), obs=y[rows])

    def exact() -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return _exact_groups(np.array([y[group == g].mean() for g in range(20)]), 500)

    return Case("hierarchical, not centred, 10,000 rows", (group, y), 500, in_pymc, in_numpyro, exact)


def _exact_groups(means: np.ndarray, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """On a grid of m and s, given which group means (of n rows) and z are normal."""
    m, s = (axis[:, None] for axis in np.meshgrid(np.linspace(0, 1, 401), np.linspace(0.02, 1, 491), copy=False))
    m, s = (axis.reshape(-1, 1) for axis in (m, s))
    variance = s**2 + 1 / n
    logp = -0.5 * (m[:, 0] ** 2 + s[:, 0] ** 2) - 0.5 * ((means - m) ** 2 / variance + np.log(variance)).sum(axis=1)
    weight = np.exp(logp - logp.max())
    weight /= weight.sum()

    def moments(mean: np.ndarray, var: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        first, second = weight @ mean, weight @ (mean**2 + var)
        return first, np.sqrt(second - first**2)

    precision = 1 + n * s**2  # of z, given m and s
    z = moments(n * s * (means - m) / precision, 1 / precision)
    return {"m": moments(m[:, 0]), "s": moments(s[:, 0]), "z": z}


# Who fits them


def by_dvi(case: Case, seed: int, n: int | None = STEPS) -> Draws:
    batches = dvi.Minibatch(*case.data, batch_size=case.batch)
    with pm.Model() as model:
        case.pymc(*(batches if isinstance(batches, tuple | list) else [batches]), total=None)
    approx = dvi.fit(n, model=model, random_seed=seed, progressbar=False)
    return _of_tree(approx.sample(DRAWS, random_seed=seed))


def by_pymc(case: Case, seed: int, **settings: Any) -> Draws:
    batches = pm.Minibatch(*case.data, batch_size=case.batch)
    with pm.Model() as model:
        case.pymc(*(batches if isinstance(batches, tuple | list) else [batches]), total=len(case.data[0]))
        approx = pm.fit(STEPS, model=model, random_seed=seed, progressbar=False, **settings)
    return _of_tree(approx.sample(DRAWS, random_seed=seed))


def by_extras(case: Case, seed: int, method: str, **settings: Any) -> Draws:
    import pymc_extras

    with pm.Model() as model:
        case.pymc(*case.data, total=None)
    return _of_tree(pymc_extras.fit(method=method, model=model, random_seed=seed, progressbar=False, **settings))


def by_numpyro(case: Case, seed: int, rate: float = 5e-3) -> Draws:
    import jax
    from jax import numpy as jnp
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    jax.config.update("jax_enable_x64", True)
    model = functools.partial(case.numpyro, case.batch)
    guide = AutoNormal(model)
    data = [jnp.asarray(array) for array in case.data]
    svi = SVI(model, guide, Adam(rate), Trace_ELBO())
    params = svi.run(jax.random.PRNGKey(seed), STEPS, *data, progress_bar=False).params
    found = guide.sample_posterior(jax.random.PRNGKey(seed + 1), params, sample_shape=(DRAWS,))
    return {name: np.asarray(values) for name, values in found.items()}


def _of_tree(tree: Any) -> Draws:
    return {
        str(name): values.stack(sample=("chain", "draw")).transpose("sample", ...).to_numpy()
        for name, values in tree["posterior"].to_dataset().data_vars.items()
    }


FITTERS: dict[str, tuple[str, Callable[[Case, int], Draws]]] = {
    "dvi.fit()": ("dask-vi", by_dvi),
    "dvi.fit(None)": ("dask-vi", functools.partial(by_dvi, n=None)),
    "pm.fit()": ("pymc", by_pymc),
    "pm.fit, Adam(0.01)": (
        "pymc",
        lambda case, seed: by_pymc(case, seed, obj_optimizer=pm.adam(learning_rate=0.01)),
    ),
    "NumPyro SVI, Adam(0.005)": ("numpyro", by_numpyro),
    "pymc-extras, Pathfinder, all rows": ("pymc-extras", functools.partial(by_extras, method="pathfinder")),
    "pymc-extras, Laplace (trust-ncg), all rows": (
        "pymc-extras",  # whose default takes the covariance from BFGS, which is of another size
        functools.partial(by_extras, method="laplace", optimize_method="trust-ncg"),
    ),
}


def measured(case: Case, fit: Callable[[Case, int], Draws]) -> Iterator[tuple[float, float, float]]:
    """Of each seed: error of means in posterior sds, ratio of sds, and seconds, compilation and draws included."""
    exact = case.exact()
    for seed in SEEDS:
        started = time.perf_counter()
        draws = fit(case, seed)
        seconds = time.perf_counter() - started
        errors = [((draws[name].mean(axis=0) - mean) / sd) ** 2 for name, (mean, sd) in exact.items()]
        ratios = [np.log(draws[name].std(axis=0) / sd) for name, (_, sd) in exact.items()]
        error = float(np.sqrt(np.mean(np.hstack(errors))))
        yield error, float(np.exp(np.mean(np.hstack(ratios)))), seconds


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Print the table; a median over the seeds in each place."""
    print(", ".join(f"{package} {version(package) or 'is not installed'}" for package in PACKAGES), file=sys.stderr)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["model", "fitted by", "error of means, in sds", "ratio of sds", "seconds", "seeds"])
    for case in (conjugate(), logistic(), hierarchical()):
        for name, (package, fit) in FITTERS.items():
            if version(package) is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                error, ratio, seconds = map(statistics.median, zip(*measured(case, fit), strict=True))
            table.writerow([case.name, name, *_shown(error, ratio, seconds), len(SEEDS)])
            sys.stdout.flush()


def _shown(error: float, ratio: float, seconds: float) -> tuple[str, str, str]:
    return f"{error:.2g}" if error < 100 else f"{error:.0f}", f"{ratio:.2f}", f"{seconds:.1f}"


if __name__ == "__main__":
    main()
