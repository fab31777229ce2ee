# %% [markdown]
"""A tour of variational inference: the sections of PyMC's variational API quickstart, run by dvi.

Open it as a notebook (every ``# %%`` starts a cell), or run it with ``pip install "dask-vi[demo]"`` and
``python examples/variational_quickstart.py --out tour``. Figures go to the folder; ``--quick`` takes a minute.
"""

# %%
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special, stats

import dvi


@dataclass(frozen=True, slots=True)
class Tour:
    """Where figures go, and how much is computed."""

    out: Path
    quick: bool = False

    def steps(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def save(self, figure: Figure, name: str) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.out / f"{name}.png", dpi=100)
        plt.close(figure)


def axes(n: int) -> tuple[Figure, list[Axes]]:
    figure, row = plt.subplots(1, n, figsize=(4.8 * n, 3.6), layout="constrained", squeeze=False)
    return figure, list(row[0])


# %% [markdown]
# ## Posteriors by optimisation
#
# Variational inference looks, within a family of distributions, for the one that is nearest to the posterior. It
# trades the exactness of sampling for a problem of optimisation, which minibatches make cheap. The first example has a
# posterior that a grid of points gives exactly, so that we can see what the family costs: the shape and the rate of a
# gamma distribution are strongly correlated, and independent normal distributions (`method="advi"`) know no
# correlation. Their spread is that of one parameter when the other is held. `method="fullrank_advi"` repairs it.


# %%
def gamma(tour: Tour) -> dict[str, float]:
    data = np.random.default_rng(42).gamma(2.0, 0.5, size=200)
    with pm.Model():
        alpha = pm.Exponential("alpha", 0.1)
        beta = pm.Exponential("beta", 0.1)
        pm.Gamma("y", alpha, beta, observed=data)
        mean_field = dvi.fit(tour.steps(10_000, 3_000), random_seed=1, progressbar=False)
        full_rank = dvi.fit(tour.steps(10_000, 3_000), method="fullrank_advi", random_seed=1, progressbar=False)

    shape, rate = np.linspace(1.4, 3.0, 300), np.linspace(1.2, 3.0, 300)
    density = gamma_posterior(data, shape[:, None], rate)
    marginal = density.sum(axis=1)
    exact = np.sqrt(marginal @ shape**2 - (marginal @ shape) ** 2)
    figure, (left, right) = axes(2)
    dvi.plot_elbo(mean_field, left)
    found = {"exact sd of alpha": float(exact)}
    for name, approx in {"mean field": mean_field, "full rank": full_rank}.items():
        draws = approx.sample(1_000, random_seed=2).posterior
        right.plot(draws["alpha"].values[0], draws["beta"].values[0], ".", markersize=2, label=name)
        found[f"{name} sd of alpha"] = float(approx.state.std["alpha"])
    right.contour(shape, rate, density.T, levels=5, colors="black", linewidths=0.8, zorder=3)
    right.set(xlabel="alpha", ylabel="beta", title="draws, and contours of the posterior")
    right.legend(markerscale=5, frameon=False)
    tour.save(figure, "gamma")
    return found


