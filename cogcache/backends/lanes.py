"""Threads for requests: a few for each kind, so that large transfers never hold up small ones.

boto3 blocks, so each request occupies a thread. They are daemons of the tier's own: they belong to
no event loop, end when idle, and one that hangs in a dead connection does not keep the process from
ending. A waiter has a deadline of its own; when that is over, the thread ends by itself at its next
read, and only then is free for other work. The time of a call begins when a thread takes it: to
wait for one is bounded too, but says nothing about the server.

A store that is asked for too much says so (503, 429). Then only half as many transfers are under
way at once, and twice as many again after each half minute without such an answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from cogcache._fork import renew_after_fork
from cogcache.backends.faults import BusyError, NotAskedError, UnavailableError
from cogcache.breaker import Attempt, Breaker

__all__ = ["Call", "Lane", "current_call", "sent_again"]

T = TypeVar("T")

WIDEN_SECONDS: Final = 30.0  # without a refusal, until twice as many may be under way again
_IDLE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0  # a waiter without a thread looks how those get on who have one
_here = threading.local()
# Whether somebody sends again what is being written here, also when this task is cancelled.
sent_again: ContextVar[bool] = ContextVar("cogcache_sent_again", default=False)


def current_call() -> Call | None:
    """The call that this thread is working for."""
    call: Call | None = getattr(_here, "call", None)
    return call


class Call:
    """A piece of work in a lane, and what its waiter and its thread tell each other.

    Attributes:
        deadline: Monotonic seconds after which nobody waits any more; put off when a thread takes
            it, and by that when it begins a transfer of known size.
        begun: A thread has it.
        abandoned: Nobody waits; the thread ends at its next look.
        cancelled: Because the waiter was cancelled, and not by those who send again later: nobody
            wants what has been done of it.
        attempt: The request under way, for the breaker.
        heard: A byte of an answer has come since the attempt began.
        sent_at: Monotonic seconds of its last request.
        most_bytes: How many more it may ask for; ``None`` without a limit.
    """

    __slots__ = (
        "_seconds",
        "abandoned",
        "attempt",
        "begun",
        "cancelled",
        "deadline",
        "heard",
        "most_bytes",
        "sent_at",
    )

    def __init__(self, seconds: float, most_bytes: int | None = None) -> None:
        self._seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.begun = False
        self.abandoned = False
        self.cancelled = False
        self.attempt: Attempt | None = None
        self.heard = False
        self.most_bytes = most_bytes
        self.sent_at = 0.0

    def begin(self) -> None:
        """A thread has it: what it waited for that was none of the server's time."""
        self.begun = True
        self.extend(self._seconds)

    def ask_for(self, size: int) -> None:
        """Raise when this work may not ask for so many bytes."""
        if self.most_bytes is not None:
            self.most_bytes -= size
            if self.most_bytes < 0:
                raise NotAskedError("more bytes than this work may ask for")

    def extend(self, seconds: float) -> None:
        """Give the work this long from now, if that is later."""
        self.deadline = max(self.deadline, time.monotonic() + seconds)

    def check(self) -> None:
        """Raise when nobody waits any more."""
        if self.abandoned or time.monotonic() > self.deadline:
            raise UnavailableError("no complete answer within the deadline", unreachable=False)


