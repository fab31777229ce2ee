"""The fitted approximation as a user holds it: parameters, draws, history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.model.draws import DrawFunction, layout_draws, model_draws
from dvi.model.layout import Layout
from dvi.randomness import keyed_generator
from dvi.types import Family, FloatArray

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

_DRAWS_AT_ONCE = 1000


@dataclass(eq=False)
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
        Needed for deterministics and for transforms that a layout cannot hold.
    """

    family: Family
    theta: FloatArray
    layout: Layout
    hist: FloatArray
    run: dict[str, Any] = field(default_factory=dict)
    model: pm.Model | None = None
    _draws: DrawFunction | None = field(default=None, repr=False)
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        fitted = f"{len(self.hist)} steps, ELBO {-self._recent_loss():.6g}" if len(self.hist) else "not fitted"
        names = ", ".join(f"{e.name}{list(e.shape) if e.shape else ''}" for e in self.layout.entries)
        return (
            f"<dvi.{type(self.family).__name__.removesuffix('Family')} of {self.ndim} dimensions ({fitted}): {names}>"
        )

    def _recent_loss(self) -> float:
        return float(np.mean(self.hist[-max(1, len(self.hist) // 20) :]))

    @property
    def ndim(self) -> int:
        """Unconstrained dimensions ``d``."""
        return self.layout.ndim

    @property
    def params(self) -> dict[str, FloatArray]:
        """Parameters by name, as arrays that must not be written to."""
        return self.family.unpack(self.theta)

    @property
    def shared_params(self) -> dict[str, Any]:
        """Parameters by name, as PyTensor shared variables that hold their present values."""
        return {name: self._variable(name, value) for name, value in self.params.items()}

    @property
    def mean(self) -> Any:
        """Mean ``(d,)`` of the unconstrained vector, as a PyTensor variable."""
        return self._variable("mean", self.family.mean(self.theta))

    @property
    def std(self) -> Any:
        """Standard deviations ``(d,)`` of the unconstrained vector, as a PyTensor variable."""
        return self._variable("std", self.family.std(self.theta))

    @property
    def cov(self) -> Any:
        """Covariance ``(d, d)`` of the unconstrained vector, as a PyTensor variable."""
        return self._variable("cov", self.family.cov(self.theta))

    def _variable(self, name: str, value: FloatArray) -> Any:
        """The one shared variable of a name, holding its present value."""
        if name not in self._shared:
            self._shared[name] = pytensor.shared(np.array(value), name=name)
        return self._shared[name]

    def update(self, theta: FloatArray, losses: FloatArray) -> None:
        """Take over new parameters ``(p,)`` and the losses of the steps that led to them, ``(steps,)``."""
        self.theta = theta
        self.hist = np.append(self.hist, losses)
        values = {"mean": self.family.mean, "std": self.family.std, "cov": self.family.cov}
        params = self.params
        for name, variable in self._shared.items():
            value = values[name](theta) if name in values else params[name]
            variable.set_value(np.array(value), borrow=True)

    @property
    def mean_data(self) -> xr.Dataset:
        """Posterior means of the constrained variables with their coordinates, from 10,000 draws."""
        return self._posterior().mean(("chain", "draw"))

    @property
    def std_data(self) -> xr.Dataset:
        """Posterior standard deviations of the constrained variables with their coordinates, from 10,000 draws."""
        return self._posterior().std(("chain", "draw"))

    def _posterior(self) -> xr.Dataset:
        return self.sample(10_000, random_seed=0)["posterior"].to_dataset()

    def sample_unconstrained(self, draws: int, random_seed: int | None = None) -> FloatArray:
        """Draws ``(draws, d)`` of the unconstrained vector."""
        return self.family.draw(self.theta, self._noise(draws, random_seed))

    def _noise(self, draws: int, random_seed: int | None) -> FloatArray:
        if isinstance(draws, bool) or not isinstance(draws, int | np.integer):
            raise ArgumentTypeError(f"draws={draws!r} is of type {type(draws).__name__}; give an int of at least 1")
        if draws < 1:
            raise ArgumentError(f"draws={draws} is not allowed; give an int of at least 1")
        return keyed_generator(as_seed(random_seed), "sample").standard_normal((int(draws), self.family.noise_dim))

    def sample(self, draws: int = 500, random_seed: int | None = None) -> xr.DataTree:
        """Draw from the approximation.

        Parameters
        ----------
        draws : int
            Number of draws.
        random_seed : int, optional
            The same seed gives the same draws; fresh ones by default.

        Returns
        -------
        xarray.DataTree
            Group ``posterior`` with dimensions ``chain`` (1) and ``draw``, coordinates of the model kept.

        Examples
        --------
        >>> approx.sample(1_000, random_seed=1).posterior["mu"].mean()  # doctest: +SKIP
        """
        from arviz_base import from_dict

        Z = self.sample_unconstrained(draws, random_seed)
        function = self._draw_function()
        parts = [function(Z[i : i + _DRAWS_AT_ONCE]) for i in range(0, len(Z), _DRAWS_AT_ONCE)]
        posterior = {name: np.concatenate([p[name] for p in parts])[None] for name in function.names}
        tree: xr.DataTree = from_dict({"posterior": posterior}, dims=function.dims, coords=self._coords(function))
        tree["posterior"].attrs |= {"inference_library": "dvi", "inference_method": self.run.get("method", "")}
        return tree

    def _draw_function(self) -> DrawFunction:
        if self._draws is None:
            self._draws = layout_draws(self.layout) if self.model is None else model_draws(self.model, self.layout)
        return self._draws

    def _coords(self, function: DrawFunction) -> dict[str, Any]:
        used = {d for dims in function.dims.values() for d in dims}
        known: dict[str, Any] = dict(self.layout.coords)
        if self.model is not None:
            known |= {k: v for k, v in self.model.coords.items() if v is not None}
        return {k: np.asarray(v) for k, v in known.items() if k in used}

    def save(self, store: Any, *, overwrite: bool = False) -> None:
        """Save to a Zarr group that ArviZ, xarray and :func:`dvi.load` read. Whole or absent; no pickle.

        Parameters
        ----------
        store : path or Zarr store
        overwrite : bool
            Replace what is there.
        """
        from dvi.persistence import save

        save(self, store, overwrite=overwrite)


def as_seed(random_seed: object) -> int:
    """Return a seed as a non-negative int: fresh for None, drawn from a generator, or the int itself."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1)
    if isinstance(random_seed, np.random.Generator):
        return int(random_seed.integers(2**63))
    if isinstance(random_seed, bool) or not isinstance(random_seed, int | np.integer):
        raise ArgumentTypeError(
            f"random_seed={random_seed!r} is of type {type(random_seed).__name__}; give an int or None"
        )
    if random_seed < 0:
        raise ArgumentError(f"random_seed={random_seed} is negative; give an int of at least 0")
    return int(random_seed)
