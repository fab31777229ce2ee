"""Random numbers keyed by what they are for, never drawn from a stream that remembers."""

from __future__ import annotations

import numpy as np

# The purposes a key can have. Their positions are part of the recorded results: append, never reorder.
_PURPOSES = ("chunks", "rows", "noise", "sample", "ingest", "start", "map", "jitter", "epoch")


def keyed_generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return the generator of one purpose and key.

    This is the rule for all random numbers in dvi: the same ``(seed, purpose, *key)`` gives the same numbers in every
    process, whatever was drawn before.

    Parameters
    ----------
    seed : int
        Seed of the run, not negative.
    purpose : str
        What the numbers are for: one of ``chunks``, ``rows``, ``noise``, ``sample``, ``ingest``, ``start``, ``map``,
        ``jitter``, ``epoch``.
    *key : int
        Coordinates such as step, lane or epoch, not negative.

    Examples
    --------
    >>> bool(keyed_generator(1, "noise", 7).integers(100) == keyed_generator(1, "noise", 7).integers(100))
    True
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), *key))
    return np.random.Generator(np.random.PCG64(sequence))
