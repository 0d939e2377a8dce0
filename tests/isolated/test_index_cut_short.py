"""Whoever cuts the index short ends no process that uses it, whatever handlers that one has."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support_pool import needs_maps

HERE = Path(__file__).parent
HANG_SECONDS = 100


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )


@pytest.mark.parametrize("when", ["before", "never"])
def test_a_process_goes_on_with_values_and_accounts(tmp_path: Path, when: str) -> None:
    result = run(HERE / "index_cut_short.py", tmp_path / "cache", when)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_faulthandler_enabled_later_may_report_and_the_process_goes_on(tmp_path: Path) -> None:
    result = run(HERE / "index_cut_short.py", tmp_path / "cache", "after")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


@needs_maps
def test_without_the_handler_it_would_have_been_a_death(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, signal
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

async def main():
    root = {str(tmp_path / "cache")!r}
    # without a sweep, which might find out first, by asking for the size of the file
    tier = FilesystemCacheBackend(FilesystemCacheConfig(root, cleanup_on_startup=False))
    await tier.set("key", b"value")
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    os.truncate(os.path.join(tier.root, "index"), 0)
    await tier.set("key", b"value")

asyncio.run(main())
"""
    assert run("-c", script).returncode == -signal.SIGBUS
