"""Pure functions over the chunks of data, run by the threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

_AT_ONCE = 2  # items for each thread: one that runs and one that waits


class _SharedLimits:
    """One limit on the threads of BLAS for all who ask for it, lifted when the last of them is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limits: threadpool_limits | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limits = threadpool_limits(limits=1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None


_limits = _SharedLimits()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread: it splits sums by its thread count, and so changes their last bits."""
    with _limits:
        yield


def map_threads(
    function: Callable[..., Any], shared: tuple[Any, ...], items: Iterable[Any], threads: int
) -> Iterator[tuple[int, Any]]:
    """Positions and results of ``function(*shared, item)``, in the order in which they are done.

    Parameters
    ----------
    function : callable
    shared : tuple
    items : iterable
        Taken a few ahead of what is done, so that they may be large.
    threads : int
    """
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="dvi-chunk") as pool:
        running: dict[Future[Any], int] = {}
        try:
            for position, item in enumerate(items):
                running[pool.submit(function, *shared, item)] = position
                if len(running) >= _AT_ONCE * max(1, threads):
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            for future in running:
                future.cancel()


def _finished(running: dict[Future[Any], int]) -> Iterator[tuple[int, Any]]:
    """Wait for one item or more, and take what is done out; errors come last, so that no result is lost with them."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    for future in sorted(done, key=lambda future: (future.exception() is not None, running[future])):
        yield running.pop(future), future.result()
