"""Streams leave nothing behind, whatever becomes of them, and however the process ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from cogcache import _core

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(script: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(HERE / script), str(directory)],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_streams_leave_nothing_behind(tmp_path: Path) -> None:
    answer = run("streams_without_leaks.py", tmp_path)
    assert answer.returncode == 0, answer.stderr
    blocks, descriptors, kilobytes = map(int, answer.stdout.split())
    assert blocks < 600  # of 45 rounds, each of which makes 15 objects of ours
    assert descriptors <= 0
    assert kilobytes < 20_000


def test_a_process_that_ends_in_the_middle_ends_well(tmp_path: Path) -> None:
    answer = run("exit_incoming.py", tmp_path)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "done\n", "")
    check_reaped(tmp_path)


def test_what_a_killed_process_was_receiving_is_reaped(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from cogcache import _core\n"
        "store = _core.Store(sys.argv[1], min_free_bytes=0)\n"
        "incoming = store.incoming(b'key', length=1_000_000)\n"
        "incoming.append(bytes(1000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        timeout=110,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "v1" / "tmp")) == 1
    check_reaped(tmp_path)


def check_reaped(directory: Path) -> None:
    store = _core.Store(str(directory), min_free_bytes=0)
    assert store.sweep() is not None
    assert os.listdir(Path(store.root, "tmp")) == []
    assert store.stats()["held_bytes"] == 0
    store.close()


def test_a_large_stream_needs_the_memory_of_a_few_chunks(tmp_path: Path) -> None:
    size = 300_000_000
    script = (
        "import resource, sys\n"
        "from cogcache import _core\n"
        "store = _core.Store(sys.argv[1], min_free_bytes=0)\n"
        "piece = bytes(range(256)) * 4096\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "writer = _core.EntryWriter(b'key', meta={}, refreshed_ms=1, ttl_ms=None,"
        " compress=False)\n"
        "incoming = store.incoming(b'key')\n"
        f"for _ in range({size} // len(piece)):\n"
        "    assert incoming.append(writer.feed(piece)) is None\n"
        "assert incoming.append(writer.finish()) is None\n"
        "assert incoming.commit() is None\n"
        "print(peak() - before, writer.raw_bytes)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 0, answer.stderr
    kilobytes, raw = map(int, answer.stdout.split())
    assert raw > 0.99 * size
    assert kilobytes < 64_000  # the window of the check at the commit is 16 MiB
    store = _core.Store(str(tmp_path), min_free_bytes=0)
    entry = store.fetch(b"key", _core.GET_INDEX_ONLY)
    assert isinstance(entry, _core.Entry)
    assert entry.read(0, raw - 256, raw) == bytes(range(256))
    store.close()
