"""Independent parts, each a family of its own for some of the dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.types import Family, FloatArray, GaussianFamily


@dataclass(frozen=True, slots=True)
class Part:
    """A family and the elements of the unconstrained vector that it covers.

    Parameters
    ----------
    family : Family
    indices : sequence of int
        Positions in the unconstrained vector, one for each dimension of the family, in its order.

    Examples
    --------
    >>> Part(MeanFieldFamily(2), range(1, 3)).indices
    (1, 2)
    """

    family: Family
    indices: tuple[int, ...]
    where: slice | NDArray[np.intp] = field(init=False, repr=False, compare=False)  # a slice gives views

    def __post_init__(self) -> None:
        if not all(_is_position(i) for i in self.indices):
            raise ArgumentTypeError(f"indices = {self.indices!r:.80} are not all of type int. Pass positions.")
        indices = tuple(int(i) for i in self.indices)
        if len(indices) != self.family.ndim:
            raise ArgumentError(
                f"{self.family!r} has {self.family.ndim} dimensions; {len(indices)} indices were given. Pass one each."
            )
        first = indices[0]
        is_run = indices == tuple(range(first, first + len(indices)))
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "where", slice(first, first + len(indices)) if is_run else np.array(indices))


@dataclass(frozen=True, slots=True)
class StructuredFamily:
    r"""Independent parts: :math:`q(z) = \prod_k q_k(z_{I_k})`, where each index is in one set :math:`I_k`.

    ``theta`` is the parameters of the parts one after the other, and so is the noise. Parameters are named after their
    part: ``0.mu`` is ``mu`` of the first one. There is an entropy where every part has one.

    Parameters
    ----------
    parts : sequence of Part

    References
    ----------
    Hoffman and Blei, *Structured stochastic variational inference*, arXiv:1404.4114.

    Examples
    --------
    >>> from dvi.approximations.fullrank import FullRankFamily
    >>> family = StructuredFamily((Part(FullRankFamily(2), (0, 2)), Part(MeanFieldFamily(1), (1,))))
    >>> theta = family.initial(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]))
    >>> family.mean(theta).tolist()
    [1.0, 2.0, 3.0]
    >>> sorted(family.unpack(theta))
    ['0.L_tril', '0.mu', '1.mu', '1.rho']
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ArgumentError("parts = () is not allowed, as ndim would be 0. Pass at least one part.")
        given = np.sort(np.concatenate([np.array(part.indices) for part in self.parts]))
        wrong = given != np.arange(len(given))
        if wrong.any():
            first = int(wrong.argmax())
            raise ArgumentError(
                f"the parts have {len(given)} dimensions, but do not cover 0 to {len(given) - 1} once each: in order, "
                f"the index {given[first]} is in the place of {first}. Give each index to one part."
            )

    @property
    def ndim(self) -> int:
        return sum(part.family.ndim for part in self.parts)

    @property
    def noise_dim(self) -> int:
        return sum(part.family.noise_dim for part in self.parts)

    @property
    def size(self) -> int:
        return sum(part.family.size for part in self.parts)

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        MeanFieldFamily(self.ndim).initial(start, sigma)  # refuses what has no meaning, by its place in the whole
        return np.concatenate([part.family.initial(start[part.where], sigma[part.where]) for part in self.parts])

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        return {
            f"{k}.{name}": value
            for k, (part, own) in enumerate(self._parameters(theta))
            for name, value in part.family.unpack(own).items()
        }

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        return np.concatenate([
            part.family.pack({name.removeprefix(f"{k}."): v for name, v in params.items() if name.startswith(f"{k}.")})
            for k, part in enumerate(self.parts)
        ])  # fmt: skip

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        return np.concatenate([part.family.units(own, spread[part.where]) for part, own in self._parameters(theta)])

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out = np.empty((len(eps), self.ndim))
        for part, own, noise in self._parameters_and_noise(theta, eps):
            out[:, part.where] = part.family.draw(own, noise)
        return out

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        return np.concatenate([
            part.family.pullback(own, noise, v[:, part.where])
            for part, own, noise in self._parameters_and_noise(theta, eps)
        ])  # fmt: skip

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out = np.zeros(len(eps))
        for part, own, noise in self._parameters_and_noise(theta, eps):
            out += part.family.log_q(own, noise)
        return out

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out = np.empty((len(eps), self.ndim))
        for part, own, noise in self._parameters_and_noise(theta, eps):
            out[:, part.where] = part.family.score(own, noise)
        return out

    def entropy(self, theta: FloatArray) -> float:
        return sum(_gaussian(part.family).entropy(own) for part, own in self._parameters(theta))

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        return np.concatenate([_gaussian(part.family).entropy_gradient(own) for part, own in self._parameters(theta)])

    def mean(self, theta: FloatArray) -> FloatArray:
        out = np.empty(self.ndim)
        for part, own in self._parameters(theta):
            out[part.where] = part.family.mean(own)
        return out

    def std(self, theta: FloatArray) -> FloatArray:
        out = np.empty(self.ndim)
        for part, own in self._parameters(theta):
            out[part.where] = part.family.std(own)
        return out

    def cov(self, theta: FloatArray) -> FloatArray:
        out = np.zeros((self.ndim, self.ndim))
        for part, own in self._parameters(theta):
            out[np.ix_(part.indices, part.indices)] = part.family.cov(own)
        return out

    def _parameters(self, theta: FloatArray) -> Iterator[tuple[Part, FloatArray]]:
        """Each part with its own piece of ``theta``."""
        at = 0
        for part in self.parts:
            yield part, theta[at : at + part.family.size]
            at += part.family.size

    def _parameters_and_noise(
        self, theta: FloatArray, eps: FloatArray
    ) -> Iterator[tuple[Part, FloatArray, FloatArray]]:
        """Each part with its own pieces of ``theta`` and of the noise."""
        at = 0
        for part, own in self._parameters(theta):
            yield part, own, eps[:, at : at + part.family.noise_dim]
            at += part.family.noise_dim


def _is_position(index: object) -> bool:
    return isinstance(index, int | np.integer) and not isinstance(index, bool)


def _gaussian(family: Family) -> GaussianFamily:
    if not hasattr(family, "entropy"):
        raise ArgumentError(f"{family!r} has no entropy in closed form. Use the estimator 'stl', or another family.")
    return cast(GaussianFamily, family)
