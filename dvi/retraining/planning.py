"""Which rows a run fits and judges, and what it starts from. Pure: configuration, data and history in, a plan out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from dvi.errors import DataError

if TYPE_CHECKING:
    from dvi.retraining.config import Config
    from dvi.retraining.snapshot import Snapshot

_HELD_OUT = 5  # at most one new row in so many is held out


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it begins. Written first of all, so that whoever goes on with it does the same.

    Parameters
    ----------
    run : str
        Its name.
    base : str or None
        The run that was promoted then.
    start, stop : int
        Rows to fit.
    end : int
        Rows from ``stop`` to here are held out.
    seed : int
    model : dict
        ``function`` and ``arguments``.
    carried : bool
        Whether the posterior of ``base`` is the prior.
    data : dict
        Fingerprint.
    """

    run: str
    base: str | None
    start: int
    stop: int
    end: int
    seed: int
    model: dict[str, Any]
    carried: bool
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The plan that was written."""
        return cls(**record)


@dataclass(frozen=True, slots=True)
class History:
    """What the folder of runs tells before a run.

    Parameters
    ----------
    finished : sequence of str
        Names of finished runs, oldest first.
    newest_rows : int
        Rows of the data at the newest of them; 0 if there is none.
    base : Plan or None
        Of the promoted run.
    """

    finished: Sequence[str]
    newest_rows: int
    base: Plan | None


def name_of(config: Config, snapshot: Snapshot, finished: Sequence[str]) -> str:
    """The name of the run of a configuration on data: a number, and a digest of all that makes a difference.

    The same configuration and data give the name of the run that they had before, if there is one.
    """
    fit = {k: v for k, v in asdict(config.fit).items() if k != "checkpoint_seconds"}
    window = [config.data.window, config.data.rows]
    told = [snapshot.fingerprint(), window, asdict(config.model), fit, asdict(config.judge)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]
    known = [name for name in finished if name.endswith(digest)]
    return known[0] if known else f"{1 + max((int(name[:6]) for name in finished), default=0):06d}-{digest}"


def plan_run(run: str, config: Config, snapshot: Snapshot, history: History) -> Plan | None:
    """The next run, by the name that `name_of` gave it; None if there is nothing new.

    Held out are the newest rows, a fifth of the new ones at most. The promoted run has not seen them either, and later
    runs are fitted to them.

    Raises
    ------
    DataError
        If the store does not hold the rows that the promoted run was fitted to.
    """
    base, n_rows = history.base, snapshot.n_rows
    if base is not None:
        _check_grown(snapshot, base, config.data.store)
    if history.finished and 0 < n_rows - history.newest_rows < config.data.min_new_rows:
        return None
    seen = 0 if base is None else base.stop
    held = min(config.judge.rows, (n_rows - seen) // _HELD_OUT)
    if held < 1:
        return None
    stop = n_rows - held
    starts = {"all": 0, "new": seen, "sliding": max(0, stop - (config.data.rows or 0))}
    return Plan(
        run, None if base is None else base.run, starts[config.data.window], stop, n_rows, config.fit.seed,
        asdict(config.model), config.fit.carry_posterior and base is not None, snapshot.fingerprint(),
    )  # fmt: skip


def _check_grown(snapshot: Snapshot, base: Plan, store: str) -> None:
    if snapshot.n_rows < base.end or snapshot.first != base.data["first"]:
        raise DataError(
            f"{store} has {snapshot.n_rows} rows and does not begin with those of the promoted run {base.run}: "
            "rows may only be appended. Restore it, or choose another runs.folder to begin anew."
        )
