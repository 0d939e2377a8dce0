"""Threads for requests: a few for each kind, so that large transfers never hold up small ones.

boto3 blocks, so each request occupies a thread. They are daemons of the tier's own: they belong to
no event loop, end when idle, and one that hangs in a dead connection does not keep the process from
ending. A waiter has a deadline of its own and never waits for a thread beyond it; the thread then
ends by itself at its next read, and only then is free for other work.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from cogcache._fork import renew_after_fork
from cogcache.backends.s3.errors import NotAskedError, UnavailableError
from cogcache.breaker import Attempt, Breaker

__all__ = ["Call", "Lane", "current_call"]

T = TypeVar("T")

_IDLE_SECONDS: Final = 10.0
_here = threading.local()


def current_call() -> Call | None:
    """The call that this thread is working for."""
    call: Call | None = getattr(_here, "call", None)
    return call


class Call:
    """A piece of work in a lane, and what its waiter and its thread tell each other.

    Attributes:
        deadline: Monotonic seconds after which nobody waits any more; the thread puts it off when
            it begins a transfer of known size.
        abandoned: Nobody waits; the thread ends at its next look.
        attempt: The request under way, for the breaker.
        heard: A byte of an answer has come since the attempt began.
        most_bytes: How many more it may ask for; ``None`` without a limit.
    """

    __slots__ = ("abandoned", "attempt", "deadline", "heard", "most_bytes")

    def __init__(self, seconds: float, most_bytes: int | None = None) -> None:
        self.deadline = time.monotonic() + seconds
        self.abandoned = False
        self.attempt: Attempt | None = None
        self.heard = False
        self.most_bytes = most_bytes

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

    Attributes:
        name: ``"small"``, ``"bulk"`` or ``"work"``.
        breaker: Asked before each request.
    """

    def __init__(self, name: str, threads: int, breaker: Breaker | None = None) -> None:
        self.name = name
        self.breaker = Breaker() if breaker is None else breaker
        self._most = threads
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The child has none of the parent's threads."""
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    async def run(
        self, work: Callable[[Call], T], *, seconds: float, most_bytes: int | None = None
    ) -> T:
        """Run ``work(call)`` in a thread and wait for it, ``seconds`` long or until ``call``'s
        deadline, if the work puts it off; ``most_bytes`` are what it may ask for.

        Cancelling leaves the thread to end by itself and drops its result.

        Raises:
            UnavailableError: The breaker is open, or no result came in time.
        """
        self.refuse_when_open()
        call = Call(seconds, most_bytes)
        waiter = asyncio.wrap_future(self.submit(work, call))
        try:
            while not waiter.done():
                left = call.deadline - time.monotonic()
                if left <= 0:
                    self._note_late(call)
                    raise UnavailableError(
                        "no answer within the deadline", unreachable=not call.heard
                    )
                await asyncio.wait({waiter}, timeout=left)
            return waiter.result()
        finally:
            call.abandoned = True
            waiter.cancel()

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
            try:
                call.check()
                result = work(call)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                _here.call = None

        self._start(job)
        return future

    def _start(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._unfinished += 1
            self._work.put(job)
            if self._unfinished <= self._threads or self._threads >= self._most:
                return
            self._threads += 1
        threading.Thread(target=self._run, name=f"cogcache-s3-{self.name}", daemon=True).start()

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
            job()
            del job
            with self._lock:
                self._unfinished -= 1

    def _note_late(self, call: Call) -> None:
        if call.attempt is not None:
            call.attempt.failed(unreachable=not call.heard)

    def describe(self) -> dict[str, Any]:
        """For statistics: the breaker's state and the work under way."""
        return {
            "breaker": self.breaker.state,
            "opened": self.breaker.opened,
            "rejected": self.breaker.rejected,
            "under_way": self._unfinished,
        }
