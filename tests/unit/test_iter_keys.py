"""Keys as the tiers list them, one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    CacheConfig,
    CacheManager,
    ClosedError,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    _core,
)

KEYS = {"a:1", "a:2", "b:1"}


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[CacheManager]:
    tiers = [MemoryCacheConfig(), FilesystemCacheConfig(tmp_path / "cache", priority=1)]
    async with CacheManager(CacheConfig(tiers)) as made:
        assert all((await made.set_many(dict.fromkeys(KEYS, 1))).values())
        assert await made.backends[0].delete("a:2")
        yield made


async def test_each_key_is_told_once_over_all_tiers(manager: CacheManager) -> None:
    assert sorted([key async for key, _ in manager.iter_keys()]) == sorted(KEYS)
    assert {key async for key, _ in manager.iter_keys("a:*")} == {"a:1", "a:2"}
    assert {pair async for pair in manager.iter_keys("b:1")} == {("b:1", None)}
    async for _, metadata in manager.iter_keys("b:1", include_metadata=True):
        assert metadata and metadata["size_bytes"] > 0


async def test_whoever_stops_early_reads_no_more(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry async for entry in manager.backends[1].scan()]
    told = 0

    async def scan(source: int = 0) -> AsyncIterator[_core.Entry]:
        nonlocal told
        for entry in entries:
            told += 1
            yield entry

    for tier in manager.backends:
        monkeypatch.setattr(tier, "scan", scan)
    found = manager.iter_keys()
    await anext(found)
    await found.aclose()
    assert told == 1


async def test_a_tier_that_fails_midway_costs_only_its_rest(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> AsyncIterator[tuple[str, None]]:
        yield "a:1", None
        raise OSError("the disk is gone")

    monkeypatch.setattr(manager.backends[0], "iter_keys", fails)
    assert sorted([key async for key, _ in manager.iter_keys()]) == sorted(KEYS)
    assert manager.backends[0].counters["errors"] == 1


async def test_what_cannot_be_is_told_at_the_call(manager: CacheManager) -> None:
    with pytest.raises(ValueError, match="whole segments"):
        manager.iter_keys("a*b")
    await manager.aclose()
    with pytest.raises(ClosedError):
        manager.iter_keys()


def test_it_is_a_plain_iterator_for_scripts() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    manager.sync.set("key", 1)
    assert list(manager.sync.iter_keys()) == [("key", None)]
    manager.sync.aclose()
