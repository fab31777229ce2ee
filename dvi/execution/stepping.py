"""One step of a training, wherever its requests are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dvi.types import Round, State, StepInfo, Training, Work


def step_of(training: Training, state: State, answer: Callable[[Round | Work], Any]) -> tuple[State, StepInfo]:
    """Do one step from a state.

    Parameters
    ----------
    training : Training
    state : State
    answer : callable
        From what the training asks for to an Evaluation, or a list of results.
    """
    steps = training.step(state)
    found: Any = None
    while True:
        try:
            request = steps.send(found)
        except StopIteration as done:
            result: tuple[State, StepInfo] = done.value
            return result
        found = answer(request)
