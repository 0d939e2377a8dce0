"""A copy into a higher tier never brings back what was replaced or forgotten meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, PolicyConfig, manager_over

from cogcache import CacheManager, FilesystemCacheConfig, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.keys import key_bytes

Change = Callable[[CacheManager], Awaitable[Any]]
Read = Callable[[CacheManager], Coroutine[Any, Any, Any]]


class SlowTier(DictTier):
    """A tier whose answers to reads are under way until they are let go."""

    def __init__(self, name: str) -> None:
        super().__init__(PolicyConfig())
        self.name = name
        self.held = False
        self.reading = asyncio.Event()
        self.arrives = asyncio.Event()

    async def read(self, key: bytes) -> _core.Entry | None:
        entry: _core.Entry | None = await super().read(key)
        if self.held:
            self.held = False
            self.reading.set()
            await self.arrives.wait()
        return entry


async def _set(manager: CacheManager) -> None:
    assert await manager.set("key", b"new")


async def _set_many(manager: CacheManager) -> None:
    assert await manager.set_many({"other": 1, "key": b"new"}) == {"other": True, "key": True}


async def _put_stream(manager: CacheManager) -> None:
    assert (await manager.put_stream("key", b"new")).stored


async def _delete(manager: CacheManager) -> None:
    assert await manager.delete("key")


async def _clear(manager: CacheManager) -> None:
    assert await manager.clear("*") == 1


CHANGES = [
    (_set, b"new"),
    (_set_many, b"new"),
    (_put_stream, b"new"),
    (_delete, None),
    (_clear, None),
]


async def _drained(manager: CacheManager) -> None:
    while manager._tiers.promotions.tasks:
        await asyncio.gather(*manager._tiers.promotions.tasks, return_exceptions=True)


async def _get(manager: CacheManager) -> Any:
    return await manager.get("key")


async def _stream(manager: CacheManager) -> Any:
    return b"".join([piece async for piece in manager.get_stream("key")])


@pytest.mark.parametrize("read", [_get, _stream])
@pytest.mark.parametrize(("change", "value"), CHANGES)
async def test_a_read_that_was_under_way_does_not_bring_back_the_older_value(
    change: Change, value: bytes | None, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper, lower = DictTier(), SlowTier("lower")
    monkeypatch.setattr(lower, "is_remote", True)
    manager = manager_over(upper, lower)
    await lower.put(lower.draft(key_bytes("key"), b"old", ttl_ms=None))
    lower.held = True
    getting = asyncio.create_task(read(manager))
    await lower.reading.wait()
    await change(manager)
    lower.arrives.set()
    assert await getting == b"old"  # it was asked for before
    await _drained(manager)
    assert await manager.get("key") == value
    assert await upper.get("key") == value


async def test_a_read_during_a_put_does_not_bring_back_the_older_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upper, lower = DictTier(), SlowTier("lower")
    manager = manager_over(upper, lower)
    await lower.put(lower.draft(key_bytes("key"), b"old", ttl_ms=None))
    go, begun = asyncio.Event(), asyncio.Event()
    write = lower.write

    async def slow_write(what: Any, **where: Any) -> str | None:
        begun.set()
        await go.wait()
        word: str | None = await write(what, **where)
        return word

    monkeypatch.setattr(lower, "write", slow_write)
    putting = asyncio.create_task(manager.set("key", b"new"))
    await begun.wait()
    await upper.discard(key_bytes("key"))  # evicted at once
    assert await manager.get("key") == b"old"
    await _drained(manager)
    go.set()
    assert await putting
    assert await manager.get("key") == b"new"


async def test_other_keys_are_promoted_while_one_is_changed() -> None:
    upper, lower = DictTier(), SlowTier("lower")
    manager = manager_over(upper, lower)
    for n in range(3):
        await lower.put(lower.draft(key_bytes(f"key:{n}"), n, ttl_ms=None))
    lower.held = True
    getting = asyncio.create_task(manager.get("key:0"))
    await lower.reading.wait()
    assert await manager.delete("key:1")
    lower.arrives.set()
    assert await getting == 0
    assert await manager.get("key:2") == 2
    await _drained(manager)
    assert set(upper.images) == {key_bytes("key:0"), key_bytes("key:2")}


async def test_many_changes_during_one_read_cost_a_copy_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogcache.promotion.CHANGES", 8)
    upper, lower = DictTier(), SlowTier("lower")
    manager = manager_over(upper, lower)
    await lower.put(lower.draft(key_bytes("key"), b"old", ttl_ms=None))
    lower.held = True
    getting = asyncio.create_task(manager.get("key"))
    await lower.reading.wait()
    await manager.set("key", b"new")
    for n in range(20):
        await manager.set(f"other:{n}", n)
    lower.arrives.set()
    assert await getting == b"old"
    await _drained(manager)
    assert await upper.get("key") == b"new"
    await upper.discard(key_bytes("key"))
    assert await manager.get("key") == b"new"
    await _drained(manager)
    assert await upper.get("key") == b"new"


@pytest.mark.parametrize("how", ["delete", "set"])
async def test_a_cancelled_put_into_a_directory_is_never_seen_after_a_later_change(
    tmp_path: Path, how: str
) -> None:
    tier = FilesystemCacheBackend(FilesystemCacheConfig(base_path=tmp_path))
    manager = manager_over(tier)
    large = bytes(range(256)) * (1 << 17)  # 32 MiB
    for turn in range(6):
        putting = asyncio.create_task(manager.set("key", large))
        for _ in range(5 + 3 * turn):
            await asyncio.sleep(0.001)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        if how == "delete":
            await manager.delete("key")
        else:
            assert await manager.set("key", b"new")
        assert tier.store.wait(60)
        assert await manager.get("key") == (None if how == "delete" else b"new")
    await manager.aclose()
