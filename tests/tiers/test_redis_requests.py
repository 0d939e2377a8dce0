"""How many round trips the Redis tier needs, counted by a proxy before a real server."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support_cache import manager_over
from support_frames import BUNDLE, FRAME_BYTES, frames_built, look_up_one_frame, open_one_frame
from support_redis import PATIENT, base_of, redis_entry, redis_tier, slices_of

from cogcache import CacheManager, _core
from cogcache.backends.base import META_TAGS
from cogcache.backends.redis.tier import RedisBackend
from cogcache.config import CacheConfig, RedisCacheConfig
from cogcache.frames import make_bundle
from cogcache.keys import key_bytes

MIB = 1 << 20


def blob(size: int, salt: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(salt).randbytes(size)


@pytest.fixture
async def tier(redis_server: RedisServer, redis_proxy: Proxy) -> AsyncIterator[RedisBackend]:
    tier = redis_tier(redis_proxy, max_value_size=None)
    assert await tier.set("first", 1)  # connects, looks at the server, teaches it the scripts
    assert await tier.get("first") == 1
    assert await tier.delete("first")
    redis_proxy.zero()
    yield tier
    await tier.aclose()


def taken(proxy: Proxy) -> tuple[int, dict[str, int]]:
    """Round trips and commands since the last look."""
    counts = proxy.counts()
    proxy.zero()
    return counts["turns"], counts["kinds"]


async def put_tagged(tier: RedisBackend, key: str, value: Any, *tags: str) -> None:
    stamp = max([tier.now_ms() * 1000, *(tier.tag_version(tag) for tag in tags)])
    meta: dict[int | str, Any] = {META_TAGS: [[tag, stamp] for tag in tags]}
    assert await tier.put(tier.draft(key_bytes(key), value, ttl_ms=60_000, meta=meta))


async def test_a_small_hit_with_its_tags_is_one_round_trip_and_so_is_a_miss(
    tier: RedisBackend, redis_proxy: Proxy
) -> None:
    sizes = (10, 60_000, 255_000)
    for size in sizes:
        await put_tagged(tier, f"key:{size}", blob(size), "one", "two", f"own:{size}")
    redis_proxy.zero()
    for size in sizes:
        assert await tier.get(f"key:{size}") == blob(size)
        assert taken(redis_proxy) == (1, {"GET": 1, "ZRANGE": 2})
    assert await tier.get("absent") is None
    assert taken(redis_proxy) == (1, {"GET": 1, "ZRANGE": 2})


async def test_tags_that_were_invalidated_elsewhere_cost_no_further_round_trip(
    tier: RedisBackend, redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    other = redis_tier(redis_server)
    for number in range(3):
        await put_tagged(tier, f"key:{number}", number, f"tag:{number}", "all")
    tier.set_clock_offset(1000)
    other.set_clock_offset(1000)
    await other.invalidate_tags(["tag:0", "unrelated"])
    redis_proxy.zero()
    assert await tier.get("key:0") is None
    assert taken(redis_proxy)[0] == 1
    assert await tier.get("key:1") == 1  # older than the last invalidation
    assert taken(redis_proxy) == (1, {"GET": 1, "ZRANGE": 2})
    fresh = redis_tier(redis_proxy)
    assert await fresh.get("absent") is None  # connects
    redis_proxy.zero()
    assert await fresh.get("key:0") is None and await fresh.get("key:2") == 2
    assert taken(redis_proxy)[0] == 2
    await fresh.aclose()
    await other.aclose()


async def test_a_put_is_one_round_trip_and_one_more_with_tags(
    tier: RedisBackend, redis_proxy: Proxy
) -> None:
    assert await tier.set("key", blob(200_000))
    assert taken(redis_proxy) == (1, {"EVALSHA": 1})
    await put_tagged(tier, "tagged", 1, "tag")
    assert taken(redis_proxy) == (2, {"ZRANGE": 2, "EVALSHA": 1})
    assert await tier.delete("key")
    assert taken(redis_proxy) == (1, {"EVALSHA": 1})


async def test_a_large_value_goes_in_slices_and_comes_in_few_round_trips(
    tier: RedisBackend, redis_proxy: Proxy
) -> None:
    value = blob(12 * MIB)
    assert await tier.set("large", value)
    turns, kinds = taken(redis_proxy)
    assert (turns, kinds["SET"], kinds["EVALSHA"]) == (4, 3, 1)
    assert await tier.get("large") == value
    turns, kinds = taken(redis_proxy)
    assert (turns, kinds["GET"]) == (4, 4)
    assert await tier.exists("large")
    turns, kinds = taken(redis_proxy)
    assert (turns, kinds["GET"]) == (1, 1)
    assert redis_proxy.counts()["bytes_down"] == 0


@pytest.mark.parametrize(("size", "slices"), [(52_428_800, 10), (52_428_801, 11)])
async def test_slices_are_full_but_the_last(
    redis_server: RedisServer, size: int, slices: int
) -> None:
    tier = redis_tier(redis_server, max_value_size=None, enable_compression=False)
    value = blob(MIB, 7) * 51
    assert await tier.set("large", value[:size])
    with redis_server.client() as client:
        base = base_of(tier, "large")
        sizes = [client.strlen(name) for name in slices_of(client, base)]
        assert client.strlen(base + b":m") < 4096
    assert len(sizes) == slices
    # 50 MiB of bulk, and the padding before it where there is any
    assert sizes[:10] == [5 * MIB] * 10 and sizes[10:] == [1] * (slices - 10)
    assert await tier.get("large") == value[:size]
    # An entry stays readable when the configuration asks for other slices.
    smaller = redis_tier(redis_server, max_value_size=None, slice_size=MIB)
    assert await smaller.get("large") == value[:size]
    await smaller.aclose()
    await tier.aclose()


async def test_one_frame_of_a_bundle_is_one_manifest_and_a_part_of_one_slice(
    tier: RedisBackend, redis_proxy: Proxy
) -> None:
    images = {number: blob(50_000, number) for number in range(60)}
    assert await tier.set("bundle", make_bundle({"fps": 1}, images))
    redis_proxy.zero()
    entry = await redis_entry(tier, "bundle", index_only=True)
    assert not entry.in_memory
    assert taken(redis_proxy)[0] == 1
    part = entry.find("frame", "7")
    assert part is not None
    assert await tier.read_part(entry, part.number, 0, part.raw_size) == images[7]
    counts = redis_proxy.counts()
    assert (counts["turns"], counts["kinds"]) == (1, {"GETRANGE": 1})
    assert counts["bytes_down"] < 50_000 + 64


async def test_the_last_frames_are_read_as_the_first_ones_are(tier: RedisBackend) -> None:
    """What lies just before the index is not at hand with it."""
    images = {number: blob(5_000, number) for number in range(100)}
    assert await tier.set("bundle", make_bundle({"fps": 1}, images))
    entry = await redis_entry(tier, "bundle", index_only=True)
    assert not entry.in_memory
    for number in (99, 95, 90, 0):
        part = entry.find("frame", str(number))
        assert part is not None
        assert await tier.read_part(entry, part.number, 0, part.raw_size) == images[number]


async def test_one_frame_of_hundreds_costs_two_round_trips_and_is_built_alone(
    tier: RedisBackend, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await tier.set("bundle", BUNDLE)
    manager = manager_over(tier)
    built = frames_built(monkeypatch)
    redis_proxy.zero()
    await look_up_one_frame(manager, built, 17, "17")
    await open_one_frame(manager, built, 301)
    counts = redis_proxy.counts()
    # Each time the manifest, with what happened to tags, and then the frame.
    assert (counts["turns"], counts["kinds"]) == (4, {"GET": 2, "ZRANGE": 4, "GETRANGE": 2})
    assert 2 * FRAME_BYTES < counts["bytes_down"] < 2 * FRAME_BYTES + 60_000


async def test_listing_and_usage_scan_and_never_ask_for_all_keys(
    tier: RedisBackend, redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    with redis_server.client() as client:
        pipe = client.pipeline()
        for number in range(1500):
            pipe.set(f"foreign:{number}", number)
        pipe.execute()
    for number in range(300):
        assert await tier.set(f"group{number % 3}:{number}", number)
    redis_proxy.zero()
    assert len(await tier.list_keys("group1:*")) == 100
    turns, kinds = taken(redis_proxy)
    assert set(kinds) == {"SCAN", "ZRANGE", "GETRANGE", "STRLEN"}
    assert turns < 30
    assert await tier.clear("group1:*") == 100
    stats = await tier.get_stats()
    assert (stats["total_files"], stats["complete"]) == (200, True)
    assert await tier.clear() == 200
    _, kinds = taken(redis_proxy)
    assert not {"KEYS", "DEL", "FLUSHDB"} & set(kinds)
    with redis_server.client() as client:
        assert client.dbsize() == 1500 + client.exists(b"cc:{tags}")


async def test_a_value_of_another_size_is_left_to_other_tiers(
    tier: RedisBackend, redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    small = redis_tier(redis_proxy, min_value_size=1000)
    assert await small.write(small.draft(b"\x01k", 1, ttl_ms=None)) == "too-small"
    large = small.draft(b"\x01k", blob(5 * MIB), ttl_ms=None)
    assert await small.write(large) == "too-large-for-tier"  # 4 MiB unless said otherwise
    assert redis_proxy.counts()["turns"] == 0
    options = {"url": redis_server.url, "max_value_size": 10_000, **PATIENT}
    async with CacheManager(
        CacheConfig([{"backend_type": "memory"}, RedisCacheConfig(**options)])
    ) as both:
        assert await both.set("large", blob(20_000))
        assert await both.get("large") == blob(20_000)
        assert await both.backends[1].get("large") is None
        assert await both.set("small", 1)
        assert await both.backends[1].get("small") == 1
    await small.aclose()


async def test_an_entry_is_the_same_bytes_as_everywhere(redis_server: RedisServer) -> None:
    tier = redis_tier(redis_server)
    for size in (100, 200_000, 3_000_000):
        draft = tier.draft(key_bytes("key"), {"doc": [1, 2], "bulk": blob(size)}, ttl_ms=60_000)
        image = draft.compose()
        assert await tier.write(image) is None
        entry = await redis_entry(tier, "key")
        assert isinstance(entry, _core.Entry) and entry.tobytes() == image.tobytes()
        assert entry.token == image.token
    await tier.aclose()
