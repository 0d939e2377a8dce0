"""How long an event loop is held while gigabytes go in and out of the cache.

A task of the loop sleeps for a millisecond again and again and notes the longest time that passed
between two of its turns. The control is the same loop with nothing to do: what the machine itself
takes. Values are made beforehand; freeing what was read is the reader's own and has a row of its
own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine
from typing import Any

from cogcache import CacheManager, FilesystemCacheConfig

MEGABYTE = 1_000_000


class Ticker:
    """The longest gap between two turns of a task that only sleeps."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now

    async def measure(self, name: str, size: int, work: Coroutine[Any, Any, Any]) -> None:
        """Print one row: what was done, how fast, and the longest gap meanwhile."""
        await asyncio.sleep(0.05)
        self.longest = 0.0
        began, cpu = time.perf_counter(), time.thread_time()
        await work
        seconds = time.perf_counter() - began
        await asyncio.sleep(0.002)
        rate = f"{size / seconds / 1e9:5.2f} GB/s" if size else ""
        print(
            f"{name:32} {seconds:7.2f} s {rate:>11} "
            f"{(time.thread_time() - cpu) / seconds:6.0%} of a core on the loop"
            f" {self.longest * 1000:8.1f} ms longest gap"
        )


async def fill(cache: CacheManager, values: list[Any], rounds: int) -> None:
    """Put all of ``values``, a few at a time."""
    for turn in range(rounds):
        names = [f"{turn}:{number}" for number in range(len(values))]
        await asyncio.gather(*(cache.set(n, v) for n, v in zip(names, values, strict=True)))


async def read(cache: CacheManager, count: int, rounds: int, keep: list[Any]) -> None:
    """Get what ``fill`` put."""
    for turn in range(rounds):
        found = await asyncio.gather(*(cache.get(f"{turn}:{n}") for n in range(count)))
        assert all(value is not None for value in found)
        keep.append(found)


async def let_go(keep: list[Any]) -> None:
    while keep:
        keep[-1].pop()
        keep[:] = [part for part in keep if part]
        await asyncio.sleep(0)


async def run(directory: str, total: int) -> None:
    """All rows: large values, values of a megabyte, and deleting them."""
    cache = CacheManager({"backends": [FilesystemCacheConfig(directory, max_size_mb=20_000)]})
    ticker = Ticker()
    await ticker.measure("nothing (control)", 0, asyncio.sleep(2))
    keep: list[Any] = []
    for size, at_once in ((64 * MEGABYTE, 4), (MEGABYTE, 64)):
        values = [os.urandom(size) for _ in range(at_once)]
        rounds = total // (size * at_once)
        moved = rounds * size * at_once
        label = f"{rounds * at_once} x {size // MEGABYTE} MB"
        await ticker.measure(f"put {label}", moved, fill(cache, values, rounds))
        await ticker.measure(f"get {label}", moved, read(cache, at_once, rounds, keep))
        await ticker.measure(f"free {label} (the caller's)", moved, let_go(keep))
    await ticker.measure("clear", 0, cache.clear())
    await cache.aclose()


def main(arguments: list[str] | None = None) -> int:
    """``python -m benchmarks.bench_loop [--quick] [DIRECTORY]``."""
    given = sys.argv[1:] if arguments is None else arguments
    quick = "--quick" in given
    paths = [argument for argument in given if not argument.startswith("-")]
    directory = tempfile.mkdtemp(prefix="cogcache-bench-", dir=paths[0] if paths else None)
    print("The event loop while values go in and out (other load on the machine shows here, too)")
    try:
        asyncio.run(run(directory, 256 * MEGABYTE if quick else 1024 * MEGABYTE))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