def gamma_posterior(data: np.ndarray, shape: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Probabilities on a grid."""
    log_density = len(data) * (shape * np.log(rate) - special.gammaln(shape)) - 0.1 * (shape + rate)
    log_density = log_density + (shape - 1) * np.log(data).sum() - rate * data.sum()
    density = np.exp(log_density - log_density.max())
    return density / density.sum()


# %% [markdown]
# ## More modes than one
#
# A mixture of two normal distributions has a fifth of its mass to the left of zero. One normal distribution can have
# one mode only, and ADVI settles on the larger. Stein variational gradient descent moves particles, which go to both.
# But once they are near a mode they stay there: how many went left depends on where they started. `weighted=True` gives
# them importance weights at the end, and the masses come out right.

# %%
WEIGHTS, MEANS, SDS = np.array([0.2, 0.8]), np.array([-0.3, 0.5]), np.array([0.1, 0.1])


def mixture() -> pm.Model:
    with pm.Model() as model:
        pm.NormalMixture("x", w=WEIGHTS, mu=MEANS, sigma=SDS)
    return model


def particles(tour: Tour, model: pm.Model, weighted: bool) -> dvi.Approximation:
    settings = {"n_particles": 1_000, "weighted": weighted}
    n = tour.steps(600, 300)
    return dvi.fit(n, method="svgd", model=model, inf_kwargs=settings, random_seed=1, progressbar=False)


def modes(tour: Tour) -> dict[str, float]:
    model = mixture()
    advi = dvi.fit(tour.steps(10_000, 2_000), model=model, random_seed=1, progressbar=False)
    svgd, weighted = particles(tour, model, weighted=False), particles(tour, model, weighted=True)

    fits = {"ADVI": advi, "SVGD": svgd, "weighted SVGD": weighted}
    figure, panels = axes(3)
    grid = np.linspace(-0.9, 1.1, 400)
    found = {"exact mass left of 0": float(WEIGHTS @ stats.norm.cdf(0, MEANS, SDS))}
    for panel, (name, approx) in zip(panels, fits.items(), strict=True):
        x = approx.sample(20_000, random_seed=2).posterior["x"].values[0]
        found[f"{name} mass left of 0"] = float(np.mean(x < 0))
        panel.hist(x, bins=np.linspace(-0.9, 1.1, 41), density=True, alpha=0.5, label="draws")
        panel.plot(grid, stats.norm.pdf(grid[:, None], MEANS, SDS) @ WEIGHTS, color="black", label="density")
        panel.set(xlabel="x", title=f"{name}: {np.mean(x < 0):.3f} left of 0", xlim=(-0.9, 1.1), ylim=(0, 4.5))
    panels[0].legend(frameon=False)
    tour.save(figure, "modes")
    return found


# %% [markdown]
# ## Has it converged?
#
# A callback may end a fit by raising `StopIteration`. `CheckParametersConvergence` does when the parameters hardly
# change any more. Its relative difference divides by the parameters, so one that is near 0, as is the mean here, keeps
# it waiting; `diff="absolute"` does not mind. Either says that steps have become small, not that the optimum is
# reached. The optimizer's learning rate is constant here; by default it decays, and with it the changes.


# %%
def convergence(tour: Tour) -> dict[str, float]:
    data = np.random.default_rng(7).normal(size=1_000)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10, initval=1)
        pm.Normal("y", mu, 1, observed=dvi.Minibatch(data - data.mean(), batch_size=100))
    figure, panels = axes(2)
    found = {}
    for panel, diff in zip(panels, ("relative", "absolute"), strict=True):
        check = dvi.callbacks.CheckParametersConvergence(diff=diff, tolerance=0.003)
        n, optimizer = tour.steps(10_000, 4_000), dvi.adagrad_window(learning_rate=2e-3)
        approx = dvi.fit(n, model=model, obj_optimizer=optimizer, callbacks=[check], random_seed=1, progressbar=False)
        found[f"steps with diff={diff}"] = len(approx.hist)
        dvi.plot_elbo(approx, panel)
        panel.set_title(f"{diff}: {len(approx.hist):,} steps")
    tour.save(figure, "convergence")
    return found


# %% [markdown]
# ## Watching parameters
#
# `dvi.fit` makes an approximation and improves it. To look at it on the way, make the inference object first:
# `dvi.ADVI()` has an `approx` that exists before the first step, and `Tracker` calls what it is given after each.
# `approx.mean` and `approx.std` are PyTensor variables, so their `eval` is such a function. `refine` goes on where the
# fit ended. The bursts are the optimizer's: a normal mode is met exactly, where the gradient vanishes, and Adam divides
# what is left of it by its own size. What a fit returns is the average over the last fifth of its steps.


# %%
def tracking(tour: Tour) -> dict[str, float]:
    with mixture():
        advi = dvi.ADVI(random_seed=1)
    print("   ", {name: variable.eval() for name, variable in advi.approx.shared_params.items()})
    tracker = dvi.callbacks.Tracker(mean=advi.approx.mean.eval, std=advi.approx.std.eval)
    advi.fit(tour.steps(5_000, 1_000), callbacks=[tracker], progressbar=False)
    fitted = len(advi.hist)
    advi.refine(tour.steps(5_000, 1_000), progressbar=False)

    figure, panels = axes(3)
    for panel, name, exact in zip(panels[:2], ("mean", "std"), (MEANS[1], SDS[1]), strict=True):
        panel.plot(np.arange(1, len(tracker[name]) + 1), tracker[name])
        panel.axhline(exact, color="black", linewidth=0.8, label="of the larger mode")
        panel.set(xlabel="step", title=name)
        panel.legend(frameon=False)
    panels[2].plot(advi.hist, linewidth=0.5)
    panels[2].axvline(fitted, color="black", linewidth=0.8, linestyle="--", label="refined from here")
    panels[2].set(xlabel="step", title="loss, the negative ELBO")
    panels[2].legend(frameon=False)
    tour.save(figure, "tracking")
    mean, std = advi.approx.mean.eval()[0], advi.approx.std.eval()[0]
    return {"steps": len(advi.hist), "values tracked": len(tracker["mean"]), "mean": float(mean), "sd": float(std)}


# %% [markdown]
# ## Expressions of the posterior
#
# A trace holds what was asked for before sampling. An approximation can be asked afterwards: `sample_node` replaces
# random variables in any expression by draws from the approximation. The result is an ordinary PyTensor variable:
# every `.eval()` draws anew, `size` adds a leading axis, over which means and variances can be taken, and the size may
# be symbolic.


# %%
def expressions(tour: Tour) -> dict[str, float]:
    model = mixture()
    x, approx = model["x"], particles(tour, model, weighted=True)
    one = approx.sample_node(x**2, random_seed=3)
    print(f"    three draws of x²: {one.eval():.3f}, {one.eval():.3f}, {one.eval():.3f}")
    squares, sines = approx.sample_node([x**2, pm.math.sin(x)], size=50_000, random_seed=3)
    size = pt.iscalar("size")
    any_size = approx.sample_node(x**2, size=size, random_seed=3)
    print(f"    shapes with a symbolic size: {[any_size.eval({size: n}).shape for n in (100, 10_000)]}")

    figure, panels = axes(2)
    for panel, name, node in zip(panels, ("x²", "sin x"), (squares, sines), strict=True):
        panel.hist(node.eval(), bins=35, density=True)
        panel.set(xlabel=name)
    tour.save(figure, "expressions")
    fourth = WEIGHTS @ (MEANS**4 + 6 * MEANS**2 * SDS**2 + 3 * SDS**4)
    exact = WEIGHTS @ (MEANS**2 + SDS**2)
    return {
        "mean of x²": float(squares.mean(0).eval()), "exact mean of x²": float(exact),
        "variance of x²": float(squares.var(0).eval()), "exact variance of x²": float(fourth - exact**2),
    }  # fmt: skip


# %% [markdown]
# ## Classes of irises
#
# Multinomial regression: four lengths of a flower, three species. `more_replacements` puts the test set in the place of
# the training set inside an expression, so that one model serves both, and the accuracy on each is an expression that
# a `Tracker` can follow while the particles move. Like the parameters, accuracy has a distribution.


# %%
def irises() -> tuple[np.ndarray, np.ndarray]:
    """Lengths ``(150, 4)`` in cm, and codes of species ``(150,)``."""
    folder = Path(find_spec("vega_datasets").submodule_search_locations[0])  # the file is all that is needed of it
    table = pd.read_json(folder / "_data" / "iris.json")
    return table.drop(columns="species").to_numpy(), table["species"].astype("category").cat.codes.to_numpy()


def iris(tour: Tour) -> dict[str, float]:
    X, y = irises()
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:112], order[112:]
    features = pytensor.shared(X[train], name="features")
    with pm.Model():
        slope = pm.Normal("slope", 0, 100, shape=(4, 3))
        intercept = pm.Normal("intercept", 0, 10_000, shape=3)
        p = pt.special.softmax(features @ slope + intercept, axis=-1)
        pm.Categorical("species", p=p, observed=y[train])
        inference = dvi.SVGD(n_particles=500, jitter=1, random_seed=1)

    approx = inference.approx
    on_test = approx.sample_node(p, more_replacements={features: X[test]}, size=100, random_seed=2)
    on_train = approx.sample_node(p, size=100, random_seed=2)
    tracker = dvi.callbacks.Tracker(
        test=pt.eq(on_test.argmax(-1), y[test]).mean(-1).eval, train=pt.eq(on_train.argmax(-1), y[train]).mean(-1).eval
    )
    inference.fit(
        tour.steps(400, 100), obj_optimizer=dvi.adamax(learning_rate=0.1), callbacks=[tracker], progressbar=False
    )
    figure, (panel,) = axes(1)
    for name in ("train", "test"):
        accuracy = np.array(tracker[name])  # (steps, draws)
        step = np.arange(1, len(accuracy) + 1)
        (line,) = panel.plot(step, accuracy.mean(axis=1), label=name)
        panel.fill_between(step, *np.percentile(accuracy, [5, 95], axis=1), alpha=0.2, color=line.get_color())
    panel.set(xlabel="step", ylabel="accuracy", title="mean, and 5 to 95 % of 100 draws")
    panel.legend(loc="lower right", frameon=False)
    tour.save(figure, "iris")
    averaged = float(np.mean(on_test.mean(0).argmax(-1).eval() == y[test]))
    final = {f"accuracy on {name}": float(np.mean(tracker[name][-1])) for name in ("train", "test")}
    return {**final, "accuracy of averaged probabilities on test": averaged}


# %% [markdown]
# ## Minibatches
#
# 40,000 rows of 100 columns. A callback that raises `StopIteration` stops the fit to all rows after ten steps. With
# `dvi.Minibatch` a step reads 500 rows. The length of the array is known, so `total_size` need not be given, and the
# ELBO is on the scale of all rows whatever the batch.


# %%
def big_data() -> np.ndarray:
    rng = np.random.default_rng(4)
    return rng.random((40_000, 100)) * rng.integers(1, 10, size=100) + rng.random(100) * 10


def stop_after_10(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
    if i == 10:
        raise StopIteration("I was slow, sorry")


def columns_model(observed: object) -> pm.Model:
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 1e5, shape=100)
        sd = pm.HalfNormal("sd", shape=100)
        pm.Normal("likelihood", mu, sd, observed=observed)
    return model


def minibatches(tour: Tour) -> dict[str, float]:
    data = big_data()
    slow = dvi.fit(model=columns_model(data), callbacks=[stop_after_10], random_seed=1, progressbar=False)
    model = columns_model(dvi.Minibatch(data, batch_size=500))
    approx = dvi.fit(tour.steps(10_000, 3_000), model=model, random_seed=1, progressbar=False)

    figure, (panel,) = axes(1)
    dvi.plot_elbo(approx, panel)
    tour.save(figure, "minibatches")
    mean, sd = data.mean(axis=0), data.std(axis=0)
    state = approx.state
    return {
        "steps on all rows": len(slow.hist),
        "largest error of a mean, in sd of the data": float(np.abs((state.mean["mu"] - mean) / sd).max()),
        "largest relative error of an sd": float(np.abs(state.mean["sd"] / sd - 1).max()),
        "ELBO": float(-approx.hist[-len(approx.hist) // 5 :].mean()),
        "log likelihood at the best fit": float(-0.5 * np.log(2 * np.pi * np.e * sd**2).sum() * len(data)),
    }


# %% [markdown]
# ### Other data, and batches of two dimensions
#
# The data behind a batch can be replaced, by `set_value` or by a function that `update_shared` calls; the next fit uses
# the new rows, and compiles nothing. A sequence as `batch_size` takes part of other axes too: here 500 rows, and 20 of
# the columns with a seed of their own. Such a part stands for the whole, in rows and in columns.


# %%
def replaced_data(tour: Tour) -> dict[str, float]:
    data = big_data()
    n, sigma = tour.steps(10_000, 3_000), data.std()
    y = dvi.Minibatch(data, batch_size=[500, (20, 42)], update_shared_f=lambda: data[:20_000] + 2)
    with pm.Model():
        level = pm.Normal("level", 0, 100)
        pm.Normal("y", level, sigma, observed=y)
        inference = dvi.ADVI(random_seed=1)
    found: dict[str, float] = {}

    def fit(name: str, exact: float) -> None:
        mean = float(inference.fit(n, progressbar=False).mean.eval()[0])
        found.update({f"level of {name}": mean, f"exact level of {name}": exact})

    print(f"    shape of a batch: {y.eval().shape}")
    fit("the data", data.mean())
    y.set_value(data + 1)
    fit("the data + 1", data.mean() + 1)
    y.update_shared()
    fit("half of the rows + 2", data[:20_000].mean() + 2)
    return found


# %% [markdown]
# ## A family for each group
#
# A covariance of all variables grows with their number squared. Groups give it to those that need it, here to the
# coefficients of two columns that are nearly the same, and leave the rest independent.


# %%
def groups(tour: Tour) -> dict[str, float]:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(500, 3))
    X[:, 1] = X[:, 0] + 0.1 * X[:, 1]
    y = X @ [1.0, -1.0, 0.5] + rng.normal(size=500)
    with pm.Model():
        beta = pm.Normal("beta", 0, 10, shape=3)
        sigma = pm.HalfNormal("sigma", 2)
        pm.Normal("y", X @ beta, sigma, observed=y)
        mean_field = dvi.fit(tour.steps(20_000, 6_000), random_seed=1, progressbar=False)
        inference = dvi.KLqp([dvi.Group([beta], "full_rank"), dvi.Group(None, "mean_field")])
        grouped = inference.fit(tour.steps(20_000, 6_000), progressbar=False)
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    exact = np.sqrt(np.linalg.inv(X.T @ X / residual.var() + np.eye(3) / 100)[0, 0])  # sigma is nearly certain
    return {
        "exact sd of beta[0]": float(exact),
        "mean field": float(mean_field.state.std["beta"][0]),
        "full rank for beta": float(grouped.state.std["beta"][0]),
    }


# %% [markdown]
# ## Changing the learning rate
#
# A callback may set `approx.learning_rate`, which holds for the steps that follow. A learning rate can be a shared
# variable too, `dvi.adam(learning_rate=pytensor.shared(0.1))`, whose value may be set at any time.


# %%
def learning_rates(tour: Tour) -> dict[str, float]:
    data = np.random.default_rng(6).normal(3.0, 1.0, 10_000)
    n = tour.steps(4_000, 2_000)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1, observed=dvi.Minibatch(data, batch_size=100))
        advi = dvi.ADVI(random_seed=1)

    def halve(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
        if i % (n // 8) == 0:
            approx.learning_rate /= 2

    tracker = dvi.callbacks.Tracker(rate=lambda approx, losses, i: approx.learning_rate, mean=advi.approx.mean.eval)
    advi.fit(n, obj_optimizer=dvi.adam(learning_rate=0.1), callbacks=[tracker, halve], progressbar=False)
    figure, (left, right) = axes(2)
    step = np.arange(1, n + 1)
    left.semilogy(step, tracker["rate"])
    left.set(xlabel="step", title="learning rate")
    right.plot(step, tracker["mean"], linewidth=0.8)
    right.axhline(data.mean(), color="black", linewidth=0.8, label="of the data")
    right.set(xlabel="step", title="mean", ylim=(data.mean() - 0.2, data.mean() + 0.2))
    right.legend(frameon=False)
    tour.save(figure, "learning_rates")
    error = (advi.approx.mean.eval()[0] - data.mean()) * 100  # a posterior sd is 1/100
    return {"last learning rate": tracker["rate"][-1], "error of the mean, in posterior sd": float(error)}


# %%
SECTIONS: dict[str, Callable[[Tour], dict[str, float]]] = {
    "Posteriors by optimisation": gamma,
    "More modes than one": modes,
    "Has it converged?": convergence,
    "Watching parameters": tracking,
    "Expressions of the posterior": expressions,
    "Classes of irises": iris,
    "Minibatches": minibatches,
    "Other data, and batches of two dimensions": replaced_data,
    "A family for each group": groups,
    "Changing the learning rate": learning_rates,
}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description="A tour of variational inference.")
    parser.add_argument("--out", type=Path, default=Path("tour"), help="folder for the figures")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    mpl.use("Agg")
    found = {}
    for title, section in SECTIONS.items():
        print(title, flush=True)
        found[section.__name__] = section(Tour(options.out, options.quick))
        for name, value in found[section.__name__].items():
            print(f"    {name}: {value:,.4g}" if isinstance(value, float) else f"    {name}: {value:,}")
    return found


if __name__ == "__main__":
    main()
