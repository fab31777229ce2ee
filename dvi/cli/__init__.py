"""The ``dvi`` command. What is slow to import is imported by the command that needs it."""

from dvi.cli import demonstration, describing, fitting, inspecting, predicting, preparing, retraining
from dvi.cli.application import BAD_INPUT, FAILED, INTERRUPTED, app, exit_code, main

__all__ = [
    "BAD_INPUT",
    "FAILED",
    "INTERRUPTED",
    "app",
    "demonstration",
    "describing",
    "exit_code",
    "fitting",
    "inspecting",
    "main",
    "predicting",
    "preparing",
    "retraining",
]
