"""What the S3 tier does when the store or the way to it fails: never a wrong byte, never an
exception of a read or write, and nothing that waits for long.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import entry_of, names_in, object_of, tier_at

from cogcache import _core
from cogcache.backends import lanes
from cogcache.backends.faults import AbsentError
from cogcache.backends.s3 import opening
from cogcache.backends.s3.tier import S3Backend
from cogcache.exceptions import IncompleteError
from cogcache.frames import make_bundle
from cogcache.keys import Key, key_bytes

pytestmark = pytest.mark.s3("weed")

MIB = 1 << 20


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


@pytest.fixture
async def tier(proxied_place: S3Place, s3_proxy: Proxy) -> S3Backend:
    tier = tier_at(proxied_place)
    await tier.prepare()
    s3_proxy.zero()
    return tier


@pytest.fixture
async def hasty(proxied_place: S3Place, s3_proxy: Proxy) -> S3Backend:
    """A tier with a short deadline."""
    patient = tier_at(proxied_place)
    assert await patient.set("key", "value")
    assert await patient.set("slow", blob(60_000))
    hasty = tier_at(proxied_place, timeout_seconds=0.5)
    hasty._abilities = patient._abilities
    await asyncio.to_thread(hasty._client.connect)  # a client takes a while to make
    s3_proxy.zero()
    return hasty


# --- an outage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "unanswered", "black_hole"])
async def test_an_outage_opens_the_breaker_and_costs_no_requests_then(
    hasty: S3Backend, s3_proxy: Proxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = hasty._client.small.breaker
    now = 1000.0
    breaker._clock = lambda: now
    s3_proxy.set(fault)
    s3_proxy.drop()
    calls = 0
    while breaker.state == "closed":
        answers = await asyncio.gather(*(hasty.fetch(key_bytes(f"k{calls}{n}")) for n in range(5)))
        assert answers == ["unavailable"] * 5
        calls += 5
        assert calls <= 20
    await asyncio.to_thread(wait_for_lanes)
    asked = dict(hasty._client.requests)
    draft = hasty.draft(key_bytes("new"), "value", ttl_ms=None)
    for number in range(200):
        assert await hasty.fetch(key_bytes(f"later:{number}")) == "unavailable"
    assert await hasty.write(draft) == "unavailable"
    assert hasty._client.requests == asked
    now += breaker.retry_seconds  # a probe is due
    assert await hasty.fetch(key_bytes("later")) == "unavailable"
    assert await hasty.fetch(key_bytes("latest")) == "unavailable"
    await asyncio.to_thread(wait_for_lanes)
    more = hasty._client.requests.pop("get_object") - asked.pop("get_object")
    assert 1 <= more <= 2  # a second try, if there is time for it
    assert hasty._client.requests == asked
    downs = [r for r in caplog.records if "going on without it" in r.getMessage()]
    assert 1 <= len(downs) <= 2
    assert not hasty._gone._kept, "an outage is no absence"


async def test_the_last_fault_is_the_cause_and_not_that_nobody_asked(
    hasty: S3Backend, s3_proxy: Proxy
) -> None:
    told: list[str] = []
    hasty.fault_hooks.append(lambda fault: told.append(fault.error))
    hasty._client.small.breaker._clock = lambda: 1000.0
    s3_proxy.set("refuse")
    s3_proxy.drop()
    while hasty._client.small.breaker.state == "closed":
        assert await hasty.fetch(key_bytes("key")) == "unavailable"
    cause, count = hasty.last_fault, len(told)
    assert cause is not None
    errors = hasty.counters["errors"]
    for number in range(10):
        assert await hasty.fetch(key_bytes(f"later{number}")) == "unavailable"
        await hasty.get_stats()
    assert hasty.last_fault is cause
    assert not any("not asked" in error for error in told)
    assert len(told) == count
    assert hasty.counters["errors"] >= errors + 10


async def test_it_is_back_with_the_first_probe_after_an_outage(
    tier: S3Backend, s3_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    assert await tier.set("key", "value")
    breaker = tier._client.small.breaker
    now = 1000.0
    breaker._clock = lambda: now
    s3_proxy.set("refuse")
    s3_proxy.drop()
    while breaker.state == "closed":
        answers = await asyncio.gather(*(tier.fetch(key_bytes("key")) for _ in range(5)))
        assert answers == ["unavailable"] * 5
    s3_proxy.clear()
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    now += breaker.retry_seconds
    assert await tier.get("key") == "value"
    assert breaker.state == "closed"
    assert any("works again" in record.getMessage() for record in caplog.records)


async def test_a_burst_of_503_is_a_fault_and_not_a_miss(tier: S3Backend, s3_proxy: Proxy) -> None:
    await tier.set("key", "value")
    s3_proxy.set("status", status=503, code="SlowDown", kind="GetObject", times=2)
    assert await tier.fetch(key_bytes("key")) == "unavailable"  # after its own second try
    assert await tier.get("key") == "value"
    assert tier.counters["errors"] == 1


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests")])
async def test_a_store_that_is_asked_for_too_much_gets_half_as_much_at_once(
    tier: S3Backend, s3_proxy: Proxy, status: int, code: str
) -> None:
    value = blob(40 * MIB)
    now = time.monotonic() + 1000.0
    tier._client.bulk._clock = lambda: now
    s3_proxy.set("status", status=status, code=code, kind="UploadPart", times=1)
    assert await tier.set("a", value)  # the part was sent again
    assert await tier.set("b", value)
    usage = await tier.usage()
    assert usage["slow_downs"] == usage["lanes"]["bulk"]["narrowed"] == 1
    assert usage["lanes"]["bulk"]["at_once"] == 4
    # Ten ranges are wanted, eight together; four are asked for.
    s3_proxy.zero()
    hold = s3_proxy.set("hold", where="before", kind="GetObject", path="")
    reading = [asyncio.create_task(tier.get(key)) for key in "ab"]
    await asyncio.to_thread(s3_proxy.wait_held, 2)  # of each the end
    s3_proxy.release()
    await asyncio.to_thread(s3_proxy.wait_held, 4)
    assert tier._client.bulk._threads <= 4
    now += lanes.WIDEN_SECONDS
    s3_proxy.clear(hold)
    s3_proxy.release()
    assert await asyncio.gather(*reading) == [value, value]
    usage = await tier.usage()
    assert usage["lanes"]["bulk"]["at_once"] == 8
    assert usage["slow_downs"] == 1
    assert tier.counters["errors"] == 0


async def test_a_server_that_restarts_is_found_again(
    start_s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_s3("weed")
    with server.place() as place:
        tier = tier_at(place)
        assert await tier.set("key", "value")
        server.kill()
        assert await tier.fetch(key_bytes("key")) == "unavailable"
        server.restart()
        tier._client.small.breaker._next_probe = 0.0
        while await tier.fetch(key_bytes("key")) == "unavailable":
            tier._client.small.breaker._next_probe = 0.0
        assert await tier.get("key") == "value"
        await tier.aclose()


async def test_a_cancelled_read_leaves_nothing_behind(tier: S3Backend, s3_proxy: Proxy) -> None:
    assert await tier.set("key", "value")
    s3_proxy.set("hold", where="after", kind="GetObject")
    reading = asyncio.create_task(tier.fetch(key_bytes("key")))
    await asyncio.to_thread(s3_proxy.wait_held)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    s3_proxy.clear()
    s3_proxy.release()
    assert await tier.get("key") == "value"
    assert tier._client.small.breaker.state == "closed"


async def test_callers_beyond_the_threads_wait_no_longer_than_the_deadline(
    hasty: S3Backend, s3_proxy: Proxy
) -> None:
    s3_proxy.set("hold", where="before", kind="GetObject")
    answers = await asyncio.wait_for(
        asyncio.gather(*(hasty.fetch(key_bytes(f"k{n}")) for n in range(60))), 30
    )
    assert answers == ["unavailable"] * 60
    s3_proxy.clear()
    s3_proxy.release()


# --- a bad way ---------------------------------------------------------------------------------


async def test_a_body_that_breaks_off_is_resumed_where_it_broke(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    value = blob(3 * MIB)
    await tier.set("key", value)
    assert await tier.exists("key")
    s3_proxy.zero()
    s3_proxy.set("truncate", after=MIB, kind="GetObject", times=2)
    assert await tier.get("key") == value
    ranges = [request["range"] for request in s3_proxy.requests()]
    starts = [int(one.removeprefix("bytes=").partition("-")[0]) for one in ranges]
    assert starts == [0, MIB, 2 * MIB]
    assert tier._reads.resumes == 2


@pytest.mark.parametrize("size", [1000, 3 * MIB, 20 * MIB])
async def test_a_body_that_always_breaks_is_unavailable(
    tier: S3Backend, s3_proxy: Proxy, size: int
) -> None:
    await tier.set("key", blob(size))
    s3_proxy.set("truncate", after=500, kind="GetObject")
    assert await tier.fetch(key_bytes("key")) == "unavailable"


async def test_a_drip_is_cut_and_asked_for_anew(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogcache.backends.s3.download.PATIENCE_SECONDS", 0.2)
    tier = tier_at(proxied_place)
    value = blob(40_000)
    await tier.set("key", value)
    s3_proxy.set("rate", bytes_per_second=5000, kind="GetObject", times=1)
    assert await tier.get("key") == value
    assert tier._reads.resumes == 1


async def test_a_body_that_is_there_is_not_given_up_for_being_late(
    tier: S3Backend, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is this process that was busy, and the store works."""
    monkeypatch.setattr("cogcache.backends.s3.download.PATIENCE_SECONDS", -1000.0)
    await tier.set("key", "value")
    for _ in range(5):
        assert await tier.get("key") == "value"
    assert tier._reads.resumes == 0
    assert sum(failed for _, _, failed in tier._client.small.breaker._window) == 0
    assert s3_proxy.counts()["connections"] == 0  # that of the fixture is still the one


