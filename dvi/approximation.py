"""The fitted approximation as a user holds it: parameters, draws, history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi import sampling
from dvi.errors import ArgumentError, ModelError
from dvi.evaluation import ElboEstimate, estimate_elbo, log_joint
from dvi.memory import check_draws_fit
from dvi.model.draws import DrawFunction, layout_draws, model_draws, rebuilt
from dvi.model.layout import Layout
from dvi.model.nodes import SymbolicDraws, sampled, symbolic_draws
from dvi.model.operators import LogDensity, LogJoint
from dvi.model.parameters import Parameters
from dvi.randomness import keyed_generator
from dvi.sampling import Block, VIState, as_seed, check_draws, draw_blocks
from dvi.summary import as_html, as_text
from dvi.types import Family, FloatArray

if TYPE_CHECKING:
    from pathlib import Path

    import pymc as pm
    import xarray as xr

__all__ = ["Approximation", "VIState", "as_seed"]

_STATE_DRAWS = 10_000


class Approximation:
    """A variational approximation of the posterior of a model.

    Made by :func:`dvi.fit` and :func:`dvi.load`.

    Parameters
    ----------
    family : Family
        The kind of approximation.
    theta : array, shape (p,)
        Its parameters, all in one vector.
    layout : Layout
        What the elements of the unconstrained vector mean.
    hist : array, shape (steps,)
        Negative ELBO of every step, on the full-data scale.
    run : dict
        How the approximation came about: method, seed, lanes, data. Plain JSON values.
    model : pm.Model, optional
        Needed for deterministics, for expressions and for transforms that a layout cannot hold.

    Attributes
    ----------
    evaluator : callable, optional
        The log joint density ``(S,)`` of the full data at unconstrained draws ``(S, d)``. That of the model by default.
    learning_rate : float, optional
        For the steps that follow, where a callback has set it.
    include_transformed : bool
        Whether ``state`` has the unconstrained values too, under names such as ``sigma_log__``. False by default.

    Examples
    --------
    >>> import pymc as pm
    >>> from dvi.approximations.meanfield import MeanFieldFamily
    >>> from dvi.model.graph import split
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", shape=2)
    >>> theta = np.array([1.0, 2.0, -3.0, -3.0])
    >>> approx = Approximation(MeanFieldFamily(2), theta, split(model).layout, np.empty(0), model=model)
    >>> approx.sample_node(mu**2, deterministic=True).eval()
    array([1., 4.])
    >>> approx.shared_params["mu"].set_value([5.0, 6.0])
    >>> approx.mean.eval()
    array([5., 6.])
    """

    def __init__(
        self,
        family: Family,
        theta: FloatArray,
        layout: Layout,
        hist: FloatArray,
        run: dict[str, Any] | None = None,
        model: pm.Model | None = None,
    ) -> None:
        self.family, self._parameters, self.layout = family, theta, layout
        self.run, self.model, self.hist = {} if run is None else run, model, hist
        self.learning_rate: float | None = None
        self.include_transformed = False
        self.evaluator: Callable[[FloatArray], FloatArray] | None = None
        self._draws: DrawFunction | None = None
        self._shared = Parameters(self.family, lambda: self.theta, self._move)
        self._symbolic: SymbolicDraws | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {"learning_rate": self.learning_rate, "include_transformed": self.include_transformed}
        return type(self), (self.family, self.theta, self.layout, self.hist, self.run, self.model), settings

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def theta(self) -> FloatArray:
        """All parameters in one vector ``(p,)``."""
        return self._parameters

    @theta.setter
    def theta(self, theta: FloatArray) -> None:
        self._move(theta)

    def _move(self, theta: FloatArray) -> None:
        self._parameters = theta
        self._shared.refresh()

    @property
    def hist(self) -> FloatArray:
        """Negative ELBO of every step, on the full-data scale: ``(steps,)``."""
        return self._hist

    @hist.setter
    def hist(self, losses: FloatArray) -> None:
        self._hist = self._losses = np.asarray(losses, dtype=np.float64)

    @property
    def ndim(self) -> int:
        """Unconstrained dimensions ``d``."""
        return self.layout.ndim

    ddim = ndim

    @property
    def ordering(self) -> dict[str, tuple[str, slice, tuple[int, ...], str]]:
        """Name, elements of the flat vector, shape and type of each unconstrained value, by its name."""
        types = {} if self.model is None else {v.name: v.type.dtype for v in self.model.value_vars}
        return {
            e.value_name: (e.value_name, slice(e.start, e.stop), e.shape, types.get(e.value_name, "float64"))
            for e in self.layout.entries
        }

    @property
    def params(self) -> dict[str, FloatArray]:
        """Parameters by name, as arrays that must not be written to."""
        return self.family.unpack(self.theta)

    @property
    def shared_params(self) -> dict[str, Any]:
        """Parameters by name, as PyTensor shared variables. ``set_value`` changes the approximation."""
        return {name: self._shared[name] for name in self.params}

    @property
    def histogram(self) -> Any:
        """The draws ``(n, d)`` that an empirical approximation consists of, as a PyTensor shared variable."""
        if "histogram" not in self.params:
            raise AttributeError(f"{type(self.family).__name__} has no histogram; it has {', '.join(self.params)}")
        return self.shared_params["histogram"]

    @property
    def mean(self) -> Any:
        """Mean ``(d,)`` of the unconstrained vector, as a PyTensor variable."""
        return self._shared["mean"]

    @property
    def std(self) -> Any:
        """Standard deviations ``(d,)`` of the unconstrained vector, as a PyTensor variable."""
        return self._shared["std"]

    @property
    def cov(self) -> Any:
        """Covariance ``(d, d)`` of the unconstrained vector, as a PyTensor variable."""
        return self._shared["cov"]

    def update(self, theta: FloatArray, losses: FloatArray) -> None:
        """Take over new parameters ``(p,)`` and the losses of the steps that led to them, ``(steps,)``."""
        total = len(self._hist) + len(losses)
        if total > len(self._losses):  # twice as long, for a copy of all losses only now and then
            self._losses = np.concatenate([self._hist, np.empty(max(len(losses), len(self._hist)))])
        self._losses[total - len(losses) : total] = losses
        self._hist = self._losses[:total]
        self.theta = theta

    @property
    def mean_data(self) -> xr.Dataset:
        """Means of the unconstrained values by their names, such as ``sigma_log__``. For the variables: ``state``."""
        return sampling.unconstrained_dataset(self.layout, self.model, self.family.mean(self.theta))

    @property
    def std_data(self) -> xr.Dataset:
        """Standard deviations of the unconstrained values by their names. For the variables: ``state``."""
        return sampling.unconstrained_dataset(self.layout, self.model, self.family.std(self.theta))

    @property
    def state(self) -> VIState:
        """Means and standard deviations of the variables in their own space, from 10,000 draws of a fixed seed."""
        function = self._draw_function()
        found = sampling.moments(self._blocks(_STATE_DRAWS, 0))
        mean, std = (
            sampling.constrained_dataset(values, function, sampling.coordinates(self.layout, self.model))
            for values in found
        )
        if self.include_transformed:
            own = {e.value_name for e in self.layout.entries if e.value_name != e.name}
            mean = mean.merge(self.mean_data[sorted(own)])
            std = std.merge(self.std_data[sorted(own)])
        return VIState(mean, std)

    def sample_unconstrained(self, draws: int, random_seed: int | None = None) -> FloatArray:
        """Draws ``(draws, d)`` of the unconstrained vector."""
        return self.family.draw(self.theta, self._noise(draws, random_seed))

    def _noise(self, draws: int, random_seed: int | None) -> FloatArray:
        width = self.family.noise_dim
        check_draws_fit(check_draws(draws), self.family)
        return keyed_generator(as_seed(random_seed), "sample").standard_normal((draws, width))

    def sample(
        self, draws: int = 500, random_seed: int | None = None, return_inferencedata: bool = True, store: Any = None
    ) -> Any:
        """Draw from the approximation. Variables that depend on a batch are left out: they have no full length.

        Parameters
        ----------
        draws : int
            Number of draws.
        random_seed : int, optional
            The same seed gives the same draws; fresh ones by default.
        return_inferencedata : bool
            If False, return PyMC's ``MultiTrace``, which has the unconstrained values too.
        store : path, URL or Zarr store, optional
            Write the draws there, where nothing is yet, without ever holding more than 64 MB of them.

        Returns
        -------
        xarray.DataTree
            Group ``posterior`` with dimensions ``chain`` (1) and ``draw``, coordinates of the model kept. It is read
            lazily from the store, if there is one.
        """
        check_draws(draws)
        if not return_inferencedata:
            if store is not None:
                raise ArgumentError("a MultiTrace is in memory; leave out store or return_inferencedata=False")
            return sampling.to_multitrace(
                sampling.collected(self._blocks(draws, random_seed), draws), self._model(), self.layout
            )
        blocks = self._blocks(draws, random_seed)
        if store is None:
            return self._tree(sampling.collected(blocks, draws))
        from dvi.persistence.posterior import write_posterior

        return write_posterior(store, (self._tree(block)["posterior"].to_dataset() for block in blocks))

    def _blocks(self, draws: int, random_seed: object) -> Iterator[Block]:
        generator = keyed_generator(as_seed(random_seed), "sample")
        return draw_blocks(self.family, self.theta, self._draw_function(), draws, generator)

    def _tree(self, block: Block) -> xr.DataTree:
        return sampling.to_tree(
            block, self._draw_function(), sampling.coordinates(self.layout, self.model), self.run.get("method", "")
        )

    def _draw_function(self) -> DrawFunction:
        if self._draws is None:
            self._draws = layout_draws(self.layout) if self.model is None else model_draws(self.model, self.layout)
        return self._draws

    def _model(self) -> pm.Model:
        if self.model is None:
            raise ModelError("this needs the model; load the approximation with model=")
        return self.model

    def sample_node(
        self,
        node: Any,
        size: Any = None,
        deterministic: Any = False,
        more_replacements: Any = None,
        random_seed: int | None = None,
    ) -> Any:
        """Expressions of the variables of the model, as PyTensor variables that draw anew whenever they are evaluated.

        They follow the approximation when it is fitted further. Observed variables stay random.

        Parameters
        ----------
        node : Variable or list of Variable
            All of a list see the same draws.
        size : int or scalar Variable, optional
            Draws, along a new leading axis; by default one, without that axis.
        deterministic : bool or scalar Variable
            Take the mean of the unconstrained vector in place of draws.
        more_replacements : dict, optional
            Variables to replace first, with variables or arrays: data, Minibatch variables (by any number of rows),
            free variables.
        random_seed : int, optional
            The same seed gives the same sequence of draws; fresh ones by default.

        Examples
        --------
        >>> approx.sample_node(x @ beta, size=100, more_replacements={x: x_new}).eval()  # doctest: +SKIP
        """
        nodes = list(node) if isinstance(node, list | tuple) else [node]
        seed = as_seed(random_seed)
        draws = symbolic_draws(self.family, self._shared["theta"], 1 if size is None else size, deterministic, seed)
        found = sampled(
            self._model(), self.layout, nodes, draws.Z, single=size is None, replacements=more_replacements, seed=seed
        )
        return found if isinstance(node, list | tuple) else found[0]

    def _one_draw(self) -> SymbolicDraws:
        if self._symbolic is None:
            self._symbolic = symbolic_draws(self.family, self._shared["theta"], 1, False, as_seed(None))
        return self._symbolic

    @property
    def symbolic_random(self) -> Any:
        """Draws ``(1, d)`` of the unconstrained vector, other ones at every evaluation, as a PyTensor variable."""
        return self._one_draw().Z

    def rslice(self, name: str) -> Any:
        """The unconstrained value of one variable in ``symbolic_random``, a PyTensor variable ``(1, *shape)``.

        :meth:`set_size_and_deterministic` makes it ``(size, *shape)``.
        """
        e, Z = self.layout.entry(name), self.symbolic_random
        return Z[:, e.start : e.stop].reshape((Z.shape[0], *e.shape))

    @property
    def logq(self) -> Any:
        """Mean log density of the draws in ``symbolic_random``, a scalar PyTensor variable."""
        return LogDensity(self.family)(self._shared["theta"], self._one_draw().eps).mean()

    @property
    def logp(self) -> Any:
        """Mean log joint density of the full data at the draws in ``symbolic_random``, a scalar PyTensor variable."""
        return LogJoint(self._full_logp())(self.symbolic_random).mean()

    def set_size_and_deterministic(self, node: Any, s: Any, d: Any, more_replacements: Any = None) -> Any:
        """Expressions of ``symbolic_random``, ``logq``, ``logp`` or ``rslice`` with ``s`` draws, or the mean if ``d``.

        Examples
        --------
        >>> approx.set_size_and_deterministic(approx.logp - approx.logq, 100, False).eval()  # doctest: +SKIP
        """
        nodes = list(node) if isinstance(node, list | tuple) else [node]
        old, new = self._one_draw(), symbolic_draws(self.family, self._shared["theta"], s, d, as_seed(None))
        found = rebuilt(nodes, {**(more_replacements or {}), old.eps: new.eps, old.Z: new.Z})
        return found if isinstance(node, list | tuple) else found[0]

    def elbo(self, draws: int = 1000, random_seed: int | None = None) -> ElboEstimate:
        """Estimate the ELBO on the full data, every row of which is read once.

        Parameters
        ----------
        draws : int
        random_seed : int, optional

        Returns
        -------
        ElboEstimate
            ``value`` and ``standard_error``; ``float()`` gives the value.
        """
        return estimate_elbo(self.family, self.theta, self._noise(draws, random_seed), self._full_logp())

    def _full_logp(self) -> Callable[[FloatArray], FloatArray]:
        if self.evaluator is None:
            self.evaluator = log_joint(self._model())
        return self.evaluator

    def save(self, store: Any, *, overwrite: bool = False, storage_options: Mapping[str, Any] | None = None) -> None:
        """Save to a Zarr group that ArviZ, xarray and :func:`dvi.load` read. Whole or absent; no pickle.

        Parameters
        ----------
        store : path, URL or Zarr store
        overwrite : bool
            Replace what is there.
        storage_options : mapping, optional
            For a URL, as in :func:`dvi.open_store`.
        """
        from dvi.persistence import save

        save(self, store, overwrite=overwrite, storage_options=storage_options)

    def report(self, path: Any, *, storage_options: Mapping[str, Any] | None = None) -> Path | str:
        """Write the fit to one HTML page that needs no network, at a path or URL; see :func:`dvi.report.write_report`.

        What is there is replaced. The ``storage_options`` are those of :func:`dvi.open_store`.
        """
        from dvi.report import write_report

        return write_report(self, path, storage_options)
