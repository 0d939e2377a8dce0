"""Every call is counted once, in the manager and in the tier that answered, whatever way it took;
and what one tier cannot give, the next one does.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, filesystem_manager, manager_over

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, MemoryCacheConfig, _core
from cogcache.testing import FakeClock, memory_cache


def two_tiers(path: Path) -> CacheManager:
    return CacheManager(
        CacheConfig(
            [
                MemoryCacheConfig(),
                FilesystemCacheConfig(path, priority=1, touch_seconds=0, cleanup_on_startup=False),
            ]
        )
    )


async def counted(manager: CacheManager) -> dict[str, tuple[int, int]]:
    stats = await manager.get_stats()
    tiers = {name: (one["hits"], one["misses"]) for name, one in stats["backends"].items()}
    return {"manager": (stats["manager"]["hits"], stats["manager"]["misses"]), **tiers}


async def test_a_miss_of_several_tiers_is_one_miss_of_each(tmp_path: Path) -> None:
    manager = two_tiers(tmp_path)
    assert await manager.get("a") is None
    assert not await manager.lookup("b")
    assert await manager.get_many(["c", "d"]) == {}
    assert await counted(manager) == {
        "manager": (0, 4),
        "MemoryCacheBackend": (0, 4),
        "FilesystemCacheBackend": (0, 4),
    }
    await manager.aclose()


async def test_a_hit_counts_once_however_it_was_asked_for(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    await manager.set("key", 1)
    await manager.get("key")
    await manager.lookup("key")
    await manager.get_many(["key"])
    await manager.get_or_compute("key", lambda: 2)
    async with manager.open("key", "doc") as reader:
        assert reader is not None
    assert await counted(manager) == {"manager": (5, 0), "FilesystemCacheBackend": (5, 0)}
    await manager.aclose()


async def test_looking_without_taking_counts_nothing(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    await manager.set("key", 1)
    for key in ("key", "absent"):
        await manager.exists(key)
        await manager.get_metadata(key)
        await manager.touch(key)
    assert await counted(manager) == {"manager": (0, 0), "FilesystemCacheBackend": (0, 0)}
    await manager.aclose()


async def test_many_who_compute_once_are_a_miss_each_and_one_computation() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    gate, release = asyncio.Semaphore(1), asyncio.Event()

    async def compute() -> int:
        await release.wait()
        return 1

    calls = [
        asyncio.create_task(manager.get_or_compute("key", compute, gate=gate)) for _ in range(5)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*calls)
    assert (await counted(manager))["manager"] == (0, 5)
    assert manager.counters["computed"] == 1


async def test_a_tier_that_is_down_counts_errors_and_no_misses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = BrokenTier()
    manager = manager_over(broken)
    with caplog.at_level(logging.WARNING, "cogcache"):
        for _ in range(5):
            assert await manager.get("key") is None
    assert (broken.counters["misses"], broken.counters["errors"]) == (0, 5)
    assert len(caplog.records) == 1  # once per change of state


async def test_deletes_are_counted_in_the_tier(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    await manager.set("key", 1)
    assert await manager.delete("key")
    assert not await manager.delete("key")
    assert manager.backends[0].counters["deletes"] == 1
    await manager.aclose()


class DamagedTier(DictTier):
    """Every value turns out to be damaged when it is decoded."""

    def load_now(self, entry: _core.Entry, slow: object, **options: Any) -> Any:
        raise _core.DamagedError("a chunk fails its checksum")

    async def load(self, entry: _core.Entry, **options: Any) -> Any:
        raise _core.DamagedError("a chunk fails its checksum")


class FailingTier(DictTier):
    """Every value fails to be read with an error that nobody thought of."""

    def load_now(self, entry: _core.Entry, slow: object, **options: Any) -> Any:
        raise OSError(5, "Input/output error")

    async def load(self, entry: _core.Entry, **options: Any) -> Any:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("kind", [DamagedTier, FailingTier])
async def test_a_value_that_one_tier_cannot_give_comes_from_the_next(kind: type[DictTier]) -> None:
    first, second = kind(), DictTier()
    manager = manager_over(first, second)
    assert await manager.set("key", "value")
    assert await manager.get("key") == "value"
    alone = manager_over(kind())
    await alone.set("key", "value")
    assert await alone.get("key") is None  # and nothing is raised
    async with alone.open("key") as reader:
        assert reader is None


async def test_a_shared_draft_does_not_lose_the_life_that_another_tier_keeps(
    tmp_path: Path,
) -> None:
    manager = CacheManager(
        CacheConfig(
            [FilesystemCacheConfig(tmp_path, enable_ttl=False), MemoryCacheConfig(priority=1)]
        )
    )
    await manager.set("key", 1, ttl=60)
    (_, metadata) = (await manager.backends[1].list_keys(include_metadata=True))[0]
    assert metadata is not None
    assert metadata["ttl"] == 60
    await manager.aclose()


async def test_touching_begins_a_life_anew_in_memory_too() -> None:
    cache = memory_cache()
    manager, clock = cache.cache, FakeClock(cache)
    value = {"frames": [b"x" * 10_000]}
    await manager.set("key", value, ttl=100)
    for _ in range(5):
        clock.advance(60)
        assert await manager.touch("key")
        assert await manager.get("key") == value
    before = (await manager.lookup("key")).expires_at
    assert await manager.touch("key", ttl=1)  # never shortened
    assert (await manager.lookup("key")).expires_at == before
    assert await manager.touch("key", ttl=0)
    assert (await manager.lookup("key")).expires_at is None
    await manager.set("short", 1, ttl=10)
    clock.advance(11)
    assert not await manager.touch("short")
    assert not await manager.touch("absent")


async def test_what_was_touched_goes_last() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig(max_size_mb=0.05)]))
    for name in ("first", "second", "third"):
        assert await manager.set(name, b"\xff" * 15_000)
    assert await manager.touch("first")
    assert await manager.set("fourth", b"\xff" * 15_000)
    assert [await manager.exists(name) for name in ("first", "second", "third")] == [
        True,
        False,
        True,
    ]


async def test_many_cold_keys_need_few_descriptors(tmp_path: Path) -> None:
    writer = filesystem_manager(tmp_path)
    items: dict[str, Any] = {f"key:{number}": b"x" * 300_000 for number in range(300)}
    await writer.set_many(items)
    await writer.aclose()
    reader = filesystem_manager(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        assert len(await reader.get_many(items)) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await reader.aclose()
