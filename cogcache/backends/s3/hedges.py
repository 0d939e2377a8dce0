"""Asking a second time when an answer is slow, for stores where one read in fifty hangs.

A read that takes longer than nearly all before it is asked for once more, by threads of its own;
the first answer is used and the other dropped. That never makes an outage worse: a second request
needs a token, of which each read earns a twentieth; none is sent while more than a tenth of the
reads are slow, since then the store is, or while the breaker is not closed; and one that would move
more than 1 MiB ends itself. Writes are never sent twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from cogcache._fork import renew_after_fork
from cogcache.backends.faults import AbsentError, UnavailableError
from cogcache.backends.lanes import Call, Lane

__all__ = ["HEDGED_BYTES", "Hedges"]

T = TypeVar("T")

HEDGED_BYTES: Final = 1 << 20  # that a second request may move
LEAST_SECONDS: Final = 0.020  # before a read can be called slow
SLOW_TIMES: Final = 4  # the time of a quick one, and it is slow
MOST_SLOW: Final = 0.1  # share of slow reads from which on the store is slow, not the read
SHARE: Final = 0.05  # second requests for each read, in the long run
MOST_TOKENS: Final = 5.0
LEAST_READS: Final = 50  # that have to be known before one can be called slow
_WINDOW: Final = 200
_EVERY: Final = 10  # reads after which the window is looked at again
_THREADS: Final = 4


class Hedges:
    """Second requests for slow reads of one tier. Usable from several loops: what they share is
    changed in single steps, and an estimate that is a read old does no harm.

    Attributes:
        sent: Second requests that were begun.
        won: Those whose answer was used.
        lane: Their threads, up to four.
    """

    def __init__(self, lane: Lane, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent = 0
        self.won = 0
        self.lane = Lane("hedges", _THREADS, lane.breaker)
        self._clock = clock
        self._tokens = 0.0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The child has its own connections, and has to learn how quick they are."""
        self._taken: deque[float] = deque(maxlen=_WINDOW)
        self._unseen = 0
        self._delay: float | None = None

    async def run(self, lane: Lane, work: Callable[[Call], T], seconds: float) -> T:
        """``lane.run(work, seconds=seconds)``, or the same by our threads if that is sooner.

        Raises:
            UnavailableError: As ``lane.run`` does.
        """
        began = self._clock()
        self._tokens = min(self._tokens + SHARE, MOST_TOKENS)
        first = asyncio.ensure_future(lane.run(work, seconds=seconds))
        tasks = [first]
        try:
            if self._delay is not None:
                await asyncio.wait(tasks, timeout=self._delay)
                if not first.done() and self._may_send():
                    self._tokens -= 1
                    self.sent += 1
                    second = self.lane.run(work, seconds=seconds, most_bytes=HEDGED_BYTES)
                    tasks.append(asyncio.ensure_future(second))
                    await self._first_answer(tasks)
            if len(tasks) > 1 and _has_answer(tasks[1]) and not _has_answer(first):
                self.won += 1
                return tasks[1].result()
            return await first
        finally:
            if any(task.done() for task in tasks):  # else nobody waited for the end
                self._note(self._clock() - began)
            for task in tasks:
                task.cancel()
                task.add_done_callback(_look_at_it)

    def _may_send(self) -> bool:
        return self._tokens >= 1 and self._delay is not None and self.lane.breaker.state == "closed"

    @staticmethod
    async def _first_answer(tasks: list[asyncio.Task[T]]) -> None:
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] in done and not _is_unavailable(tasks[0]):
                return
            if any(_has_answer(task) for task in done):
                return

    def _note(self, seconds: float) -> None:
        self._taken.append(seconds)
        self._unseen += 1
        if self._unseen >= _EVERY and len(self._taken) >= LEAST_READS:
            self._unseen = 0
            self._delay = delay_after(list(self._taken))


def delay_after(taken: list[float]) -> float | None:
    """After how many seconds a read is slow, by what others took; ``None``: too many are."""
    ordered = sorted(taken)
    slow = max(LEAST_SECONDS, SLOW_TIMES * ordered[len(ordered) // 4])
    share = sum(one > slow for one in ordered) / len(ordered)
    return None if share > MOST_SLOW else max(slow, ordered[int(len(ordered) * 0.95)])


def _has_answer(task: asyncio.Task[T]) -> bool:
    """Whether it ended with a value, or with the news that there is none."""
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    return error is None or isinstance(error, AbsentError)


def _is_unavailable(task: asyncio.Task[T]) -> bool:
    return not task.cancelled() and isinstance(task.exception(), UnavailableError)


def _look_at_it(task: asyncio.Task[T]) -> None:
    """What a dropped answer was is nobody's business, asyncio's neither."""
    if not task.cancelled():
        task.exception()
