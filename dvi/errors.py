"""The exceptions and warnings that dvi raises.

::

    DviError
    ├── ArgumentError (ValueError)            a value that is not allowed
    │   ├── ArgumentTypeError (TypeError)     ... because of its type
    │   ├── UnknownNameError (KeyError)       a name that is not one of those that are known
    │   ├── ModelError                        a model that cannot be split into prior and data terms
    │   └── DataError                         arrays that cannot be streamed
    │       └── NonFiniteError (FloatingPointError)   NaN or inf, in data, a setting or the likelihood
    ├── StoreError (OSError)                  a store that cannot be read or written
    │   ├── StoreDamagedError                 ... because its bytes are not those that were written
    │   ├── StoreNotFoundError (FileNotFoundError)
    │   └── StoreExistsError (FileExistsError)
    └── ClusterError (RuntimeError)           workers that went away and did not come back

    DviWarning (UserWarning)                  something that is allowed and probably not meant

Every message states what was given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DviError(Exception):
    """Base of every exception that dvi raises on purpose."""


class ArgumentError(DviError, ValueError):
    """A value that is not allowed."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A value whose type is not allowed."""


class UnknownNameError(ArgumentError, KeyError):
    """A name that is not one of those that are known."""

    __str__ = Exception.__str__  # a KeyError would put its message in quotes


class ModelError(ArgumentError):
    """A model that cannot be split into a prior term and data terms."""


class DataError(ArgumentError):
    """Arrays that cannot be streamed."""


class NonFiniteError(DataError, FloatingPointError):
    """NaN or infinity, in the data, in a setting, or in what the likelihood returned."""


class StoreError(DviError, OSError):
    """A store that cannot be read or written."""


class StoreDamagedError(StoreError):
    """A store whose bytes are not those that were written."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """A store that does not exist."""


class StoreExistsError(StoreError, FileExistsError):
    """A store that exists already and would be overwritten."""


class ClusterError(DviError, RuntimeError):
    """Workers that went away and did not come back."""


class DviWarning(UserWarning):
    """Something that is allowed and probably not meant."""


def suggestion(given: object, known: Iterable[object]) -> str:
    """What was probably meant by a name, or by some, as the end of a message; nothing where no name is near.

    Parameters
    ----------
    given : str or list of str
    known : iterable of str
        The names that there are.

    Examples
    --------
    >>> suggestion("bata", ["alpha", "beta"]), suggestion("x", ["alpha", "beta"])
    ("; did you mean 'beta'?", '')
    """
    names = list(map(str, given)) if isinstance(given, list | tuple) else [str(given)]
    choices = list(map(str, known))
    unknown = [name for name in names if name not in choices]
    nearest = dict.fromkeys(near for name in unknown for near in difflib.get_close_matches(name, choices, 1))
    return f"; did you mean {', '.join(map(repr, nearest))}?" if nearest else ""
