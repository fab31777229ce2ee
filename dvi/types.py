"""Values and protocols that cross the boundaries between layers.

Shapes: ``S`` draws, ``d`` unconstrained dimensions of the model, ``p`` variational parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

type FloatArray = NDArray[np.float64]
type AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Round:
    """What goes down to the data: draws at which to evaluate the likelihood of the rows of one step."""

    step: int
    Z: FloatArray  # (S, d), unconstrained


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What comes up from the data: log likelihood and its gradient on the full-data scale. Evaluations add."""

    loglik: FloatArray  # (S,)
    score: FloatArray  # (S, d), gradient of loglik with respect to Z
    n_rows: int  # rows read

    @classmethod
    def of(cls, sums: FloatArray, n_rows: int) -> Evaluation:
        """Views of sums ``(S, 1 + d)``, of which the first column is the log likelihood."""
        return cls(sums[:, 0], sums[:, 1:], n_rows)

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.loglik + other.loglik, self.score + other.score, self.n_rows + other.n_rows)


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Rows of every array of a source as they lie in memory, C-contiguous and aligned.

    Parameters
    ----------
    arrays : tuple of array
    form : tuple
        Type and shape of a row of each.
    places : tuple
        Address of the first row of each, and bytes from one row to the next.
    n_rows : int
    """

    arrays: tuple[AnyArray, ...]
    form: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]
    places: tuple[tuple[int, int], ...]
    n_rows: int

    @classmethod
    def of(cls, arrays: Sequence[AnyArray]) -> Slab:
        """The rows of some arrays of one length, copied where they do not lie so."""
        lying = tuple(np.require(array, requirements=["C", "A"]) for array in arrays)
        if len({len(array) for array in lying}) != 1:
            raise ValueError(f"arrays of {[len(array) for array in lying]} rows are none of one source")
        form = tuple((array.dtype, array.shape[1:]) for array in lying)
        places = tuple((array.__array_interface__["data"][0], array.strides[0]) for array in lying)
        return cls(lying, form, places, len(lying[0]))


class Span(NamedTuple):
    """Rows ``start`` to ``stop`` of a slab."""

    slab: Slab
    start: int
    stop: int

    @property
    def rows(self) -> tuple[AnyArray, ...]:
        """Views of the rows, of every array."""
        return tuple([array[self.start : self.stop] for array in self.slab.arrays])


@dataclass(frozen=True, slots=True)
class Work:
    """Pure function calls that a step asks for, besides its round: ``function(*shared, item)`` for each item."""

    function: Callable[..., Any]  # of a module, so that its pickle is a name
    shared: tuple[Any, ...]
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A training in progress: plain arrays and a step number. This is the whole checkpoint."""

    step: int  # steps done
    theta: FloatArray  # (p,), current iterate
    slots: tuple[FloatArray, ...]  # of the optimizer
    average: tuple[FloatArray, ...]  # of the iterates
    rate: FloatArray = field(default_factory=lambda: np.ones(1))  # factor on the learning rate, and what its rule keeps
    curvature: tuple[FloatArray, ...] = ()  # sums over pairs of draws, where they are kept
    behind: tuple[FloatArray, ...] = ()  # the iterate before, where steps are evaluated one behind


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What one step reports."""

    objective: float  # on the full-data scale; the ELBO, or what the method maximises in its place
    n_rows: int


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time of some steps went, in seconds, of the average thread or worker. Times add.

    Parameters
    ----------
    read : float
        Waiting for rows that were not there yet. Reading ahead, beside the kernels, takes none of it.
    compute : float
        All else: kernels, and what comes between two evaluations.
    wait : float
        For other threads and workers, and for messages to and from them.
    """

    read: float = 0.0
    compute: float = 0.0
    wait: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.read + self.compute + self.wait

    def __add__(self, other: Times) -> Times:
        return Times(self.read + other.read, self.compute + other.compute, self.wait + other.wait)

    def __sub__(self, other: Times) -> Times:
        return Times(self.read - other.read, self.compute - other.compute, self.wait - other.wait)


NO_TIME = Times()


@dataclass(frozen=True, slots=True)
class Report:
    """What a block of steps reports."""

    state: State
    objectives: FloatArray  # (steps,)
    n_rows: int  # rows read
    interrupted: bool = False  # by the user, after the last whole step
    times: Times = NO_TIME


class Training(Protocol):
    """The pure half of a fit: where to evaluate next, and what to make of it. Owns no socket, no clock, no thread."""

    def prepare(self) -> None:
        """Compile what the steps need."""
        ...

    def round(self, state: State) -> Round:
        """Where the next step evaluates the likelihood."""
        ...

    def following(self, state: State) -> Round | None:
        """Where the step after the next one does, if that is known before the next one is done."""
        ...

    def step(self, state: State) -> Generator[Round | Work, Any, tuple[State, StepInfo]]:
        """One step: yields what has to be computed elsewhere, and is sent an Evaluation or a list of results."""
        ...


