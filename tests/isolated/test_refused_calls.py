"""A container whose seccomp refuses the calls that only Linux has is a machine like any other."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="installs a seccomp filter",
)
@pytest.mark.parametrize("refused_with", ["EPERM", "ENOSYS"])
def test_everything_works_where_linux_calls_are_refused(tmp_path: Path, refused_with: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", HERE / "refused_calls.py", tmp_path / "c", refused_with],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
