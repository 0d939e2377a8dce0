"""When the breaker opens, what it lets through then, and when it closes again."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import StandingClock

from cogcache import breaker as module
from cogcache.breaker import Attempt, Breaker


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def breaker(clock: StandingClock) -> Breaker:
    return Breaker(clock=clock, random=lambda: 0.0)


def entered(breaker: Breaker) -> Attempt:
    attempt = breaker.enter()
    assert attempt is not None
    return attempt


def fail(breaker: Breaker, times: int = 1, *, unreachable: bool = False) -> None:
    for _ in range(times):
        entered(breaker).failed(unreachable=unreachable)


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        entered(breaker).succeeded()


def test_it_opens_at_half_the_calls_failed_and_not_below(breaker: Breaker) -> None:
    succeed(breaker, 11)
    fail(breaker, 10)
    assert breaker.state == "closed"  # 10 of 21
    fail(breaker, 1)
    assert breaker.state == "open"  # 11 of 22
    assert breaker.enter() is None
    assert (breaker.opened, breaker.rejected) == (1, 1)


def test_nineteen_failures_of_nineteen_calls_say_too_little(breaker: Breaker) -> None:
    fail(breaker, 19)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_failures_over_ten_seconds_old_no_longer_count(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 19)
    clock.now += module.WINDOW_SECONDS
    fail(breaker, 19)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_five_unreachable_calls_in_a_row_open_it(breaker: Breaker, clock: StandingClock) -> None:
    fail(breaker, 4, unreachable=True)
    succeed(breaker)
    for _ in range(4):
        fail(breaker, unreachable=True)
        clock.now += 20  # in a row, however slow: a black hole takes its time
    assert breaker.state == "closed"
    fail(breaker, unreachable=True)
    assert breaker.state == "open"


def test_an_answer_between_them_ends_the_row_of_unreachable_calls(breaker: Breaker) -> None:
    fail(breaker, 4, unreachable=True)
    fail(breaker)
    fail(breaker, 4, unreachable=True)
    assert breaker.state == "closed"


def test_one_probe_goes_through_when_the_pause_is_over(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 0.999
    assert breaker.enter() is None
    clock.now += 0.001
    assert breaker.state == "half-open"
    probe = entered(breaker)
    assert probe.is_probe
    assert breaker.enter() is None
    probe.succeeded()
    assert breaker.state == "closed"
    assert not entered(breaker).is_probe


def test_it_can_be_asked_without_taking_the_probe(breaker: Breaker, clock: StandingClock) -> None:
    assert not breaker.refuses()
    fail(breaker, 5, unreachable=True)
    assert breaker.refuses() and breaker.rejected == 1
    clock.now += 1
    assert not breaker.refuses() and not breaker.refuses()
    probe = entered(breaker)
    assert breaker.refuses()
    probe.succeeded()
    assert not breaker.refuses()


def test_pauses_double_to_thirty_seconds_and_begin_anew(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    for pause in (1, 2, 4, 8, 16, 30, 30):
        assert breaker.retry_seconds == pause
        clock.now += pause - 0.01
        assert breaker.enter() is None
        clock.now += 0.01
        fail(breaker)
    clock.now += 30
    succeed(breaker)
    fail(breaker, 5, unreachable=True)
    assert breaker.retry_seconds == 1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 12))
def test_jitter_only_shortens_a_pause_and_by_a_fifth_at_most(share: float, failed: int) -> None:
    clock = StandingClock()
    breaker = Breaker(clock=clock, random=lambda: share)
    fail(breaker, 5, unreachable=True)
    for _ in range(failed):
        clock.now += breaker.retry_seconds
        clock.now += 1e-6
        fail(breaker)
    full = min(30, 2**failed)
    assert 0.8 * full - 1e-6 <= breaker.retry_seconds <= full + 1e-6


def test_after_closing_the_failures_of_before_are_forgotten(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 20)
    clock.now += 1
    succeed(breaker)
    fail(breaker, 19)
    assert breaker.state == "closed"


def test_calls_of_before_the_opening_change_nothing_after_it(
    breaker: Breaker, clock: StandingClock
) -> None:
    late = [entered(breaker) for _ in range(50)]
    fail(breaker, 20)
    for attempt in late[:25]:
        attempt.succeeded()
    assert breaker.state == "open"
    clock.now += 1
    succeed(breaker)
    for attempt in late[25:]:
        attempt.failed(unreachable=True)
    assert breaker.state == "closed"


def test_an_attempt_counts_once(breaker: Breaker) -> None:
    attempt = entered(breaker)
    for _ in range(40):
        attempt.failed(unreachable=True)
    assert breaker.state == "closed"


def test_a_dropped_call_says_nothing(breaker: Breaker, clock: StandingClock) -> None:
    for _ in range(100):
        entered(breaker).dropped()
    assert breaker.state == "closed"
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    entered(breaker).dropped()
    assert entered(breaker).is_probe  # the next caller probes, at once


def test_a_probe_that_never_reports_does_not_keep_it_open(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    lost = entered(breaker)
    clock.now += module.PROBE_SECONDS - 0.01
    assert breaker.enter() is None
    clock.now += 0.01
    second = entered(breaker)
    lost.failed()
    second.succeeded()
    assert breaker.state == "closed"


def test_probes_that_all_take_longer_than_the_next_one_waits_close_it(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    slow = entered(breaker)
    clock.now += module.PROBE_SECONDS
    assert entered(breaker).is_probe  # as slow as the first
    clock.now += 15
    slow.succeeded()
    assert breaker.state == "closed"


def test_a_probe_that_was_given_up_for_lost_says_nothing_about_a_later_outage(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    slow = entered(breaker)
    clock.now += module.PROBE_SECONDS
    entered(breaker).succeeded()
    fail(breaker, 5, unreachable=True)
    slow.succeeded()
    assert breaker.state == "open"


def test_a_misconfiguration_opens_at_once_and_for_long(
    breaker: Breaker, clock: StandingClock
) -> None:
    succeed(breaker, 1000)
    entered(breaker).misconfigured()
    assert breaker.state == "configuration"
    for pause in (60, 120, 240, 300, 300):
        assert breaker.retry_seconds == pause
        clock.now += pause
        entered(breaker).misconfigured()
    clock.now += 300
    succeed(breaker)
    assert breaker.state == "closed"


def test_an_outage_found_by_the_probe_of_a_misconfiguration_has_short_pauses(
    breaker: Breaker, clock: StandingClock
) -> None:
    entered(breaker).misconfigured()
    clock.now += 60
    fail(breaker, unreachable=True)
    assert breaker.state == "open"
    assert breaker.retry_seconds == 1


def test_a_closed_breaker_keeps_nothing_per_call(breaker: Breaker, clock: StandingClock) -> None:
    for _ in range(10_000):
        succeed(breaker)
        clock.now += 0.037
    assert len(breaker._window) <= 10


def test_threads_at_once_lose_no_report(breaker: Breaker) -> None:
    def work() -> None:
        for _ in range(500):
            entered(breaker).succeeded()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    fail(breaker, 3999)
    assert breaker.state == "closed"  # 3,999 of 7,999
    fail(breaker)
    assert breaker.state == "open"  # 4,000 of 8,000


def test_only_one_of_many_threads_is_the_probe(breaker: Breaker, clock: StandingClock) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    gate = threading.Barrier(16)
    got: list[Attempt | None] = []

    def work() -> None:
        gate.wait(30)
        got.append(breaker.enter())

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(attempt is not None for attempt in got) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_keeps_the_state_and_waits_for_none_of_the_parents_calls(
    breaker: Breaker, clock: StandingClock
) -> None:
    fail(breaker, 5, unreachable=True)
    clock.now += 1
    probe = entered(breaker)
    breaker._lock.acquire()  # as another thread of the parent would
    pid = os.fork()
    if pid == 0:
        mine = breaker.enter()
        good = mine is not None and mine.is_probe and breaker.state == "half-open"
        os._exit(0 if good else 1)
    breaker._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    probe.succeeded()
    assert breaker.state == "closed"