async def test_a_drip_ends_at_the_deadline(hasty: S3Backend, s3_proxy: Proxy) -> None:
    s3_proxy.set("rate", bytes_per_second=100, seconds=0.05, kind="GetObject")
    answer = await asyncio.wait_for(hasty.fetch(key_bytes("slow")), 30)
    assert answer == "unavailable"


async def test_answers_to_other_questions_are_refused(tier: S3Backend, s3_proxy: Proxy) -> None:
    for key in ("one", "two"):
        await tier.set(key, blob(200_000, len(key)))
        await tier.exists(key)
    value = blob(200_000, 3)
    await tier.set("bundle", make_bundle({}, {n: blob(20_000, n) for n in range(40)}))
    entry = await entry_of(tier, "bundle", index_only=True)
    s3_proxy.set("wrong_content_range", kind="GetObject", times=1)
    _, frames = await tier.load(entry, frames=[5])
    assert frames.encoded(5) == blob(20_000, 5)
    assert tier._reads.mismatches == 1
    s3_proxy.set("swap", whole=True, kind="GetObject", times=1)
    assert await tier.get("one") == value


async def test_a_flipped_bit_costs_a_second_read(tier: S3Backend, s3_proxy: Proxy) -> None:
    await tier.set("key", blob(10_000))
    s3_proxy.set("flip", kind="GetObject", times=1, at=4000)
    assert await tier.get("key") is not None or tier.counters["damaged"] == 1
    s3_proxy.clear()
    tier._gone.clear()
    assert await tier.get("key") == blob(10_000)


