"""What the Redis tier does when the server, or the way to it, fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import random
import re
import select
import time
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support_cache import DictTier, manager_over
from support_redis import PATIENT, base_of, redis_config, redis_entry, redis_tier, slices_of

from cogcache import CacheConfig, CacheManager, IncompleteError, RedisCacheConfig, _core
from cogcache.backends.base import META_TAGS
from cogcache.backends.faults import MisconfiguredError, UnavailableError
from cogcache.backends.redis.client import (
    _REMEDIES,
    CONNECTIONS,
    FullError,
    ReadOnlyServerError,
    WrongKindError,
    error_of,
)
from cogcache.backends.redis.tier import RedisBackend
from cogcache.keys import key_bytes

StartRedis = Callable[..., RedisServer]
MIB = 1 << 20


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


@pytest.fixture
async def tier(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    tier = redis_tier(redis_server, max_value_size=None, slice_size=64 << 10)
    yield tier
    await tier.aclose()


@pytest.fixture
async def proxied(redis_server: RedisServer, redis_proxy: Proxy) -> AsyncIterator[RedisBackend]:
    tier = redis_tier(redis_proxy, max_value_size=None)
    assert await tier.set("key", 1)
    assert await tier.get("key") == 1
    redis_proxy.zero()
    yield tier
    await tier.aclose()


# --- a server that does not answer -------------------------------------------------------------


@pytest.mark.parametrize("fault", ["black_hole", "unanswered"])
async def test_a_black_hole_costs_one_deadline_and_then_nothing(
    redis_proxy: Proxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis_proxy.set(fault)
    tier = redis_tier(redis_proxy, timeout_seconds=None)
    assert tier._client.seconds == 0.25
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    calls = tier._client.calls
    assert calls == 1
    assert tier._client.breaker.state != "closed"
    clock = [tier._client.breaker._next_probe - 1]
    tier._client.breaker._clock = lambda: clock[0]
    for _ in range(100):
        assert await tier.fetch(key_bytes("key")) == "unavailable"
        assert not await tier.set("key", 1)
    assert tier._client.calls == calls  # nothing was sent, nothing was waited for
    assert len([r for r in caplog.records if "going on without it" in r.message]) == 1
    await tier.aclose()


async def test_when_the_server_is_back_one_probe_closes_the_breaker(
    proxied: RedisBackend, redis_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    redis_proxy.set("refuse")
    assert await proxied.fetch(key_bytes("key")) == "unavailable"
    assert await proxied.fetch(key_bytes("key")) == "unavailable"
    assert proxied._client.breaker.opened == 1
    redis_proxy.clear()
    proxied._client.breaker._next_probe = 0.0
    assert await proxied.get("key") == 1
    assert proxied._client.breaker.state == "closed"
    assert "works again" in caplog.text


async def test_a_loop_that_was_busy_is_not_an_outage(
    proxied: RedisBackend, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_proxy.set("hold", kind="GET", where="after", times=1)
    busy = 0.0
    loop = asyncio.get_running_loop()
    now = types.SimpleNamespace(monotonic=lambda: time.monotonic() + busy)
    monkeypatch.setattr(loop, "time", now.monotonic)
    monkeypatch.setattr("cogcache.backends.redis.client.time", now)
    task = asyncio.ensure_future(proxied.get("key"))
    await asyncio.to_thread(redis_proxy.wait_held)
    # Now the loop is held up until the answer is there and the deadline has long passed.
    (asking,) = proxied._client._here().client.connection_pool._in_use_connections
    redis_proxy.release()
    assert select.select([asking._writer.get_extra_info("socket")], [], [], 60)[0]
    busy = 1.5 * proxied._client.seconds
    assert await task == 1
    assert proxied._client.breaker.state == "closed"


async def test_connections_that_a_restarted_server_closed_are_opened_anew(
    proxied: RedisBackend, redis_proxy: Proxy
) -> None:
    redis_proxy.drop()
    assert await proxied.get("key") == 1
    redis_proxy.drop("close")
    assert await proxied.set("key", 2)
    assert proxied._client.breaker.opened == 0


async def test_a_server_that_restarts_empty_is_a_miss(start_redis: StartRedis) -> None:
    server = start_redis()
    tier = redis_tier(server)
    assert await tier.set("key", 1)
    server.kill()
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    server.restart()
    tier._client.breaker._next_probe = 0.0
    assert await tier.fetch(key_bytes("key")) == "absent"
    assert await tier.set("key", 2)
    assert await tier.get("key") == 2
    await tier.aclose()


async def test_a_cancelled_call_leaves_its_answer_to_nobody(
    proxied: RedisBackend, redis_proxy: Proxy
) -> None:
    for number in range(8):
        assert await proxied.set(f"key:{number}", number)
    held = redis_proxy.set("hold", kind="GET", where="after", times=4)
    tasks = [asyncio.ensure_future(proxied.get(f"key:{number}")) for number in range(4)]
    await asyncio.to_thread(redis_proxy.wait_held, 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    redis_proxy.release()
    redis_proxy.clear(held)
    for _ in range(5):
        got = await asyncio.gather(*(proxied.get(f"key:{number}") for number in range(8)))
        assert got == list(range(8))
    assert proxied._client.breaker.state == "closed"


async def test_a_late_answer_is_read_by_nobody(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    tier = redis_tier(redis_proxy)
    for number in range(4):
        assert await tier.set(f"key:{number}", number)
    held = redis_proxy.set("hold", kind="GET", where="after", times=1)
    tier._client.seconds = 0.2
    assert await tier.fetch(key_bytes("key:0")) == "unavailable"
    tier._client.seconds = 20
    redis_proxy.release()
    redis_proxy.clear(held)
    tier._client.breaker._next_probe = 0.0
    for number in range(4):
        assert await tier.get(f"key:{number}") == number
    await tier.aclose()


async def test_a_burst_waits_for_its_turn_and_not_for_a_deadline(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    tier = redis_tier(redis_proxy)
    assert await tier.set("key", b"x" * 1000)
    got = await asyncio.gather(*(tier.get("key") for _ in range(1000)))
    assert got == [b"x" * 1000] * 1000
    assert redis_proxy.counts()["open"] <= 16
    await tier.aclose()


# --- a server that answers something else -------------------------------------------------------


async def test_a_server_that_is_loading_is_left_alone(
    proxied: RedisBackend, redis_proxy: Proxy
) -> None:
    redis_proxy.set("error", text="LOADING Redis is loading the dataset in memory")
    assert await proxied.fetch(key_bytes("key")) == "unavailable"
    assert proxied._client.breaker.state != "closed"


async def test_a_replica_is_read_and_not_written(
    proxied: RedisBackend, redis_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    redis_proxy.set(
        "error", kind="EVALSHA", text="READONLY You can't write against a read only replica."
    )
    draft = proxied.draft(key_bytes("new"), 1, ttl_ms=None)
    assert await proxied.write(draft) == "read-only"
    assert "replica" in caplog.text
    redis_proxy.clear()
    assert await proxied.write(draft) == "read-only"  # not asked for a while
    assert await proxied.get("key") == 1
    proxied._denied_until = 0.0
    assert await proxied.write(draft) is None


@pytest.mark.parametrize("size", [200_000, 2 * MIB])
async def test_a_full_server_refuses_puts_and_goes_on_reading(
    start_redis: StartRedis, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(maxmemory="12mb", policy="noeviction")
    tier = redis_tier(server, enable_compression=False)
    assert await tier.set("key", 1)
    words = []
    for number in range(80):
        draft = tier.draft(key_bytes(f"key:{number}"), blob(size, number), ttl_ms=None)
        words.append(await tier.write(draft))
        if words[-1] is not None:
            break
    assert words[-1] == "no-space" and None in words
    assert await tier.get("key") == 1
    assert await tier.get("key:0") == blob(size, 0)
    assert "memory is full" in caplog.text
    assert await tier.clear() == len(words)
    await tier.aclose()


@pytest.mark.parametrize("size", [100_000, 400_000])  # in one key, in slices
async def test_a_server_that_may_evict_tags_is_named_once_with_the_remedy(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    server = start_redis(maxmemory="8mb", policy="allkeys-lru")
    tier = redis_tier(server)
    for number in range(3):
        assert await tier.set("key", number)
    warned = [record for record in caplog.records if "maxmemory-policy" in record.message]
    assert len(warned) == 1 and "volatile-lru" in warned[0].message
    large = tier.draft(key_bytes("large"), blob(3 * MIB), ttl_ms=None)
    assert await tier.write(large) == "too-large"  # it would push everything out
    many = 20_000_000 // size  # far more than fits
    for number in range(many):
        await tier.set(f"key:{number}", blob(size, number), ttl=3600)
    found = [await tier.get(f"key:{number}") for number in range(many)]
    assert all(value in (None, blob(size, number)) for number, value in enumerate(found))
    assert None in found and any(found)
    await tier.aclose()


async def test_a_wrong_password_is_a_wrong_configuration(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(password="right-secret")
    for url in (
        server.url.replace("right-secret", "wrong-secret"),
        f"redis://127.0.0.1:{server.port}",
    ):
        caplog.clear()
        tier = RedisBackend(RedisCacheConfig(url, **PATIENT))
        for _ in range(3):
            assert await tier.fetch(key_bytes("key")) == "unavailable"
        assert tier._client.breaker.state == "configuration"
        assert "password" in caplog.text and len(caplog.records) == 1
        assert "wrong-secret" not in caplog.text + repr(tier) + repr(tier.config)
        await tier.aclose()
    good = RedisBackend(
        RedisCacheConfig(f"redis://127.0.0.1:{server.port}", password="right-secret", **PATIENT)
    )
    assert await good.set("key", 1)
    await good.aclose()


async def test_an_untrusted_certificate_is_a_wrong_configuration(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(tls=True)
    tier = RedisBackend(RedisCacheConfig(server.url, **PATIENT))
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    assert tier._client.breaker.state == "configuration"
    assert "ca_file" in caplog.text
    await tier.aclose()


async def test_what_is_no_redis_is_a_wrong_configuration(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tier = RedisBackend(RedisCacheConfig(f"redis://127.0.0.1:{port}", **PATIENT))
        assert await tier.fetch(key_bytes("key")) == "unavailable"
        assert tier._client.breaker.state == "configuration"
        assert "does not answer as Redis does" in caplog.text
        await tier.aclose()


@pytest.mark.parametrize(
    "text",
    ["MOVED 3999 127.0.0.1:6381", "NOPERM this user has no permissions", "ERR unknown command"],
)
async def test_what_no_retry_mends_is_said_with_its_remedy(
    proxied: RedisBackend, redis_proxy: Proxy, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis_proxy.set("error", kind="GET", text=text)
    assert await proxied.fetch(key_bytes("key")) == "unavailable"
    expected = {"MOVED": "cluster", "NOPERM": "grant", "ERR": "6.2"}[text.split()[0]]
    assert expected in caplog.text


async def test_keys_of_others_are_misses_and_stay(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    base = base_of(tier, "key")
    with redis_server.client() as client:
        client.rpush(base + b":m", "not", "ours")
        assert await tier.fetch(key_bytes("key")) == "absent"
        assert not await tier.delete("key")
        assert await tier.list_keys() == []
        assert client.llen(base + b":m") == 2
        assert await tier.set("key", 1)
        assert await tier.get("key") == 1


# --- damage ---------------------------------------------------------------------------------------


async def test_a_lost_slice_is_a_miss_and_the_rest_goes(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        for number in range(5):
            assert await tier.set("key", blob(300_000))
            base = base_of(tier, "key")
            client.unlink(slices_of(client, base)[number])
            assert await tier.fetch(key_bytes("key")) == "absent"
            assert client.keys(base + b":*") == []
    assert tier.counters["healed"] == 5
    assert await tier.set("key", 1)
    assert await tier.get("key") == 1


async def test_no_damage_gives_a_wrong_value(tier: RedisBackend, redis_server: RedisServer) -> None:
    chance = random.Random(5)
    values = {"small": {"a": blob(500)}, "large": {"doc": "x" * 1000, "bulk": blob(300_000)}}
    with redis_server.client() as client:
        for turn in range(240):
            key = ("small", "large")[turn % 2]
            assert await tier.set(key, values[key])
            names = client.keys(base_of(tier, key) + b":*")
            name = chance.choice(names)
            data = bytearray(client.get(name))
            at = chance.randrange(len(data))
            kind = turn // 2 % 4
            if kind == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = blob(chance.randrange(1, 50), turn)
            else:
                data[at : at + 100] = bytes(100)
            client.set(name, bytes(data))
            for part in (False, True):
                found = await tier.fetch(key_bytes(key), index_only=part)
                if isinstance(found, str):
                    assert found in ("damaged", "absent", "expired")
                    continue
                try:
                    assert await tier.load(found) == values[key]
                except (_core.DamagedError, OSError) as error:
                    await tier.value_failed(found, error)
    assert tier._client.breaker.state == "closed"


async def test_slices_of_two_writers_never_meet(
    redis_server: RedisServer, tier: RedisBackend
) -> None:
    other = redis_tier(redis_server, max_value_size=None, slice_size=128 << 10)
    values = [bytes([number]) * 400_000 for number in range(6)]

    async def write(by: RedisBackend, number: int) -> None:
        for _ in range(6):
            assert await by.set("key", values[number])

    async def read(by: RedisBackend) -> None:
        for _ in range(30):
            got = await by.get("key")
            assert got is None or got in values

    for one in (tier, other):
        one.enable_compression = False
    await asyncio.gather(
        *(write((tier, other)[number % 2], number) for number in range(6)), read(tier), read(other)
    )
    assert await tier.get("key") in values
    with redis_server.client() as client:  # all other generations are gone
        base = base_of(tier, "key")
        assert len({name.split(b":")[-2] for name in slices_of(client, base)}) == 1
    await other.aclose()


async def test_slices_of_another_write_under_our_names_are_damage(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        base = base_of(tier, "key")
        assert await tier.set("key", blob(300_000, 1))
        old = [client.get(name) for name in slices_of(client, base)]
        assert await tier.set("key", blob(300_000, 2))
        for name, data in zip(slices_of(client, base), old, strict=True):
            client.set(name, data)
    assert await tier.get("key") is None
    assert tier.counters["damaged"] == 1
    assert await tier.fetch(key_bytes("key")) == "absent"


@pytest.mark.parametrize("kind", ["SET", "EVALSHA"])
async def test_a_writer_killed_before_the_end_leaves_the_old_value_and_nothing_that_stays(
    redis_server: RedisServer, redis_proxy: Proxy, kind: str
) -> None:
    tier = redis_tier(redis_proxy, max_value_size=None)
    assert await tier.set("key", b"old")
    redis_proxy.set("hold", kind=kind, where="before", skip=1 if kind == "SET" else 0)
    task = asyncio.ensure_future(tier.set("key", blob(12 * MIB)))
    await asyncio.to_thread(redis_proxy.wait_held)
    redis_proxy.drop()
    redis_proxy.set("refuse")
    assert not await task
    reader = redis_tier(redis_server)
    assert await reader.get("key") == b"old"
    with redis_server.client() as client:
        staged = slices_of(client, base_of(tier, "key"))
        assert staged and all(0 < client.pttl(name) <= 600_000 for name in staged)
    await reader.aclose()
    await tier.aclose()


async def test_an_entry_replaced_while_it_is_read_by_part_is_said_to_be(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    tier.enable_compression = False
    assert await tier.set("key", blob(300_000, 1))
    entry = await redis_entry(tier, "key", index_only=True)
    assert await tier.read_part(entry, 0, 10, 200_000) == blob(300_000, 1)[10:200_000]
    assert await tier.set("key", blob(300_000, 2))
    with pytest.raises(IncompleteError, match="replaced"):
        await tier.read_part(entry, 0, 0, 100)
    assert await tier.load(entry) == blob(300_000, 2)  # as S3: the value of the key, whole


# --- lives and generations ------------------------------------------------------------------------


async def test_the_manifest_goes_before_its_slices(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    base = base_of(tier, "key")
    with redis_server.client() as client:
        assert await tier.set("key", blob(300_000), ttl=3600)
        manifest = client.pttl(base + b":m")
        assert 3_500_000 < manifest <= 3_600_000
        assert all(client.pttl(name) > manifest for name in slices_of(client, base))
        assert await tier.refresh(key_bytes("key"), 7_200_000)
        manifest = client.pttl(base + b":m")
        assert 7_100_000 < manifest <= 7_200_000
        assert all(client.pttl(name) > manifest for name in slices_of(client, base))
        tier.set_clock_offset(5_000_000)
        assert await tier.get("key") == blob(300_000)
        assert await tier.refresh(key_bytes("key"), 1000)  # never shorter
        assert client.pttl(base + b":m") > 7_000_000
        assert await tier.refresh(key_bytes("key"), None)
        assert client.pttl(base + b":m") == -1
        assert all(client.pttl(name) == -1 for name in slices_of(client, base))
    tier.set_clock_offset(10**12)
    assert await tier.get("key") == blob(300_000)
    assert not await tier.refresh(key_bytes("absent"), 1000)


async def test_only_the_generation_that_was_seen_is_removed(tier: RedisBackend) -> None:
    for size in (10, 300_000):
        assert await tier.set("key", blob(size, 1))
        seen = await redis_entry(tier, "key")
        assert await tier.set("key", blob(size, 2))
        assert not await tier.discard_entry(seen)
        assert await tier.get("key") == blob(size, 2)
        assert await tier.discard_entry(await redis_entry(tier, "key"))
        assert await tier.get("key") is None


async def test_slices_that_nobody_names_are_collected(
    tier: RedisBackend, redis_server: RedisServer
) -> None:
    assert await tier.set("kept", blob(300_000))
    assert await tier.set("lost", blob(300_000))
    with redis_server.client() as client:
        lost = slices_of(client, base_of(tier, "lost"))
        client.unlink(base_of(tier, "lost") + b":m")
        client.set(base_of(tier, "lost") + b":c:foreign", "not ours")
        assert await tier.gc() == len(lost) == 5
        assert client.exists(*lost) == 0
        assert client.exists(base_of(tier, "lost") + b":c:foreign") == 1
    assert await tier.gc() == 0
    assert await tier.get("kept") == blob(300_000)


# --- tags -----------------------------------------------------------------------------------------


async def put_tagged(tier: RedisBackend, key: str, tag: str, at_ms: int | None = None) -> bool:
    stamp = max((tier.now_ms() if at_ms is None else at_ms) * 1000, tier.tag_version(tag))
    meta: dict[int | str, Any] = {META_TAGS: [[tag, stamp]]}
    return await tier.put(tier.draft(key_bytes(key), key, ttl_ms=None, meta=meta))


async def test_an_invalidation_holds_for_every_host_at_once(redis_server: RedisServer) -> None:
    hosts = [redis_tier(redis_server) for _ in range(3)]
    assert await put_tagged(hosts[0], "a", "tag")
    assert await put_tagged(hosts[0], "b", "other")
    for host in hosts:
        assert await host.get("a") == "a"
        host.set_clock_offset(1000)
    await hosts[1].invalidate_tags(["tag"])
    late = redis_tier(redis_server)
    for host in [*hosts, late]:
        assert await host.fetch(key_bytes("a")) == "tag-invalidated"
        assert await host.get("b") == "b"
        assert host.tag_version("tag") > 0
        await host.aclose()


async def test_versions_that_the_server_lost_make_older_entries_invalid(
    redis_server: RedisServer, tier: RedisBackend
) -> None:
    old = tier.now_ms()
    assert await put_tagged(tier, "valid", "kept")
    assert await put_tagged(tier, "dead", "tag")
    tier.set_clock_offset(1000)
    await tier.invalidate_tags(["tag"])
    assert await tier.get("dead") is None and await tier.get("valid") == "valid"
    tier.set_clock_offset(2000)
    with redis_server.client() as client:
        client.unlink(b"cc:{tags}")  # as an eviction does
    fresh = redis_tier(redis_server)
    fresh.set_clock_offset(2000)
    for host in (fresh, tier):
        assert await host.fetch(key_bytes("dead")) == "tag-invalidated"
        assert await host.fetch(key_bytes("valid")) == "tag-invalidated"  # nobody knows
    assert tier._tags.losses == 1
    # What was captured before the loss does not come in any more; what is captured now does.
    late = tier.draft(key_bytes("late"), 1, ttl_ms=None, meta={META_TAGS: [["tag", old * 1000]]})
    assert await tier.write(late) == "tag-invalidated"
    assert await put_tagged(tier, "dead", "tag")
    assert await fresh.get("dead") == "dead"
    await fresh.aclose()


async def test_an_invalidation_during_an_outage_holds_here_and_is_sent_first(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    tier, other = redis_tier(redis_proxy), redis_tier(redis_server)
    assert await put_tagged(tier, "key", "tag")
    assert await other.get("key") == "key"
    tier.set_clock_offset(1000)
    redis_proxy.set("refuse")
    with pytest.raises(OSError):
        await tier.invalidate_tags(["tag"])
    assert (await tier.usage())["tags_owed"] == 1
    redis_proxy.clear()
    tier._client.breaker._next_probe = 0.0
    assert await tier.get("absent") is None  # any call
    assert (await tier.usage())["tags_owed"] == 0
    assert await other.get("key") is None
    assert await tier.get("key") is None
    await tier.aclose()
    await other.aclose()


async def test_an_invalidation_during_an_outage_holds_behind_a_clock_that_is_ahead(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    """What is captured after an invalidation by a host whose clock is ahead has its version."""
    ahead, tier = redis_tier(redis_server), redis_tier(redis_proxy)
    ahead.set_clock_offset(3_600_000)
    await ahead.invalidate_tags(["tag"])
    below = DictTier()
    below.is_remote = True  # type: ignore[misc]
    manager = manager_over(below, tier)
    assert await manager.get("absent") is None  # and it learns of that
    assert await manager.get_or_compute("key", lambda: 1, tags=["tag"]) == 1
    assert await manager.get("key") == 1
    redis_proxy.set("refuse")
    await manager.invalidate_tags("tag")
    assert tier.counters["errors"] > 0
    assert await manager.get("key") is None
    await manager.aclose()
    await ahead.aclose()


async def test_more_tags_than_are_kept_are_folded_and_stay_invalid(
    redis_server: RedisServer, tier: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogcache.backends.redis.tier.MOST_TAGS", 100)
    assert await put_tagged(tier, "first", "tag:0")
    for number in range(0, 1000, 200):
        tier.set_clock_offset(1000 + number)
        await tier.invalidate_tags(f"tag:{n}" for n in range(number, number + 200))
    with redis_server.client() as client:
        assert client.zcard(b"cc:{tags}") <= 101
    tier.set_clock_offset(3000)
    assert await put_tagged(tier, "new", "tag:0")
    reader = redis_tier(redis_server)
    assert await reader.get("first") is None
    assert await reader.get("new") == "new"
    await reader.aclose()


async def test_a_reader_that_was_away_catches_up_over_many_answers(
    redis_server: RedisServer, tier: RedisBackend
) -> None:
    reader = redis_tier(redis_server)
    assert await put_tagged(tier, "key", "tag:1999")
    assert await reader.get("key") == "key"
    tier.set_clock_offset(1000)
    await tier.invalidate_tags(f"tag:{number}" for number in range(2000))
    assert await reader.get("key") is None
    assert reader._tags.cursor == tier._tags.version("tag:1999")
    await reader.aclose()


# --- processes, loops, copies --------------------------------------------------------------------


def test_one_tier_serves_many_loops(redis_server: RedisServer) -> None:
    tier = redis_tier(redis_server)

    async def use(number: int) -> int | None:
        assert await tier.set("key", number)
        value: int | None = await tier.get("key")
        return value

    for number in range(3):  # none of these loops closes the tier
        assert asyncio.run(use(number)) == number
    asyncio.run(tier.aclose())
    gc.collect()  # what is left open would warn


def _child(tier: RedisBackend, number: int, results: Any) -> None:
    async def work() -> bool:
        good = True
        for turn in range(100):
            key = f"key:{(number + turn) % 10}"
            good = good and await tier.get(key) == key
        await tier.aclose()
        return good

    results.put(asyncio.run(work()))
    results.close()
    results.join_thread()
    os._exit(0)


async def test_children_never_use_a_connection_of_their_parent(redis_server: RedisServer) -> None:
    tier = redis_tier(redis_server)
    for number in range(10):
        assert await tier.set(f"key:{number}", f"key:{number}")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_child_in_thread, args=(tier, n, results)) for n in range(3)]
    for child in children:
        child.start()
    for _ in range(100):
        got = await asyncio.gather(*(tier.get(f"key:{number}") for number in range(10)))
        assert got == [f"key:{number}" for number in range(10)]
    assert [await asyncio.to_thread(results.get, True, 60) for _ in children] == [True] * 3
    for child in children:
        await asyncio.to_thread(child.join, 60)
    assert await tier.get("key:1") == "key:1"
    await tier.aclose()


def _child_in_thread(tier: RedisBackend, number: int, results: Any) -> None:
    import threading

    # The forked thread still has the parent's running loop; a new thread has none.
    thread = threading.Thread(target=_child, args=(tier, number, results))
    thread.start()
    thread.join()


async def test_a_copy_begins_anew_with_the_configuration(redis_server: RedisServer) -> None:
    manager = CacheManager(CacheConfig([redis_config(redis_server)]))
    assert await manager.set("key", 1)
    copy = pickle.loads(pickle.dumps(manager))
    assert await copy.get("key") == 1
    await copy.aclose()
    await manager.aclose()


async def test_more_invalidations_than_can_be_owed_hold_for_everything_older(
    redis_server: RedisServer, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogcache.backends.redis.tags.MOST_OWED", 10)
    tier, other = redis_tier(redis_proxy), redis_tier(redis_server)
    assert await put_tagged(other, "key", "tag:3")
    assert await tier.get("key") == "key"
    tier.set_clock_offset(1000)
    redis_proxy.set("refuse")
    with pytest.raises(OSError):
        await tier.invalidate_tags(f"tag:{number}" for number in range(30))
    redis_proxy.clear()
    tier._client.breaker._next_probe = 0.0
    assert await tier.get("key") is None
    assert await other.get("key") is None
    other.set_clock_offset(2000)
    assert await put_tagged(other, "key", "tag:3")
    assert await tier.get("key") == "key"
    await tier.aclose()
    await other.aclose()


@pytest.mark.parametrize(
    "text", ["OOM command not allowed", "NOPERM no permissions to run evalsha"]
)
async def test_a_server_without_versions_that_takes_none_hands_out_no_tagged_entry(
    redis_server: RedisServer, redis_proxy: Proxy, text: str
) -> None:
    other = redis_tier(redis_server)
    assert await put_tagged(other, "tagged", "tag")
    assert await other.set("plain", 1)
    with redis_server.client() as client:
        client.unlink(b"cc:{tags}")
    redis_proxy.set("error", kind="EVALSHA", text=text)
    tier = redis_tier(redis_proxy)
    tier.set_clock_offset(1000)
    assert await tier.fetch(key_bytes("tagged")) == "tag-invalidated"
    assert await tier.get("plain") == 1
    with pytest.raises(OSError):
        await tier.invalidate_tags(["tag"])
    assert await tier.get("plain") == 1  # it is owed, and reads go on
    assert (await tier.usage())["tags_owed"] == 1
    assert tier._client.breaker.state == "closed"
    await tier.aclose()
    await other.aclose()


async def test_closing_while_calls_wait_for_a_connection_leaves_none_open(
    redis_proxy: Proxy,
) -> None:
    tier = redis_tier(redis_proxy)
    assert await tier.set("key", 1)
    (here,) = tier._client._loops.values()
    redis_proxy.set("hold", kind="GET", where="after")
    calls = [asyncio.create_task(tier.fetch(key_bytes("key"))) for _ in range(CONNECTIONS + 5)]
    await asyncio.to_thread(redis_proxy.wait_held, CONNECTIONS)
    await tier.aclose()
    redis_proxy.release()
    assert await asyncio.gather(*calls) == ["unavailable"] * len(calls)
    pool = here.client.connection_pool
    connections = [*pool._available_connections, *pool._in_use_connections]
    assert not any(one.is_connected for one in connections)
    assert tier._client._loops == {}


# --- rights ---------------------------------------------------------------------------------------


def user_of(server: RedisServer, *rights: str) -> RedisBackend:
    """A tier whose user has some rights and no others."""
    who = ("ACL", "SETUSER", "pipeline", "reset", "on", ">secret", "~cc:*")
    server.client().execute_command(*who, *rights)
    return redis_tier(server, username="pipeline", password="secret", max_value_size=None)


async def test_the_rights_that_a_refusal_names_are_enough(start_redis: StartRedis) -> None:
    named = re.findall(r"\b[A-Z]{3,}\b", _REMEDIES["NOPERM"])
    sets = ["+zadd", "+zrange", "+zrevrange", "+zcard", "+zremrangebyscore"]
    tier = user_of(start_redis(), *(f"+{name.lower()}" for name in named), *sets)
    large = blob(MIB)
    assert await tier.write(tier.draft(key_bytes("large"), large, ttl_ms=None)) is None
    assert await tier.get("large") == large
    tier.set_clock_offset(1000)
    tagged: dict[int | str, Any] = {META_TAGS: [["tag", tier.now_ms() * 1000]]}
    assert await tier.write(tier.draft(key_bytes("small"), 1, ttl_ms=90_000, meta=tagged)) is None
    assert await tier.refresh(key_bytes("small"), 900_000)
    assert [key for key, _ in await tier.list_keys()] == ["large", "small"]
    tier.set_clock_offset(2000)
    await tier.invalidate_tags(["tag"])
    assert await tier.get("small") is None
    assert await tier.cleanup_expired() == 1
    assert await tier.gc() == 0
    assert (await tier.get_stats())["total_files"] == 1
    assert await tier.discard(key_bytes("large"))
    assert tier.counters["errors"] == 0
    await tier.aclose()


async def test_who_may_only_read_reads_on_after_a_put_was_refused(start_redis: StartRedis) -> None:
    server = start_redis()
    writer, reader = redis_tier(server), user_of(server, "+@read", "+eval", "+evalsha", "+info")
    assert await writer.set("key", 1)
    assert await reader.write(reader.draft(key_bytes("other"), 2, ttl_ms=None)) == "read-only"
    assert reader.last_fault is not None and "grant the user" in reader.last_fault.error
    assert reader._client.breaker.state == "closed"
    assert await reader.get("key") == 1
    await writer.aclose()
    await reader.aclose()


async def test_a_listing_that_is_refused_is_not_an_empty_one(start_redis: StartRedis) -> None:
    server = start_redis()
    tier = user_of(server, "+@all", "-getrange")
    assert await tier.set("key", 1)
    with pytest.raises(OSError, match="GETRANGE"):
        await tier.clear()
    assert (await tier.get_stats())["complete"] is False
    await tier.aclose()


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("-OOM command not allowed when used memory > 'maxmemory'.", FullError),
        ("-READONLY You can't write against a read only replica.", ReadOnlyServerError),
        ("-WRONGTYPE Operation against a key holding the wrong kind of value", WrongKindError),
        ("-MISCONF Redis is configured to save RDB snapshots, but", UnavailableError),
        ("The user executing the script can't run this command or subcommand", MisconfiguredError),
    ],
)
def test_what_a_script_met_is_told_apart_in_the_words_of_redis_6(
    inside: str, kind: type[Exception]
) -> None:
    text = f"Error running script (call to f_0): @user_script:20: @user_script: 20: {inside}"
    fault = error_of(ResponseError(text))
    assert type(fault) is kind
    if isinstance(fault, MisconfiguredError):
        assert fault.denied


async def test_an_answer_that_comes_at_the_last_moment_is_taken(
    tier: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait of a thread for the loop is over, and then the bytes are there."""
    value = blob(MIB)
    assert await tier.set("key", value)
    entry = await redis_entry(tier, "key", index_only=True)
    whole = concurrent.futures.Future.result

    def late(future: concurrent.futures.Future[Any], timeout: float | None = None) -> Any:
        if timeout is None:
            return whole(future)
        concurrent.futures.wait([future])
        raise TimeoutError

    monkeypatch.setattr(concurrent.futures.Future, "result", late)
    assert await tier.load(entry) == value
