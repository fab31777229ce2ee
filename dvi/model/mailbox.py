"""How threads that run machine code share the lanes of a step: without Python, and so without the GIL.

One of them has the work. It posts where the arrays are, and takes one lane after the other; so does every helper that
is waiting. Then it withdraws the work, and waits until no helper is at a lane any more. A helper that comes late finds
nothing left, and one that never comes is not missed. Waking a thread takes ten times as long as many a kernel, so
helpers wait in a loop, for about a millisecond, before they return to Python.

Which thread does which lane changes no bit, as each lane has sums of its own.
"""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import register_jitable
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from dvi.model.intrinsics import intrinsic

type Mail = NDArray[np.int64]

_LINE = 8  # integers in a line of the cache: what one thread writes and another reads has a line of its own
_LINE_BYTES, _PAGE = 64, 4096
_JOB, _NEXT, _POSTED, _STOP, _FAILED = range(0, 5 * _LINE, _LINE)
_FIELDS = 5 * _LINE  # addresses of draws, sums, pieces and starts; draws, rows of a block, pieces and lanes
_BUSY = 6 * _LINE  # whether the first helper is at a lane
_READING = 1  # beside that, the job of which it looks at the pieces that follow
_SPINS = 256  # looks, before the processor is offered to others
_OFFERS = 100  # before a helper returns: about a millisecond

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def mailbox(n_helpers: int = 0) -> Mail:
    """An empty mailbox."""
    return np.zeros(_BUSY + n_helpers * _LINE, np.int64)


def stop(mail: Mail) -> None:
    """Have helpers return for good."""
    mail[_STOP] = 1


def fail(mail: Mail, helper: int) -> None:
    """Say that a helper could not do its lane, which ended in an error."""
    mail[_FAILED] = 1
    mail[_BUSY + helper * _LINE] = 0


def failed(mail: Mail) -> bool:
    """Whether a helper could not do a lane since this was last asked."""
    found = bool(mail[_FAILED])
    mail[_FAILED] = 0
    return found


def call_off(mail: Mail) -> None:
    """Withdraw work that ended in an error."""
    mail[_JOB] = 0
    while mail[_BUSY::_LINE].any():
        time.sleep(0.0)


def await_readers(mail: Mail) -> None:
    """Wait until no helper looks at the pieces of a step before the last."""
    last = mail[_POSTED]
    while not np.isin(mail[_BUSY + _READING :: _LINE], [0, last]).all():
        time.sleep(0.0)


def _slot(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def _load(typing_context: Any, mail: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_slot(context, builder, signature, arguments), "seq_cst", 8)

    return types.int64(mail, types.int64), generate


@intrinsic
def _store(typing_context: Any, mail: Any, i: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _slot(context, builder, signature, arguments), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(mail, types.int64, types.int64), generate


@intrinsic
def _add(typing_context: Any, mail: Any, i: Any, value: Any) -> Any:
    """Add to a number, and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _slot(context, builder, signature, arguments), arguments[2], "seq_cst")

    return types.int64(mail, types.int64, types.int64), generate


@intrinsic
def _prefetch(typing_context: Any, address: Any) -> Any:
    """Have a line brought to the cache; an address at which nothing is does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, pointer = ir.IntType(32), cgutils.voidptr_t
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read_data = [number(0), number(2), number(1)]
        builder.call(prefetch, [builder.inttoptr(arguments[0], pointer), *read_data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _pause(typing_context: Any) -> Any:
    """Tell the processor that this is a loop that waits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine() in {"x86_64", "AMD64"}:
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), nothing), [])
        return context.get_dummy_value()

    return types.void(), generate


@register_jitable
def post(mail: Any, Z: Any, sums: Any, size: Any, pieces: Any, starts: Any) -> None:
    """Say what there is to do."""
    mail[_FIELDS] = Z.ctypes.data
    mail[_FIELDS + 1] = sums.ctypes.data
    mail[_FIELDS + 2] = pieces.ctypes.data
    mail[_FIELDS + 3] = starts.ctypes.data
    mail[_FIELDS + 4] = Z.shape[0]
    mail[_FIELDS + 5] = size
    mail[_FIELDS + 6] = pieces.shape[0]
    mail[_FIELDS + 7] = starts.shape[0] - 1
    _store(mail, _NEXT, 0)
    mail[_POSTED] += 1
    _store(mail, _JOB, mail[_POSTED])


@register_jitable
def posted(mail: Any, field: Any) -> Any:
    """One of the numbers that :func:`post` has put there, in its order."""
    return mail[_FIELDS + field]


@register_jitable
def take(mail: Any) -> Any:
    """The next lane that no thread has; there may be none of that number."""
    return _add(mail, _NEXT, 1)


@register_jitable
def withdraw(mail: Any) -> None:
    """Let no helper begin any more, and wait for those who have."""
    _store(mail, _JOB, 0)
    for busy in range(_BUSY, mail.shape[0], _LINE):
        spins = 0
        while _load(mail, busy) != 0:
            spins += 1
            _wait(spins)


@register_jitable
def join(mail: Any, helper: Any, done: Any) -> Any:
    """Wait for work other than that which is done, and return its number; 0 if there is none for long, or never."""
    spins = 0
    while _load(mail, _STOP) == 0 and spins < _SPINS * _OFFERS:
        job = _load(mail, _JOB)
        if job not in (0, done):
            _store(mail, _BUSY + helper * _LINE, 1)
            if _load(mail, _JOB) == job:
                return job
            leave(mail, helper)
        spins += 1
        _wait(spins)
    return 0


@register_jitable
def leave(mail: Any, helper: Any) -> None:
    """Say that a helper is at no lane any more."""
    _store(mail, _BUSY + helper * _LINE, 0)


@register_jitable
def read_ahead(mail: Any, helper: Any, job: Any, pieces: Any, starts: Any, widths: Any) -> None:
    """Leave, and have the rows of the following pieces brought from memory to the cache, until there is other work.

    Parameters
    ----------
    pieces, starts
        As in :class:`dvi.model.compile.Pieces`. As many pieces follow as those of the job.
    widths : tuple of int
        Bytes of a row of each array.
    """
    _store(mail, _BUSY + helper * _LINE + _READING, job)
    leave(mail, helper)
    _prefetch_following(mail, helper, job, pieces, starts, widths)
    _store(mail, _BUSY + helper * _LINE + _READING, 0)


@register_jitable
def _prefetch_following(mail: Any, helper: Any, job: Any, pieces: Any, starts: Any, widths: Any) -> None:
    helpers = (mail.shape[0] - _BUSY) // _LINE
    last = starts[starts.shape[0] - 1]
    for p in range(last + helper, min(2 * last - starts[0], pieces.shape[0]), helpers):
        for i in range(len(widths)):
            for offset in range(0, pieces[p, 0] * widths[i], _LINE_BYTES):
                if offset % _PAGE == 0 and _load(mail, _JOB) not in (0, job):
                    return
                _prefetch(pieces[p, 1 + i] + offset)


@register_jitable
def _wait(spins: Any) -> None:
    if spins % _SPINS == 0:
        _sched_yield()
    else:
        _pause()
