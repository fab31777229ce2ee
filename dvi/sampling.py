"""Draws from an approximation, block by block, as the objects that users know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.memory import check_fits
from dvi.model.draws import DrawFunction
from dvi.model.layout import Layout
from dvi.types import AnyArray, Family, FloatArray

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

_BLOCK_DRAWS = 1000
_BLOCK_BYTES = 16_000_000  # a few copies are made on the way: of the noise, of what is compressed


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive draws.

    Parameters
    ----------
    start : int
        Position of the first.
    Z : array, shape (S, d)
    values : dict
        Arrays ``(S, ...)`` by the names of the variables.
    """

    start: int
    Z: FloatArray
    values: dict[str, AnyArray]


@dataclass(frozen=True, slots=True)
class VIState:
    """What an approximation says of each variable, in the variable's own space.

    Parameters
    ----------
    mean : Dataset
    std : Dataset
    """

    mean: xr.Dataset
    std: xr.Dataset


def draw_blocks(
    family: Family, theta: FloatArray, function: DrawFunction, draws: int, generator: np.random.Generator
) -> Iterator[Block]:
    """Draws in blocks of a size that depends on the model alone, so that their bits do not depend on their use."""
    n = _block_draws(family, function(family.mean(theta)[None]))
    for start in range(0, draws, n):
        Z = family.draw(theta, generator.standard_normal((min(n, draws - start), family.noise_dim)))
        yield Block(start, Z, function(Z))


def _block_draws(family: Family, one: Mapping[str, AnyArray]) -> int:
    """Draws that are held at once. The rule: as many as fit into 16 MB, from 1 to 1,000."""
    nbytes = 8 * (family.ndim + family.noise_dim) + sum(value.nbytes for value in one.values())
    return int(np.clip(_BLOCK_BYTES // nbytes, 1, _BLOCK_DRAWS))


def collected(blocks: Iterator[Block], draws: int) -> Block:
    """All draws in one block."""
    whole: Block | None = None
    for block in blocks:
        if whole is None:
            own = block.Z.nbytes + sum(value.nbytes for value in block.values.values())
            check_fits(draws, "draws", own // len(block.Z))
            values = {name: np.empty((draws, *v.shape[1:]), v.dtype) for name, v in block.values.items()}
            whole = Block(0, np.empty((draws, block.Z.shape[1])), values)
        rows = slice(block.start, block.start + len(block.Z))
        whole.Z[rows] = block.Z
        for name, value in block.values.items():
            whole.values[name][rows] = value
    assert whole is not None
    return whole


def coordinates(layout: Layout, model: pm.Model | None) -> dict[str, AnyArray]:
    """Coordinates of all dimensions that have some."""
    own = {} if model is None else {k: v for k, v in model.coords.items() if v is not None}
    return {k: np.asarray(v) for k, v in ({**layout.coords} | own).items()}


def to_tree(block: Block, function: DrawFunction, coords: Mapping[str, AnyArray], method: str) -> xr.DataTree:
    """A DataTree with group ``posterior``, dimensions ``chain`` and ``draw`` first."""
    from arviz_base import from_dict

    posterior = {name: value[None] for name, value in block.values.items()}
    used = {d for dims in function.dims.values() for d in dims}
    own = {name: values for name, values in coords.items() if name in used}
    draw = np.arange(block.start, block.start + len(block.Z))
    tree: xr.DataTree = from_dict({"posterior": posterior}, dims=function.dims, coords={**own, "draw": draw})
    tree["posterior"].attrs |= {"inference_library": "dvi", "inference_method": method}
    return tree


def to_multitrace(block: Block, model: pm.Model, layout: Layout) -> Any:
    """PyMC's ``MultiTrace`` of one chain, unconstrained values by their own names among the variables."""
    from pymc.backends.base import MultiTrace
    from pymc.backends.ndarray import NDArray

    pieces = layout.split(block.Z)
    values = {e.value_name: pieces[e.name] for e in layout.entries} | block.values
    kept = [v for v in model.unobserved_value_vars if v.name in values]
    samples = {v.name: np.asarray(values[v.name], dtype=v.type.dtype) for v in kept}
    trace = NDArray(
        model=model, vars=kept, fn=_refuse, var_shapes={k: v.shape[1:] for k, v in samples.items()},
        var_dtypes={k: v.dtype for k, v in samples.items()},
    )  # fmt: skip
    trace.setup(0, chain=0)
    trace.samples = samples
    trace.draws = trace.draw_idx = len(block.Z)
    return MultiTrace([trace])


def _refuse(*_: object) -> NoReturn:
    raise ArgumentError("a trace of an approximation is complete; draw again for more")


def unconstrained_dataset(layout: Layout, model: pm.Model | None, flat: FloatArray) -> xr.Dataset:
    """A flat vector ``(d,)`` by the names of unconstrained values, with the dimensions whose lengths agree."""
    import xarray as xr

    coords, arrays = coordinates(layout, model), {}
    for e in layout.entries:
        dims = e.dims if len(e.dims) == len(e.shape) else (None,) * len(e.shape)
        own = [
            d if d is not None and d in coords and len(coords[d]) == n else f"{e.value_name}_dim_{i}"
            for i, (d, n) in enumerate(zip(dims, e.shape, strict=True))
        ]
        arrays[e.value_name] = (own, np.array(flat[e.start : e.stop]).reshape(e.shape))
    used = {d for dims, _ in arrays.values() for d in dims}
    return xr.Dataset(arrays, {d: v for d, v in coords.items() if d in used})


def constrained_dataset(
    values: Mapping[str, AnyArray], function: DrawFunction, coords: Mapping[str, AnyArray]
) -> xr.Dataset:
    """One value of each variable, with its dimensions."""
    block = Block(0, np.empty((1, 0)), {name: value[None] for name, value in values.items()})
    dataset: xr.Dataset = to_tree(block, function, coords, "")["posterior"].to_dataset()
    return dataset.isel(chain=0, draw=0, drop=True).drop_attrs()


def moments(blocks: Iterator[Block]) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    r"""Means and standard deviations of each variable, with no more than one block in memory.

    Blocks of :math:`m` draws join :math:`n` earlier ones by
    :math:`\bar x \leftarrow \bar x + \delta m / (n + m)` and
    :math:`M_2 \leftarrow M_2 + M_2' + \delta^2 n m / (n + m)`, where :math:`\delta` is the difference of the means.

    References
    ----------
    Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*,
    doi:10.1007/978-3-642-51461-6_3.
    """
    n = 0
    mean: dict[str, FloatArray] = {}
    squares: dict[str, FloatArray] = {}
    for block in blocks:
        m = len(block.Z)
        for name, value in block.values.items():
            center = np.mean(value, axis=0, dtype=np.float64)
            spread = np.sum((value - center) ** 2, axis=0, dtype=np.float64)
            delta = center - mean.get(name, 0.0)
            mean[name] = np.asarray(mean.get(name, 0.0) + delta * (m / (n + m)))
            squares[name] = np.asarray(squares.get(name, 0.0) + spread + delta**2 * (n * m / (n + m)))
        n += m
    return mean, {name: np.sqrt(value / n) for name, value in squares.items()}


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


def check_draws(draws: object) -> int:
    """Return a number of draws as an int, or say what is wrong with it."""
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer):
        raise ArgumentTypeError(f"draws={draws!r} is of type {type(draws).__name__}; give an int of at least 1")
    if draws < 1:
        raise ArgumentError(f"draws={draws} is not allowed; give an int of at least 1")
    return int(draws)
