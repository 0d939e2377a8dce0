"""An entry that others replace while it is read: the read gives one of the values, whole, and is no
miss and no fault. Requests are held until the next generation is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import entry_of, tier_at

from cogcache.backends.s3.tier import S3Backend
from cogcache.frames import make_bundle

pytestmark = pytest.mark.s3("weed")

MIB = 1 << 20


def value_of(generation: int, size: int) -> bytes:
    return Random(generation).randbytes(size)


@pytest.fixture
async def tier(proxied_place: S3Place) -> S3Backend:
    tier = tier_at(proxied_place)
    await tier.prepare()
    return tier


@pytest.fixture
async def other(s3_place: S3Place) -> S3Backend:
    """Of another process, for what that matters."""
    return tier_at(s3_place)


async def read_among_writes(
    reading: Awaitable[Any], proxy: Proxy, other: S3Backend, held: dict[int, Any]
) -> tuple[Any, list[int]]:
    """What a read gives, and how its requests were answered: before the request of each number in
    ``held`` reaches the server, another process has put that value in the place of the last one.
    """
    proxy.zero()
    for number in held:
        proxy.set("hold", where="before", kind="GetObject", skip=number - 1, times=1)
    task = asyncio.ensure_future(reading)
    for value in held.values():
        await asyncio.to_thread(proxy.wait_held)
        assert await other.set("key", value)
        proxy.release()
    got = await task
    return got, [request["status"] for request in proxy.requests()]


@pytest.mark.parametrize("size", [200_000, 3 * MIB])
async def test_replaced_between_its_two_requests_it_comes_in_one(
    tier: S3Backend, other: S3Backend, s3_proxy: Proxy, size: int
) -> None:
    await other.set("key", value_of(1, size))
    got, answers = await read_among_writes(tier.get("key"), s3_proxy, other, {2: value_of(2, size)})
    assert got == value_of(2, size)
    assert answers == [206, 412, 200]
    assert tier.counters["errors"] == 0


async def test_replaced_between_its_ranges_a_large_one_comes_in_one(
    tier: S3Backend, other: S3Backend, s3_proxy: Proxy
) -> None:
    await other.set("key", value_of(1, 20 * MIB))
    got, answers = await read_among_writes(
        tier.get("key"), s3_proxy, other, {4: value_of(2, 20 * MIB)}
    )
    assert got == value_of(2, 20 * MIB)
    assert answers[0] == 206 and 412 in answers and answers[-1] == 200
    assert tier.counters["errors"] == 0


async def test_a_store_without_conditions_is_found_out_by_its_etag(
    tier: S3Backend, other: S3Backend, s3_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    await other.set("key", value_of(1, 200_000))
    s3_proxy.set("ignore_conditions")
    got, answers = await read_among_writes(
        tier.get("key"), s3_proxy, other, {2: value_of(2, 200_000)}
    )
    assert got == value_of(2, 200_000)
    assert answers == [206, 206, 206, 200]
    assert tier.counters["errors"] == 0 and not caplog.records


async def test_an_opened_entry_loads_what_replaced_it_however_often(
    tier: S3Backend, other: S3Backend, s3_proxy: Proxy
) -> None:
    await other.set("key", value_of(1, 200_000))
    entry = await entry_of(tier, "key", index_only=True)
    # The parts of the entry; its end and its parts anew; and once more. Then all of it at once.
    held = {number: value_of(number, 200_000) for number in (1, 3, 5)}
    got, answers = await read_among_writes(tier.load(entry), s3_proxy, other, held)
    assert got == value_of(5, 200_000)
    assert answers == [412, 206, 412, 206, 412, 200]
    assert tier.counters["errors"] == 0


async def test_an_index_larger_than_the_first_request_comes_in_one(
    tier: S3Backend, other: S3Backend, s3_proxy: Proxy
) -> None:
    def bundle(generation: int) -> Any:
        frames = value_of(generation, 2 * MIB)
        return make_bundle(
            {"generation": generation}, {n: frames[100 * n : 100 * n + 100] for n in range(20_000)}
        )

    await other.set("key", bundle(1))
    entry, answers = await read_among_writes(
        entry_of(tier, "key", index_only=True), s3_proxy, other, {2: bundle(2)}
    )
    assert answers == [206, 412, 206]
    metadata, frames = await tier.load(entry, frames=[9999])
    assert metadata == {"generation": 2}
    assert frames.encoded(9999) == value_of(2, 2 * MIB)[100 * 9999 : 100 * 10_000]
