"""Streams into Redis: slices as they come, little memory, and nothing left of what broke off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support_cache import DictTier, manager_over
from support_redis import base_of, redis_tier, slices_of

from cogcache import ChunkingConfig, _core
from cogcache.backends.redis.tier import RedisBackend
from cogcache.backends.redis.writing import STAGED_MS, RedisUpload
from cogcache.keys import key_bytes

KIB, MIB = 1 << 10, 1 << 20
SLICE = 5 * MIB
StartRedis = Callable[..., RedisServer]


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


async def pieces(value: bytes, step: int = 777_777) -> AsyncIterator[bytes]:
    for at in range(0, len(value), step):
        yield value[at : at + step]


def keys_of(client: Any, base: bytes) -> dict[bytes, bytes]:
    """All values of an entry, by their names."""
    return {name: client.get(name) for name in client.keys(base + b":*")}


@pytest.fixture
async def tier(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    tier = redis_tier(redis_server, max_value_size=None)
    yield tier
    await tier.aclose()


async def upload_of(tier: RedisBackend, token: int = 7) -> RedisUpload:
    upload = await tier.receive(key_bytes("key"), token)
    assert isinstance(upload, RedisUpload), upload
    return upload


@pytest.mark.parametrize(
    "size",
    [0, 1, 200 * KIB, 257 * KIB, SLICE, 2 * SLICE - 400, 2 * SLICE, 4 * SLICE, 31 * MIB + 5],
)
@pytest.mark.parametrize("slice_size", [64 * KIB, SLICE])
async def test_a_stream_lies_there_as_the_same_entry_that_was_written_whole(
    redis_server: RedisServer, size: int, slice_size: int
) -> None:
    options: dict[str, Any] = {"max_value_size": None, "slice_size": slice_size}
    tier, other = (redis_tier(redis_server, prefix=prefix, **options) for prefix in ("cc", "dd"))
    beside = DictTier()
    beside.beside_remote = True  # so that both make the same entry
    value = blob(size)
    result = await manager_over(beside, tier).put_stream("key", pieces(value))
    assert result.tiers == (beside.name, tier.name)
    container = beside.images[key_bytes("key")]
    assert await other.write(_core.Entry.from_bytes(container).to_image()) is None
    with redis_server.client() as client:
        streamed = keys_of(client, base_of(tier, "key"))
        whole = keys_of(client, base_of(other, "key"))
    assert streamed == {b"cc" + name[2:]: data for name, data in whole.items()}
    assert await tier.get("key") == value
    for one in (tier, other):
        await one.aclose()


@pytest.mark.parametrize("seed", range(6))
async def test_pieces_of_any_size_make_the_same_slices(tier: RedisBackend, seed: int) -> None:
    dice = random.Random(seed)
    tier._writes.slice_size = 64 * KIB
    value = blob(6 * MIB, seed)
    writer = tier.writer(key_bytes("key"), ttl_ms=None, chunk_size=dice.choice((4096, 70_000)))
    container = writer.feed(value) + writer.finish()
    upload = await upload_of(tier, writer.token)
    at = 0
    while at < len(container):
        step = dice.choice((1, 7, 31, 33, 5000, 64 * KIB, 3 * MIB))
        assert await upload.feed(container[at : at + step]) is None
        at += step
    assert await upload.finish() is None
    assert await tier.get("key") == value


async def test_slices_go_as_they_come_and_two_are_held(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    value = blob(60 * MIB)
    writer = tier.writer(key_bytes("key"), ttl_ms=None)
    upload = await upload_of(tier, writer.token)
    base = base_of(tier, "key")
    with redis_server.client() as client:
        for at in range(0, len(value), MIB):
            assert await upload.feed(writer.feed(value[at : at + MIB])) is None
            assert len(upload._buffer) <= 2 * SLICE
            there = len(slices_of(client, base))
            assert there * SLICE + 2 * SLICE >= writer.length - 32
            assert client.exists(base + b":m") == 0
        assert await tier.get("key") is None
        assert await upload.feed(writer.finish()) is None
        assert await upload.finish() is None
        assert len(slices_of(client, base)) == 12
        assert all(client.pttl(name) == -1 for name in slices_of(client, base))
    assert await tier.get("key") == value


async def test_the_source_waits_for_the_server(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    tier = redis_tier(redis_proxy, max_value_size=None)
    manager = manager_over(tier)
    await tier.prepare()
    redis_proxy.set("hold", kind="SET", where="before")
    taken = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(60):
            taken += MIB
            yield blob(MIB, taken)

    putting = asyncio.create_task(manager.put_stream("key", source()))
    await asyncio.to_thread(redis_proxy.wait_held)
    before = -1
    while before != taken:  # until it stands still
        before = taken
        for _ in range(200):
            await asyncio.sleep(0)
    assert taken < 30 * MIB
    redis_proxy.clear()
    redis_proxy.release()
    assert (await putting).stored
    await manager.aclose()


async def test_the_older_value_stays_until_the_new_one_is_there(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    manager = manager_over(tier)
    old, new = blob(12 * MIB, 1), blob(30 * MIB, 2)
    await manager.put_stream("key", old)

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(new):
            yield piece
        assert await tier.get("key") == old

    assert (await manager.put_stream("key", source())).stored
    assert await tier.get("key") == new
    with redis_server.client() as client:
        assert len(slices_of(client, base_of(tier, "key"))) == 6  # none of the old ones


@pytest.mark.parametrize("how", ["source", "cancel", "too-large"])
async def test_what_is_given_up_leaves_no_slice(
    tier: RedisBackend, redis_server: RedisServer, how: str
) -> None:
    base = base_of(tier, "key")
    manager = manager_over(tier)
    await manager.put_stream("key", b"old")
    given = asyncio.Event()
    if how == "too-large":
        tier._largest = 25 * MIB

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(blob(30 * MIB)):
            yield piece
        with redis_server.client() as client:
            assert bool(slices_of(client, base)) is (how != "too-large")
        given.set()
        if how == "cancel":
            await asyncio.Event().wait()
        if how == "source":
            raise ConnectionResetError("the camera is gone")

    putting = asyncio.create_task(manager.put_stream("key", source()))
    if how == "cancel":
        await given.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    elif how == "source":
        with pytest.raises(ConnectionResetError):
            await putting
    else:
        result = await putting
        assert (result.stored, result.refused) == (False, {tier.name: "too-large"})
    with redis_server.client() as client:
        assert slices_of(client, base) == []
    assert await tier.get("key") == b"old"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_slice_on_its_way_while_its_put_is_cancelled_does_not_stay(
    redis_server: RedisServer, redis_proxy: Proxy, streamed: bool
) -> None:
    tier = redis_tier(redis_proxy, max_value_size=None, timeout_seconds=10)
    base = base_of(tier, "key")
    manager = manager_over(tier)
    await manager.put_stream("key", b"old")
    redis_proxy.set("hold", kind="SET", where="before")
    value = blob(30 * MIB)
    putting: asyncio.Task[Any] = asyncio.create_task(
        manager.put_stream("key", pieces(value)) if streamed else manager.set("key", value)
    )
    await asyncio.to_thread(redis_proxy.wait_held)
    putting.cancel()
    for _ in range(3):
        assert await tier.get("key") == b"old"
    assert "UNLINK" not in redis_proxy.counts()["kinds"]  # which the server might do first
    redis_proxy.clear()
    redis_proxy.release()
    with pytest.raises(asyncio.CancelledError):
        await putting
    with redis_server.client() as client:
        assert slices_of(client, base) == []
    assert await tier.get("key") == b"old"
    await manager.aclose()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_put_that_is_cancelled_while_it_becomes_visible_takes_nothing_away(
    redis_server: RedisServer, redis_proxy: Proxy, streamed: bool
) -> None:
    tier = redis_tier(redis_proxy, max_value_size=None, timeout_seconds=10)
    manager = manager_over(tier)
    value = blob(12 * MIB)
    await manager.put_stream("key", b"old")
    redis_proxy.set("hold", kind="EVALSHA", where="after")
    putting: asyncio.Task[Any] = asyncio.create_task(
        manager.put_stream("key", pieces(value)) if streamed else manager.set("key", value)
    )
    await asyncio.to_thread(redis_proxy.wait_held)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    redis_proxy.clear()
    redis_proxy.release()
    assert await tier.get("key") == value
    await manager.aclose()


async def test_a_server_that_fails_in_the_middle_costs_its_own_copy(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    tier, beside = redis_tier(redis_proxy, max_value_size=None), DictTier()
    manager = manager_over(beside, tier)
    value = blob(30 * MIB)

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(value[: 20 * MIB]):
            yield piece
        redis_proxy.set("refuse")
        async for piece in pieces(value[20 * MIB :]):
            yield piece

    result = await manager.put_stream("key", source())
    assert (result.tiers, result.refused) == ((beside.name,), {tier.name: "unavailable"})
    assert await beside.get("key") == value
    with redis_server.client() as client:  # they go by themselves
        staged = slices_of(client, base_of(tier, "key"))
        assert staged and all(0 < client.pttl(name) <= STAGED_MS for name in staged)
    redis_proxy.clear()
    await manager.aclose()


async def test_a_full_server_refuses_a_stream_and_keeps_nothing_of_it(
    start_redis: StartRedis,
) -> None:
    server = start_redis(maxmemory="64mb", policy="noeviction")
    tier = redis_tier(server, max_value_size=None, enable_compression=False)
    tier_free = manager_over(tier)
    await tier.prepare()
    tier._largest = None  # so that only the server itself says no
    result = await tier_free.put_stream("key", pieces(blob(90 * MIB)))
    assert (result.stored, result.refused) == (False, {tier.name: "no-space"})
    with server.client() as client:
        assert client.keys("cc:*") in ([], [b"cc:{tags}"])
    await tier.aclose()


async def test_slices_of_a_slow_stream_live_on(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    value = blob(40 * MIB)
    writer = tier.writer(key_bytes("key"), ttl_ms=None)
    upload = await upload_of(tier, writer.token)
    now = 1e6
    upload._clock = lambda: now
    upload._renewed = now
    half = 20 * MIB
    assert await upload.feed(writer.feed(value[:half])) is None
    with redis_server.client() as client:
        staged = slices_of(client, base_of(tier, "key"))
        for name in staged:
            client.pexpire(name, STAGED_MS // 2)
        now += STAGED_MS / 2000
        assert await upload.feed(writer.feed(value[half:])) is None
        assert staged and all(client.pttl(name) > STAGED_MS // 2 for name in staged)
    assert await upload.feed(writer.finish()) is None
    assert await upload.finish() is None
    assert await tier.get("key") == value


async def test_a_slice_that_is_gone_before_the_end_is_no_entry(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    base = base_of(tier, "key")
    manager = manager_over(tier)

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(blob(30 * MIB)):
            yield piece
        with redis_server.client() as client:
            client.delete(slices_of(client, base)[0])

    result = await manager.put_stream("key", source())
    assert (result.stored, result.refused) == (False, {tier.name: "no-space"})
    assert await tier.get("key") is None
    with redis_server.client() as client:
        assert slices_of(client, base) == []


async def test_an_end_that_is_larger_than_a_slice_is_kept_back(tier: RedisBackend) -> None:
    tier._writes.slice_size = 64 * KIB
    manager = manager_over(tier, chunking=ChunkingConfig(chunk_size=4096, max_chunks=1 << 20))
    value = blob(40 * MIB)  # 10,240 chunks: an index of 82 KB
    assert (await manager.put_stream("key", pieces(value), metadata={"x": "y" * 900_000})).stored
    assert await tier.get("key") == value
    assert await manager.read_range("key", 39 * MIB, 39 * MIB + 10) == value[39 * MIB :][:10]


@pytest.mark.parametrize("how", ["store", "stream"])
async def test_what_may_not_be_cut_is_left_to_other_tiers(tier: RedisBackend, how: str) -> None:
    beside, value = DictTier(), blob(30 * MIB)
    for enabled in (False, True):
        manager = manager_over(tier, beside, chunking={"enabled": enabled})
        if how == "store":
            stored = (await manager.store("key", value)).tiers
        else:
            stored = (await manager.put_stream("key", pieces(value))).tiers
        assert stored == ((tier.name,) if enabled else ()) + (beside.name,)
        assert (await tier.get("key") == value) is enabled


async def test_methods_after_the_end_answer_so(tier: RedisBackend) -> None:
    upload = await upload_of(tier)
    await upload.abort()
    await upload.abort()
    assert await upload.feed(b"x") == "aborted"
    assert await upload.finish() == "aborted"
