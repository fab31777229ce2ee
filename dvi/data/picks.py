"""Which elements each step takes of the axes behind the rows: a pure function of (seed, step). No state, no input.

Along every picked axis the indices are visited once an epoch, in an order that is random in every epoch, and a step
takes the next few of them. All lanes and processes take the same ones at the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvi.errors import ArgumentError
from dvi.randomness import keyed_generator
from dvi.types import AnyArray

_ALIGNMENT = 64  # bytes, one cache line


@dataclass(frozen=True, slots=True)
class Picks:
    """The axes of which a step takes a part. An axis of which every step takes all is not among them.

    Parameters
    ----------
    axes : tuple of int
        From 1 on, increasing; axis 0 is the rows.
    lengths : tuple of int
        Elements along each of the axes, ``N_k``.
    sizes : tuple of int
        Elements that a step takes of them, ``b_k < N_k``.
    seeds : tuple of int or None
        The seed of an axis, None where it has that of the run.

    Examples
    --------
    >>> picks = Picks(axes=(1,), lengths=(4,), sizes=(2,), seeds=(None,))
    >>> sorted(np.concatenate([picks.indices(step, seed=0)[0] for step in range(2)]).tolist())
    [0, 1, 2, 3]
    >>> (x,) = picks.apply((np.ones((10, 4)),), step=0, seed=0)
    >>> x.shape
    (10, 2)
    """

    axes: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    seeds: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.lengths) == len(self.sizes) == len(self.seeds):
            raise ArgumentError(f"{self} has not one length, size and seed for each axis; give as many of each.")
        if list(self.axes) != sorted(set(self.axes)) or min(self.axes, default=1) < 1:
            raise ArgumentError(
                f"axes={self.axes} do not increase from 1 on; axis 0 is the rows, which the plan takes."
            )
        for axis, length, size in zip(self.axes, self.lengths, self.sizes, strict=True):
            if not 1 <= size < length:
                raise ArgumentError(
                    f"{size} of {length} elements along axis {axis} are no part of them; give 1 to {length - 1}, or "
                    "leave the axis out to take all."
                )

    @property
    def settings(self) -> dict[str, list[int | None]]:
        """What has to be the same for the same bits, ready for JSON."""
        return {
            "axes": list(self.axes),
            "lengths": list(self.lengths),
            "sizes": list(self.sizes),
            "seeds": list(self.seeds),
        }

    def indices(self, step: int, seed: int) -> tuple[NDArray[np.int64], ...]:
        """Indices ``(b_k,)`` that a step takes along each axis, in increasing order. Not to be written to.

        A step that spans two epochs can take an index twice.

        Parameters
        ----------
        step : int
        seed : int
            Of the run, for the axes without a seed of their own.
        """
        return tuple(
            _picked(seed if own is None else own, axis, length, size, step)
            for axis, length, size, own in zip(self.axes, self.lengths, self.sizes, self.seeds, strict=True)
        )

    def apply(self, block: tuple[AnyArray, ...], step: int, seed: int) -> tuple[AnyArray, ...]:
        """What a step takes of some rows of every array, ``(rows, ...)`` each: C-contiguous, aligned as pools are."""
        if not self.axes:
            return block
        indices = self.indices(step, seed)
        return tuple(self._take(array, indices) for array in block)

    def first(self, array: AnyArray) -> AnyArray:
        """The first ``b_k`` elements of every picked axis: rows of the shape that steps have."""
        where = [slice(None)] * array.ndim
        for axis, size in zip(self.axes, self.sizes, strict=True):
            if axis < array.ndim:
                where[axis] = slice(size)
        return np.ascontiguousarray(array[tuple(where)])

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what a step takes of an array, the number of rows unchanged."""
        sizes = dict(zip(self.axes, self.sizes, strict=True))
        return tuple(sizes.get(axis, length) for axis, length in enumerate(shape))

    def _take(self, array: AnyArray, indices: tuple[NDArray[np.int64], ...]) -> AnyArray:
        for axis, picked in zip(self.axes, indices, strict=True):
            if axis < array.ndim:
                out = aligned_empty((*array.shape[:axis], len(picked), *array.shape[axis + 1 :]), array.dtype)
                # Indices are in range by construction; the mode that checks them buffers its output.
                array = np.take(array, picked, axis=axis, out=out, mode="clip")
        return array


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """An uninitialised array that starts on a cache line, so that alignment is the same in every process."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(n_bytes + _ALIGNMENT, dtype=np.uint8)
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + n_bytes].view(dtype).reshape(shape)


@lru_cache(maxsize=256)
def _picked(seed: int, axis: int, length: int, size: int, step: int) -> NDArray[np.int64]:
    start, stop = step * size, (step + 1) * size
    epochs = range(start // length, (stop - 1) // length + 1)
    order = np.concatenate([_order(seed, axis, length, epoch) for epoch in epochs])
    begin = start - epochs[0] * length
    indices = np.sort(order[begin : begin + size])
    indices.flags.writeable = False
    return indices


@lru_cache(maxsize=64)
def _order(seed: int, axis: int, length: int, epoch: int) -> NDArray[np.int64]:
    # Keys of pools have three coordinates (lane, epoch, pool), so these two name numbers of their own.
    return keyed_generator(seed, "rows", axis, epoch).permutation(length)