class Lane:
    """Up to ``threads`` threads with a queue before them, and the breaker of what they ask.

    Args:
        name: For ``describe``, and of the threads.
        threads: At most.
        breaker: One of its own by default.
        waits: Work here may take long: a waiter waits for a thread as long as those who have one
            are within their deadlines, else as long as for its answer.
        clock: Monotonic seconds, for ``slow_down``.

    Attributes:
        name: ``"small"``, ``"bulk"`` or ``"work"``.
        breaker: Asked before each request.
        narrowed: How often the number of threads was halved.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        breaker: Breaker | None = None,
        *,
        waits: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.breaker = Breaker() if breaker is None else breaker
        self.narrowed = 0
        self._waits = waits
        self._clock = clock
        self._most = threads
        self._narrow = threads  # how many there may be since the last halving
        self._narrowed_at = 0.0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The child has none of the parent's threads."""
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._under_way: set[Call] = set()

    async def run(
        self, work: Callable[[Call], T], *, seconds: float, most_bytes: int | None = None
    ) -> T:
        """Run ``work(call)`` in a thread and wait for it, ``seconds`` long from when a thread has
        it, or until ``call``'s deadline, if the work puts it off; ``most_bytes`` are what it may
        ask for.

        Cancelling leaves the thread to end by itself and drops its result.

        Raises:
            BusyError: No thread was free for it.
            UnavailableError: The breaker is open, or no result came in time.
        """
        self.refuse_when_open()
        call = Call(seconds, most_bytes)
        waiter = asyncio.wrap_future(self.submit(work, call))
        try:
            while not waiter.done():
                left = self._waited_for_until(call) - time.monotonic()
                if left <= 0:
                    if not call.begun:
                        raise BusyError(f"not asked: all {self._most} threads were busy")
                    self._note_late(call)
                    raise UnavailableError(
                        "no answer within the deadline", unreachable=not call.heard
                    )
                await asyncio.wait({waiter}, timeout=min(left, _LOOK_SECONDS))
            return waiter.result()
        except asyncio.CancelledError:
            call.cancelled = not sent_again.get()
            raise
        finally:
            call.abandoned = True
            waiter.cancel()

    def _waited_for_until(self, call: Call) -> float:
        """Monotonic seconds."""
        if call.begun or not self._waits:
            return call.deadline
        with self._lock:
            return max([call.deadline, *(one.deadline for one in self._under_way)])

    def refuse_when_open(self) -> None:
        """Raise at once while the breaker is open: that costs no thread."""
        if self.breaker.refuses():
            raise NotAskedError(f"not asked: the breaker is {self.breaker.state}")

    def submit(self, work: Callable[[Call], T], call: Call) -> Future[T]:
        """Run ``work(call)`` in a thread; for waiters in other threads."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            _here.call = call
            call.begin()
            with self._lock:
                self._under_way.add(call)
            try:
                call.check()
                result = work(call)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                _here.call = None
                with self._lock:
                    self._under_way.discard(call)

        try:
            self._start(job)
        except UnavailableError:
            future.cancel()  # it stays in the queue, for a later thread to drop
            raise
        return future

    def slow_down(self, sent_at: float) -> None:
        """Halve what may be under way, because the store refused a request that was sent then: too
        much was asked of it. What was sent before the last halving says nothing about its effect.
        """
        with self._lock:
            if sent_at < self._narrowed_at:
                return
            self._narrow = max(1, self._width() // 2)
            self._narrowed_at = self._clock()
            self.narrowed += 1
            for _ in range(self._threads - self._narrow):
                self._work.put(None)  # wakes one that idles, so that it goes

    def _width(self) -> int:
        """How many threads there may be now."""
        doublings = (self._clock() - self._narrowed_at) / WIDEN_SECONDS
        return int(min(self._most, self._narrow << int(min(doublings, self._most))))

    def _start(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._unfinished += 1
            self._work.put(job)
            if self._wants_another():
                self._add_thread()

    def _wants_another(self) -> bool:
        return self._unfinished > self._threads and self._threads < self._width()

    def _add_thread(self) -> None:
        self._threads += 1
        name = f"cogcache-s3-{self.name}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as error:  # the system gives none
            self._threads -= 1
            if self._threads == 0:
                raise UnavailableError(f"not asked: {error}") from error

    def _run(self) -> None:
        while True:
            try:
                job = self._work.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._unfinished < self._threads:  # work that came just now counted on us
                        self._threads -= 1
                        return
                continue
            if job is not None:
                job()
            done = job is not None
            del job
            with self._lock:
                self._unfinished -= done
                if self._threads > self._width():
                    self._threads -= 1
                    return
                if self._wants_another():
                    self._add_thread()

    def _note_late(self, call: Call) -> None:
        if call.attempt is not None:
            call.attempt.failed(unreachable=not call.heard)

    def describe(self) -> dict[str, Any]:
        """For statistics: the breaker's state, the work under way, and how much may be."""
        with self._lock:
            at_once = self._width()
        return {
            "breaker": self.breaker.state,
            "opened": self.breaker.opened,
            "rejected": self.breaker.rejected,
            "under_way": self._unfinished,
            "at_once": at_once,
            "narrowed": self.narrowed,
        }
