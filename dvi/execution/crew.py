"""Threads that share the lanes of a kernel without being woken for every step."""

from __future__ import annotations

import threading

from dvi.model import mailbox
from dvi.model.compile import CompiledKernel, Pieces
from dvi.types import FloatArray


class Crew:
    """Helpers of whoever runs a kernel: threads that wait for its next step in machine code.

    They sleep where the last step was more than about a millisecond ago, and are woken by the next one, which does not
    wait for them.

    Parameters
    ----------
    kernel : CompiledKernel
    n_helpers : int
    """

    def __init__(self, kernel: CompiledKernel, n_helpers: int) -> None:
        self._kernel = kernel
        self._mail = mailbox.mailbox(n_helpers)
        self._awake = [False] * n_helpers
        self._calls = [threading.Event() for _ in range(n_helpers)]
        self._held: Pieces | None = None  # which helpers may still look at
        self._closed = False
        self._threads = [
            threading.Thread(target=self._help, args=(i,), name=f"dvi-lane-{i}", daemon=True) for i in range(n_helpers)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, Z: FloatArray, sums: FloatArray, pieces: Pieces, size: int) -> None:
        """Add value and gradient over pieces of rows to sums of zeros. See :meth:`CompiledKernel.run`."""
        for awake, call in zip(self._awake, self._calls, strict=True):
            if not awake:
                call.set()
        before, self._held = self._held, pieces
        try:
            self._kernel.run(Z, sums, pieces, size, self._mail)
        except BaseException:
            mailbox.call_off(self._mail)
            raise
        finally:
            if before is not None and before.rows is not pieces.rows:
                mailbox.await_readers(self._mail)
        if mailbox.failed(self._mail):
            sums[:] = 0.0
            self._kernel.run(Z, sums, pieces, size)  # raises the same here

    def _help(self, helper: int) -> None:
        call = self._calls[helper]
        while True:
            call.wait()
            if self._closed:
                return
            call.clear()
            self._awake[helper] = True
            try:
                self._kernel.help(self._mail, helper)
            except Exception:
                mailbox.fail(self._mail, helper)
            self._awake[helper] = False

    def close(self) -> None:
        """Let the threads end."""
        self._closed = True
        mailbox.stop(self._mail)
        for thread, call in zip(self._threads, self._calls, strict=True):
            call.set()
            thread.join()
