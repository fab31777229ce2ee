r"""Rows of a matrix in logarithmic length, so that a step of bounded size can reach any length soon.

A row :math:`t` of length :math:`r` stands for :math:`m = t \sinh(r) / r`. Short rows are what they stand for; of long
ones, a step along the row changes the length by a part of itself.
"""

from __future__ import annotations

import numpy as np

from dvi.types import FloatArray

_SHORT = 1e-3  # below this length, the next term of a series is lost in rounding


def stretch(t: FloatArray) -> FloatArray:
    """Return the rows ``m (n, k)`` that the rows ``t (n, k)`` stand for.

    Examples
    --------
    >>> stretch(np.array([[3.0, 4.0]])).round(2).tolist()
    [[44.52, 59.36]]
    """
    length = _lengths(t)
    out: FloatArray = t * _ratio(length)[:, None]
    return out


def stretch_inverse(m: FloatArray) -> FloatArray:
    """Return the rows ``t (n, k)`` that stand for the rows ``m (n, k)``.

    Examples
    --------
    >>> stretch_inverse(stretch(np.array([[3.0, 4.0], [0.0, 0.0]]))).round(12).tolist()
    [[3.0, 4.0], [0.0, 0.0]]
    """
    length = np.sqrt(np.einsum("nk,nk->n", m, m))
    safe = np.where(length > 0.0, length, 1.0)
    out: FloatArray = m * np.where(length > 0.0, np.arcsinh(safe) / safe, 1.0)[:, None]
    return out


def stretch_pullback(t: FloatArray, v: FloatArray) -> FloatArray:
    """Gradient ``(n, k)`` in ``t`` of ``<v, stretch(t)>``, with ``v (n, k)`` held fixed.

    Examples
    --------
    >>> stretch_pullback(np.zeros((1, 2)), np.ones((1, 2))).tolist()
    [[1.0, 1.0]]
    """
    length = _lengths(t)
    out: FloatArray = v * _ratio(length)[:, None]
    out += (_slope(length) * np.einsum("nk,nk->n", v, t))[:, None] * t
    return out


def _lengths(t: FloatArray) -> FloatArray:
    out: FloatArray = np.einsum("nk,nk->n", t, t)
    return np.sqrt(out, out=out)


def _ratio(length: FloatArray) -> FloatArray:
    """Values of ``sinh(r) / r``."""
    safe = np.maximum(length, _SHORT)
    return np.where(length < _SHORT, 1.0 + length**2 / 6.0, np.sinh(safe) / safe)


def _slope(length: FloatArray) -> FloatArray:
    """Values of ``(sinh(r) / r)' / r``. Their series is used for longer, as the difference cancels."""
    safe = np.maximum(length, 0.1)
    square = length**2
    series = 1.0 / 3.0 + square * (1.0 / 30.0 + square * (1.0 / 840.0 + square / 45360.0))
    return np.where(length < 0.1, series, (np.cosh(safe) - np.sinh(safe) / safe) / safe**2)