class Kernel(Protocol):
    """A thread-safe compiled function ``(Z (S, d), *blocks) -> (value (S,), gradient (S, d))``."""

    def __call__(self, Z: FloatArray, *blocks: AnyArray) -> tuple[FloatArray, FloatArray]: ...


class Reader(Protocol):
    """One array of a source, read by slabs of rows. Picklable, and its pickle holds no data."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunk_rows(self) -> tuple[int, ...]:
        """Lengths of the stored chunks along the leading dimension; they sum to ``shape[0]``."""
        ...

    @property
    def label(self) -> str:
        """Where the array is, for people: a path, or ``memory``."""
        ...

    def read(self, start: int, stop: int) -> AnyArray:
        """Rows ``start`` to ``stop`` as one C-contiguous array in native byte order."""
        ...


class Family(Protocol):
    """The mathematics of an approximation: pure functions of a flat parameter vector ``theta (p,)``.

    ``eps (S, noise_dim)`` is standard normal noise.
    """

    @property
    def ndim(self) -> int:
        """Unconstrained dimensions of the model, ``d``."""
        ...

    @property
    def noise_dim(self) -> int:
        """Width of the noise of one draw."""
        ...

    @property
    def size(self) -> int:
        """Length of ``theta``, ``p``."""
        ...

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        """Parameters with mean ``start (d,)`` and standard deviations ``sigma (d,)``."""
        ...

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        """Parameters by the names that PyMC gives them, with their natural shapes. Not to be written to."""
        ...

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        """The inverse of ``unpack``: ``theta (p,)``."""
        ...

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        """Sizes ``(p,)`` of equally bold steps of each parameter, given those of the mean ``spread (d,)``."""
        ...

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        """Draws ``Z (S, d)`` as a differentiable function of the parameters."""
        ...

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        """Gradient ``(p,)`` in theta of ``mean over S of <v, draw(theta, eps)>``, with ``v (S, d)`` held fixed."""
        ...

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        """Log density ``(S,)`` of the draws."""
        ...

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        """Gradient ``(S, d)`` of the log density with respect to the draws."""
        ...

    def mean(self, theta: FloatArray) -> FloatArray:
        """Mean ``(d,)``."""
        ...

    def std(self, theta: FloatArray) -> FloatArray:
        """Standard deviations ``(d,)``."""
        ...

    def cov(self, theta: FloatArray) -> FloatArray:
        """Covariance ``(d, d)``."""
        ...


class GaussianFamily(Family, Protocol):
    """A family whose entropy is known in closed form."""

    def entropy(self, theta: FloatArray) -> float: ...

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient ``(p,)`` of the entropy."""
        ...


class PathFamily(Family, Protocol):
    """A family that does in one pass what the gradient that sticks the landing takes of it."""

    def path_gradient(
        self, theta: FloatArray, eps: FloatArray, logp: FloatArray, score: FloatArray
    ) -> tuple[float, FloatArray]:
        """Mean of ``logp (S,)`` less ``log_q``, and the pullback ``(p,)`` of ``score (S, d)`` less theirs."""
        ...


class Objective(Protocol):
    """What a step increases: an estimator of its value and of its gradient."""

    def work(self, Z: FloatArray, score: FloatArray) -> Work | None:
        """What has to be computed from draws ``Z (S, d)`` and the scores there ``(S, d)``, if it is worth sharing."""
        ...

    def gradient(
        self,
        family: Family,
        theta: FloatArray,
        eps: FloatArray,
        logp: FloatArray,
        score: FloatArray,
        results: Sequence[Any],
    ) -> tuple[float, FloatArray]:
        """Value and gradient ``(p,)``, given log densities ``(S,)``, scores ``(S, d)`` and the results of the work."""
        ...


class Optimizer(Protocol):
    """A first-order update rule that minimises. Settings only: its state is passed in and returned."""

    def init(self, theta: FloatArray) -> tuple[FloatArray, ...]:
        """State for parameters ``theta (p,)``."""
        ...

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: tuple[FloatArray, ...], scale: float = 1.0
    ) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Parameters and state after step number ``step`` (from 0). No argument is written to.

        The learning rate is ``scale`` times that of the settings.
        """
        ...


class Driver(Protocol):
    """Runs blocks of steps of a training somewhere."""

    @property
    def n_hosts(self) -> int:
        """Processes that evaluate lanes."""
        ...

    def check(self, state: State) -> None:
        """Make ready, and try the likelihood on the first rows."""
        ...

    def use(self, training: Training) -> None:
        """Go on with another training of the same problem."""
        ...

    def advance(self, state: State, n_steps: int) -> Report:
        """Run ``n_steps`` steps from a state. The result does not depend on where."""
        ...

    def close(self) -> None: ...
