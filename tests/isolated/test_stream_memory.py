"""Values that are larger than what the process may grow by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MOST_KB = 64 << 10


@pytest.mark.parametrize("megabytes", [256, pytest.param(1024, marks=pytest.mark.torture)])
def test_streams_in_and_out_leave_the_process_small(tmp_path: Path, megabytes: int) -> None:
    script = HERE / "stream_in_bounded_memory.py"
    answer = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(megabytes)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) <= MOST_KB
