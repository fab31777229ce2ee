"""What fits in memory, asked before it is taken: an operating system promises more than it has."""

from __future__ import annotations

from dvi.errors import ArgumentError
from dvi.types import Family

_SMALL = 2**24  # bytes that are there wherever PyMC can be imported


def check_fits(n: int, what: str, nbytes: int) -> None:
    """Refuse what would not fit in the memory of this process, with all others.

    Parameters
    ----------
    n : int
    what : str
        Of what there are ``n``, for people.
    nbytes : int
        Bytes of each.

    Raises
    ------
    ArgumentError
    """
    if n * nbytes <= _SMALL:
        return
    from distributed.system import MEMORY_LIMIT  # of the machine, the container or the shell

    if n * nbytes > MEMORY_LIMIT:
        raise ArgumentError(
            f"{n:,} {what} take {format_bytes(n * nbytes)} of memory, and there are {format_bytes(MEMORY_LIMIT)}; give "
            "fewer"
        )


def check_draws_fit(draws: int, family: Family, what: str = "draws") -> None:
    """The same of draws from a family, and of the noise that they are made of."""
    check_fits(draws, what, 8 * (family.noise_dim + family.ndim))


def format_bytes(nbytes: float) -> str:
    """Bytes for people, with three figures and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
