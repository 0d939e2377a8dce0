"""Verifying what lies in S3 and Redis: damage is found, named, left alone, and removed when
asked."""

from __future__ import annotations

import os
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_redis import base_of, redis_tier, slices_of
from support_s3 import names_in, object_of, tier_at

from cogcache.backends.s3.tier import S3Backend
from cogcache.verifyreport import DamagedEntry, VerifyReport

LARGE = 12 << 20  # more than one slice of a verification


async def fill(tier: Any) -> None:
    assert await tier.set("small", {"text": "short"})
    assert await tier.set("middle", os.urandom(400_000))
    assert await tier.set("large", os.urandom(LARGE))


def by_key(report: VerifyReport) -> dict[str | None, DamagedEntry]:
    return {None if one.key is None else str(one.key): one for one in report.damaged}


def flip_object(tier: S3Backend, place: S3Place, key: str, at: int) -> None:
    name = object_of(tier, key)
    answer = place.client.get_object(Bucket=place.bucket, Key=name)
    body = bytearray(answer["Body"].read())
    body[at] ^= 16
    place.client.put_object(
        Bucket=place.bucket, Key=name, Body=bytes(body), Metadata=answer["Metadata"]
    )


def objects(place: S3Place) -> dict[str, str]:
    answers = {
        name: place.client.head_object(Bucket=place.bucket, Key=name) for name in names_in(place)
    }
    return {name: f"{one['ETag']} {one['LastModified']}" for name, one in answers.items()}


@pytest.mark.s3("weed")
async def test_damage_in_s3_is_named_and_removed_only_when_asked(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    manager = manager_over(tier)
    await fill(tier)
    place = s3_place
    place.client.put_object(Bucket=place.bucket, Key=f"{place.prefix}/v1/notes.txt", Body=b"no")
    before = objects(place)
    report = await manager.verify()
    sizes = sum(
        place.client.head_object(Bucket=place.bucket, Key=object_of(tier, key))["ContentLength"]
        for key in ("small", "middle", "large")
    )
    assert report.ok and (report.entries, report.bytes_read) == (3, sizes)
    assert objects(place) == before

    flip_object(tier, place, "small", -20)
    flip_object(tier, place, "middle", 5000)
    flip_object(tier, place, "large", 6 << 20)
    assert await tier.set("lifeless", os.urandom(100_000))
    flip_object(tier, place, "lifeless", -110)
    before = objects(place)
    report = await manager.verify()
    found = by_key(report)
    assert set(found) == {None, "middle", "large", "lifeless"} and report.entries == 4
    assert "how long it lives" in found["lifeless"].error and not found["lifeless"].damage
    assert found[None].place == object_of(tier, "small")
    assert [(one.part, one.chunk) for one in found["middle"].damage] == [(0, 0)]
    assert [(one.part, one.chunk) for one in found["large"].damage] == [(0, 1)]
    assert objects(place) == before

    report = await manager.verify(fix=True)
    assert report.tiers[0].removed == 4 and all(one.removed for one in report.damaged)
    assert names_in(place) == [f"{place.prefix}/v1/notes.txt"]
    assert await manager.get("middle") is None
    await tier.aclose()


@pytest.mark.s3("weed")
async def test_an_object_that_was_damaged_on_the_way_is_not_damaged(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tier_at(s3_place)
    await fill(tier)
    honest = tier.damage_in
    asked = []

    async def once_wrong(entry: Any, first: int, stop: int) -> list[tuple[int | None, int | None]]:
        asked.append(entry.key)
        return [(0, 0)] if asked.count(entry.key) == 1 else await honest(entry, first, stop)

    monkeypatch.setattr(tier, "damage_in", once_wrong)
    report = await manager_over(tier).verify(fix=True)
    assert report.ok and report.entries == 3 and len(names_in(s3_place)) == 3
    await tier.aclose()


@pytest.mark.s3("weed")
async def test_what_a_store_does_not_answer_is_told_and_never_called_damaged(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    await fill(tier)
    s3_proxy.set("status", status=403, code="AccessDenied", kind="GetObject")
    report = await manager_over(tier).verify(fix=True)
    assert not report.ok and report.damaged == () and report.entries == 0
    assert report.tiers[0].unreadable == len(report.unreadable) > 0
    assert "AccessDenied" in report.unreadable[0].error
    await tier.aclose()

    tier = tier_at(proxied_place)
    s3_proxy.set("refuse")
    report = await manager_over(tier).verify(fix=True)
    assert report.damaged == () and report.tiers[0].error and not report.ok
    await tier.aclose()


async def test_damage_in_redis_is_named_and_removed_only_when_asked(
    redis_server: RedisServer,
) -> None:
    tier = redis_tier(redis_server, max_value_size=None, slice_size=64 << 10)
    manager = manager_over(tier)
    await fill(tier)
    assert await tier.set("lost", os.urandom(500_000))
    assert await tier.set("lifeless", os.urandom(500_000))
    client = redis_server.client()
    assert (await manager.verify()).ok

    slices = {key: slices_of(client, base_of(tier, key)) for key in ("middle", "large", "lost")}
    flip_slice(client, slices["middle"][1])
    flip_slice(client, slices["large"][100])
    flip_slice(client, slices["large"][101])
    client.delete(slices["lost"][3])
    manifest = base_of(tier, "small") + b":m"
    damaged = bytearray(client.get(manifest))
    damaged[-20] ^= 16
    client.set(manifest, bytes(damaged))
    manifest = base_of(tier, "lifeless") + b":m"
    damaged = bytearray(client.get(manifest))
    damaged[-110] ^= 16
    client.set(manifest, bytes(damaged))
    before = {name: client.get(name) for name in client.keys(b"*{*") if b"{tags}" not in name}
    report = await manager.verify()
    found = by_key(report)
    assert set(found) == {None, "middle", "large", "lost", "lifeless"}
    assert "how long it lives" in found["lifeless"].error and not found["lifeless"].damage
    assert found[None].place == (base_of(tier, "small") + b":m").decode()
    assert [(one.part, one.chunk) for one in found["middle"].damage] == [(0, 0)]
    assert [(one.part, one.chunk) for one in found["large"].damage] == [(0, 1)]
    assert "missing" in found["lost"].error
    after = {name: client.get(name) for name in client.keys(b"*{*") if b"{tags}" not in name}
    assert after == before

    report = await manager.verify(fix=True)
    assert report.tiers[0].removed == 5
    assert (await manager.verify()).ok and await manager.list_keys() == []
    assert [name for name in client.keys(b"*{*") if b"{tags}" not in name] == []
    client.close()
    await tier.aclose()


def flip_slice(client: Any, name: bytes) -> None:
    data = bytearray(client.get(name))
    data[100] ^= 1
    client.set(name, bytes(data))
