"""The jobs before a tier: in order, one of a key, and within their bounds."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cogcache import backlog
from cogcache.backlog import Backlog, Job
from cogcache.spool import Spooled


@pytest.fixture
def forgotten() -> list[str]:
    return []


@pytest.fixture
def jobs(forgotten: list[str]) -> Backlog:
    return Backlog(4, 100, forgotten.append)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(backlog.time, "monotonic", lambda: now[0])
    return now


def job(key: bytes, size: int = 10, name: str | None = None, made_ms: int = 0) -> Job:
    return Job(key, size, 0, 0, spooled=None if name is None else spooled(key, name, made_ms))


def spooled(key: bytes, name: str, made_ms: int = 0) -> Spooled:
    return Spooled(name=name, key=key, size=10, source=0, kind=0, made_ms=made_ms)


def put(jobs: Backlog, one: Job) -> Job:
    assert jobs.reserve(one.size)
    jobs.release(one.size, one)
    return one


def room(jobs: Backlog) -> tuple[int, int]:
    told = jobs.describe()
    return told["items"], told["bytes"]


def test_the_job_that_waited_longest_is_taken_first(jobs: Backlog) -> None:
    first, second = put(jobs, job(b"a")), put(jobs, job(b"b"))
    assert (jobs.take(), jobs.take(), jobs.take()) == (first, second, None)
    assert (jobs.left, jobs.waiting) == (2, 0)
    jobs.ended(first, "sent")
    jobs.ended(second, "refused")
    assert jobs.left == 0
    assert room(jobs) == (0, 0)
    assert (jobs.counters["sent"], jobs.counters["refused"]) == (1, 1)


def test_only_the_newest_of_a_key_waits(jobs: Backlog, forgotten: list[str]) -> None:
    put(jobs, job(b"a", name="one"))
    newer = put(jobs, job(b"a", name="two"))
    assert forgotten == ["one"]
    assert room(jobs) == (1, 10)
    assert jobs.take() is newer


def test_two_jobs_of_a_key_are_never_on_their_way_together(jobs: Backlog) -> None:
    older = put(jobs, job(b"a"))
    assert jobs.take() is older
    newer = put(jobs, job(b"a"))
    assert jobs.take() is None
    assert jobs.next_try() is None  # whoever sends the older one takes it
    jobs.ended(older, "sent")
    assert jobs.take() is newer


def test_a_job_in_vain_gives_way_to_a_newer_one(jobs: Backlog, forgotten: list[str]) -> None:
    older = put(jobs, job(b"a", name="one"))
    assert jobs.take() is older
    newer = put(jobs, job(b"a", name="two"))
    jobs.ended(older, "retried")
    assert forgotten == ["one"]
    jobs.hurry()
    assert jobs.take() is newer
    assert room(jobs) == (1, 10)


def test_tries_in_vain_lie_further_and_further_apart(jobs: Backlog, clock: list[float]) -> None:
    one = put(jobs, job(b"a"))
    pauses = []
    for _ in range(6):
        assert jobs.take() is one
        jobs.ended(one, "retried")
        assert jobs.take() is None
        due = jobs.next_try()
        assert due is not None
        pauses.append(due - clock[0])
        clock[0] = due
    assert all(
        0.8 * most <= p <= most for p, most in zip(pauses, (0.25, 0.5, 1, 2, 2, 2), strict=True)
    )
    assert jobs.take() is one
    jobs.ended(one, "sent")
    assert jobs.next_try() is None


def test_a_job_that_another_process_has_lets_others_pass(jobs: Backlog, clock: list[float]) -> None:
    one, other = put(jobs, job(b"a")), put(jobs, job(b"b"))
    assert jobs.take() is one
    jobs.ended(one, "busy")
    assert jobs.take() is other
    assert jobs.take() is None
    assert jobs.next_try() == clock[0] + backlog.BUSY_SECONDS
    clock[0] += backlog.BUSY_SECONDS
    assert jobs.take() is one


def test_room_is_bounded_in_items_and_bytes(jobs: Backlog) -> None:
    assert not jobs.reserve(101)
    assert jobs.reserve(100)
    assert not jobs.reserve(1)
    jobs.release(100)
    for _ in range(4):
        assert jobs.reserve(1)
    assert not jobs.reserve(1)
    jobs.release(1)
    assert jobs.reserve(1)


def test_what_others_left_is_taken_up_once(jobs: Backlog, forgotten: list[str]) -> None:
    put(jobs, job(b"a", name="mine", made_ms=5))
    stale = jobs.adopt([spooled(b"a", "old", 4), spooled(b"b", "other", 1)])
    assert [one.name for one in stale] == ["old"]
    assert jobs.names == {"mine", "other"}
    assert jobs.adopt([spooled(b"b", "other", 1)]) == []
    assert jobs.left == 2
    assert jobs.adopt([spooled(b"a", "newer", 6)]) == []
    assert forgotten == ["mine"]
    assert jobs.names == {"newer", "other"}


def test_what_is_withdrawn_is_not_sent_and_not_found(jobs: Backlog) -> None:
    on_its_way, waits = put(jobs, job(b"a")), put(jobs, job(b"b"))
    kept = put(jobs, job(b"c"))
    assert jobs.take() is on_its_way
    dropped, sending = jobs.withdraw(lambda key: key != b"c")
    assert (dropped, sending) == ([waits], [on_its_way])
    assert on_its_way.withdrawn
    assert jobs.is_sending(on_its_way)
    jobs.ended(on_its_way, "retried")  # it does not wait again
    assert not jobs.is_sending(on_its_way)
    jobs.hurry()
    assert jobs.take() is kept


def test_the_end_tells_what_is_left(jobs: Backlog) -> None:
    put(jobs, job(b"a"))
    put(jobs, job(b"b", name="kept"))
    assert jobs.close() == (1, 1)
    assert jobs.counters["lost"] == 1
    assert jobs.take() is None
    assert not jobs.reserve(1)


async def test_whoever_waits_is_told_of_every_change(jobs: Backlog) -> None:
    one = put(jobs, job(b"a"))
    waiter = asyncio.create_task(jobs.until(lambda: not jobs.left, 60))
    await asyncio.sleep(0)

    def send() -> None:
        assert jobs.take() is one
        jobs.ended(one, "sent")

    thread = threading.Thread(target=send)
    thread.start()
    await waiter
    thread.join()
    assert jobs.left == 0
