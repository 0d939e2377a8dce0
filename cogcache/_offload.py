"""A few daemon threads for calls that may wait for a server that is gone.

Not `asyncio.to_thread`: its threads are joined at exit, so that one hung file server would keep a
process from ending. Threads start when there is work, and end when there was none for a while.

What waits for the caller's own code or streams (``beside``), as long as those like, has threads of
its own, one for each that waits: else a few quiet sockets, or those of calls that were cancelled,
would hold up all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Final, TypeVar

from cogcache._inline import in_calling_thread, is_sync
from cogcache._reading import no_beat

__all__ = ["NoAnswerError", "beside", "offload"]

T = TypeVar("T")

_THREADS: Final = 8
_IDLE_SECONDS: Final = 10.0


class NoAnswerError(Exception):
    """Work made no progress for its time limit, and its thread was left to itself; or the system
    gives no thread for it.
    """


class _AbandonedError(Exception):
    pass


class _Pool:
    def __init__(self, threads: float = _THREADS) -> None:
        self._most = threads
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0  # work that was handed in and not finished

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._waiting += 1
            self._work.put(job)
            if self._waiting <= self._threads or self._threads >= self._most:
                return
            self._threads += 1
            try:
                threading.Thread(target=self._run, name="cogcache-source", daemon=True).start()
            except RuntimeError as error:  # the system gives none
                self._threads -= 1
                if self._threads == 0:  # so nobody else has taken it, and nobody would
                    self._work.get_nowait()
                    self._waiting -= 1
                    raise NoAnswerError(str(error)) from error

    def _run(self) -> None:
        while True:
            try:
                job = self._work.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # Work that came in just now counted on this thread.
                    if self._waiting < self._threads:
                        self._threads -= 1
                        return
                continue
            job()
            del job
            with self._lock:
                self._waiting -= 1


_pool = _Pool()
_streams = _Pool(math.inf)


def _start_anew() -> None:
    global _pool, _streams
    _pool, _streams = _Pool(), _Pool(math.inf)


os.register_at_fork(after_in_child=_start_anew)


async def offload(
    work: Callable[[Callable[[], None]], T],
    *,
    timeout_seconds: float | None,
    own_thread: bool = False,
) -> T:
    """Run ``work(beat)`` in a daemon thread and await its result.

    Args:
        work: calls ``beat`` whenever it got further; that call raises once nobody waits any more.
        timeout_seconds: how long it may go without getting further; ``None`` is no limit.
        own_thread: it never waits for a thread, however many wait; see the module.

    Raises:
        NoAnswerError: no progress for that long, or no thread. Cancelling leaves the thread to end
            by itself.
    """
    future: Future[T] = Future()
    beats = 0

    def beat() -> None:
        nonlocal beats
        if future.cancelled():
            raise _AbandonedError
        beats += 1

    def job() -> None:
        if future.cancelled():
            return
        try:
            result = work(beat)
        except _AbandonedError:
            return
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                future.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                future.set_result(result)

    try:
        (_streams if own_thread else _pool).submit(job)
        waiter = asyncio.wrap_future(future)
        while True:
            before = beats
            done, _ = await asyncio.wait({waiter}, timeout=timeout_seconds)
            if done:
                return waiter.result()
            if beats == before:
                raise NoAnswerError
    finally:
        future.cancel()


async def beside(work: Callable[[Callable[[], None]], T]) -> T:
    """Run what blocks beside the event loop, however long it takes; under ``sync`` in the calling
    thread. See ``offload`` for ``beat``.
    """
    if is_sync():
        return await in_calling_thread(work, no_beat)
    return await offload(work, timeout_seconds=None, own_thread=True)