async def test_a_damaged_object_is_left_alone_and_a_write_mends_it(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    await tier.set("key", "value")
    name = object_of(tier, "key")
    body = bytearray(s3_place.client.get_object(Bucket=s3_place.bucket, Key=name)["Body"].read())
    body[-60] ^= 1
    body[40] ^= 1
    s3_place.client.put_object(Bucket=s3_place.bucket, Key=name, Body=bytes(body))
    assert await tier.get("key", "miss") == "miss"
    assert tier.counters["damaged"] == 1
    s3_proxy.zero()
    assert await tier.get("key", "miss") == "miss"
    assert s3_proxy.counts()["requests"] == 0
    assert names_in(s3_place) == [name]
    assert await tier.set("key", "again")
    assert await tier.get("key") == "again"


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 143, b"<html>" * 100, b"\0" * 70_000])
async def test_an_object_that_is_no_entry_is_a_miss(
    tier: S3Backend, s3_place: S3Place, body: bytes
) -> None:
    name = object_of(tier, "key")
    s3_place.client.put_object(Bucket=s3_place.bucket, Key=name, Body=body)
    assert await tier.get("key", "miss") == "miss"
    assert await tier.list_keys() == []
    assert await tier.cleanup_expired() == 0
    assert names_in(s3_place) == [name]
    assert await tier.set("key", 1) and await tier.get("key") == 1


