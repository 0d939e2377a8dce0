"""How many requests of a kind are under way at once: fewer when the store asks for it."""

from __future__ import annotations

import asyncio
import threading
import types

import pytest
from support.clocks import StandingClock

from cogcache.backends import lanes
from cogcache.backends.faults import BusyError
from cogcache.backends.lanes import WIDEN_SECONDS, Call, Lane

PATIENCE = 60.0  # seconds until what hangs is called so


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


class Jobs:
    """Jobs in a lane of which exactly ``width`` must be under way at once."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def run(self, width: int) -> None:
        """Run jobs that go on only when ``width`` of them have met; ``most`` is how many did."""
        self.most = 0
        meeting = threading.Barrier(width)

        def work(call: Call) -> None:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            meeting.wait(PATIENCE)
            with self._lock:
                self._now -= 1

        waiting = [self._lane.submit(work, Call(PATIENCE)) for _ in range(6 * width)]
        for future in waiting:
            future.result(PATIENCE)


@pytest.fixture
def lane(clock: StandingClock) -> Lane:
    return Lane("bulk", 8, clock=clock)


def test_a_refusal_halves_what_is_under_way_and_half_a_minute_without_doubles_it(
    lane: Lane, clock: StandingClock
) -> None:
    jobs = Jobs(lane)
    for width in (8, 4, 2, 1, 1):
        jobs.run(width)
        assert jobs.most == lane.describe()["at_once"] == width
        clock.now += 1
        lane.slow_down(sent_at=clock.now)
    assert lane.describe()["narrowed"] == 5
    clock.now += WIDEN_SECONDS - 0.5
    assert lane.describe()["at_once"] == 1
    for width in (2, 4, 8, 8):
        clock.now += WIDEN_SECONDS
        jobs.run(width)
        assert jobs.most == lane.describe()["at_once"] == width


def test_refusals_of_what_was_sent_together_count_once(lane: Lane, clock: StandingClock) -> None:
    for _ in range(8):
        clock.now += 0.1
        lane.slow_down(sent_at=1000.0)
    assert lane.describe()["at_once"] == 4
    assert lane.narrowed == 1
    lane.slow_down(sent_at=clock.now)
    assert lane.describe()["at_once"] == 2


def test_work_that_waits_is_done_by_those_who_stay(lane: Lane, clock: StandingClock) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def work(call: Call) -> bool:
        begun.release()
        return go.wait(PATIENCE)

    waiting = [lane.submit(work, Call(PATIENCE)) for _ in range(24)]
    for _ in range(8):
        assert begun.acquire(timeout=PATIENCE)
    for _ in range(3):  # while eight are under way
        clock.now += 1
        lane.slow_down(sent_at=clock.now)
    go.set()
    assert all(future.result(PATIENCE) for future in waiting)
    Jobs(lane).run(1)
    assert lane.describe()["under_way"] in (0, 1)  # the last one may just be ending


def test_those_who_idle_leave_too(lane: Lane, clock: StandingClock) -> None:
    jobs = Jobs(lane)
    jobs.run(8)  # and now eight threads wait for work
    clock.now += 1
    lane.slow_down(sent_at=clock.now)
    for _ in range(5):
        jobs.run(4)
        assert jobs.most == 4


class Held:
    """All threads of a lane are at work that began with so many seconds."""

    def __init__(self, lane: Lane, threads: int, seconds: float) -> None:
        self._go = threading.Event()
        begun = threading.Semaphore(0)

        def work(call: Call) -> None:
            begun.release()
            assert self._go.wait(PATIENCE)

        for _ in range(threads):
            lane.submit(work, Call(seconds))
        for _ in range(threads):
            assert begun.acquire(timeout=PATIENCE)

    def end(self) -> None:
        self._go.set()


@pytest.fixture
def time_of_calls(clock: StandingClock, monkeypatch: pytest.MonkeyPatch) -> StandingClock:
    monkeypatch.setattr(lanes, "time", types.SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(lanes, "_LOOK_SECONDS", 0.001)
    return clock


def untouched(lane: Lane) -> bool:
    breaker = lane.breaker
    return breaker.state == "closed" and not breaker._window and not breaker._unreachable


async def test_large_work_waits_for_a_thread_while_those_who_have_one_are_in_time(
    time_of_calls: StandingClock,
) -> None:
    lane = Lane("work", 4, waits=True)
    others = Held(lane, 4, seconds=1000)
    waiting = asyncio.create_task(lane.run(lambda call: "done", seconds=1))
    await asyncio.sleep(0)
    time_of_calls.now += 500
    await asyncio.wait({waiting}, timeout=0.1)
    assert not waiting.done()
    others.end()
    assert await waiting == "done"
    assert untouched(lane)


@pytest.mark.parametrize("waits", [False, True])
async def test_that_no_thread_is_free_is_said_as_it_is_and_counts_against_nobody(
    time_of_calls: StandingClock, waits: bool
) -> None:
    lane = Lane("lane", 2, waits=waits)
    others = Held(lane, 2, seconds=2 if waits else 1000)
    waiting = asyncio.create_task(lane.run(lambda call: "done", seconds=1))
    await asyncio.sleep(0)
    time_of_calls.now += 3
    with pytest.raises(BusyError, match="all 2 threads were busy"):
        await waiting
    assert untouched(lane)
    others.end()


async def test_the_time_of_a_call_begins_when_a_thread_has_it(time_of_calls: StandingClock) -> None:
    lane = Lane("lane", 1)
    others = Held(lane, 1, seconds=1000)
    call = Call(10)
    future = lane.submit(lambda call: call.check() or "done", call)
    time_of_calls.now += 9
    others.end()
    assert await asyncio.wrap_future(future) == "done"
    assert call.deadline == time_of_calls.now + 10
