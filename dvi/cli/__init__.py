"""The ``dvi`` command. What is slow to import is imported by the command that needs it."""

from dvi.cli import demonstration, inspecting, preparing
from dvi.cli.application import BAD_INPUT, FAILED, INTERRUPTED, app, exit_code, main

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "app", "demonstration", "exit_code", "inspecting", "main", "preparing"]
