"""dvi is typed for those who use it: mypy agrees with every line of user_side.py, errors that must be among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_types_are_those_that_users_see() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing/user_side.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
