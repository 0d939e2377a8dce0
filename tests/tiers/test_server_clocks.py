"""This host's clock beside those of the servers: by the tiers, and as ``cogcache doctor`` says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from support.commandline import Run
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place
from support_redis import redis_tier
from support_s3 import tier_at

from cogcache import MemoryCacheConfig
from cogcache.backends.base import CacheBackend
from cogcache.backends.clocks import clock_difference
from cogcache.backends.faults import RemoteError
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.backends.redis.tier import RedisBackend
from cogcache.cli import diagnosis
from cogcache.cli.clocks import WARN_SECONDS

Doctor = Callable[..., tuple[int, list[dict[str, Any]]]]
HOUR = 3600.0


@pytest.fixture
def doctor(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The exit code of ``cogcache doctor`` with one tier, and what it says of that tier's clock.

    Patient: no test asks how fast a busy machine answers.
    """
    monkeypatch.setattr(diagnosis, "_ANSWER_SECONDS", 300.0)

    def call(tier: str, place: S3Place | None = None) -> tuple[int, list[dict[str, Any]]]:
        if place is not None:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", place.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", place.secret_key)
            monkeypatch.setenv("AWS_DEFAULT_REGION", place.region)
        code, out, _ = cli("doctor", "--json", "-t", tier)
        found = [one for one in json.loads(out)["findings"] if "clock" in one["found"]]
        return code, found

    return call


def url_of(place: S3Place) -> str:
    return f"s3://{place.bucket}/{place.prefix}?endpoint={place.endpoint_url}&timeout_seconds=60"


def known_of(finding: dict[str, Any]) -> tuple[float, float]:
    clock = finding["clock"]
    assert clock is not None, finding
    assert clock["warn_seconds"] == WARN_SECONDS
    return clock["ahead_seconds"], clock["within_seconds"]


def test_the_difference_is_known_as_well_as_the_answer_is_quick_and_fine() -> None:
    known = clock_difference(asked=100.0, answered=102.0, earliest=90.0, latest=91.0)
    assert (known.ahead_seconds, known.within_seconds) == (10.5, 1.5)
    known = clock_difference(asked=100.0, answered=100.5, earliest=100.25, latest=100.25)
    assert (known.ahead_seconds, known.within_seconds) == (0.0, 0.25)


async def test_a_tier_without_a_server_has_no_other_clock() -> None:
    assert await MemoryCacheBackend(MemoryCacheConfig()).clock_difference() is None


async def check_tier(tier: CacheBackend) -> None:
    """On one machine the clocks are one, unless the tier's is shifted."""
    for shifted in (0, 3_600_000, -3_600_000):
        tier.set_clock_offset(shifted)
        known = await tier.clock_difference()
        assert known is not None and known.within_seconds < HOUR / 2
        assert abs(known.ahead_seconds - shifted / 1000) <= known.within_seconds + 0.002
    await tier.aclose()


async def test_redis_tells_its_time(redis_server: RedisServer) -> None:
    await check_tier(redis_tier(redis_server))


@pytest.mark.s3("weed", "swift", "moto")
async def test_every_store_dates_its_answers(s3_place: S3Place) -> None:
    await check_tier(tier_at(s3_place))


@pytest.mark.s3("weed")
async def test_a_refusal_tells_the_time_too(s3_place: S3Place) -> None:
    await check_tier(tier_at(s3_place, secret_key="not the secret"))


@pytest.mark.s3("bare")
async def test_an_answer_without_a_date_is_no_answer(s3_place: S3Place) -> None:
    with pytest.raises(RemoteError, match="no date"):
        await tier_at(s3_place).clock_difference()


@pytest.mark.s3("weed")
@pytest.mark.parametrize("off", [0.0, -HOUR])
def test_doctor_says_how_far_the_clock_of_a_store_is(
    proxied_place: S3Place, s3_proxy: Proxy, doctor: Doctor, off: float
) -> None:
    if off:
        date = formatdate(time.time() + off, usegmt=True)
        s3_proxy.set("header", headers={"Date": date}, kind="HeadObject")
    code, [finding] = doctor(url_of(proxied_place), proxied_place)
    ahead, within = known_of(finding)
    assert code == 0, "it works"
    assert finding["state"] == ("warn" if off else "ok"), finding
    assert ("NTP" in finding["remedy"]) == bool(off)
    assert ("behind" if ahead < 0 else "ahead of") in finding["found"]
    assert abs(ahead + off) < HOUR / 2 and 0.5 <= within < HOUR / 2


@pytest.mark.parametrize("off", [0.0, -HOUR])
def test_doctor_says_how_far_the_clock_of_redis_is(
    redis_server: RedisServer, doctor: Doctor, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = RedisBackend.now_ms
    monkeypatch.setattr(RedisBackend, "now_ms", lambda tier: now(tier) + int(off * 1000))
    code, [finding] = doctor(f"{redis_server.url}?timeout_seconds=20")
    ahead, _ = known_of(finding)
    assert code == 0
    assert finding["state"] == ("warn" if off else "ok"), finding
    assert abs(ahead - off) < HOUR / 2


@pytest.mark.s3("weed")
def test_doctor_says_that_a_store_does_not_tell_and_nothing_fails(
    proxied_place: S3Place, s3_proxy: Proxy, doctor: Doctor
) -> None:
    s3_proxy.set("header", headers={"Date": "yesterday"}, kind="HeadObject")
    code, [finding] = doctor(url_of(proxied_place), proxied_place)
    assert (code, finding["state"], finding["clock"]) == (0, "note", None)
    assert "not compared" in finding["found"] and "yesterday" in finding["found"]


def test_doctor_says_that_redis_does_not_let_it_ask(
    redis_server: RedisServer, redis_proxy: Proxy, doctor: Doctor
) -> None:
    redis_proxy.set("error", text="NOPERM no TIME for you", kind="TIME")
    code, [finding] = doctor(f"{redis_proxy.url}?timeout_seconds=20")
    assert (code, finding["state"], finding["clock"]) == (0, "note", None)
    assert "not compared" in finding["found"]


@pytest.mark.s3("weed")
def test_doctor_says_why_a_store_refuses_a_host_with_a_wrong_clock(
    proxied_place: S3Place, s3_proxy: Proxy, doctor: Doctor
) -> None:
    date = {"Date": formatdate(time.time() - HOUR, usegmt=True)}
    skewed = {"status": 403, "code": "RequestTimeTooSkewed", "headers": date}
    s3_proxy.set("status", **skewed)
    code, [refused, clock] = doctor(url_of(proxied_place), proxied_place)
    assert code == 1 and refused["state"] == "fail"
    assert clock["state"] == "warn", clock
    assert known_of(clock)[0] > HOUR / 2


def test_doctor_asks_nobody_that_is_not_there(doctor: Doctor) -> None:
    code, [finding] = doctor("redis://127.0.0.1:9")
    assert code == 1, "for the tier, not for the clock"
    assert finding["state"] == "note" and "not compared" in finding["found"]
