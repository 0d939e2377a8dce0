"""Second requests for slow reads: they help when few are slow, and stay away when many are."""

from __future__ import annotations

import asyncio
import random

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import entry_of, tier_at

from cogcache.backends.faults import AbsentError, UnavailableError
from cogcache.backends.lanes import Call, Lane
from cogcache.backends.s3 import hedges
from cogcache.backends.s3.hedges import Hedges, delay_after
from cogcache.backends.s3.tier import S3Backend
from cogcache.frames import make_bundle

pytestmark = pytest.mark.s3("weed")
SLOW_MS = [0.002] * 98 + [1.0, 1.0]


def test_a_read_is_slow_by_what_others_took() -> None:
    assert delay_after([0.002] * 100) == 0.020  # whatever is quick is never asked for twice
    assert delay_after(SLOW_MS) == 0.020
    assert delay_after([0.050] * 100) == 0.200
    assert delay_after([0.002] * 90 + [0.5] * 10) == 0.5  # the slowest twentieth is not meant
    assert delay_after([0.002] * 89 + [0.5] * 11) is None
    assert delay_after([0.002, 1.0] * 50) is None
    assert delay_after([1.0] * 100) == 4.0


def ready() -> tuple[Hedges, Lane]:
    """Hedges that know what reads take and may send one."""
    lane = Lane("small", 4)
    known = Hedges(lane)
    known._delay = 0.0
    known._tokens = 1.0
    return known, lane


class Reads:
    """Reads whose second does ``then``; the first waits for that to fail, or until nobody wants it
    any more.
    """

    def __init__(self, then: object) -> None:
        self.then = then
        self.calls: list[Call] = []

    def __call__(self, call: Call) -> object:
        while call.most_bytes is not None and not self.calls:
            pass  # the first one's thread has not begun yet
        self.calls.append(call)
        if call.most_bytes is None:
            while not call.abandoned and len(self.calls) < 3:
                pass
            return "first"
        if isinstance(self.then, AbsentError):
            raise self.then
        if isinstance(self.then, Exception):
            try:
                raise self.then
            finally:
                self.calls.append(call)  # lets the first one go
        return self.then


async def test_the_second_answer_is_used_when_it_is_sooner() -> None:
    known, lane = ready()
    reads = Reads("second")
    assert await known.run(lane, reads, 60) == "second"
    assert (known.sent, known.won) == (1, 1)
    while not reads.calls[0].abandoned:  # its thread is told to end
        await asyncio.sleep(0)
    assert reads.calls[1].most_bytes == hedges.HEDGED_BYTES


async def test_the_news_that_nothing_is_there_is_an_answer() -> None:
    known, lane = ready()
    with pytest.raises(AbsentError):
        await known.run(lane, Reads(AbsentError("not here")), 60)
    assert (known.sent, known.won) == (1, 1)


async def test_a_second_one_that_fails_changes_nothing() -> None:
    for error in (UnavailableError("down"), ValueError("damaged on the way")):
        known, lane = ready()
        assert await known.run(lane, Reads(error), 60) == "first"
        assert (known.sent, known.won) == (1, 0)


async def test_without_a_token_or_with_an_open_breaker_none_is_sent() -> None:
    for why in ("token", "breaker", "unknown"):
        known, lane = ready()
        if why == "token":
            known._tokens = 0.0
        elif why == "unknown":
            known._delay = None

        def work(call: Call, why: str = why, lane: Lane = lane) -> str:
            if why == "breaker":
                for _ in range(5):
                    attempt = lane.breaker.enter()
                    if attempt is not None:
                        attempt.failed(unreachable=True)
            return "first"

        assert await known.run(lane, work, 60) == "first"
        assert known.sent <= (why == "breaker")


async def test_a_cancelled_read_cancels_both() -> None:
    known, lane = ready()
    calls: list[Call] = []

    def work(call: Call) -> None:
        calls.append(call)
        while not call.abandoned:
            pass

    reading = asyncio.create_task(known.run(lane, work, 60))
    while len(calls) < 2:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    while not all(call.abandoned for call in calls):
        await asyncio.sleep(0)


def test_it_may_ask_for_a_mebibyte_and_not_more() -> None:
    call = Call(60, hedges.HEDGED_BYTES)
    call.ask_for(64 << 10)
    call.ask_for((1 << 20) - (64 << 10))
    with pytest.raises(UnavailableError):
        call.ask_for(1)
    Call(60).ask_for(1 << 40)


# --- before a real server ----------------------------------------------------------------------


async def read_frames(tier: S3Backend, images: dict[int, bytes], count: int) -> None:
    entry = await entry_of(tier, "bundle", index_only=True)
    for turn in range(count):
        number = turn % 30  # the last ten lie in what comes with the index
        _, frames = await tier.load(entry, frames=[number])
        assert frames.encoded(number) == images[number]


async def test_few_slow_reads_are_asked_for_twice_and_hang_nobody(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hedges, "SHARE", 0.5)  # a busy machine has slow reads of its own
    tier = tier_at(proxied_place, hedge_reads=True, timeout_seconds=400)
    images = {number: random.Random(number).randbytes(9000) for number in range(40)}
    assert await tier.set("bundle", make_bundle({}, images))
    await read_frames(tier, images, 60)
    tier._hedges._delay = 0.02
    s3_proxy.set("hold", kind="GetObject", where="before", times=1)
    await read_frames(tier, images, 5)  # one of them is held for ever
    assert s3_proxy.counts()["held"] == 1
    stats = await tier.usage()
    assert 1 <= stats["hedges"]["won"] <= stats["hedges"]["sent"]
    s3_proxy.clear()
    s3_proxy.release()
    await tier.aclose()


async def test_when_half_of_the_reads_are_slow_none_is_asked_for_twice(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place, hedge_reads=True)
    images = {number: random.Random(number).randbytes(9000) for number in range(40)}
    assert await tier.set("bundle", make_bundle({}, images))
    taken = iter([0.002, 1.0] * 1000)
    tier._hedges._note = lambda seconds: Hedges._note(tier._hedges, next(taken))
    await read_frames(tier, images, 60)
    s3_proxy.zero()
    await read_frames(tier, images, 100)
    assert s3_proxy.counts()["kinds"] == {"GetObject": 100}
    assert (await tier.usage())["hedges"] == {"sent": 0, "won": 0}
    await tier.aclose()


async def test_it_is_off_unless_asked_for(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    assert tier._hedges is None
    assert (await tier.usage())["hedges"] == {}
    await tier.aclose()
