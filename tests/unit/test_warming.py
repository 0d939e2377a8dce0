"""Entries of slower tiers, brought into the local one (M08)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache import (
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    _core,
)
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.keys import key_bytes
from cogcache.warming import AT_ONCE, WarmProgress


class Away(DictTier):
    """A tier of another host, whose entries are in memory when they are read."""

    is_remote: ClassVar[bool] = True


def value(number: int, size: int = 50_000) -> bytes:
    """Nothing that could be compressed."""
    return random.Random(number).randbytes(size)


def files_at(path: Path, **options: Any) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path, cleanup_on_startup=False, **options))


@pytest.fixture
async def away() -> Away:
    """What another host has stored: five entries, from the oldest to the newest."""
    away = Away()
    host = manager_over(away)
    for number in range(5):
        away.set_clock_offset(-60_000 * (5 - number))
        assert await host.store(f"key:{number}", value(number), ttl="1h", tags=["t"])
    away.set_clock_offset(0)
    return away


@pytest.fixture
async def manager(tmp_path: Path, away: Away) -> AsyncIterator[CacheManager]:
    async with manager_over(files_at(tmp_path / "cache"), away) as manager:
        yield manager


def keys_in(tier: Any) -> list[str]:
    return sorted(key for key, _ in asyncio.run(tier.list_keys()))


async def local(manager: CacheManager) -> list[str]:
    return sorted([key for key, _ in await manager.backends[0].list_keys()])


async def test_what_only_a_slower_tier_has_is_brought(manager: CacheManager, away: Away) -> None:
    assert await manager.get("key:3") == value(3)
    while manager._tiers.promotions.tasks:
        await asyncio.gather(*manager._tiers.promotions.tasks)
    plan = await manager.select_cold()
    assert sorted(str(one.key) for one in plan.entries) == ["key:0", "key:1", "key:2", "key:4"]
    told: list[WarmProgress] = []
    report = await manager.warm(plan, progress=told.append)
    assert (report.ok, report.entries, report.skipped, report.tier) == (
        True,
        4,
        {},
        "FilesystemCacheBackend",
    )
    assert report.stored_bytes == plan.stored_bytes == told[-1].stored_bytes
    assert [one.entries for one in told] == [1, 2, 3, 4]
    assert {one.count for one in told} == {4}
    assert await local(manager) == [f"key:{number}" for number in range(5)]
    away.images.clear()
    assert await manager.get("key:0") == value(0)
    assert (await manager.select_cold()).count == 0
    assert (await manager.warm()).entries == 0


async def test_an_entry_keeps_its_life_and_its_tags(manager: CacheManager, away: Away) -> None:
    before = dict(await away.list_keys(include_metadata=True))
    assert (await manager.warm()).entries == 5
    for key, meta in await manager.backends[0].list_keys(include_metadata=True):
        assert meta is not None and before[key] is not None
        assert meta["expires_at"] == before[key]["expires_at"]
        assert (meta["created_at"], meta["tags"]) == (before[key]["created_at"], ["t"])
    await manager.invalidate_tags("t")
    assert await manager.get("key:0") is None


async def test_the_newest_that_fit_are_brought(manager: CacheManager) -> None:
    plan = await manager.select_cold(max_bytes=120_000)
    assert sorted(str(one.key) for one in plan.entries) == ["key:3", "key:4"]
    assert (await manager.warm(plan)).entries == 2
    assert await local(manager) == ["key:3", "key:4"]
    assert (await manager.select_cold(max_bytes=0)).count == 0
    assert (await manager.select_cold(pattern="key:1")).count == 1
    with pytest.raises(ValueError, match="max_bytes"):
        await manager.select_cold(max_bytes=-1)
    with pytest.raises(TypeError, match="did you mean 'artifact'"):
        await manager.select_cold(artefact="transcript")  # type: ignore[call-arg]


async def test_no_more_is_planned_than_the_local_tier_holds(tmp_path: Path) -> None:
    away = Away()
    host = manager_over(away)
    for number in range(40):
        assert await host.set(f"key:{number}", value(number, 500_000))
    local_tier = files_at(tmp_path / "cache", max_size_mb=17, enable_compression=False)
    async with manager_over(local_tier, away) as manager:
        for number in range(10, 40):
            assert await manager.backends[0].set(f"old:{number}", value(number, 500_000))
        plan = await manager.select_cold()
        assert 20 < plan.count < 34
        report = await manager.warm(plan)
        assert (report.entries, report.refused) == (plan.count, {})
        brought = {str(one.key) for one in plan.entries}
        # What is older went for it, nearly: eviction looks at some entries, not at all.
        assert len(brought & set(await local(manager))) > plan.count // 2


async def test_what_is_gone_dead_or_there_by_now_is_left_out(
    manager: CacheManager, away: Away
) -> None:
    plan = await manager.select_cold()
    del away.images[key_bytes("key:0")]
    assert await manager.backends[0].set("key:1", "newer")
    report = await manager.warm(plan)
    assert (report.entries, report.skipped) == (3, {"absent": 1, "present": 1})
    assert await manager.get("key:1") == "newer"
    assert "skipped" in str(report)


async def test_what_is_put_or_deleted_meanwhile_counts_more(tmp_path: Path, away: Away) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Away):
        async def read(self, key: bytes) -> _core.Entry | None:
            found = await super().read(key)
            reading.set()
            await go_on.wait()
            return found

    slow = Slow()
    slow.images = dict(away.images)
    async with manager_over(files_at(tmp_path / "cache"), slow) as manager:
        plan = await manager.select_cold(pattern="key:1")
        warming = asyncio.create_task(manager.warm(plan))
        await reading.wait()
        assert await manager.set("key:1", "newer")
        go_on.set()
        report = await warming
        assert (report.entries, report.skipped) == (0, {"changed": 1})
        assert await manager.get("key:1") == "newer"

        reading.clear()
        go_on.clear()
        warming = asyncio.create_task(manager.warm(await manager.select_cold(pattern="key:2")))
        await reading.wait()
        assert await manager.delete("key:2")
        go_on.set()
        assert (await warming).entries == 0
        assert await manager.get("key:2") is None


async def test_a_warming_that_is_called_off_keeps_what_is_there(tmp_path: Path, away: Away) -> None:
    class EnoughError(Exception):
        pass

    told: list[WarmProgress] = []

    def enough(now: WarmProgress) -> None:
        told.append(now)
        raise EnoughError

    host = manager_over(away)
    for number in range(5, 40):
        assert await host.set(f"key:{number}", value(number, 1000))
    async with manager_over(files_at(tmp_path / "cache"), away) as manager:
        with pytest.raises(EnoughError):
            await manager.warm(progress=enough)
        # Those that were on their way come to their end, and no other begins.
        assert 1 <= len(told) <= AT_ONCE and len(told) <= len(await local(manager)) <= AT_ONCE
        warming = asyncio.create_task(manager.warm())
        await asyncio.sleep(0)
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        assert not manager._tiers.promotions.tasks
        await manager.warm()
        assert len(await local(manager)) == 40


async def test_damage_is_not_brought(manager: CacheManager, away: Away) -> None:
    plan = await manager.select_cold()
    image = bytearray(away.images[key_bytes("key:2")])
    image[len(image) // 2] ^= 1
    away.images[key_bytes("key:2")] = bytes(image)
    report = await manager.warm(plan)
    assert (report.ok, report.entries, report.refused) == (False, 4, {"damaged": 1})
    assert "key:2" not in await local(manager)


async def test_a_cache_without_a_local_or_a_slower_tier(tmp_path: Path, away: Away) -> None:
    async with manager_over(away) as remote_alone:
        with pytest.raises(ValueError, match="no tier of this cache is local \\(Away\\)"):
            await remote_alone.select_cold()
    async with manager_over(files_at(tmp_path / "cache")) as local_alone:
        await local_alone.set("key", 1)
        assert (await local_alone.select_cold()).count == 0
        assert (await local_alone.warm(await local_alone.select())).skipped == {"present": 1}


async def test_it_goes_into_the_last_local_tier(tmp_path: Path, away: Away) -> None:
    memory = MemoryCacheBackend(MemoryCacheConfig())
    broken = type("Broken", (BrokenTier,), {"is_remote": True})()
    tiers = (memory, files_at(tmp_path / "cache"), broken, away)
    async with manager_over(*tiers) as manager:
        plan = await manager.select_cold()
        assert plan.count == 5 and len(plan.unavailable) == 1
        assert (await manager.warm(plan)).entries == 5
        assert (await memory.list_keys(), len(await tiers[1].list_keys())) == ([], 5)


def test_it_runs_without_a_loop(tmp_path: Path, away: Away) -> None:
    manager = manager_over(files_at(tmp_path / "cache"), away)
    assert manager.sync.warm().entries == 5
    assert keys_in(manager.backends[0]) == [f"key:{number}" for number in range(5)]
    manager.sync.aclose()


async def test_entries_of_a_video_are_found_by_it_afterwards(tmp_path: Path) -> None:
    away = Away()
    video = tmp_path / "talk.mp4"
    video.write_bytes(b"video")
    host = PipelineArtifactCache(manager_over(away), identity="content")
    assert await host.set_transcript(video, {"text": "hello"})
    async with manager_over(files_at(tmp_path / "cache"), away) as manager:
        assert (await manager.warm()).entries == 1
        away.images.clear()
        cache = PipelineArtifactCache(manager, identity="content")
        assert (await manager.select(source=video)).count == 1
        assert await cache.get_transcript(video) == {"text": "hello"}
