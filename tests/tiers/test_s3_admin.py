"""Listing, clearing and housekeeping in a bucket that others use too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import config_at, names_in, object_of, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, PipelineArtifactCache
from cogcache.backends.s3.listing import lifecycle_rules
from cogcache.backends.s3.memory import Remembered
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import Key, key_bytes

MANY = 2500
FOREIGN = ("readme.txt", "v1/notes.txt", "v1/-/raw/x", "v1/p/q/r", "v2/-/raw/x", "other/v1/x")


def put(place: S3Place, name: str, body: bytes = b"not ours") -> None:
    place.client.put_object(Bucket=place.bucket, Key=name, Body=body)


async def fill(tier: S3Backend, place: S3Place) -> None:
    """2,500 entries, every tenth expired, put as fast as the server takes them."""
    images = []
    for number in range(MANY):
        ttl = 1000 if number % 10 == 0 else None
        key = f"jobs:{number % 3}:{number}"
        images.append((key, tier.draft(key_bytes(key), number, ttl_ms=ttl).compose().tobytes()))
    with ThreadPoolExecutor(8) as pool:
        clients = [place.make_client(max_pool_connections=8)]
        list(
            pool.map(
                lambda one: clients[0].put_object(
                    Bucket=place.bucket, Key=object_of(tier, one[0]), Body=bytearray(one[1])
                ),
                images,
            )
        )
        clients[0].close()


@pytest.mark.s3("weed")
async def test_thousands_of_entries_are_listed_cleaned_and_cleared(
    s3_place: S3Place, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    for name in FOREIGN:
        put(s3_place, f"{s3_place.prefix}/{name}")
    await fill(tier, s3_place)
    tier.set_clock_offset(60_000)
    counts = []
    for _ in range(4):
        s3_proxy.zero()
        usage = await tier.usage()
        counts.append((usage["total_files"], usage["complete"], s3_proxy.counts()["requests"]))
    assert counts == [(1000, False, 1), (2000, False, 1), (MANY, True, 1), (MANY, True, 0)]

    s3_proxy.zero()
    assert len(await tier.list_keys()) == MANY * 9 // 10
    assert s3_proxy.counts()["kinds"] == {"ListObjectsV2": 3, "GetObject": MANY}
    s3_proxy.zero()
    listed = 0
    async for _ in tier.iter_keys():  # it streams: whoever stops early pays for little
        listed += 1
        if listed == 10:
            break
    assert s3_proxy.counts()["kinds"]["GetObject"] <= 40

    assert await tier.cleanup_expired() == MANY // 10
    s3_proxy.zero()
    assert await tier.clear("jobs:1:*") == sum(n % 3 == 1 and n % 10 != 0 for n in range(MANY))
    assert await tier.clear() == sum(n % 3 != 1 and n % 10 != 0 for n in range(MANY))
    kinds = s3_proxy.counts()["kinds"]
    assert "GetObject" not in kinds and kinds["DeleteObjects"] <= 4
    assert sorted(names_in(s3_place)) == sorted(f"{s3_place.prefix}/{name}" for name in FOREIGN)


async def test_foreign_objects_are_never_touched(s3_bucket: S3Place) -> None:
    tier = tier_at(s3_bucket, prefix="cache")
    others = tier_at(s3_bucket, prefix="cache2")
    for name in FOREIGN:
        put(s3_bucket, f"cache/{name}")
    assert await tier.set("key", 1, ttl=1) and await others.set("key", 2)
    tier.set_clock_offset(10_000)
    assert await tier.list_keys() == []
    assert await tier.cleanup_expired() == 1
    assert (await tier.get_stats())["total_files"] == 0
    assert await tier.clear() == 0
    assert await others.get("key") == 2
    assert {f"cache/{name}" for name in FOREIGN} <= set(names_in(s3_bucket))


async def test_deleting_is_of_one_generation(s3_place: S3Place) -> None:
    tier, other = tier_at(s3_place), tier_at(s3_place)
    await tier.set("key", "old")
    old = await anext(tier.scan())
    await other.set("key", "new")
    assert not await tier.discard_entry(old)
    assert await tier.get("key") == "new"
    new = await anext(tier.scan())
    assert await tier.discard_entry(new)
    assert not await tier.discard_entry(new)
    assert await tier.get("key") is None


@pytest.mark.s3("weed")
async def test_abandoned_uploads_are_given_up_when_they_are_old(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    client, bucket = s3_place.client, s3_place.bucket
    ours = object_of(tier, "key")
    foreign = f"{s3_place.prefix}/other/file"
    for name in (ours, foreign):
        upload = client.create_multipart_upload(Bucket=bucket, Key=name)
        client.upload_part(
            Bucket=bucket, Key=name, UploadId=upload["UploadId"], PartNumber=1, Body=b"x"
        )
    assert await tier.gc() == 0
    put(s3_place, tier._names.probes + "0" * 32)
    assert await tier.gc() == 0
    assert await tier.gc(older_than_seconds=-60) == 2
    left = client.list_multipart_uploads(Bucket=bucket, Prefix=s3_place.prefix)
    assert [one["Key"] for one in left.get("Uploads", ())] == [foreign]


@pytest.mark.s3("weed", "moto")
async def test_a_lifecycle_rule_is_added_once_beside_those_of_others(s3_bucket: S3Place) -> None:
    client, bucket = s3_bucket.client, s3_bucket.bucket
    theirs = {
        "ID": "logs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 30},
    }
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]}
    )
    for days in (7, 7, 14):
        tier = tier_at(s3_bucket, prefix="cache", lifecycle_expiration_days=days)
        assert await tier.set("key", 1)
        await tier.aclose()
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    found = {rule["Filter"].get("Prefix", ""): rule["Expiration"]["Days"] for rule in rules}
    assert found == {"logs/": 30, "cache/v1/": 14}


async def test_a_store_without_lifecycle_rules_is_used_all_the_same(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(s3_place, lifecycle_expiration_days=7)
    assert await tier.set("key", 1)
    assert await tier.get("key") == 1
    warned = "took no lifecycle rule" in caplog.text
    assert warned == (s3_place.server in ("swift", "bare"))


def test_rules_of_others_stay_as_they_are() -> None:
    theirs = {"ID": "x", "Status": "Disabled", "Filter": {"Tag": {"Key": "a", "Value": "b"}}}
    rules = lifecycle_rules([theirs], "p/v1/", 3)
    assert rules is not None and rules[0] is theirs and len(rules) == 2
    assert lifecycle_rules(rules, "p/v1/", 3) is None
    changed = lifecycle_rules(rules, "p/v1/", 4)
    assert changed is not None and len(changed) == 2
    assert lifecycle_rules(rules, "q/v1/", 3) is not None


@pytest.mark.s3("weed")
async def test_statistics_ask_once_a_minute_and_after_a_change_of_ones_own(
    s3_place: S3Place, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier, other = tier_at(proxied_place), tier_at(s3_place)
    now = 1000.0
    tier._clock = lambda: now

    async def told() -> tuple[int, bool, float, int]:
        s3_proxy.zero()
        usage = await tier.get_stats()
        lists = s3_proxy.counts()["kinds"].get("ListObjectsV2", 0)
        assert usage["size_bytes"] >= 200 * usage["total_files"]
        return usage["total_files"], usage["complete"], usage["counted_seconds"], lists

    assert await told() == (0, True, 0.0, 1)
    assert await tier.set("a", 1)
    assert await told() == (1, True, 0.0, 1)
    assert await other.set("b", 2)
    now += 59
    assert await told() == (1, True, 59.0, 0)
    now += 1
    assert await told() == (2, True, 0.0, 1)
    assert await tier.delete("a")
    assert await told() == (1, True, 0.0, 1)
    # What cannot be asked is told as it was, and as what it is.
    assert await tier.delete("b")
    now += 5
    s3_proxy.set("status", status=403, code="AccessDenied", kind="ListObjectsV2")
    assert await told() == (1, False, 5.0, 1)
    s3_proxy.clear()
    assert await told() == (0, True, 0.0, 1)


@pytest.mark.s3("weed")
async def test_a_video_is_invalidated_wherever_its_entries_are(
    s3_place: S3Place, tmp_path: Any
) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"not really a video" * 100)
    manager = CacheManager(
        CacheConfig([FilesystemCacheConfig(tmp_path / "a"), config_at(s3_place)])
    )
    async with PipelineArtifactCache(manager, profile="prof", identity="content") as cache:
        assert await cache.set_transcript(video, {"text": "hello"}, "base")
        assert await cache.set_transcript(video, {"text": "bonjour"}, "large")
        other = tmp_path / "other.mp4"
        other.write_bytes(b"another video" * 100)
        assert await cache.set_transcript(other, {"text": "other"}, "base")
        assert await cache.invalidate_video(video) == 2
        assert await cache.get_transcript(video, "base") is None
        assert await cache.get_transcript(other, "base") == {"text": "other"}
    left = [name for name in names_in(s3_place) if "/.sources/" not in name]
    assert len(left) == 1


def test_what_is_remembered_is_bounded_and_passes() -> None:
    now = 0.0
    memory: Remembered[bytes] = Remembered(100, lambda: now, len)
    for number in range(30):
        memory.keep(str(number), b"x" * 10, 5.0)
    assert len(memory) == 10
    assert memory.get("19") is None and memory.get("20") == b"x" * 10
    memory.keep("29", b"y" * 50, 5.0)
    assert memory.get("29") == b"y" * 50 and memory.get("21") is None
    memory.keep("big", b"x" * 101, 5.0)
    assert memory.get("big") is None
    now = 5.0
    assert memory.get("29") is None
    memory.clear()
    assert len(memory) == 0 and memory._weight == 0


def test_what_was_asked_for_before_a_name_was_forgotten_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogcache.backends.s3.memory.FORGOTTEN", 3)
    memory: Remembered[int] = Remembered(100, lambda: 0.0)
    asked = memory.moment
    memory.forget("changed")
    assert not memory.keep("changed", 1, 5.0, asked) and memory.get("changed") is None
    assert memory.keep("another", 1, 5.0, asked) and memory.get("another") == 1
    assert memory.keep("changed", 2, 5.0, memory.moment) and memory.get("changed") == 2
    later = memory.moment
    for number in range(4):  # more than are known one by one
        memory.forget(str(number))
    assert not memory.keep("new", 1, 5.0, asked) and not memory.keep("0", 1, 5.0, later)
    assert memory.keep("new", 1, 5.0, memory.moment)
    asked = memory.moment
    memory.clear()
    assert not memory.keep("new", 1, 5.0, asked)


async def test_a_key_that_is_listed_can_be_read_and_deleted(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    keys = [
        "plain",
        "x" * 300,
        str(Key("prof", b"\1" * 16, "transcript", {"model": "a:b*"})),
        str(Key("p" * 250, b"\2" * 16, "k" * 250, {"z": None})),
    ]
    for key in keys:
        assert await tier.set(key, key)
    listed = [key for key, _ in await tier.list_keys()]
    assert sorted(listed) == sorted(keys)
    assert [key for key, _ in await tier.list_keys("p" * 250 + ":*")] == [keys[3]]
    for key in listed:
        assert await tier.get(key) == key
        assert await tier.clear(key) == 1
    assert await tier.list_keys() == []
