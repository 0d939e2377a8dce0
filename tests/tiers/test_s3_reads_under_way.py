"""Reads under way while this process changes what they read: nothing that was is remembered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import object_of, tier_at

from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import Key, key_bytes

pytestmark = pytest.mark.s3("weed", "bare")

OLD, NEW = (random.Random(n).randbytes(n * 100_000) for n in (1, 2))
ARTIFACT = Key("prof", b"\x07" * 16, "transcript", {"model": "base"})


@pytest.fixture
async def tier(proxied_place: S3Place, s3_proxy: Proxy) -> S3Backend:
    tier = tier_at(proxied_place)
    await tier.prepare()
    tier._clock = lambda: 0.0  # what is remembered does not pass
    return tier


async def meanwhile(
    proxy: Proxy, reading: Awaitable[Any], change: Callable[[], Awaitable[Any]]
) -> Any:
    """Change something while a read has its answer under way; what the read says then."""
    held = proxy.set("hold", where="after", kind="GetObject", times=1)
    task = asyncio.ensure_future(reading)
    await asyncio.to_thread(proxy.wait_held)
    changing = asyncio.ensure_future(change())
    assert await changing
    proxy.release()
    proxy.clear(held)
    return await task


async def put_stream(tier: S3Backend) -> bool:
    stored = await manager_over(tier).put_stream("key", NEW)
    return stored.stored


@pytest.mark.parametrize("put", ["put", "stream"])
async def test_a_read_that_began_before_a_put_does_not_make_the_old_index_known(
    tier: S3Backend, s3_proxy: Proxy, put: str
) -> None:
    assert await tier.set("key", OLD)
    change = (lambda: tier.set("key", NEW)) if put == "put" else (lambda: put_stream(tier))
    await meanwhile(s3_proxy, tier.fetch(key_bytes("key"), index_only=True), change)
    described = await tier.get_metadata("key")
    assert described is not None and described["raw_bytes"] >= len(NEW)
    assert await tier.get("key") == NEW


@pytest.mark.parametrize("forget", ["delete", "clear"])
async def test_a_read_that_began_before_a_delete_does_not_say_that_it_is_there(
    tier: S3Backend, s3_proxy: Proxy, forget: str
) -> None:
    assert await tier.set("key", OLD)
    change = (lambda: tier.delete("key")) if forget == "delete" else tier.clear
    await meanwhile(s3_proxy, tier.exists("key"), change)
    assert not await tier.exists("key")


async def test_a_miss_that_was_under_way_does_not_keep_a_later_put_from_replacing(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    found = await meanwhile(s3_proxy, tier.get(ARTIFACT), lambda: tier.set(ARTIFACT, "first"))
    assert found is None
    assert await tier.set(ARTIFACT, "second")
    assert tier.counters["created_by_others"] == 0
    assert await tier.get(ARTIFACT) == "second"


async def test_damage_that_was_under_way_is_not_said_of_what_was_put_since(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place
) -> None:
    proxied_place.client.put_object(
        Bucket=proxied_place.bucket, Key=object_of(tier, "key"), Body=b"no entry" * 100
    )
    s3_proxy.zero()
    first = s3_proxy.set("hold", where="after", kind="GetObject", skip=1, times=1)
    task = asyncio.ensure_future(tier.fetch(key_bytes("key")))  # damaged is read once more
    await asyncio.to_thread(s3_proxy.wait_held)
    assert await tier.set("key", NEW)
    s3_proxy.release()
    s3_proxy.clear(first)
    assert await task == "damaged"
    assert await tier.get("key") == NEW
