"""The chunks of one stream that are on their way at once, given out in their order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Span", "Window"]

Span = tuple[int, int]

_LATE: Final = 0.9  # of its time; a tier's own deadline may come a little before


@dataclass(frozen=True, slots=True)
class _Flight:
    span: Span
    task: asyncio.Task[bytes]
    began: float


class Window:
    """Reads up to ``most`` spans at once: the next one is begun when the first of them has arrived.

    Where the first one is too late and none of the others has come meanwhile, they took the way
    from each other, and it is too slow for so many: from then on they are read one at a time,
    beginning with those. If others came, it is that one alone which hangs, and it fails.

    Args:
        spans: What to read, in order.
        read: Reads one of them, and fails in its time.
        seconds: How much time that is.
        most: At once; 0 reads in the caller's task.
        narrowed: Called when it goes on with one at a time.
    """

    def __init__(
        self,
        spans: Iterable[Span],
        read: Callable[[int, int], Awaitable[bytes]],
        seconds: Callable[[int, int], float],
        most: int,
        narrowed: Callable[[], None],
    ) -> None:
        self._spans: Iterator[Span] = iter(spans)
        self._read = read
        self._seconds = seconds
        self._most = most
        self._narrowed = narrowed
        self._flying: deque[_Flight] = deque()

    def begin(self) -> Span | None:
        """Begin as many as there may be; which one comes next, ``None`` after the last."""
        while len(self._flying) < self._most:
            span = next(self._spans, None)
            if span is None:
                break
            task = asyncio.ensure_future(self._read(*span))
            self._flying.append(_Flight(span, task, time.monotonic()))
        if self._flying:
            return self._flying[0].span
        if self._most:
            return None
        span = next(self._spans, None)
        if span is not None:
            self._spans = itertools.chain((span,), self._spans)
        return span

    async def arrival(self) -> bytes:
        """The bytes of the span that ``begin`` has named; whether or not this fails, the next one
        is another.
        """
        if not self._flying:
            return await self._read(*next(self._spans))
        flights = list(self._flying)
        try:
            return await self._first()
        except OSError:
            if not self._were_too_many(flights):
                raise
        await self._one_at_a_time(flights)
        return await self._first()

    async def close(self) -> None:
        """Let go of what is on its way."""
        if self._flying:
            for flight in self._flying:
                flight.task.cancel()
            await asyncio.gather(*(flight.task for flight in self._flying), return_exceptions=True)
            self._flying.clear()

    async def _first(self) -> bytes:
        try:
            data = await self._flying[0].task
        except OSError:
            self._flying.popleft()
            raise
        self._flying.popleft()
        return data

    def _were_too_many(self, flights: list[_Flight]) -> bool:
        first, *others = flights
        late = time.monotonic() - first.began >= _LATE * self._seconds(*first.span)
        return late and bool(others) and not any(_has_come(other.task) for other in others)

    async def _one_at_a_time(self, flights: list[_Flight]) -> None:
        await self.close()
        self._spans = itertools.chain([flight.span for flight in flights], self._spans)
        self._most = 1
        self._narrowed()
        self.begin()


def _has_come(task: asyncio.Task[bytes]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
