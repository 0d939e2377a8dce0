"""Many look-ups that no hit on the loop's thread can answer: one job of the pool for many keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import filesystem_manager
from support_pool import HANG_SECONDS, descriptors, gate, settle, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, Key, _core
from cogcache.backends.filesystem import FilesystemCacheBackend

AT_ONCE = FilesystemCacheBackend.fetch_at_once


def with_nothing_inline(manager: CacheManager) -> FilesystemCacheBackend:
    """As on a system that cannot read without waiting; its filesystem tier."""
    tier = manager.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)

    def slow_ones(keys: Sequence[bytes], miss: object, slow: object, start: int) -> list[Any]:
        return [slow] * (len(keys) - start)

    def none_at_hand(key: bytes, *, index_only: bool = False) -> None:
        return None

    tier.get_many_inline = slow_ones  # type: ignore[method-assign]
    tier.fetch_now = none_at_hand  # type: ignore[method-assign]
    return tier


async def jobs_of(work: Callable[[], Any]) -> tuple[Any, int]:
    settle()
    before = int(_core.pool_stats()["jobs"])
    result = await work()
    settle()
    return result, int(_core.pool_stats()["jobs"]) - before


async def test_many_small_values_take_one_job_for_sixteen(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    tier = with_nothing_inline(manager)
    items = {f"key:{n}": {"n": n, "bytes": os.urandom(500)} for n in range(100)}
    assert all((await manager.set_many(items)).values())
    got, jobs = await jobs_of(lambda: manager.get_many([*items, "absent"]))
    assert got == items
    assert list(got) == list(items)
    assert jobs == 64 // AT_ONCE + -(-37 // AT_ONCE)
    assert (tier.counters["hits"], tier.counters["misses"]) == (100, 1)
    one, jobs = await jobs_of(lambda: manager.get_many(["key:5"]))
    assert one == {"key:5": items["key:5"]}
    await manager.aclose()


async def test_one_damaged_entry_is_one_miss(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    tier = with_nothing_inline(manager)
    items = {f"key:{n}": os.urandom(500) for n in range(20)}
    await manager.set_many(items)
    entry = await tier.fetch(_core.raw_key("key:7"))
    assert not isinstance(entry, str)
    digest = entry.digest.hex()
    path = Path(tier.root, "objects", digest[:2], digest[2:])
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    got = await manager.get_many(items)
    assert got == {key: value for key, value in items.items() if key != "key:7"}
    assert tier.counters["damaged"] == 1
    assert (tier.counters["hits"], tier.counters["misses"]) == (19, 1)
    await manager.aclose()


async def test_two_spellings_of_one_key_get_a_value_each(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    with_nothing_inline(manager)
    array = np.arange(500_000)
    await manager.set("key", array)
    other = Key.from_encoded(_core.raw_key("key"))
    got = await manager.get_many(["key", other])
    assert len(got) == 2
    got["key"] += 1
    np.testing.assert_array_equal(got[other], array)
    np.testing.assert_array_equal(got["key"], array + 1)
    await manager.aclose()


async def test_a_cancelled_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    tier = with_nothing_inline(manager)
    items = {f"key:{n}": os.urandom(200_000) for n in range(60)}
    await manager.set_many(items)
    settle()
    before = descriptors()
    with gate() as held:
        held.fill_pool()
        asking = asyncio.ensure_future(manager.get_many(items))
        while _core.pool_stats()["waiting"] < 4:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, HANG_SECONDS)
        assert _core.pool_stats()["waiting"] == 0, "nobody waits for these any more"
        assert tier.store.in_flight == 0
    assert descriptors() <= before + 2  # the channel of the loop
    assert await manager.get_many(items) == items
    await manager.aclose()


async def test_with_a_deadline_each_key_is_asked_for_by_itself(tmp_path: Path) -> None:
    config = FilesystemCacheConfig(tmp_path, timeout_seconds=HANG_SECONDS)
    manager = CacheManager(CacheConfig([config]))
    with_nothing_inline(manager)
    items = {f"key:{n}": n for n in range(20)}
    await manager.set_many(items)
    called = []
    tier = manager.backends[0]
    fetch = tier.fetch

    async def noticed(key: bytes, *, index_only: bool = False) -> _core.Entry | str:
        called.append(key)
        return await fetch(key, index_only=index_only)

    tier.fetch = noticed  # type: ignore[method-assign]
    assert await manager.get_many(items) == items
    assert called == [_core.raw_key(key) for key in items]
    await manager.aclose()


async def test_lives_that_are_not_kept_and_entries_that_are_not_there(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, enable_ttl=False)
    keys = [_core.raw_key(name) for name in ("one", "absent", "two")]
    await tier.set("one", 1, ttl=10)
    await tier.set("two", 2)
    tier.set_clock_offset(1_000_000)
    found = await tier.fetch_many(keys)
    assert found[1] == "absent"
    assert [entry.value() for entry in found if not isinstance(entry, str)] == [1, 2]
    await tier.aclose()


def test_keys_are_bytes(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path))
    assert store.fetch_many([]) == []
    with pytest.raises(TypeError, match="a key is bytes, not str"):
        store.fetch_many([b"key", "key"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a sequence of bytes"):
        store.fetch_many(5)  # type: ignore[arg-type]
    store.close()
    assert store.in_flight == 0
