"""Lives of S3 entries that begin anew: by a copy in the store, whose bytes stay as they are."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import config_at, entry_of, names_in, object_of, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import Key

KEY = Key("prof", b"\7" * 16, "transcript", {"model": "base"})
SECOND = 1000
COPYING = ("weed", "swift", "moto")  # the fourth, "bare", cannot


def kinds(proxy: Proxy) -> dict[str, int]:
    return dict(proxy.counts()["kinds"])


def at(tier: S3Backend, seconds: int) -> S3Backend:
    """The tier, so many seconds after its entries were put."""
    tier.set_clock_offset(seconds * SECOND)
    return tier


def bytes_of(place: S3Place, tier: S3Backend, key: str) -> bytes:
    answer = place.client.get_object(Bucket=place.bucket, Key=object_of(tier, key))
    body: bytes = answer["Body"].read()
    return body


@pytest.mark.parametrize("size", [100, 300_000])
async def test_a_life_begins_anew_where_the_store_can_copy(s3_place: S3Place, size: int) -> None:
    tier = tier_at(s3_place)
    value = random.Random(size).randbytes(size)
    assert await tier.set(str(KEY), value, ttl=1000)
    body = bytes_of(s3_place, tier, str(KEY))
    can = s3_place.server in COPYING
    seen = tier_at(s3_place)
    assert await seen.get_metadata(str(KEY)) is not None  # and remembers the index

    assert await at(tier, 600).refresh(KEY.encoded, 1000 * SECOND) is can
    assert (await tier.usage())["refreshes"]["sent"] == int(can)
    assert bytes_of(s3_place, tier, str(KEY)) == body
    for other in (tier, seen, tier_at(s3_place)):
        at(other, 1500)
        for _ in range(2):  # the second time with an index that is known
            assert await other.get(str(KEY)) == (value if can else None)
            assert (await other.get_metadata(str(KEY)) is not None) is can
        at(other, 1700)
        assert await other.get(str(KEY)) is None
    assert not [name for name in names_in(s3_place) if "/.probe/" in name]


@pytest.mark.s3("weed")
async def test_a_hit_on_a_refreshed_entry_whose_index_is_known_is_one_request(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    value = random.Random(3).randbytes(300_000)
    assert await tier.set(str(KEY), value, ttl=1000)
    assert await at(tier, 600).refresh(KEY.encoded, 1000 * SECOND)
    assert await at(tier, 1500).get_metadata(str(KEY)) is not None
    s3_proxy.zero()
    assert await tier.get(str(KEY)) == value
    assert kinds(s3_proxy) == {"GetObject": 1}


@pytest.mark.s3("weed")
async def test_fifty_refreshes_leave_the_bytes_and_the_length_of_life(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    value = random.Random(1).randbytes(300_000)
    assert await tier.set(str(KEY), value, ttl=1000)
    body = bytes_of(s3_place, tier, str(KEY))
    for turn in range(1, 51):
        assert await at(tier, 600 * turn).refresh(KEY.encoded, 1000 * SECOND)
    other = at(tier_at(s3_place), 600 * 50)
    entry = await entry_of(other, str(KEY))
    assert entry.ttl_ms == 1000 * SECOND
    assert abs(entry.refreshed_ms - other.now_ms()) < 600 * SECOND
    assert bytes_of(s3_place, tier, str(KEY)) == body
    assert await other.get(str(KEY)) == value
    assert (await tier.usage())["refreshes"] == {"sent": 50, "deferred": 0}


@pytest.mark.s3("weed")
async def test_only_what_has_less_than_half_of_its_life_left_is_copied(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    assert await tier.set(str(KEY), "value", ttl=1000)
    s3_proxy.zero()
    assert await at(tier, 400).refresh(KEY.encoded, 1000 * SECOND)
    assert await tier.refresh(KEY.encoded, 1 * SECOND)  # it lives longer as it is
    assert kinds(s3_proxy) == {"GetObject": 2}
    assert await at(tier, 510).refresh(KEY.encoded, 1000 * SECOND)
    s3_proxy.zero()
    assert await at(tier, 1100).refresh(KEY.encoded, 1000 * SECOND)  # from now on without a probe
    assert kinds(s3_proxy) == {"GetObject": 1, "CopyObject": 1}
    s3_proxy.zero()
    assert await tier.refresh(KEY.encoded, None)  # for ever
    assert kinds(s3_proxy) == {"GetObject": 1, "CopyObject": 1}
    s3_proxy.zero()
    assert await at(tier, 10**9).refresh(KEY.encoded, None)
    assert kinds(s3_proxy) == {"GetObject": 1}
    assert await tier.get(str(KEY)) == "value"


@pytest.mark.s3("weed")
async def test_an_entry_that_is_gone_or_dead_is_not_refreshed(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    assert not await tier.refresh(KEY.encoded, 1000 * SECOND)
    assert await tier.set(str(KEY), "value", ttl=10)
    assert not await at(tier, 11).refresh(KEY.encoded, 1000 * SECOND)
    assert "CopyObject" not in kinds(s3_proxy)


async def test_a_key_of_ones_own_is_copied_only_where_nothing_newer_can_get_lost(
    s3_place: S3Place,
) -> None:
    tier = tier_at(s3_place)
    assert await tier.set("jobs:1", "value", ttl=1000)
    key = Key.parse("jobs:1").encoded
    guarded = s3_place.server == "weed"  # it alone takes If-Match for what a copy replaces
    assert await at(tier, 600).refresh(key, 1000 * SECOND) is guarded
    assert (await tier.usage())["refreshes"]["sent"] == int(guarded)
    assert await at(tier_at(s3_place), 1200).get("jobs:1") == ("value" if guarded else None)


@pytest.mark.s3(*COPYING)
async def test_an_entry_that_is_replaced_meanwhile_stays_replaced(
    s3_place: S3Place, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier, other = tier_at(proxied_place), tier_at(s3_place)
    assert await tier.set(str(KEY), "older", ttl=1000)
    assert await at(tier, 600).refresh(KEY.encoded, 1000 * SECOND)
    at(tier, 1200)
    s3_proxy.set("hold", where="before", kind="CopyObject")
    refreshing = asyncio.create_task(tier.refresh(KEY.encoded, 1000 * SECOND))
    await asyncio.to_thread(s3_proxy.wait_held)
    assert await at(other, 1200).set(str(KEY), "newer", ttl=2000)
    s3_proxy.clear()
    s3_proxy.release()
    done = await refreshing
    assert done is (s3_place.server == "moto")  # which knows no conditions, and copies the newer
    entry = await entry_of(at(tier_at(s3_place), 1200), str(KEY))
    assert entry.value() == "newer"
    assert entry.ttl_ms == 2000 * SECOND  # the life of the older one is not for it


@pytest.mark.s3("weed")
async def test_an_entry_that_is_removed_meanwhile_stays_removed(
    s3_place: S3Place, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier, other = tier_at(proxied_place), tier_at(s3_place)
    assert await tier.set(str(KEY), "value", ttl=1000)
    at(tier, 600)
    s3_proxy.set("hold", where="before", kind="CopyObject", skip=1)  # the first is the probe's
    refreshing = asyncio.create_task(tier.refresh(KEY.encoded, 1000 * SECOND))
    await asyncio.to_thread(s3_proxy.wait_held)
    assert await other.delete(str(KEY))
    s3_proxy.clear()
    s3_proxy.release()
    assert not await refreshing
    assert await tier_at(s3_place).get(str(KEY)) is None


@pytest.mark.s3("weed")
async def test_so_many_copies_and_no_more(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    now = 0.0
    tier._refreshes._clock = lambda: now
    tier._refreshes._left, tier._refreshes._left_at = 2.0, now
    assert await tier.set(str(KEY), "value", ttl=1000)
    done = [await at(tier, 600 * turn).refresh(KEY.encoded, 1000 * SECOND) for turn in (1, 2, 3)]
    assert done == [True, True, False]
    assert (await tier.usage())["refreshes"] == {"sent": 2, "deferred": 1}
    now += 0.1
    assert await tier.refresh(KEY.encoded, 1000 * SECOND)


@pytest.mark.s3("weed")
async def test_a_refusal_to_copy_is_no_exception(proxied_place: S3Place, s3_proxy: Proxy) -> None:
    tier = tier_at(proxied_place)
    assert await tier.set(str(KEY), "value", ttl=1000)
    s3_proxy.set("status", status=403, code="AccessDenied", kind="CopyObject")
    assert not await at(tier, 600).refresh(KEY.encoded, 1000 * SECOND)
    assert tier.counters["errors"] == 1
    assert await tier.get(str(KEY)) == "value"


@pytest.mark.s3("moto")
async def test_who_reads_goes_on_though_the_copy_has_another_etag(s3_place: S3Place) -> None:
    """As in S3 itself, an object that was put in parts has another ETag once it was copied."""
    value = random.Random(2).randbytes(17 << 20)
    tier, other = tier_at(s3_place), tier_at(s3_place)
    assert await tier.set(str(KEY), value, ttl=1000)
    entry = await entry_of(other, str(KEY), index_only=True)
    etag = s3_place.client.head_object(Bucket=s3_place.bucket, Key=object_of(tier, str(KEY)))[
        "ETag"
    ]
    assert await at(tier, 600).refresh(KEY.encoded, 1000 * SECOND)
    head = s3_place.client.head_object(Bucket=s3_place.bucket, Key=object_of(tier, str(KEY)))
    assert head["ETag"] != etag
    part = next(part.number for part in entry.parts() if part.kind == "blob")
    assert await other.read_part(entry, part, 1 << 20, 3 << 20) == value[1 << 20 : 3 << 20]
    assert other.counters["errors"] == 0


@pytest.mark.s3("weed")
async def test_a_refreshed_life_is_that_of_the_copies_in_other_tiers(
    s3_place: S3Place, tmp_path: Path
) -> None:
    first = tier_at(s3_place)
    assert await first.set(str(KEY), "value", ttl=1000)
    assert await at(first, 600).refresh(KEY.encoded, 1000 * SECOND)
    config = CacheConfig([FilesystemCacheConfig(tmp_path), config_at(s3_place)])
    async with CacheManager(config) as manager:
        assert await manager.get(str(KEY)) == "value"
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path)])) as manager:
        at(manager.backends[0], 1500)
        assert await manager.get(str(KEY)) == "value"
        at(manager.backends[0], 1700)
        assert await manager.get(str(KEY)) is None


@pytest.mark.s3("weed")
async def test_touch_begins_a_life_anew_in_every_tier(s3_place: S3Place, tmp_path: Path) -> None:
    config = CacheConfig([FilesystemCacheConfig(tmp_path), config_at(s3_place)])
    async with CacheManager(config) as manager:
        assert await manager.set(KEY, "value", ttl=1000)
        for tier in manager.backends:
            at(tier, 600)
        assert await manager.touch(KEY)
        for tier in manager.backends:
            at(tier, 1500)
            assert await tier.get(str(KEY)) == "value"
