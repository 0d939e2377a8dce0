"""The chunks of a stream that are read at once: their order, their number, and what happens when
they are too slow together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cogcache.window import Span, Window

SPANS = [(at, at + 1) for at in range(9)]
NO_TIME, ALL_TIME = 0.0, 1e9


class Reads:
    """Reads that wait until they are let go or told to fail."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.now = self.most = 0
        self.answers: dict[int, asyncio.Future[None]] = {}

    async def read(self, start: int, stop: int) -> bytes:
        self.begun.append(start)
        self.now += 1
        self.most = max(self.most, self.now)
        self.answers[start] = asyncio.get_running_loop().create_future()
        try:
            await self.answers[start]
        finally:
            self.now -= 1
        return bytes(range(start, stop))

    def let_go(self, *starts: int) -> None:
        for start in starts:
            self.answers[start].set_result(None)

    def fail(self, *starts: int) -> None:
        for start in starts:
            self.answers[start].set_exception(ConnectionError(f"{start}"))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)


class Watched(Window):
    def __init__(self, reads: Reads, seconds: float, most: int = 3) -> None:
        self.narrowings = 0

        def narrowed() -> None:
            self.narrowings += 1

        super().__init__(SPANS, reads.read, lambda start, stop: seconds, most, narrowed)


async def drain(window: Window, reads: Reads) -> list[int]:
    """Take the rest, letting each go when it is waited for."""
    got = []
    while (span := window.begin()) is not None:
        taking = asyncio.ensure_future(window.arrival())
        await reads.until(lambda start=span[0]: start in reads.answers)  # type: ignore[misc]
        if not reads.answers[span[0]].done():
            reads.let_go(span[0])
        assert await taking == bytes([span[0]])
        got.append(span[0])
    return got


async def test_all_come_in_order_and_three_at_once() -> None:
    reads = Reads()
    window = Watched(reads, ALL_TIME)
    assert window.begin() == SPANS[0]
    await reads.until(lambda: reads.now == 3)
    assert reads.begun == [0, 1, 2]
    reads.let_go(2, 1)
    assert window.begin() == SPANS[0]  # they wait for the first one
    assert reads.begun == [0, 1, 2]
    assert await drain(window, reads) == list(range(9))
    assert (reads.most, window.narrowings) == (3, 0)


async def test_when_none_comes_in_time_they_are_read_one_at_a_time() -> None:
    reads = Reads()
    window = Watched(reads, NO_TIME)
    window.begin()
    taking = asyncio.ensure_future(window.arrival())
    await reads.until(lambda: reads.now == 3)
    reads.fail(0)
    await reads.until(lambda: reads.begun == [0, 1, 2, 0])  # the others were let go of
    assert (reads.now, window.narrowings) == (1, 1)
    reads.let_go(0)
    assert await taking == b"\x00"
    reads.most = 0
    assert await drain(window, reads) == list(range(1, 9))
    assert reads.most == 1
    assert reads.begun == [0, 1, 2, *range(9)]


async def test_one_that_fails_where_others_came_is_that_one_alone() -> None:
    reads = Reads()
    window = Watched(reads, NO_TIME)
    window.begin()
    await reads.until(lambda: reads.now == 3)
    reads.let_go(1)
    await reads.until(lambda: reads.now == 2)
    reads.fail(0)
    with pytest.raises(ConnectionError, match="0"):
        await window.arrival()
    assert await drain(window, reads) == list(range(1, 9))
    assert (reads.begun, window.narrowings) == (list(range(9)), 0)


@pytest.mark.parametrize("when", ["before its time", "alone"])
async def test_a_failure_that_is_no_lack_of_time_is_said_at_once(when: str) -> None:
    reads = Reads()
    window = Watched(reads, *((ALL_TIME, 3) if when == "before its time" else (NO_TIME, 1)))
    window.begin()
    taking = asyncio.ensure_future(window.arrival())
    await reads.until(lambda: reads.now > 0)
    reads.fail(0)
    with pytest.raises(ConnectionError, match="0"):
        await taking
    assert (reads.begun.count(0), window.narrowings) == (1, 0)
    assert await drain(window, reads) == list(range(1, 9))


async def test_one_that_is_too_slow_alone_too_fails_once_more() -> None:
    reads = Reads()
    window = Watched(reads, NO_TIME)
    window.begin()
    taking = asyncio.ensure_future(window.arrival())
    await reads.until(lambda: reads.now == 3)
    reads.fail(0)
    await reads.until(lambda: len(reads.begun) == 4)
    reads.fail(0)
    with pytest.raises(ConnectionError, match="0"):
        await taking
    assert await drain(window, reads) == list(range(1, 9))  # for who wants zeros in its place


@pytest.mark.parametrize("taken", [0, 1, 9])
async def test_closing_leaves_nothing_on_its_way(taken: int) -> None:
    reads, before = Reads(), asyncio.all_tasks()
    window = Watched(reads, ALL_TIME)
    for _ in range(taken):
        span = window.begin()
        assert span is not None
        await reads.until(lambda start=span[0]: start in reads.answers)  # type: ignore[misc]
        reads.let_go(span[0])
        await window.arrival()
    window.begin()
    await window.close()
    await window.close()
    assert reads.now == 0
    assert asyncio.all_tasks() == before


async def test_without_a_window_the_caller_reads_itself() -> None:
    spans: list[Span] = []
    tasks = set()

    async def read(start: int, stop: int) -> bytes:
        spans.append((start, stop))
        tasks.add(asyncio.current_task())
        return b"x"

    window = Window(SPANS, read, lambda start, stop: NO_TIME, 0, lambda: None)
    while (span := window.begin()) is not None:
        assert window.begin() == span
        assert await window.arrival() == b"x"
    assert spans == SPANS
    assert tasks == {asyncio.current_task()}
