"""Scheduled runs in processes that end where they are told to.

Run as a script it reads jobs, one line of JSON each, forks a child for every configuration, and answers with how the
children ended. Children share what was imported, and nothing else.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvi.report  # by the parent, so that no child has to
from dvi.retraining import candidates, running

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
POINTS = ("plan.json", "fit", "diagnose", "save", "verdict.json", "promoted.json", "report.html", "checkpoint",
          "run.json", "prune")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Processes:
    """The parent of the children that run."""

    process: subprocess.Popen[str]

    def run(
        self,
        config: dict[str, Any],
        at: str = "",
        sent: int = signal.SIGKILL,
        copies: int = 1,
        after: float | None = None,
    ) -> list[Any]:
        """What each copy came to: the kind of its outcome, or the exit code.

        At the point ``at`` it gets a signal, and if it is not done ``after`` so many seconds it is killed.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({"config": config, "at": at, "sent": sent, "copies": copies, "after": after}) + "\n"
        )
        self.process.stdin.flush()
        found: list[Any] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def processes(environment: dict[str, str]) -> Iterator[Processes]:
    """A parent that has imported all that its children need."""
    command = [sys.executable, "-m", "tests.retraining.processes"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes) as process:
        yield Processes(process)
        process.stdin.close()  # type: ignore[union-attr]


def _serve() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        children = [_fork(job) for _ in range(job["copies"])]
        sys.stdout.write(json.dumps(sorted((_wait(*child, job["after"]) for child in children), key=str)) + "\n")
        sys.stdout.flush()


def _fork(job: dict[str, Any]) -> tuple[int, int]:
    """The process id of a child, and where it writes the kind of its outcome."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        _signal_at(job["at"], functools.partial(os.kill, os.getpid(), job["sent"]))
        os.write(writing, dvi.retrain(job["config"]).kind.encode())
    except SystemExit as end:
        os._exit(int(str(end.code)))
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


def _wait(child: int, reading: int, after: float | None) -> Any:
    if after is not None and not select.select([reading], [], [], after)[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as file:
        return file.read() or code


def _signal_at(point: str, end: Callable[[], None]) -> None:
    """Have the process get a signal right after something is done."""

    def after(owner: Any, name: str, is_it: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            result = original(*arguments, **keywords)
            if is_it(*arguments):
                end()
            return result

        setattr(owner, name, wrapped)

    after(running.Runs, "write", lambda runs, key, value: key.endswith(point) and "." in point)
    after(running.Runs, "delete", lambda runs, name: point == "checkpoint")
    after(running.Runs, "prune", lambda runs, keep: point == "prune")
    after(running.Metrics, "__call__", lambda metrics, approx, losses, i: point == "fit" and i == 100)
    after(candidates, "diagnose", lambda *_: point == "diagnose")
    after(candidates.Approximation, "save", lambda *_: point == "save")


if __name__ == "__main__":
    _serve()
