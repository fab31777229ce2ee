"""A normalizing flow: normal noise sent through invertible layers, named by a formula."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dvi.approximations.coupling import CouplingLayer
from dvi.approximations.layers import Layer, count, join, split
from dvi.approximations.meanfield import MeanFieldFamily, relative_units, softplus, softplus_inverse
from dvi.approximations.planar import PlanarLayer
from dvi.approximations.radial import RadialLayer
from dvi.approximations.scaleloc import LocLayer, ScaleLayer
from dvi.errors import ArgumentError, ArgumentTypeError, suggestion
from dvi.randomness import keyed_generator
from dvi.types import FloatArray

_LOG_2PI = math.log(2.0 * math.pi)
_MOMENT_DRAWS = 4096
_MAX_LAYERS = 1000

# How each layer of a formula is made, for d dimensions in the place k among layers of its kind.
_LAYERS: Mapping[str, Callable[[int, int], Layer]] = {
    "planar": lambda d, k: PlanarLayer(d),
    "radial": lambda d, k: RadialLayer(d),
    "coupling": lambda d, k: CouplingLayer(d, k % 2),
    "scale": lambda d, k: ScaleLayer(d),
    "loc": lambda d, k: LocLayer(d),
}


@dataclass(frozen=True, slots=True)
class FlowFamily:
    r"""Layers :math:`z = f_K(\dots f_1(\epsilon))` of standard normal noise :math:`\epsilon`.

    A formula names the layers in the order in which the noise meets them, PyMC 3's notation: ``"planar*4-scale-loc"``
    is four planar layers, then a scale and a shift of each dimension. Where it names no ``scale``, or no ``loc``, that
    layer is added at the end. At the start, layers of other kinds change nothing.

    With :math:`J_k` the Jacobian of layer :math:`k` at its input :math:`x_{k-1}`,

    .. math:: \log q(z) = -\tfrac12 \epsilon^T \epsilon - \tfrac d2 \log 2\pi - \sum_k \log |\det J_k|,

    and the score of :math:`x_k` is :math:`g_k = J_k^{-T} (g_{k-1} - \nabla \log |\det J_k|)`, from
    :math:`g_0 = -\epsilon` to :math:`g_K = \nabla_z \log q(z)`: no layer needs to be inverted.

    ``theta`` holds the parameters of the layers one after the other, named after their place: ``0.u`` is ``u`` of the
    first. Mean, standard deviations and covariance are those of 4096 draws, always the same.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.
    formula : str
        Layers ``planar``, ``radial``, ``coupling``, ``scale`` and ``loc``, joined by ``-``; ``*n`` repeats one.

    References
    ----------
    Rezende and Mohamed, *Variational inference with normalizing flows*, arXiv:1505.05770.
    Papamakarios et al., *Normalizing flows for probabilistic modeling and inference*, arXiv:1912.02762.

    Examples
    --------
    >>> family = FlowFamily(2, "radial*2-loc")
    >>> family.formula
    'radial*2-loc'
    >>> theta = family.initial(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    >>> family.draw(theta, np.array([[0.0, 0.0], [1.0, -1.0]])).round(6).tolist()
    [[1.0, 2.0], [1.1, 1.8]]
    """

    ndim: int
    formula: str

    def __post_init__(self) -> None:
        MeanFieldFamily(self.ndim)  # refuses what is not a number of dimensions
        parse(self.formula)
        _layers(self.ndim, self.formula)  # refuses a layer that cannot have so few dimensions

    @property
    def noise_dim(self) -> int:
        return self.ndim

    @property
    def size(self) -> int:
        return sum(count(layer.shapes) for layer in self.layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which the noise meets them."""
        return _layers(self.ndim, self.formula)

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        MeanFieldFamily(self.ndim).initial(start, sigma)  # refuses what has no meaning
        own = [layer.initial(keyed_generator(0, "start", k)) for k, layer in enumerate(self.layers)]
        kinds = [type(layer) for layer in self.layers]
        scale, loc = kinds.index(ScaleLayer), kinds.index(LocLayer)
        own[scale] = softplus_inverse(sigma)
        own[loc] = start / sigma if loc < scale else start.copy()
        return np.concatenate(own)

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        return {
            f"{k}.{name}": value
            for k, (layer, own) in enumerate(zip(self.layers, self._pieces(theta), strict=True))
            for name, value in split(own, layer.shapes).items()
        }

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        return np.concatenate([
            join({name: params[f"{k}.{name}"] for name in layer.shapes}, layer.shapes)
            for k, layer in enumerate(self.layers)
        ])  # fmt: skip

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        out = np.ones(self.size)
        kinds = [type(layer) for layer in self.layers]
        scale, loc = kinds.index(ScaleLayer), kinds.index(LocLayer)
        rho = self._pieces(theta)[scale]
        pieces = self._pieces(out)
        pieces[scale][:] = relative_units(rho)
        pieces[loc][:] = spread / softplus(rho) if loc < scale else spread
        return out

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return self._pass(theta, eps)[0][-1]

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        inputs, pieces = self._pass(theta, eps)[0], self._pieces(theta)
        out = np.empty(self.size)
        gradients = self._pieces(out)
        for k in reversed(range(len(pieces))):
            gradients[k][:], v = self.layers[k].pullback(pieces[k], inputs[k], v)
        out /= len(v)
        return out

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out: FloatArray = np.einsum("sd,sd->s", eps, eps)
        out *= -0.5
        out -= self._pass(theta, eps)[1] + 0.5 * self.ndim * _LOG_2PI
        return out

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        inputs = self._pass(theta, eps)[0]
        out: FloatArray = np.negative(eps)
        for layer, own, x in zip(self.layers, self._pieces(theta), inputs[:-1], strict=True):
            out = layer.push_score(own, x, out)
        return out

    def mean(self, theta: FloatArray) -> FloatArray:
        out: FloatArray = self._moment_draws(theta).mean(axis=0)
        return out

    def std(self, theta: FloatArray) -> FloatArray:
        out: FloatArray = self._moment_draws(theta).std(axis=0)
        return out

    def cov(self, theta: FloatArray) -> FloatArray:
        centred = self._moment_draws(theta)
        centred -= centred.mean(axis=0)
        out: FloatArray = np.einsum("si,sj->ij", centred, centred)
        out /= len(centred)
        return out

    def _moment_draws(self, theta: FloatArray) -> FloatArray:
        """Draws ``(4096, d)``, whose noise has the mean 0 and the standard deviation 1 exactly."""
        noise = keyed_generator(0, "sample").standard_normal((_MOMENT_DRAWS, self.ndim))
        noise -= noise.mean(axis=0)
        noise /= noise.std(axis=0)
        return self.draw(theta, noise)

    def _pass(self, theta: FloatArray, eps: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        """Inputs ``(S, d)`` of each layer and the output of the last, and the sum ``(S,)`` of log determinants."""
        values, log_det = [eps], np.zeros(len(eps))
        for layer, own in zip(self.layers, self._pieces(theta), strict=True):
            x, one = layer.forward(own, values[-1])
            values.append(x)
            log_det += one
        return values, log_det

    def _pieces(self, theta: FloatArray) -> list[FloatArray]:
        """Views of ``theta``, one for each layer."""
        return np.split(theta, np.cumsum([count(layer.shapes) for layer in self.layers])[:-1])


@lru_cache(maxsize=32)
def _layers(ndim: int, formula: str) -> tuple[Layer, ...]:
    names = parse(formula)
    names += [name for name in ("scale", "loc") if name not in names]
    return tuple(_LAYERS[name](ndim, names[:k].count(name)) for k, name in enumerate(names))


def parse(formula: str) -> list[str]:
    """Names of the layers of a formula, one for each layer.

    Raises
    ------
    ArgumentError
        For what is not a formula, naming what is.

    Examples
    --------
    >>> parse("scale-planar*2")
    ['scale', 'planar', 'planar']
    """
    if not isinstance(formula, str):
        raise ArgumentTypeError(f"formula = {formula!r} is of type {type(formula).__name__}. Pass text: 'planar*4'.")
    names: list[str] = []
    for term in formula.split("-"):
        found = re.fullmatch(rf"({'|'.join(_LAYERS)})(?:\*([1-9][0-9]{{0,3}}))?", term.strip())
        if found is None:
            raise ArgumentError(
                f"formula = {formula!r:.80} has the term {term!r:.40}. Pass terms out of {', '.join(_LAYERS)}, each "
                f"with *n to repeat it, joined by -: 'planar*4-scale-loc'{suggestion(term.strip(), _LAYERS)}"
            )
        names += [found[1]] * int(found[2] or 1)
    if len(names) > _MAX_LAYERS:
        raise ArgumentError(f"formula = {formula!r:.80} has {len(names)} layers. Pass at most {_MAX_LAYERS}.")
    return names
