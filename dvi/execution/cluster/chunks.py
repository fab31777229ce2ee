"""Pure functions over the chunks of data, run as tasks of a Dask cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
from distributed import CancelledError, Client, Future, KilledWorker, wait

from dvi.errors import ClusterError
from dvi.execution.cluster.workers import tune_allocator, wait_for_workers

logger = logging.getLogger(__name__)

_AT_ONCE = 2  # items for each thread of a worker
_LOOK_SECONDS = 1.0  # between looks at what is done
_MOST_TRIES = 5  # of one item, on workers that go away


class Shared:
    """What all items have in common, unpickled once by each process that uses it."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._lock = threading.Lock()
        self._value: tuple[Any, ...] | None = None

    @property
    def value(self) -> tuple[Any, ...]:
        with self._lock:
            if self._value is None:
                tune_allocator()
                self._value = cloudpickle.loads(self._pickled)
            return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self._pickled,)


def map_workers(
    client: Client, function: Callable[..., Any], shared: tuple[Any, ...], items: Iterable[Any]
) -> Iterator[tuple[int, Any]]:
    """Positions and results of ``function(*shared, item)``, in the order in which they are done.

    A worker that is lost costs the items it was at, which others do again.

    Parameters
    ----------
    client : distributed.Client
    function : callable
        Of a module.
    shared : tuple
        Sent to every worker once.
    items : iterable
        Taken a few ahead of what is done. An item travels with its task.

    Raises
    ------
    ClusterError
        If no worker is left, or if workers die of an item again and again.
    """
    if client.asynchronous:
        raise ClusterError("the Dask client is asynchronous; give one made without asynchronous=True")
    run = _Run(client, function, cloudpickle.dumps(shared))
    try:
        for position, item in enumerate(items):
            run.submit(position, item)
            while run.is_full:
                yield from run.finished()
        while run.running:
            yield from run.finished()
    finally:
        run.close()


class _Run:
    """Tasks that are under way, and what is needed to submit them again."""

    def __init__(self, client: Client, function: Callable[..., Any], pickled: bytes) -> None:
        self._client, self._function, self._pickled = client, function, pickled
        self._shared: Future[Any] | None = None
        self.running: dict[Future[Any], tuple[int, Any, int]] = {}  # position, item, tries

    @property
    def is_full(self) -> bool:
        """Whether every thread of the cluster has work."""
        return len(self.running) >= _AT_ONCE * max(1, sum(map(int, self._client.nthreads().values())))

    def submit(self, position: int, item: Any, tries: int = 1) -> None:
        wait_for_workers(self._client)
        if self._shared is None:
            self._shared = self._client.scatter(Shared(self._pickled), broadcast=True, hash=False)
        future = self._client.submit(_call, self._function, self._shared, item, pure=False)
        self.running[future] = position, item, tries

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Results of what is done since; what was lost is submitted again."""
        try:
            done = wait(list(self.running), timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            wait_for_workers(self._client)
            return
        except CancelledError:
            done = {future for future in self.running if future.status in ("cancelled", "lost")}
        for future in sorted(done, key=lambda future: future.status == "error"):  # no result is lost with an error
            position, item, tries = self.running.pop(future)
            if future.status == "finished":
                result = future.result()
                future.release()
                yield position, result
                continue
            error = future.exception() if future.status == "error" else None
            if error is not None and not isinstance(error, KilledWorker):
                raise error
            self._again(position, item, tries)

    def _again(self, position: int, item: Any, tries: int) -> None:
        """Submit an item that was lost with its worker, and with it what all items have in common."""
        if tries >= _MOST_TRIES:
            raise ClusterError(
                f"workers went away {tries} times while they were at chunk {position}; their logs say why: often "
                "memory runs out, so that workers with fewer threads or more memory help"
            )
        logger.warning("chunk %d was lost with its worker, and is done again", position)
        if self._shared is None or self._shared.status != "finished":
            self._shared = None
        self.submit(position, item, tries + 1)

    def close(self) -> None:
        """Give up what is under way."""
        if self.running:
            self._client.cancel(list(self.running))
        self.running.clear()
        if self._shared is not None:
            self._shared.release()


def _call(function: Callable[..., Any], shared: Shared, item: Any) -> Any:
    return function(*shared.value, item)
