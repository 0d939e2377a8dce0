"""How many requests of a kind are under way at once: fewer when the store asks for it."""

from __future__ import annotations

import threading

import pytest

from cogcache.backends.lanes import WIDEN_SECONDS, Call, Lane

PATIENCE = 60.0  # seconds until what hangs is called so


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


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
def lane(clock: Time) -> Lane:
    return Lane("bulk", 8, clock=clock)


def test_a_refusal_halves_what_is_under_way_and_half_a_minute_without_doubles_it(
    lane: Lane, clock: Time
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


def test_refusals_of_what_was_sent_together_count_once(lane: Lane, clock: Time) -> None:
    for _ in range(8):
        clock.now += 0.1
        lane.slow_down(sent_at=1000.0)
    assert lane.describe()["at_once"] == 4
    assert lane.narrowed == 1
    lane.slow_down(sent_at=clock.now)
    assert lane.describe()["at_once"] == 2


def test_work_that_waits_is_done_by_those_who_stay(lane: Lane, clock: Time) -> None:
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


def test_those_who_idle_leave_too(lane: Lane, clock: Time) -> None:
    jobs = Jobs(lane)
    jobs.run(8)  # and now eight threads wait for work
    clock.now += 1
    lane.slow_down(sent_at=clock.now)
    for _ in range(5):
        jobs.run(4)
        assert jobs.most == 4
