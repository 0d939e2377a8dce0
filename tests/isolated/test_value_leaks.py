"""Values leave nothing behind: no objects, no memory, no descriptors, whatever becomes of them."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def test_values_leave_nothing_behind(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(HERE / "values_without_leaks.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert answer.returncode == 0, answer.stderr
    blocks, heap, descriptors, kilobytes = map(int, answer.stdout.split())
    assert blocks < 600  # of 120 rounds, in each of which every kind of value is read 14 times
    assert heap < 100_000  # bytes
    assert descriptors <= 0
    assert kilobytes < 10_000
