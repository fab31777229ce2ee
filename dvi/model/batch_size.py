"""What ``batch_size`` asks for: how many rows a step takes, and which part of the other axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dvi.data.picks import Picks
from dvi.errors import ArgumentError, ArgumentTypeError

_FORMS = "an int, or a sequence with an int, None for all, or a pair (size, seed) for each axis and at most one ..."


@dataclass(frozen=True, slots=True)
class Taken:
    """How much of the arrays a step takes.

    Parameters
    ----------
    rows : int or None
        None for all of them, whatever their number.
    seed : int or None
        Of the order of the rows; None for that of the run.
    picks : Picks
    """

    rows: int | None
    seed: int | None = None
    picks: Picks = field(default_factory=Picks)


def check_batch_size(batch_size: object, n_rows: int) -> int:
    """Return the number of rows of a step as an int, or say what is wrong with it."""
    if isinstance(batch_size, bool | np.bool) or not isinstance(batch_size, int | np.integer):
        raise ArgumentTypeError(
            f"batch_size={batch_size!r} is of type {type(batch_size).__name__}; "
            f"give an int between 1 and the {n_rows} rows of the data, or a list with one for each axis"
        )
    if not 1 <= batch_size <= n_rows:
        raise ArgumentError(
            f"batch_size={batch_size} is out of range; give an int between 1 and the {n_rows} rows of the data"
        )
    return int(batch_size)


def check_seed(what: str, seed: object) -> int | None:
    """Return a seed as an int, or None where there is none."""
    if seed is None:
        return None
    if isinstance(seed, bool | np.bool) or not isinstance(seed, int | np.integer):
        raise ArgumentTypeError(f"{what}={seed!r} is of type {type(seed).__name__}; give an int of at least 0, or None")
    if seed < 0:
        raise ArgumentError(f"{what}={seed} is negative; give an int of at least 0")
    return int(seed)


def taken(batch_size: object, shapes: Sequence[tuple[int, ...]], random_seed: object = None) -> Taken:
    """The rule for what ``batch_size`` means for arrays of some shapes.

    Entries name axes from the first on, ``...`` stands for as many axes as the widest array needs, and axes that are
    not named are taken whole. An array without an axis ignores its entry.

    Parameters
    ----------
    batch_size : int or sequence
    shapes : sequence of tuple of int
    random_seed : int, optional
        Of the axes without a seed of their own.

    Examples
    --------
    >>> taken([10, (4, 42)], [(100, 20), (100,)])
    Taken(rows=10, seed=None, picks=Picks(axes=(1,), lengths=(20,), sizes=(4,), seeds=(42,)))
    """
    common = check_seed("random_seed", random_seed)
    n_rows = shapes[0][0]
    if isinstance(batch_size, str | bytes) or not isinstance(batch_size, Sequence | np.ndarray):
        return Taken(check_batch_size(batch_size, n_rows), common)
    entries = _expand(list(batch_size), max(map(len, shapes)))
    sizes, seeds = zip(*(_entry(entry, axis, common) for axis, entry in enumerate(entries)), strict=True)
    rows = None if sizes[0] is None else check_batch_size(sizes[0], n_rows)
    lengths = [_length(shapes, axis) if size is not None else 0 for axis, size in enumerate(sizes)]
    for axis, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        if size is not None and not 1 <= size <= length:
            raise ArgumentError(
                f"batch_size={batch_size!r} asks for {size} of the {length} elements along axis {axis}; "
                f"give an int between 1 and {length}, or None for all"
            )
    axes = [axis for axis in range(1, len(sizes)) if sizes[axis] is not None and sizes[axis] < lengths[axis]]
    picks = Picks(
        tuple(axes), tuple(lengths[a] for a in axes), tuple(sizes[a] for a in axes), tuple(seeds[a] for a in axes)
    )
    return Taken(rows, seeds[0], picks)


def _expand(entries: list[object], ndim: int) -> list[object]:
    """One entry for each axis that is named, ``...`` replaced by None for the axes it stands for."""
    dots = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise ArgumentError(
            f"batch_size={entries!r} has {len(dots)} entries ...; one at most says which axes are meant"
        )
    if not entries or len(entries) - len(dots) > ndim:
        raise ArgumentError(
            f"batch_size={entries!r} names {len(entries) - len(dots)} axes; give 1 to {ndim}, as the arrays have at "
            f"most {ndim}"
        )
    if not dots:
        return entries
    at = dots[0]
    return [*entries[:at], *[None] * (ndim - len(entries) + 1), *entries[at + 1 :]]


def _entry(entry: object, axis: int, common: int | None) -> tuple[int | None, int | None]:
    """Size and seed of one axis."""
    size, seed = entry, common
    if isinstance(entry, tuple | list) and len(entry) == 2:
        size, seed = entry[0], check_seed(f"the seed of axis {axis} in batch_size", entry[1])
    if size is None:
        return None, seed
    if isinstance(size, bool | np.bool) or not isinstance(size, int | np.integer):
        raise ArgumentTypeError(f"batch_size has {entry!r} for axis {axis}; batch_size is {_FORMS}")
    return int(size), seed


def _length(shapes: Sequence[tuple[int, ...]], axis: int) -> int:
    """Elements along an axis of the arrays that have it."""
    found = sorted({shape[axis] for shape in shapes if len(shape) > axis})
    if len(found) > 1:
        raise ArgumentError(
            f"batch_size takes a part of axis {axis}, along which the arrays have {found} elements; arrays of one "
            "Minibatch are picked alike, so give None for that axis, or make two Minibatch calls"
        )
    return found[0]
