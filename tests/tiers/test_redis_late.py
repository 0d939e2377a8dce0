"""Changes that were given up, and that the server makes long after: none overtakes a later one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support_redis import base_of, redis_tier, slices_of

from cogcache.backends.redis.late import FENCE_MS
from cogcache.backends.redis.tier import RedisBackend
from cogcache.keys import key_bytes

SIZES = pytest.mark.parametrize("size", [10, 300_000], ids=["whole", "in slices"])
GiveUp = Callable[[RedisBackend, Proxy, Coroutine[Any, Any, Any]], Coroutine[Any, Any, None]]


def blob(size: int, salt: int) -> bytes:
    return random.Random(salt).randbytes(size)


@pytest.fixture
async def tier(redis_server: RedisServer, redis_proxy: Proxy) -> AsyncIterator[RedisBackend]:
    tier = redis_tier(redis_proxy, max_value_size=None, slice_size=64 << 10)
    assert await tier.set("key", b"first") and await tier.delete("key")  # teaches it the scripts
    yield tier
    await tier.aclose()


def calls_of_scripts(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


async def cancelled(tier: RedisBackend, proxy: Proxy, change: Coroutine[Any, Any, Any]) -> None:
    """Begin a change, have its script held, and give it up: its caller does not wait for it."""
    held = proxy.counts()["held"]
    proxy.set("hold", kind="EVALSHA", where="before", times=1)
    task = asyncio.ensure_future(change)
    await asyncio.to_thread(proxy.wait_held, held + 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def out_of_time(tier: RedisBackend, proxy: Proxy, change: Coroutine[Any, Any, Any]) -> None:
    """The same, at the deadline of the script."""
    proxy.set("hold", kind="EVALSHA", where="before", times=1)
    patient, to_its_end = tier._client.seconds, tier._client.script

    async def hurried(*args: Any, **options: Any) -> Any:
        tier._client.seconds = 0.2
        return await to_its_end(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tier._client, "script", hurried)
        assert not await change
    tier._client.seconds = patient
    tier._client.breaker._next_probe = 0.0
    await asyncio.to_thread(proxy.wait_held, 1)


async def sent_twice(tier: RedisBackend, proxy: Proxy, change: Coroutine[Any, Any, Any]) -> None:
    """The connection breaks, the second try works, and the first is still on its way."""
    proxy.set("hold", kind="EVALSHA", where="before", times=1)
    task = asyncio.ensure_future(change)
    await asyncio.to_thread(proxy.wait_held, 1)
    (connection,) = tier._client._here().client.connection_pool._in_use_connections
    connection._writer.transport.abort()
    assert await task


async def it_arrives(proxy: Proxy, server: RedisServer, changes: int = 1) -> None:
    """What was held reaches the server, which does what it does with it."""
    before = calls_of_scripts(server)
    proxy.release()
    async with asyncio.timeout(60):
        while calls_of_scripts(server) < before + changes:
            await asyncio.sleep(0)


@SIZES
@pytest.mark.parametrize("give_up", [cancelled, out_of_time, sent_twice])
async def test_a_put_that_was_given_up_never_takes_the_place_of_a_later_one(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer, size: int, give_up: GiveUp
) -> None:
    await give_up(tier, redis_proxy, tier.set("key", blob(size, 1)))
    assert await tier.set("key", blob(size, 2))
    await it_arrives(redis_proxy, redis_server)
    assert await tier.get("key") == blob(size, 2)
    with redis_server.client() as client:  # nor does anything of it stay
        assert len(slices_of(client, base_of(tier, "key"))) == (0 if size == 10 else 5)


@SIZES
async def test_a_put_that_was_given_up_does_not_bring_back_what_was_deleted_since(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer, size: int
) -> None:
    forgetting: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: tier.delete("key"),
        lambda: tier.clear(),
        lambda: tier.clear("key"),
        lambda: tier.clear("*"),
    ]
    for forget in forgetting:
        await cancelled(tier, redis_proxy, tier.set("key", blob(size, 1)))
        assert not await forget()
        await it_arrives(redis_proxy, redis_server)
        assert await tier.get("key") is None
        with redis_server.client() as client:
            assert slices_of(client, base_of(tier, "key")) == []


async def test_a_delete_that_was_given_up_does_not_remove_a_later_put(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    assert await tier.set("key", 1)
    await cancelled(tier, redis_proxy, tier.delete("key"))
    assert await tier.set("key", 2)
    await it_arrives(redis_proxy, redis_server)
    assert await tier.get("key") == 2


async def test_many_that_were_given_up_all_come_too_late(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    for number in range(3):
        await cancelled(tier, redis_proxy, tier.set("key", number))
        await cancelled(tier, redis_proxy, tier.set(f"other:{number}", number))
    assert await tier.set("key", 3)
    await it_arrives(redis_proxy, redis_server, 6)
    assert await tier.get("key") == 3
    # Nothing came after these, so what they were to do is done.
    assert [await tier.get(f"other:{number}") for number in range(3)] == [0, 1, 2]


async def test_a_refused_generation_that_is_there_already_keeps_its_slices(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    """The put was sent twice and is there; then only another write of its key is removed."""
    value = blob(300_000, 1)
    await sent_twice(tier, redis_proxy, tier.set("key", value))
    assert not await tier.discard_write(key_bytes("key"), 12345)
    await it_arrives(redis_proxy, redis_server)
    assert await tier.get("key") == value
    assert tier.counters["damaged"] == 0


async def test_the_fence_is_told_once_and_has_a_life(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    await cancelled(tier, redis_proxy, tier.set("key", 1))
    fence = base_of(tier, "key") + tier._late._fence
    with redis_server.client() as client:
        assert not client.exists(fence)
        assert await tier.set("key", 2)
        assert 0 < client.pttl(fence) <= FENCE_MS
        client.unlink(fence)  # as if its life were over
        assert await tier.set("key", 3)
        assert not client.exists(fence)
    assert [key for key, _ in await tier.list_keys()] == ["key"]
    assert await tier.gc() == 0


async def test_a_full_server_removes_all_the_same_and_is_told_of_the_fence_later(
    tier: RedisBackend, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    assert await tier.set("key", 1)
    await cancelled(tier, redis_proxy, tier.set("key", 2))
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert await tier.delete("key")
            assert not await tier.set("key", 3)
        finally:
            client.config_set("maxmemory", 0)
    assert not await tier.delete("key")
    await it_arrives(redis_proxy, redis_server)
    assert await tier.get("key") is None


async def test_of_very_many_that_were_given_up_the_oldest_are_forgotten(
    tier: RedisBackend, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogcache.backends.redis.late.MOST_LATE", 2)
    for number in range(4):
        await cancelled(tier, redis_proxy, tier.set(f"key:{number}", number))
    assert list(tier._late._late) == [base_of(tier, f"key:{number}") for number in (2, 3)]
