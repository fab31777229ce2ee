"""Which row, which values and which parameters a log likelihood that is not finite is due to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dvi.data.plan import Plan
from dvi.data.resident import Block
from dvi.errors import NonFiniteError
from dvi.model.compile import CompiledKernel
from dvi.model.layout import Layout
from dvi.types import AnyArray, FloatArray, Round

_MOST = 4  # parameters that a message names
_AMONG = 100  # steps, of which fewer than half may be skipped


@dataclass(frozen=True, slots=True)
class Bad:
    """A row at which log likelihood or score is not finite.

    Parameters
    ----------
    position : int
        Among the rows of the lane at the step.
    values : tuple of array
        The row, of every array of the source.
    draw : array, shape (d,)
        The first draw at which it is so.
    loglik : float
    score : array, shape (d,)
    """

    position: int
    values: tuple[AnyArray, ...]
    draw: FloatArray
    loglik: float
    score: FloatArray


def first_bad(kernel: CompiledKernel, Z: FloatArray, blocks: Iterable[Block]) -> Bad | None:
    """The first bad row of some blocks, found by bisection; None where each row is finite and their sum is not."""
    begin = 0
    for block in blocks:
        row = _first_row(kernel, Z, block)
        if row is not None:
            one = tuple(array[row : row + 1] for array in block)
            value, gradient = kernel(Z, *one)
            s = int(np.argmin(np.isfinite(value) & np.isfinite(gradient).all(axis=1)))
            return Bad(begin + row, tuple(a[0].copy() for a in one), Z[s], float(value[s]), gradient[s])
        begin += len(block[0])
    return None


def _first_row(kernel: CompiledKernel, Z: FloatArray, block: Block) -> int | None:
    def bad(start: int, stop: int) -> bool:
        value, gradient = kernel(Z, *(array[start:stop] for array in block))
        return not (np.isfinite(value).all() and np.isfinite(gradient).all())

    start, stop = 0, len(block[0])
    if not bad(start, stop):
        return None
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (start, middle) if bad(start, middle) else (middle, stop)
    return start


def explanation(
    observed: tuple[str, ...],
    arrays: tuple[str, ...],
    plan: Plan,
    layout: Layout,
    lane: int,
    round: Round,
    bad: Bad | None,
) -> str:
    """What to tell the user: observed variable, row, chunk, the values there, parameters, and the remedy."""
    names = ", ".join(observed)
    if bad is None:
        return (
            f"the log likelihood of {names} overflows in the sum over rows at step {round.step}; "
            "rescale the data, or use priors that keep the parameters in range"
        )
    row = int(plan.rows(round.step, lane)[bad.position])
    chunk = int(np.searchsorted(plan.starts, row, side="right")) - 1
    values = ", ".join(f"{name}={_short(value)}" for name, value in zip(arrays, bad.values, strict=True))
    return (
        f"the log likelihood of {names} is not finite at step {round.step}: first at row {row} in chunk {chunk}, where "
        f"{values}; it is {bad.loglik:.6g} there, with {_parameters(layout, bad)} (without constraints); check that "
        "row, and priors that reach extreme values"
    )


def _parameters(layout: Layout, bad: Bad) -> str:
    """The parameters in which the score is not finite, or else the most extreme of those that matter to the row."""
    broken = np.flatnonzero(~np.isfinite(bad.score))
    touched = broken if broken.size else np.flatnonzero(bad.score)
    touched = touched if touched.size else np.arange(len(bad.draw))
    worst = touched[np.argsort(-np.abs(bad.draw[touched]), kind="stable")]
    named = ", ".join(f"{layout.label(int(i))}={bad.draw[i]:.6g}" for i in worst[:_MOST])
    return named + (f" and {len(worst) - _MOST} more" if len(worst) > _MOST else "")


def _short(value: AnyArray) -> str:
    return np.array2string(np.asarray(value), precision=6, threshold=8)


def check_skipped(losses: FloatArray) -> None:
    """Refuse to go on where half of the last 100 steps, or of fewer at the start, were skipped: their loss is NaN.

    Raises
    ------
    NonFiniteError
    """
    last = losses[-_AMONG:]
    skipped = int(np.isnan(last).sum())
    if skipped >= _AMONG / 2:
        raise NonFiniteError(
            f"{skipped} of the last {len(last)} steps were skipped, because the log density or its gradient was not "
            "finite there; with on_nonfinite='raise' the first such step names the row and the parameters"
        )
