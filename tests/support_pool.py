"""Jobs of the thread pool whose beginning and end a test decides, and what to look at around
them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogcache import _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

HANG_SECONDS = 200.0
POOL_THREADS = 4


def tier_at(path: Path | str, **options: Any) -> FilesystemCacheBackend:
    """A filesystem tier in a directory of the test."""
    return FilesystemCacheBackend(FilesystemCacheConfig(path, **options))


def _answers_inline() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        store = _core.Store(directory)
        store.put(draft_of(1))
        answer = store.get_value(_core.raw_key("key"), "miss", "slow")
        store.close()
    return bool(answer == 1)


def draft_of(value: Any, name: str = "key", **options: Any) -> _core.Draft:
    """A draft that never expires."""
    named = {"meta": {}, "refreshed_ms": 1, "ttl_ms": None, **options}
    return _core.Draft(value, _core.raw_key(name), **named)


class Gate:
    """An entry that cannot be read through until the test opens the gate.

    ``gate.entry.verify()`` in the pool enters the gate and stays there: a job that has begun
    and has not ended.
    """

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.reads = 0
        self._opened = threading.Event()
        self._opened.set()
        # Larger than what is read at once when an entry is opened.
        image = draft_of(os.urandom(500_000)).compose().tobytes()

        def read(offset: int, size: int) -> bytes:
            if not self._opened.is_set():
                self.reads += 1
                self.entered.release()
                assert self._opened.wait(HANG_SECONDS), "the test never opened the gate"
            return image[offset : offset + size]

        self.entry = _core.Entry.from_reader(len(image), read)
        self._opened.clear()

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._opened.set()

    def await_entered(self, count: int = 1) -> None:
        """Block this thread until so many jobs are inside."""
        for _ in range(count):
            assert self.entered.acquire(timeout=HANG_SECONDS), "no job began"

    def fill_pool(self) -> None:
        """Have every thread of the pool wait in this gate, for nobody."""
        for _ in range(POOL_THREADS):
            self.entry.submit(None, None, "verify")
        self.await_entered(POOL_THREADS)


@contextlib.contextmanager
def gate() -> Iterator[Gate]:
    """A gate that is opened at the end, and the pool drained, whatever happens."""
    made = Gate()
    try:
        yield made
    finally:
        made.open()
        assert _core.drain_pool(HANG_SECONDS)


def settle() -> None:
    """Wait until nothing runs in the pool, the background included."""
    assert _core.drain_pool(HANG_SECONDS)
    while (stats := _core.pool_stats())["running"] or stats["waiting"]:
        os.sched_yield()
    _core.drain_pool(0)


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd")) - 1


def leftovers(root: str) -> list[str]:
    """Files being written, which no finished or cancelled operation may leave behind."""
    return sorted(os.listdir(os.path.join(root, "tmp")))


needs_inline = pytest.mark.skipif(
    not _answers_inline(),
    reason="this kernel, container or file system cannot read without blocking: no hit is inline",
)
needs_maps = pytest.mark.skipif(
    os.environ.get("COGCACHE_NO_MMAP", "0") not in ("", "0"), reason="maps are switched off"
)
