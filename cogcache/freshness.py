"""One computation for many who ask: single flight within the process, over any number of event
loops and threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Generic, TypeVar

from cogcache._fork import renew_after_fork
from cogcache._inline import is_inline, waiting_loop
from cogcache.exceptions import RecursiveComputeError

_T = TypeVar("_T")


class _Mark:
    """What a computation is known by to the code that is part of it: connections and tasks that
    it begins keep their context, and must not keep its outcome with it.
    """

    __slots__ = ("ended", "forgotten", "waits_for")

    def __init__(self) -> None:
        self.waits_for: list[_Mark] = []
        self.ended = False
        self.forgotten = False


class _Flight(Generic[_T]):
    """One computation under way: who waits for it, and where its outcome will be."""

    def __init__(self) -> None:
        self.outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self.waiters = 0
        self.mark = _Mark()
        self.task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_lost(self) -> bool:
        """Its loop was closed without a word: it will never end by itself."""
        return self.loop is not None and self.loop.is_closed() and not self.outcome.done()

    def cancel(self) -> None:
        """Nobody waits any more: stop the computation, from whatever thread."""
        if self.task is not None and self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.task.cancel)


# The computations that the running code is part of, the outermost first.
_computing: ContextVar[tuple[_Mark, ...]] = ContextVar("cogcache_computing", default=())
_graph = threading.Lock()  # of waits_for, over all Flights


def is_forgotten() -> bool:
    """Whether the key of the running computation was forgotten since that began."""
    computing = _computing.get()
    return bool(computing) and computing[-1].forgotten


def is_nested() -> bool:
    """Whether the running computation is part of another."""
    return len(_computing.get()) > 1


class Flights(Generic[_T]):
    """Computations under way, by key.

    The first caller of a key leads: its computation runs in a task of its own, so that the leader's
    cancellation does not fail the others. It is cancelled when the last waiter is gone. An error
    goes to every waiter and is not kept. A computation that was cancelled, or whose loop or process
    went away, is begun again by one of those who still wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight[_T]] = {}
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The parent computes in its own threads and loops; nothing of it ends here."""
        global _graph
        _graph = threading.Lock()
        self._lock = threading.Lock()
        self._flights = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: bytes, work: Callable[[], Awaitable[_T]]) -> tuple[_T, bool]:
        """The outcome of ``work`` for ``key``, computed once for all who ask meanwhile; and whether
        this caller led.

        Raises:
            RecursiveComputeError: A computation asks for the key that it computes, or two ask for
                each other's.
        """
        while True:
            flight, leads = self._join(key)
            try:
                with _waiting(flight.mark):
                    if not leads and flight.loop is not None and flight.loop is waiting_loop():
                        return await work(), True  # blocking this thread would block the leader
                    if is_inline():
                        if leads:
                            outside = _computing.get()
                            try:
                                await self._drive(key, flight, work)
                            finally:  # there is no task here whose context ends with it
                                _computing.set(outside)
                        return flight.outcome.result(), leads
                    if leads:
                        self._start(key, flight, work)
                    return await asyncio.shield(asyncio.wrap_future(flight.outcome)), leads
            except (asyncio.CancelledError, concurrent.futures.CancelledError):
                if leads or not flight.outcome.cancelled() or _being_cancelled():
                    raise
                # Only the computation ended: this follower takes the lead, or follows another.
            finally:
                self._leave(key, flight, leads)
                del flight  # an error's traceback has this frame, and must not have the error

    def forget(self, meant: Callable[[bytes], bool]) -> None:
        """Keys are forgotten: whoever asks for them from now on begins anew, and what is being
        computed for those who asked before is not to be kept. The computation that this call is
        part of may go on: it forgets what was there before it.
        """
        mine = _computing.get()
        with self._lock:
            for key in [key for key in self._flights if meant(key)]:
                if self._flights[key].mark not in mine:
                    self._flights.pop(key).mark.forgotten = True

    def _join(self, key: bytes) -> tuple[_Flight[_T], bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and flight.is_lost:
                flight.mark.ended = True
                flight.outcome.cancel()
                flight = None
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
            flight.waiters += 1
        return flight, leads

    def _leave(self, key: bytes, flight: _Flight[_T], leads: bool) -> None:
        with self._lock:
            flight.waiters -= 1
            abandoned = flight.waiters == 0 and not flight.outcome.done()
        if leads and flight.task is None:
            self._land(key, flight).cancel()  # it never began, or was broken off in this thread
        elif abandoned:
            flight.cancel()

    def _start(self, key: bytes, flight: _Flight[_T], work: Callable[[], Awaitable[_T]]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._land(key, flight).cancel()  # also when it was cancelled before its first step
            if not task.cancelled():
                task.exception()  # whoever had to know was told through the outcome

        flight.loop = asyncio.get_running_loop()
        driving = self._drive(key, flight, work)
        try:
            flight.task = flight.loop.create_task(driving, name="cogcache-compute")
        except BaseException:
            driving.close()
            raise
        flight.task.add_done_callback(ended)

    async def _drive(
        self, key: bytes, flight: _Flight[_T], work: Callable[[], Awaitable[_T]]
    ) -> None:
        _computing.set((*_computing.get(), flight.mark))
        try:
            result = await work()
        except asyncio.CancelledError:
            self._land(key, flight).cancel()
        except Exception as error:
            outcome = self._land(key, flight)
            if not outcome.done():
                outcome.set_exception(error)
            del outcome, flight  # as in ``run``: what failed may hold much memory
        except BaseException:
            # KeyboardInterrupt and SystemExit are for this thread alone, as they would be without
            # us: a follower elsewhere begins anew.
            self._land(key, flight).cancel()
            raise
        else:
            outcome = self._land(key, flight)
            if not outcome.done():
                outcome.set_result(result)

    def _land(self, key: bytes, flight: _Flight[_T]) -> concurrent.futures.Future[_T]:
        """Take a flight off the list; its outcome is to be told next, unless it was."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.mark.ended = True
        return flight.outcome


class _waiting:  # noqa: N801  used like a function
    """While the running computation waits for another; refuses what would wait for itself."""

    def __init__(self, mark: _Mark) -> None:
        self._mark = mark
        self._by = _computing.get()

    def __enter__(self) -> None:
        if not self._by:
            return
        with _graph:
            if self._mark in self._by:
                raise RecursiveComputeError(
                    "a computation asked get_or_compute for the very key that it computes; "
                    "it would wait for itself"
                )
            if _reaches([self._mark], self._by):
                raise RecursiveComputeError(
                    "two computations asked get_or_compute for each other's keys; "
                    "both would wait for ever"
                )
            self._by[-1].waits_for.append(self._mark)

    def __exit__(self, *_: object) -> None:
        if self._by:
            with _graph:
                self._by[-1].waits_for.remove(self._mark)


def _reaches(starts: Iterable[_Mark], goals: tuple[_Mark, ...]) -> bool:
    seen: set[int] = set()
    ahead = list(starts)
    while ahead:
        mark = ahead.pop()
        if id(mark) in seen or mark.ended:
            continue
        seen.add(id(mark))
        if mark in goals:
            return True
        ahead += mark.waits_for
    return False


def _being_cancelled() -> bool:
    if is_inline():
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
