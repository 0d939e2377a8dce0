"""A few daemon threads for calls that may wait for a server that is gone.

Not `asyncio.to_thread`: its threads are joined at exit, so that one hung file server would keep a
process from ending. Threads start when there is work, and end when there was none for a while.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from cogcache._inline import in_calling_thread, is_sync

__all__ = ["NoAnswerError", "beside", "offload"]

T = TypeVar("T")

_THREADS: Final = 8
_IDLE_SECONDS: Final = 10.0


class NoAnswerError(Exception):
    """Work made no progress for its time limit; its thread was left to itself."""


class _AbandonedError(Exception):
    pass


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0  # work that was handed in and not finished

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._waiting += 1
            self._work.put(job)
            if self._waiting <= self._threads or self._threads >= _THREADS:
                return
            self._threads += 1
            try:
                threading.Thread(target=self._run, name="cogcache-source", daemon=True).start()
            except RuntimeError:  # the system gives none
                self._threads -= 1
                if self._threads == 0:
                    raise

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


def _start_anew() -> None:
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_start_anew)


async def offload(work: Callable[[Callable[[], None]], T], *, timeout_seconds: float | None) -> T:
    """Run ``work(beat)`` in a daemon thread and await its result.

    Args:
        work: calls ``beat`` whenever it got further; that call raises once nobody waits any more.
        timeout_seconds: how long it may go without getting further; ``None`` is no limit.

    Raises:
        NoAnswerError: no progress for that long. Cancelling leaves the thread to end by itself.
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
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    _pool.submit(job)
    waiter = asyncio.wrap_future(future)
    try:
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
        return await in_calling_thread(work, _no_beat)
    return await offload(work, timeout_seconds=None)


def _no_beat() -> None:
    pass
