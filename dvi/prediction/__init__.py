"""Predictions for any number of rows, and the log likelihood of every observation: chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dvi.data.locations import Options, open_store
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError, suggestion
from dvi.model.batch import Batch
from dvi.model.graph import layout_of
from dvi.model.pointwise import RowTerm, density_terms, minibatches, predictive_terms, row_variables
from dvi.prediction.parts import Draws, kind_of
from dvi.prediction.rows import Rows, StandsFor, new_rows, training_rows
from dvi.prediction.running import Request, Settings, to_memory, to_store
from dvi.sampling import as_seed, check_draws

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

    from dvi.approximation import Approximation

__all__ = ["log_likelihood", "predict"]


def predict(
    approx: Approximation,
    data: Any = None,
    store: Any = None,
    *,
    model: pm.Model | None = None,
    draws: int = 1000,
    kind: str = "draws",
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    var_names: Sequence[str] | None = None,
    random_seed: int | None = None,
    overwrite: bool = False,
    progressbar: bool = True,
    client: Any = None,
    threads: int | None = None,
    storage_options: Options | None = None,
) -> xr.DataTree:
    """Draw observed variables from the posterior predictive distribution, for training data or new rows.

    Rows are read, computed and written chunk by chunk, so that neither data nor result need to fit in memory; the
    draws do, ``8 * draws * d`` bytes. The numbers are the same on any number of threads or workers. A call into a
    store that was stopped goes on where it was when it is repeated.

    Parameters
    ----------
    approx : Approximation
    data : mapping, Dataset, list or array, optional
        New rows, any number of them: arrays as :func:`dvi.Minibatch` takes them by Minibatch variable or by name, or in
        the order of the Minibatch call. What is to be predicted may be left out. The training data by default.
    store : path, URL or Zarr store, optional
        Where to write; a result of at most 1 GB may stay in memory.
    model : pm.Model, optional
        For an approximation that was loaded without its model.
    draws : int
        Draws from the approximation, ``S``. They are those of ``approx.sample(draws, random_seed)``.
    kind : {"draws", "summary"}
        Keep all draws, or their mean, standard deviation and quantiles for each row, computed from all draws.
    quantiles : sequence of float
        Of the summary, from 0 to 1, increasing.
    var_names : sequence of str, optional
        Observed variables, and deterministics that have a value for each row. The observed variables of a Minibatch
        for which there is data by default.
    random_seed : int, optional
        The same seed gives the same result, bit for bit; a fresh one by default.
    overwrite : bool
        Replace a result of this function in the store, or one of other arguments that was not finished.
    progressbar : bool
    client : distributed.Client, optional
        Compute on its workers; by default on those of the active client, if there is one.
    threads : int, optional
        Compute with so many threads of this process; by default one for each core.
    storage_options : mapping, optional
        For a ``store`` that is a URL, as in :func:`dvi.open_store`.

    Returns
    -------
    xarray.DataTree
        Group ``posterior_predictive``, or ``predictions`` for new rows, each variable ``(chain, draw, row, ...)``; for
        summaries the groups ``mean`` and ``sd``, ``(row, ...)`` each, and ``quantiles``, ``(quantile, row, ...)``. Read
        lazily from the store, if there is one.

    Raises
    ------
    ModelError
        Without a model, or without a variable that has its rows from a Minibatch.
    ArgumentError, DataError
        For data that do not fit the model, and results that do not fit in memory.
    StoreExistsError
        If there is something in the store.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> x, y = dvi.Minibatch(np.ones((1000, 3)), np.zeros(1000), batch_size=100)
    >>> with pm.Model() as model:
    ...     obs = pm.Normal("obs", x @ pm.Normal("b", shape=3), 1, observed=y)
    >>> approx = dvi.fit(10, model=model, random_seed=1, progressbar=False)
    >>> tree = predict(approx, {x: np.zeros((5, 3))}, draws=100, random_seed=1, progressbar=False)
    >>> dict(tree["predictions"]["obs"].sizes)
    {'chain': 1, 'draw': 100, 'obs_dim_0': 5}
    >>> tree = predict(approx, [np.zeros((5, 3))], kind="summary", random_seed=1, progressbar=False)
    >>> tree["quantiles"]["obs"].dims, tree["mean"]["obs"].shape
    (('quantile', 'obs_dim_0'), (5,))
    """
    model = _model_of(approx, model)
    n_draws = check_draws(draws)
    chosen = kind_of(kind, "posterior_predictive" if data is None else "predictions", n_draws, quantiles)
    settings = _settings(client, threads, progressbar, overwrite)
    stands_for = minibatches(model)
    names = _names(model, row_variables(model, stands_for), var_names, observed=False)
    terms = predictive_terms(model, approx.layout, names, stands_for)
    request = Request(approx, model, _with_rows(terms, stands_for, data, var_names), chosen, n_draws, density=False)
    return _answer(request, open_store(store, storage_options), random_seed, settings)


def log_likelihood(
    approx: Approximation,
    store: Any = None,
    *,
    model: pm.Model | None = None,
    draws: int = 1000,
    random_seed: int | None = None,
    data: Any = None,
    var_names: Sequence[str] | None = None,
    overwrite: bool = False,
    progressbar: bool = True,
    client: Any = None,
    threads: int | None = None,
    storage_options: Options | None = None,
) -> xr.DataTree:
    """Log likelihood of every observation at draws from an approximation, for ``arviz.loo`` and its relatives.

    Rows are read, computed and written chunk by chunk, as by :func:`predict`, on the same places to run and with the
    same promises.

    Parameters
    ----------
    approx : Approximation
    store : path, URL or Zarr store, optional
        Where to write; a result of at most 1 GB may stay in memory.
    model : pm.Model, optional
        For an approximation that was loaded without its model.
    draws : int
        Draws from the approximation, ``S``. They are those of ``approx.sample(draws, random_seed)``.
    random_seed : int, optional
        The same seed gives the same result, bit for bit; a fresh one by default.
    data : mapping, Dataset, list or array, optional
        Other rows than the training data, the observed array among them, as :func:`predict` takes them.
    var_names : sequence of str, optional
        Observed variables; by default all that are observed on a Minibatch for which there is data.
    overwrite : bool
        Replace a result of this function in the store, or one of other arguments that was not finished.
    progressbar : bool
    client : distributed.Client, optional
        Compute on its workers; by default on those of the active client, if there is one.
    threads : int, optional
        Compute with so many threads of this process; by default one for each core.
    storage_options : mapping, optional
        For a ``store`` that is a URL, as in :func:`dvi.open_store`.

    Returns
    -------
    xarray.DataTree
        Groups ``log_likelihood``, each variable ``(chain, draw, row, ...)``, and ``posterior`` with the draws. Read
        lazily from the store, if there is one. The data are not copied.

    Raises
    ------
    ModelError
        Without a model, or without a variable that is observed on a Minibatch.
    NonFiniteError
        If the log likelihood of a row is NaN.
    StoreExistsError
        If there is something in the store.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> with pm.Model() as model:
    ...     y = pm.Normal("y", pm.Normal("mu"), observed=dvi.Minibatch(np.arange(50.0), batch_size=10))
    >>> approx = dvi.fit(10, model=model, random_seed=1, progressbar=False)
    >>> tree = log_likelihood(approx, draws=100, random_seed=1, progressbar=False)
    >>> tree["log_likelihood"]["y"].shape, sorted(tree.children)
    ((1, 100, 50), ['log_likelihood', 'posterior'])
    """
    model = _model_of(approx, model)
    n_draws = check_draws(draws)
    settings = _settings(client, threads, progressbar, overwrite)
    stands_for = minibatches(model)
    names = _names(model, row_variables(model, stands_for), var_names, observed=True)
    terms = density_terms(model, approx.layout, names, stands_for)
    chosen = Draws("log_likelihood", n_draws)
    request = Request(approx, model, _with_rows(terms, stands_for, data, var_names), chosen, n_draws, density=True)
    return _answer(request, open_store(store, storage_options), random_seed, settings)


def _model_of(approx: Approximation, model: pm.Model | None) -> pm.Model:
    """The model, refused where it is another one than what the approximation was fitted to."""
    if not hasattr(approx, "sample_unconstrained"):
        raise ArgumentTypeError(
            f"approx={approx!r} is of type {type(approx).__name__}; give what dvi.fit or dvi.load returned"
        )
    if model is None:
        if approx.model is None:
            raise ModelError(
                "this approximation was loaded without its model, which says how data come about; give model= here or "
                "to dvi.load"
            )
        return approx.model
    difference = layout_of(model).difference(approx.layout)
    if difference is not None:
        raise ArgumentError(f"model is not the one that approx was fitted to: {difference}; give that one")
    return model


def _settings(client: Any, threads: Any, progressbar: bool, overwrite: bool) -> Settings:
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ArgumentError(f"threads={threads!r} is not allowed; give an int of at least 1, or leave it out")
    if client is not None and threads is not None:
        raise ArgumentError("client and threads exclude each other; leave one of them out")
    if client is not None and not hasattr(client, "scheduler"):
        raise ArgumentTypeError(f"client={client!r} is of type {type(client).__name__}; give a distributed.Client")
    return Settings(client, threads, bool(progressbar), bool(overwrite))


def _names(model: pm.Model, batches: Mapping[str, Batch], var_names: Any, *, observed: bool) -> list[str]:
    """The variables that are asked for, by default those that are observed on a Minibatch."""
    on_rows = [rv.name for rv in model.observed_RVs if rv.name in batches]
    if not on_rows:
        call = (
            "pm.compute_log_likelihood(approx.sample(1000), model=model)"
            if observed
            else "pm.sample_posterior_predictive(approx.sample(1000), model=model)"
        )
        raise ModelError(
            f"the model has no variable that is observed on a Minibatch; for data in memory without one use {call}"
        )
    if var_names is None:
        return on_rows
    names = [var_names] if isinstance(var_names, str) else list(dict.fromkeys(var_names))
    allowed = on_rows if observed else list(batches)
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        raise UnknownNameError(
            f"var_names={names} has {unknown or 'nothing'}; of those with a value for each row of a Minibatch there "
            f"are {allowed}. Use approx.sample for free variables{suggestion(unknown, allowed)}"
        )
    return names


def _with_rows(
    terms: list[RowTerm], stands_for: StandsFor, data: Any, var_names: Any
) -> tuple[tuple[RowTerm, Rows], ...]:
    """Each term with its rows. Terms without any are left out, unless they were asked for."""
    if data is None:
        return tuple((term, training_rows(term)) for term in terms)
    rows = new_rows(terms, stands_for, data)
    without = [name for i, term in enumerate(terms) if i not in rows for name in term.names]
    if without and var_names is not None:
        raise ArgumentError(f"data has no rows for {without}; give those of their Minibatch, or leave them out")
    return tuple((terms[i], found) for i, found in rows.items())


def _answer(request: Request, store: Any, random_seed: Any, settings: Settings) -> xr.DataTree:
    seed = None if random_seed is None else as_seed(random_seed)
    return to_memory(request, seed, settings) if store is None else to_store(request, store, seed, settings)