async def test_the_entry_of_another_key_is_a_miss(tier: S3Backend, s3_place: S3Place) -> None:
    await tier.set("one", "value of one")
    s3_place.client.copy_object(
        Bucket=s3_place.bucket,
        Key=object_of(tier, "two"),
        CopySource={"Bucket": s3_place.bucket, "Key": object_of(tier, "one")},
    )
    assert await tier.get("two", "miss") == "miss"
    assert [key for key, _ in await tier.list_keys()] == ["one"]
    assert await tier.clear("on:*") == 0


async def test_the_entry_of_another_key_in_place_of_one_that_was_opened_is_an_absence(
    tier: S3Backend, s3_place: S3Place
) -> None:
    for key in ("bundle", "other"):
        images = {n: blob(20_000, n) for n in range(40)}
        assert await tier.set(key, make_bundle({"key": key}, images))
    entry = await entry_of(tier, "bundle", index_only=True)
    s3_place.client.copy_object(
        Bucket=s3_place.bucket,
        Key=object_of(tier, "bundle"),
        CopySource={"Bucket": s3_place.bucket, "Key": object_of(tier, "other")},
    )
    with pytest.raises(AbsentError, match="another key"):
        await tier.load(entry, frames=[7])


async def test_replaced_between_index_and_frame_is_read_anew(
    tier: S3Backend, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    for turn in range(2):
        images = {n: blob(20_000, 100 * turn + n) for n in range(40)}
        if turn == 0:
            await tier.set("bundle", make_bundle({"turn": 0}, images))
            entry = await entry_of(tier, "bundle", index_only=True)
        else:
            await tier_at(proxied_place).set("bundle", make_bundle({"turn": 1}, images))
    metadata, frames = await tier.load(entry, frames=[3])
    assert metadata == {"turn": 1}
    assert frames.encoded(3) == images[3]


async def test_a_pinned_reader_never_mixes_two_generations(
    tier: S3Backend, proxied_place: S3Place
) -> None:
    await tier.set("blob", blob(12 * MIB, 1))
    entry = await entry_of(tier, "blob", index_only=True)
    assert await tier.read_part(entry, 0, 0, 10) == blob(12 * MIB, 1)[:10]
    await tier_at(proxied_place).set("blob", blob(12 * MIB, 2))
    with pytest.raises(IncompleteError, match="replaced"):
        await tier.read_part(entry, 0, 6 * MIB, 6 * MIB + 10)
    entry = await entry_of(tier, "blob", index_only=True)
    assert await tier.read_part(entry, 0, 0, 10) == blob(12 * MIB, 2)[:10]


async def test_a_store_that_ignores_the_pin_is_found_out(
    tier: S3Backend, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    s3_proxy.set("ignore_conditions")
    await tier.set("blob", blob(12 * MIB, 1))
    entry = await entry_of(tier, "blob", index_only=True)
    await tier_at(proxied_place).set("blob", blob(12 * MIB, 2))
    with pytest.raises(OSError, match="ETag|replaced"):
        await tier.read_part(entry, 0, 6 * MIB, 6 * MIB + 10)


async def test_a_store_without_ranges_is_read_whole(tier: S3Backend, s3_proxy: Proxy) -> None:
    images = {n: blob(20_000, n) for n in range(40)}
    await tier.set("bundle", make_bundle({}, images))
    await tier.set("small", "value")
    s3_proxy.set("ignore_range")
    assert await tier.get("small") == "value"
    entry = await entry_of(tier, "bundle", index_only=True)
    assert tier._reads.ranges is False
    _, frames = await tier.load(entry, frames=[7])
    assert frames.encoded(7) == images[7]
    assert len((await tier.get("bundle"))[1]) == 40


@pytest.mark.parametrize("status", [400, 416, 501])
async def test_a_store_without_suffixes_is_asked_for_the_size_once(
    tier: S3Backend, s3_proxy: Proxy, status: int
) -> None:
    images = {n: blob(20_000, n) for n in range(40)}
    await tier.set("bundle", make_bundle({}, images))
    await tier.set("small", "value")
    s3_proxy.set("status", status=status, code="InvalidArgument", kind="GetObject", times=1)
    assert await tier.get("small") == "value"
    entry = await entry_of(tier, "bundle", index_only=True)
    _, frames = await tier.load(entry, frames=[7])
    assert frames.encoded(7) == images[7]


FAULTS: list[dict[str, Any]] = [
    {"fault": "flip"},
    {"fault": "truncate", "after": 777},
    {"fault": "truncate", "after": 60_000},
    {"fault": "cut", "after": 900},
    {"fault": "swap"},
    {"fault": "swap", "whole": True},
    {"fault": "swap", "body": b"<html>you are not logged in</html>"},
    {"fault": "wrong_content_range"},
    {"fault": "ignore_range"},
    {"fault": "ignore_conditions"},
    {"fault": "header", "headers": {"ETag": '"0123"'}},
    {"fault": "header", "headers": {"ETag": None}},
    {"fault": "header", "headers": {"Content-Range": None}},
    {"fault": "status", "status": 500, "code": "InternalError"},
    {"fault": "status", "status": 416, "code": "InvalidRange"},
    {"fault": "status", "status": 412, "code": "PreconditionFailed"},
    {"fault": "drop"},
    {"fault": "lost_answer"},
]


async def _campaign(proxied_place: S3Place, s3_proxy: Proxy, faults: int, seed: int) -> None:
    """Reads under one fault after another until so many were made, mixed with writes: what is
    returned is always one of the values that the key had since the read began.
    """
    rng = random.Random(seed)
    tiers = [tier_at(proxied_place) for _ in range(2)]
    small = {f"small:{n}": n for n in range(4)}
    values: dict[str, Any] = {}

    def value_of(key: str, turn: int) -> Any:
        size = 3000 if key.startswith("small") else 150_000
        return {"key": key, "turn": turn, "data": blob(size, turn)}

    for key in [*small, "large:0", "large:1"]:
        values[key] = 0
        assert await tiers[0].set(key, value_of(key, 0))
    images = {n: blob(9000, n) for n in range(60)}
    assert await tiers[0].set("bundle", make_bundle({}, images))
    wrong = read = turn = 0
    while s3_proxy.counts()["faults"] < faults:
        turn += 1
        fault = rng.choice(FAULTS)
        s3_proxy.clear()
        s3_proxy.set(**fault, kind="GetObject", every=rng.choice([1, 2, 3]))
        for tier in tiers:
            tier._gone.clear()
            for lane in (tier._client.small, tier._client.bulk):
                lane.breaker._next_probe = 0.0
        key = rng.choice([*values, "bundle"])
        tier = rng.choice(tiers)
        if key == "bundle":
            entry = await tier.fetch(key_bytes(key), index_only=True)
            if isinstance(entry, str):
                continue
            number = rng.randrange(60)
            try:
                _, frames = await tier.load(entry, frames=[number])
            except (OSError, _core.DamagedError):
                tier._opener.indexes.clear()
                continue
            read += 1
            wrong += frames.encoded(number) != images[number]
            continue
        if rng.random() < 0.3:
            s3_proxy.clear()
            values[key] = turn
            assert await rng.choice(tiers).set(key, value_of(key, turn))
            continue
        got = await tier.get(key)
        if got is not None:
            read += 1
            wrong += got != value_of(key, values[key])
    assert wrong == 0
    assert read > turn // 10


async def test_no_fault_of_the_way_gives_a_wrong_byte(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "INDEX_SECONDS", 1e6)
    await _campaign(proxied_place, s3_proxy, 250, 1)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_no_fault_of_the_way_gives_a_wrong_byte_long(
    proxied_place: S3Place, s3_proxy: Proxy, seed: int
) -> None:
    await _campaign(proxied_place, s3_proxy, 10_000, seed)


# --- uncertain writes --------------------------------------------------------------------------


async def test_a_lost_answer_to_a_put_is_settled_by_looking(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    s3_proxy.set("lost_answer", kind="PutObject")
    assert await tier.set("key", "value")
    kinds = s3_proxy.counts()["kinds"]
    assert kinds["HeadObject"] == 1 and kinds["PutObject"] == 2
    s3_proxy.clear()
    assert await tier.get("key") == "value"


async def test_a_put_that_never_arrived_is_not_called_stored(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    assert await tier.set("key", "old")
    s3_proxy.set("status", status=500, code="InternalError", kind="PutObject")
    assert not await tier.set("key", "new")
    s3_proxy.clear()
    assert await tier.get("key") == "old"


async def test_an_own_success_is_not_taken_for_anothers(tier: S3Backend, s3_proxy: Proxy) -> None:
    key = Key("", b"\1" * 16, "transcript", {})
    assert await tier.get(key) is None
    s3_proxy.set("lost_answer", kind="PutObject", path="transcript", times=1)
    assert await tier.set(key, "mine")
    assert tier.counters["created_by_others"] == 0
    assert await tier.get(key) == "mine"


async def test_filling_a_miss_never_replaces_what_another_made(
    tier: S3Backend, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    key = Key("", b"\1" * 16, "transcript", {})
    other = tier_at(proxied_place)
    assert await tier.get(key) is None
    assert await other.set(key, "theirs")
    s3_proxy.zero()
    assert await tier.set(key, "mine")
    assert s3_proxy.counts()["kinds"] == {"PutObject": 2, "HeadObject": 1}  # one is the trace
    assert tier.counters["created_by_others"] == 1
    assert await tier.get(key) == "theirs"
    assert await tier.set(key, "mine after all")  # no miss before it: this replaces
    assert await other.get(key) == "mine after all"


async def test_a_store_without_conditions_is_written_all_the_same(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    s3_proxy.set("ignore_conditions")
    tier, other = tier_at(proxied_place), tier_at(proxied_place)
    assert not (await tier.prepare()).create_once
    assert not (await tier.prepare()).match_delete
    key = Key("", b"\1" * 16, "transcript", {})
    assert await tier.get(key) is None
    assert await other.set(key, "theirs")
    assert await tier.set(key, "mine")
    assert await other.get(key) == "mine"
    assert await tier.delete(key) and not await tier.delete(key)


async def test_metadata_that_gets_lost_is_made_up_for_by_the_container(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    s3_proxy.set("header", headers={"x-amz-meta-cc-token": None})
    tier = tier_at(proxied_place)
    assert not (await tier.prepare()).metadata
    s3_proxy.set("lost_answer", kind="PutObject", times=2)
    assert await tier.set("key", "value")
    entry = await entry_of(tier, "key")
    assert await tier.set("key", "newer")
    assert not await tier.discard_entry(entry)
    assert await tier.discard_entry(await entry_of(tier, "key"))


# --- parts -------------------------------------------------------------------------------------


def uploads_in(place: S3Place) -> list[str]:
    answer = place.client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
    return [one["Key"] for one in answer.get("Uploads", ())]


@pytest.mark.parametrize("kind", ["UploadPart", "CompleteMultipartUpload", "CreateMultipartUpload"])
async def test_an_upload_that_fails_leaves_no_parts_and_no_object(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place, kind: str
) -> None:
    s3_proxy.set("status", status=500, code="InternalError", kind=kind)
    assert not await tier.set("large", blob(36 * MIB))
    assert names_in(s3_place) == []
    assert uploads_in(s3_place) == []


async def test_a_part_is_sent_again(tier: S3Backend, s3_proxy: Proxy) -> None:
    value = blob(36 * MIB)
    s3_proxy.set("cut_upload", after=MIB, kind="UploadPart", times=2)
    assert await tier.set("large", value)
    s3_proxy.clear()
    assert await tier.get("large") == value


@pytest.mark.parametrize(
    "fault", [{"fault": "lost_answer"}, {"fault": "status", "status": 200, "committed": True}]
)
async def test_a_lost_completion_is_settled_by_looking(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place, fault: dict[str, Any]
) -> None:
    value = blob(20 * MIB)
    s3_proxy.set(**fault, kind="CompleteMultipartUpload")
    assert await tier.set("large", value)
    s3_proxy.clear()
    assert await tier.get("large") == value
    assert uploads_in(s3_place) == []


async def test_a_cancelled_upload_leaves_no_parts(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    s3_proxy.set("hold", where="before", kind="UploadPart")
    putting = asyncio.create_task(tier.set("large", blob(36 * MIB)))
    await asyncio.to_thread(s3_proxy.wait_held, 3)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    s3_proxy.clear()
    s3_proxy.release()
    while "AbortMultipartUpload" not in s3_proxy.counts()["kinds"]:
        await asyncio.sleep(0.02)
    while uploads_in(s3_place):  # the request is seen before the store has done it
        await asyncio.sleep(0.02)
    assert names_in(s3_place) == []


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "grant s3:GetObject"),
        (403, "InvalidAccessKeyId", "correct access_key"),
        (403, "SignatureDoesNotMatch", "correct secret_key"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "expired"),
        (404, "NoSuchBucket", "create the bucket"),
        (301, "PermanentRedirect", "region"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (404, "", "endpoint_url"),
    ],
)
async def test_a_wrong_configuration_is_said_once_with_its_remedy(
    tier: S3Backend,
    s3_proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str,
    words: str,
) -> None:
    s3_proxy.set("status", status=status, code=code)
    for number in range(20):
        assert await tier.fetch(key_bytes(f"k{number}")) == "unavailable"
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 1 and words in said[0]
    assert tier._client.small.breaker.state == "configuration"
    assert tier._client.small.breaker.retry_seconds > 40
    assert s3_proxy.counts()["requests"] <= 4
    assert not tier._gone._kept


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_an_endpoint_that_is_not_s3_is_a_wrong_configuration(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    class Portal(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b"<html>please log in</html>"
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tier = tier_at(s3_place, endpoint_url=f"http://127.0.0.1:{server.server_port}")
        for _ in range(5):
            assert await tier.fetch(key_bytes("key")) == "unavailable"
            assert not await tier.set("key", 1)
        await tier.aclose()
        server.shutdown()
    assert tier._client.small.breaker.state == "configuration"
    assert "endpoint_url" in caplog.text
    assert not tier._gone._kept


async def test_a_wrong_secret_is_a_wrong_configuration_and_never_shown(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(s3_place, secret_key="wrong-and-secret")
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    assert not await tier.set("key", 1)
    assert tier._client.small.breaker.state == "configuration"
    assert "secret_key" in caplog.text
    assert "wrong-and-secret" not in caplog.text
    assert "wrong-and-secret" not in repr(tier) + repr(tier.config) + str(await tier.get_stats())


async def test_a_wrong_bucket_is_a_wrong_configuration(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(s3_place, bucket="there-is-no-such-bucket")
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    assert "create the bucket" in caplog.text


async def test_who_may_only_read_reads(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    await tier.set("key", "value")
    reader = tier_at(proxied_place)
    for kind in ("PutObject", "DeleteObject", "ListObjectsV2"):
        s3_proxy.set("status", status=403, code="AccessDenied", kind=kind)
    draft = reader.draft(key_bytes("new"), "value", ttl_ms=None)
    for _ in range(5):
        assert await reader.write(draft) == "read-only"
        assert await reader.get("key") == "value"
    assert s3_proxy.counts()["kinds"].get("PutObject", 0) <= 4  # this probe's and the other's
    assert "s3:PutObject" in caplog.text
    with pytest.raises(OSError, match="s3:ListBucket"):
        await reader.list_keys()
    assert await reader.get("key") == "value"


async def test_credentials_that_were_renewed_are_taken_up(tier: S3Backend, s3_proxy: Proxy) -> None:
    await tier.set("key", "value")
    s3_proxy.set("status", status=400, code="ExpiredToken", times=1)
    assert await tier.get("key") == "value"
