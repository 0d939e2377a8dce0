"""The public API as mypy and pyright see it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "typing" / "public_api.py"
STRICT_MYPY = ["mypy", "--strict", "--warn-unused-ignores"]
# The same checker in two packages; the second one is all of it.
PYRIGHT = ["pyright", "basedpyright"]


def check(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, str(PROGRAM)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_sees_the_types_that_users_expect() -> None:
    check(STRICT_MYPY)


def test_pyright_sees_the_types_that_users_expect() -> None:
    installed = [name for name in PYRIGHT if importlib.util.find_spec(name) is not None]
    if not installed:
        pytest.skip("neither basedpyright nor pyright is installed; the extra [dev] has one")
    check([installed[-1], "--level", "error"])
