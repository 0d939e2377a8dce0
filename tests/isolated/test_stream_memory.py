"""Values that are larger than what the process may grow by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MOST_KB = 64 << 10
CHUNK_MB, MAX_CHUNKS = 5, 1000  # by default


@pytest.mark.parametrize("megabytes", [256, pytest.param(1024, marks=pytest.mark.torture)])
def test_streams_in_and_out_leave_the_process_small(tmp_path: Path, megabytes: int) -> None:
    grown, chunks = growth(tmp_path, str(megabytes))
    assert grown <= MOST_KB
    assert chunks == -(-megabytes // CHUNK_MB)


@pytest.mark.torture
def test_the_largest_stream_under_the_default_limits_leaves_the_process_small(
    tmp_path: Path,
) -> None:
    grown, chunks = growth(tmp_path, str(MAX_CHUNKS * CHUNK_MB), "sparse")  # C23: 4.88 GiB
    assert grown <= MOST_KB
    assert chunks == MAX_CHUNKS


def growth(directory: Path, *arguments: str) -> tuple[int, int]:
    """Kilobytes by which a process grows that streams so much in and out, and its chunks."""
    script = HERE / "stream_in_bounded_memory.py"
    answer = subprocess.run(
        [sys.executable, str(script), str(directory), *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert answer.returncode == 0, answer.stderr
    grown, chunks = map(int, answer.stdout.split())
    return grown, chunks
