"""A directory, Redis and S3 over each other, as a host of a fleet has them: what each tier holds,
which one answers, and what comes of it when one of them loses something.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place
from support_redis import base_of, redis_config, slices_of
from support_s3 import config_at, names_in, object_of, tier_at

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    IncompleteError,
    PipelineArtifactCache,
)
from cogcache.keys import Key

pytestmark = pytest.mark.s3("weed")

MIB = 1 << 20
KEY = Key("prof", b"\7" * 16, "transcript", {"model": "base"})
MakeHost = Callable[..., CacheManager]


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


@pytest.fixture
async def make_host(
    tmp_path: Path, s3_place: S3Place, redis_server: RedisServer
) -> AsyncIterator[MakeHost]:
    """``make_host("a")``: a manager of a host with a directory of its own; the tiers are given in
    another order than they are asked in. ``local``, ``redis`` and ``s3`` are their options.
    """
    made: list[CacheManager] = []

    def make(
        name: str = "a",
        local: dict[str, Any] | None = None,
        redis: dict[str, Any] | None = None,
        s3: dict[str, Any] | None = None,
        redis_at: RedisServer | Proxy | None = None,
        **options: Any,
    ) -> CacheManager:
        tiers = [
            config_at(s3_place, **{"priority": 2, **(s3 or {})}),
            FilesystemCacheConfig(tmp_path / name, max_size_mb=2000, **(local or {})),
            redis_config(redis_at or redis_server, **{"priority": 1, **(redis or {})}),
        ]
        manager = CacheManager(CacheConfig(tiers, **options))
        made.append(manager)
        return manager

    yield make
    for manager in made:
        await manager.aclose()


async def settled(manager: CacheManager) -> None:
    """Until what a hit copies upwards is there."""
    while manager._tiers.promotions.tasks:
        await asyncio.gather(*manager._tiers.promotions.tasks)


async def answered(manager: CacheManager, key: str | Key = KEY) -> str | None:
    """Which tier answers."""
    tier = (await manager.lookup(key)).tier
    await settled(manager)
    return tier


FILES, REDIS, S3 = "FilesystemCacheBackend", "RedisBackend", "S3Backend"


async def test_a_value_is_in_every_tier_and_each_answers_when_those_above_have_lost_it(
    make_host: MakeHost,
) -> None:
    manager = make_host()
    files, redis, s3 = manager.backends
    assert [tier.name for tier in manager.backends] == [FILES, REDIS, S3]
    computed = 0

    async def compute() -> str:
        nonlocal computed
        computed += 1
        return "value"

    assert await manager.get_or_compute(KEY, compute) == "value"
    for tier in manager.backends:
        assert await tier.get(KEY) == "value"
    assert await answered(manager) == FILES
    await files.discard(KEY.encoded)
    assert await answered(manager) == REDIS
    assert await answered(manager) == FILES  # copied back
    await files.discard(KEY.encoded)
    await redis.discard(KEY.encoded)
    assert await answered(manager) == S3
    assert await redis.get(KEY) == await files.get(KEY) == "value"
    for tier in (files, redis, s3):
        await tier.discard(KEY.encoded)
    assert computed == 1
    assert await manager.get_or_compute(KEY, compute) == "value"
    assert computed == 2


async def test_a_second_host_computes_nothing_and_asks_the_bucket_once(
    make_host: MakeHost, s3_proxy: Proxy
) -> None:
    remote = {"s3": {"endpoint_url": s3_proxy.endpoint_url}, "redis": {"write_mode": "off"}}
    first, second = make_host("a", **remote), make_host("b", **remote)
    computed: list[str] = []

    async def run(manager: CacheManager, name: str) -> None:
        def compute() -> bytes:
            computed.append(name)
            return blob(40_000)

        assert await manager.get_or_compute(KEY, compute) == blob(40_000)
        await settled(manager)

    await run(first, "first")
    s3_proxy.zero()
    for _ in range(3):
        await run(second, "second")
    assert computed == ["first"]
    assert s3_proxy.counts()["kinds"] == {"GetObject": 1}
    assert await answered(second) == FILES


async def test_explain_says_which_tier_answers(make_host: MakeHost, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"a video")
    writer = PipelineArtifactCache(make_host("a"), identity="content")
    assert await writer.set_transcript(video, {"text": "x"}, "base")
    reader = PipelineArtifactCache(make_host("b", redis={"enabled": False}), identity="content")
    tiers = []
    for _ in range(2):
        one = await reader.video(video)
        why = await one.explain("transcript", model_size="base")
        tiers.append([answer.tier for answer in why.tiers if answer.present])
        assert f"in {tiers[-1][0]}" in str(why)
        assert await one.get_transcript("base") == {"text": "x"}
        await settled(reader.cache)
    assert tiers == [[S3], [FILES, S3]]


async def test_a_copy_keeps_the_life_and_the_tags_of_the_entry(make_host: MakeHost) -> None:
    first = make_host("a")
    assert (await first.store("short", "value", ttl=1000, tags=["t"])).stored
    assert (await first.store("long", "value", ttl=20_000, tags=["t"])).stored
    second = make_host("b", redis={"enabled": False})
    for key in ("short", "long"):
        assert await answered(second, key) == S3
        assert (await second.backends[0].get(key)) == "value"
    for tier in second.backends:
        tier.set_clock_offset(1_000_000)
    assert await second.get("short") is None
    for tier in second.backends:
        assert await tier.get("short") is None
    assert await second.get("long") == "value"
    await second.invalidate_tags("t")
    assert (await second.lookup("long")).reason == "tag-invalidated"


async def test_sizes_say_which_tier_takes_a_value(make_host: MakeHost) -> None:
    manager = make_host(local={"min_value_size": 4096, "max_value_size": 20 * MIB})
    small, middle, large = blob(1000), blob(8 * MIB), blob(25 * MIB)
    for key, value, tiers in (
        ("small", small, (REDIS, S3)),
        ("middle", middle, (FILES, S3)),
        ("large", large, (S3,)),
    ):
        stored = await manager.store(key, value)
        assert (stored.stored, stored.tiers) == (True, tiers)
        assert await manager.get(key) == value
        await settled(manager)
        held = [tier.name for tier in manager.backends if await tier.get(key) is not None]
        assert tuple(held) == tiers
    # What is only in the bucket is read by range all the same.
    assert (
        await manager.read_range("large", 20 * MIB, 20 * MIB + 5) == large[20 * MIB : 20 * MIB + 5]
    )


async def test_what_is_known_of_a_large_value_moves_none_of_it(
    make_host: MakeHost, s3_proxy: Proxy, redis_proxy: Proxy
) -> None:
    size = 64 * MIB
    writer = make_host("a", redis={"max_value_size": size + MIB})
    stored = await writer.store("large", blob(size), tags=["t"])
    assert stored.tiers == (FILES, REDIS, S3)
    for name, redis, s3 in (("b", True, False), ("c", False, True)):
        reader = make_host(
            name,
            redis={"enabled": redis, "max_value_size": size + MIB},
            redis_at=redis_proxy,
            s3={"endpoint_url": s3_proxy.endpoint_url, "enabled": s3},
        )
        asked = 0
        for call in (
            lambda reader=reader: reader.exists("large"),
            lambda reader=reader: reader.get_metadata("large"),
            lambda reader=reader: reader.list_keys("large*"),
            lambda reader=reader: reader.list_keys(include_metadata=True),
            lambda reader=reader: reader.touch("large"),
            lambda reader=reader: reader.invalidate_tags("t"),
            lambda reader=reader: reader.delete("large"),
        ):
            s3_proxy.zero()
            redis_proxy.zero()
            await call()
            counts = s3_proxy.counts(), redis_proxy.counts()
            asked += sum(one["requests"] for one in counts)
            assert counts[0]["body_down"].get("GetObject", 0) <= 64 * 1024
            assert sum(one["bytes_down"] for one in counts) < 80 * 1024  # heads of answers too
        assert asked >= 5


async def test_a_hit_needs_nobody_who_computes(make_host: MakeHost) -> None:
    assert await make_host("a").set(KEY, "value")

    def down() -> str:
        raise RuntimeError("the service is down")

    manager = make_host("b")
    assert await manager.get_or_compute(KEY, down) == "value"
    with pytest.raises(RuntimeError, match="service is down"):
        await manager.get_or_compute("other", down)
    assert await manager.get_or_compute(KEY, down) == "value"


async def test_a_slice_that_redis_lost_comes_from_the_bucket(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    value = blob(2 * MIB)
    sliced = {"slice_size": 256 * 1024}
    writer = make_host("a", redis=sliced)
    assert (await writer.store(KEY, value)).tiers == (FILES, REDIS, S3)
    names = slices_of(redis_server.client(), base_of(writer.backends[1], str(KEY)))
    for number, way in enumerate(("get", "stream")):
        with redis_server.client() as client:
            assert len(names) >= 8
            client.unlink(names[number * 3])  # the first, then one in the middle
        reader = make_host(f"b{way}", local={"enabled": False}, redis=sliced)
        if way == "get":
            assert await reader.get(KEY) == value
            await settled(reader)  # and Redis has it again
            names = slices_of(redis_server.client(), base_of(writer.backends[1], str(KEY)))
        else:
            assert b"".join([piece async for piece in reader.get_stream(KEY)]) == value


async def test_a_hole_in_the_last_tier_is_said_where_it_is_or_filled_with_zeros(
    s3_place: S3Place,
) -> None:
    value = blob(17 * MIB)
    tier = tier_at(s3_place)
    manager = CacheManager(CacheConfig([config_at(s3_place)]))
    await manager.put_stream(KEY, value, length=len(value))
    name = object_of(tier, str(KEY))
    body = bytearray(s3_place.client.get_object(Bucket=s3_place.bucket, Key=name)["Body"].read())
    body[7 * MIB] ^= 1  # in the second chunk of 5 MiB
    s3_place.client.put_object(Bucket=s3_place.bucket, Key=name, Body=body)
    got = bytearray()
    with pytest.raises(IncompleteError) as caught:
        async for piece in manager.get_stream(KEY):
            got += piece
    error = caught.value
    assert (error.tier, error.part, error.position) == (S3, "blob/0", 5 * MIB)
    assert isinstance(error.__cause__, Exception)
    assert got == value[: 5 * MIB]
    assert await manager.get(KEY) is None  # left alone from now on
    player = CacheManager(CacheConfig([config_at(s3_place)]))
    filled = b"".join([piece async for piece in player.get_stream(KEY, on_missing="zero")])
    assert filled == value[: 5 * MIB] + bytes(5 * MIB) + value[10 * MIB :]
    assert (await player.get_stats())["manager"]["streams"]["chunks_zeroed"] == 1
    await player.aclose()
    await manager.aclose()


async def test_who_stops_early_leaves_nothing_under_way(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    def nothing_else_runs() -> bool:
        return asyncio.all_tasks() == {asyncio.current_task()}

    manager = CacheManager(CacheConfig([config_at(proxied_place)]))
    await manager.put_stream(KEY, blob(40 * MIB))
    s3_proxy.zero()
    stream = manager.get_stream(KEY)
    assert await anext(stream) == blob(40 * MIB)[:MIB]
    await stream.aclose()  # type: ignore[attr-defined]
    assert nothing_else_runs()
    assert s3_proxy.counts()["kinds"]["GetObject"] <= 4  # the index and three chunks

    wait_for_lanes()
    await manager.aclose()
    manager = CacheManager(CacheConfig([config_at(proxied_place)]))
    s3_proxy.zero()
    s3_proxy.set("hold", where="before", kind="GetObject", skip=1)  # the index goes
    first = asyncio.ensure_future(anext(manager.get_stream(KEY)))
    await asyncio.to_thread(s3_proxy.wait_held, 3)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled() and nothing_else_runs()
    s3_proxy.clear()
    s3_proxy.release()
    wait_for_lanes()
    assert s3_proxy.counts()["kinds"]["GetObject"] == 4
    assert await manager.read_range(KEY, 0, 10) == blob(40 * MIB)[:10]
    await manager.aclose()


@pytest.mark.parametrize(
    "fault", [("status", {"status": 500, "code": "InternalError"}), ("drop", {})]
)
async def test_a_store_that_fails_every_third_time_is_read_to_the_end(
    proxied_place: S3Place, s3_proxy: Proxy, fault: tuple[str, dict[str, Any]]
) -> None:
    value = blob(23 * MIB)
    one_by_one = {"parallelFetches": 1, "read_ahead": False}
    manager = CacheManager(CacheConfig([config_at(proxied_place)], chunking=one_by_one))
    assert await manager.put_stream(KEY, value)
    for number in range(10):
        assert await manager.set(f"k{number}", blob(100_000, number))
    s3_proxy.set(fault[0], kind="GetObject", every=3, **fault[1])
    assert b"".join([piece async for piece in manager.get_stream(KEY)]) == value
    for number in range(10):
        assert await manager.get(f"k{number}") == blob(100_000, number)
    assert s3_proxy.counts()["faults"] >= 10
    assert manager.backends[0].counters["errors"] == 0
    await manager.aclose()


async def test_what_is_purged_leaves_nothing_in_any_tier(
    make_host: MakeHost, redis_server: RedisServer, s3_place: S3Place, tmp_path: Path
) -> None:
    value = blob(100 * 64 * 1024 + 5)
    manager = make_host(redis={"slice_size": 64 * 1024, "max_value_size": 8 * MIB})
    cache = PipelineArtifactCache(manager, identity="content")
    video = tmp_path / "video.mp4"
    video.write_bytes(b"a video")
    for purge in ("delete", "clear", "invalidate"):
        one = await cache.video(video)
        assert await one.set_transcript({"text": "x", "sound": value}, "base")
        [(key, _)] = await manager.list_keys()
        with redis_server.client() as client:
            assert len(client.keys("*:c:*")) >= 100
        if purge == "delete":
            assert await manager.delete(key)
        elif purge == "clear":
            assert await manager.clear(key) >= 1
        else:
            assert await cache.invalidate_video(video) >= 1
        with redis_server.client() as client:
            assert [name for name in client.keys("*") if b"{tags}" not in name] == []
        assert [name for name in names_in(s3_place) if "/.sources/" not in name] == []
        objects = tmp_path / "a" / "v1" / "objects"
        assert [path for path in objects.rglob("*") if path.is_file()] == []


async def test_a_shorter_value_leaves_nothing_of_the_longer_one(
    make_host: MakeHost, redis_server: RedisServer, s3_place: S3Place
) -> None:
    options: dict[str, Any] = {"redis": {"slice_size": MIB, "max_value_size": 30 * MIB}}
    manager, other = make_host("a", **options), make_host("b", **options)
    older, newer = blob(20 * MIB, 1), blob(12 * MIB, 2)
    assert (await manager.store(KEY, older)).tiers == (FILES, REDIS, S3)
    stream = other.get_stream(KEY)
    first = await anext(stream)
    assert (await manager.store(KEY, newer)).tiers == (FILES, REDIS, S3)
    got = bytearray(first)
    try:
        async for piece in stream:
            got += piece
    except IncompleteError:
        pass
    assert bytes(got) == older[: len(got)]  # nothing of the newer one, ever
    base = base_of(manager.backends[1], str(KEY))
    with redis_server.client() as client:
        assert len(slices_of(client, base)) <= 13
    assert len([name for name in names_in(s3_place) if "/v1/" in name]) == 1
    assert await make_host("c").get(KEY) == newer


async def test_counters_say_what_each_tier_did(make_host: MakeHost) -> None:
    manager = make_host()
    files = manager.backends[0]
    assert await manager.set("a", 1)  # a put in each
    assert await manager.get("a") == 1  # a hit of the first
    assert await manager.get("absent") is None  # a miss of each
    await files.discard(Key.parse("a").encoded)
    assert await manager.get("a") == 1  # a miss of the first, a hit of the second
    await settled(manager)
    assert await manager.delete("a")
    stats = await manager.get_stats()
    told = {
        name: [stats["backends"][name][what] for what in ("hits", "misses", "sets", "errors")]
        for name in (FILES, REDIS, S3)
    }
    assert told == {FILES: [1, 2, 2, 0], REDIS: [1, 1, 1, 0], S3: [0, 1, 1, 0]}
    both = [stats["manager"][what] for what in ("hits", "misses", "sets", "promotions")]
    assert both == [2, 1, 1, 1]


@pytest.mark.parametrize("way", [(True, False), (False, True), ("auto", True)])
async def test_entries_are_read_however_they_were_compressed(
    make_host: MakeHost, way: tuple[Any, Any]
) -> None:
    text = {"text": "the same words again and again " * 5000}
    writer = make_host("a", enable_compression=way[0])
    assert (await writer.store(KEY, text)).tiers == (FILES, REDIS, S3)
    for tier in (REDIS, S3):
        enabled = {"redis": {"enabled": tier == REDIS}, "s3": {"enabled": tier == S3}}
        reader = make_host(f"b{tier}", enable_compression=way[1], **enabled)
        assert await reader.get(KEY) == text
        await settled(reader)
        assert await answered(reader) == FILES


async def test_a_server_that_dies_in_the_middle_costs_no_exception(
    make_host: MakeHost, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    manager = make_host(redis_at=server)
    for number in range(60):
        if number == 20:
            server.kill()
        if number == 40:
            server.restart()
            redis = manager.backends[1]
            while not await redis.set("back", 1):
                redis._client.breaker._next_probe = 0.0  # type: ignore[attr-defined]
        assert await manager.set(f"k{number}", number)
        assert await manager.get(f"k{number}") == number
    stats = (await manager.get_stats())["backends"][REDIS]
    assert stats["state"] == "works" and stats["errors"] > 0
    assert await manager.backends[1].get("k59") == 59
