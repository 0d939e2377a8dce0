"""Reading ahead of ranges that follow each other: when, how much, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from support_cache import DictTier, manager_over

from cogcache import ChunkingConfig, FilesystemCacheConfig, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.manager import CacheManager
from cogcache.readahead import AHEAD_BYTES, RUNS
from cogcache.reader import Reader

KIB = 1 << 10
CHUNK = 64 * KIB
DATA = random.Random(3).randbytes(40 * CHUNK + 17)


class FarTier(DictTier):
    """A tier behind a network: reads piece by piece, and can be made to wait or to fail."""

    is_remote = True

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []
        self.gates: dict[int, asyncio.Event] = {}  # of the reads that begin there
        self.broken: set[int] = set()
        self.cancelled: list[int] = []

    async def read(self, key: bytes) -> _core.Entry | None:
        data = self.images.get(key)
        if data is None:
            return None
        return _core.Entry.from_reader(len(data), lambda at, size: data[at : at + size], key)

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        if start in self.gates:
            try:
                await self.gates[start].wait()
            except asyncio.CancelledError:
                self.cancelled.append(start)
                raise
        if start in self.broken:
            raise ConnectionResetError("gone")
        return await super().read_part(entry, part, start, stop)


async def far(data: bytes = DATA, **options: object) -> tuple[CacheManager, FarTier]:
    tier = FarTier()
    chunking = ChunkingConfig(chunk_size=CHUNK, **options)  # type: ignore[arg-type]
    manager = manager_over(tier, chunking=chunking)
    assert await manager.put_stream("key", data)
    return manager, tier


def counted(manager: CacheManager, name: str) -> int:
    return manager._readers.reading.counters.get(name, 0)


def tasks_ahead() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "cogcache-ahead"]


async def settled() -> None:
    """Until nothing is on its way."""
    if tasks := tasks_ahead():
        await asyncio.wait(tasks)


async def test_the_fourth_range_in_a_row_is_there_before_it_is_asked_for() -> None:
    manager, tier = await far()
    for number in range(3):
        at = number * CHUNK
        assert await manager.read_range("key", at, at + CHUNK) == DATA[at : at + CHUNK]
    await settled()
    tier.gates = {start: asyncio.Event() for start in range(0, len(DATA), CHUNK)}  # all wait
    assert await manager.read_range("key", 3 * CHUNK, 4 * CHUNK) == DATA[3 * CHUNK : 4 * CHUNK]
    assert counted(manager, "prefetch_hits") == 2  # the third, too
    assert counted(manager, "bytes_read") == 4 * CHUNK
    await manager.aclose()


async def test_one_range_and_ranges_here_and_there_read_nothing_ahead() -> None:
    manager, tier = await far()
    for at in (0, 5 * CHUNK, 2 * CHUNK, 9 * CHUNK, 9 * CHUNK, 8 * CHUNK):
        await manager.read_range("key", at, at + CHUNK)
    async with manager.open("key") as reader:
        assert reader is not None
        await reader.read(3 * CHUNK, 4 * CHUNK)
    assert counted(manager, "prefetches") == 0
    assert len(tier.reads) == 6  # the ninth chunk was still there
    await manager.aclose()


async def test_a_seek_waits_for_nothing_and_ends_what_was_on_its_way() -> None:
    manager, tier = await far()
    tier.gates[2 * CHUNK] = asyncio.Event()
    async with manager.open("key") as reader:
        assert reader is not None
        await reader.read(0, CHUNK)
        await reader.read(CHUNK, 2 * CHUNK)  # and what follows is on its way for ever
        while (2 * CHUNK, 3 * CHUNK) not in tier.reads:
            await asyncio.sleep(0)
        assert await reader.read(20 * CHUNK, 21 * CHUNK) == DATA[20 * CHUNK : 21 * CHUNK]
        await settled()
        assert tier.cancelled == [2 * CHUNK]
        assert tasks_ahead() == []
    await manager.aclose()


@pytest.mark.parametrize("how", ["reader", "manager"])
async def test_closing_ends_what_is_on_its_way(how: str) -> None:
    manager, tier = await far()
    tier.gates[2 * CHUNK] = asyncio.Event()
    if how == "reader":
        async with manager.open("key") as reader:
            assert reader is not None
            for at in (0, CHUNK):
                await reader.read(at, at + CHUNK)
            await asyncio.sleep(0)
    else:
        for at in (0, CHUNK):
            await manager.read_range("key", at, at + CHUNK)
        await asyncio.sleep(0)
        await manager.aclose()
    await settled()
    assert tier.cancelled == [2 * CHUNK]
    await manager.aclose()


async def test_what_is_on_its_way_is_not_asked_for_twice() -> None:
    manager, tier = await far()
    gate = tier.gates[2 * CHUNK] = asyncio.Event()
    for at in (0, CHUNK):
        await manager.read_range("key", at, at + CHUNK)
    third = asyncio.create_task(manager.read_range("key", 2 * CHUNK, 3 * CHUNK))
    await asyncio.sleep(0)
    gate.set()
    assert await third == DATA[2 * CHUNK : 3 * CHUNK]
    assert [start for start, _ in tier.reads].count(2 * CHUNK) == 1
    await manager.aclose()


async def test_a_failure_ahead_costs_another_try_and_nothing_else() -> None:
    manager, tier = await far()
    tier.broken.add(2 * CHUNK)
    for at in (0, CHUNK):
        await manager.read_range("key", at, at + CHUNK)
    await settled()
    tier.broken.clear()
    assert await manager.read_range("key", 2 * CHUNK, 3 * CHUNK) == DATA[2 * CHUNK : 3 * CHUNK]
    assert counted(manager, "prefetch_errors") == 1
    assert counted(manager, "chunk_errors") == 0
    await manager.aclose()


async def test_small_ranges_in_a_row_read_every_chunk_once() -> None:
    manager, tier = await far()
    step = 5_000
    got = b""
    async with manager.open("key") as reader:
        assert reader is not None
        for at in range(0, len(DATA), step):
            got += await reader.read(at, min(at + step, len(DATA)))
            await settled()
    assert got == DATA
    chunks = -(-len(DATA) // CHUNK)
    assert len(tier.reads) <= chunks + 3  # the first ranges, before it is a habit
    await manager.aclose()


async def test_no_more_than_the_bound_is_read_ahead() -> None:
    data = bytes(40 << 20)
    tier = FarTier()
    manager = manager_over(tier, chunking=ChunkingConfig(chunk_size=3 << 20))
    await manager.put_stream("key", data)
    async with manager.open("key") as reader:
        assert reader is not None
        for at in (0, 10 << 20):
            await reader.read(at, at + (10 << 20))
        await settled()
    start, stop = tier.reads[-1]
    assert (start, stop) == (20 << 20, 27 << 20)  # whole chunks of the next 8 MiB
    assert stop - start <= AHEAD_BYTES
    assert counted(manager, "prefetch_unused") == stop - start
    await manager.aclose()


async def test_chunks_that_are_larger_than_the_bound_are_not_read_ahead() -> None:
    tier = FarTier()
    manager = manager_over(tier, chunking=ChunkingConfig(chunk_size=AHEAD_BYTES + (1 << 20)))
    await manager.put_stream("key", bytes(30 << 20))
    for at in range(3):
        await manager.read_range("key", at * 1000, at * 1000 + 1000)
    assert counted(manager, "prefetches") == 0
    await manager.aclose()


async def test_few_values_are_read_ahead_at_once() -> None:
    manager, _ = await far()
    keys = [f"key:{number}" for number in range(RUNS + 3)]
    for key in keys:
        await manager.put_stream(key, DATA)
        for at in (0, CHUNK):
            await manager.read_range(key, at, at + CHUNK)
    await settled()
    assert len(manager._readers.reading.runs._runs) == RUNS
    await manager.aclose()


@pytest.mark.parametrize("why", ["local", "switched off"])
async def test_local_tiers_and_those_who_do_not_want_it_read_nothing_ahead(
    why: str, tmp_path: Path
) -> None:
    if why == "local":
        files = FilesystemCacheBackend(FilesystemCacheConfig(tmp_path, cleanup_on_startup=False))
        manager = manager_over(files, chunking=ChunkingConfig(chunk_size=CHUNK))
        await manager.put_stream("key", DATA)
    else:
        manager, _ = await far(read_ahead=False)
    for at in range(0, 5 * CHUNK, CHUNK):
        assert await manager.read_range("key", at, at + CHUNK) == DATA[at : at + CHUNK]
    assert counted(manager, "prefetches") == 0
    await manager.aclose()


async def test_a_value_that_was_replaced_is_never_given_from_what_was_read_ahead() -> None:
    manager, _ = await far()
    for at in (0, CHUNK):
        await manager.read_range("key", at, at + CHUNK)
    await settled()
    other = bytes(len(DATA))
    await manager.put_stream("key", other)
    assert await manager.read_range("key", 2 * CHUNK, 3 * CHUNK) == bytes(CHUNK)
    await manager.aclose()


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_read_in_whatever_order_is_right(seed: int) -> None:
    manager, tier = await far()
    dice = random.Random(seed)

    async def read(reader: Reader | None) -> None:
        at = 0
        for _ in range(40):
            if dice.random() < 0.25:
                at = dice.randrange(len(DATA) + 1)
            stop = min(len(DATA), at + dice.choice((0, 1, 700, CHUNK, 3 * CHUNK)))
            if dice.random() < 0.1:
                tier.broken = {dice.randrange(40) * CHUNK}
            try:
                if reader is None:
                    got = await manager.read_range("key", at, stop)
                else:
                    got = await reader.read(at, stop)
            except OSError:
                tier.broken = set()
                continue
            assert got is None or got == DATA[at:stop]
            at = stop
            if dice.random() < 0.5:
                await settled()

    async with manager.open("key") as one, manager.open("key") as other:
        assert one is not None
        await asyncio.gather(read(one), read(one), read(other), read(None), read(None))
    await manager.aclose()
    await settled()
    assert tasks_ahead() == []
