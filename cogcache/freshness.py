"""One computation for many who ask: single flight within the process, over any number of event
loops and threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from cogcache._inline import is_inline, not_inline
from cogcache.exceptions import RecursiveComputeError

_T = TypeVar("_T")

_computing: ContextVar[frozenset[bytes]] = ContextVar("cogcache_computing", default=frozenset())


class _Flight(Generic[_T]):
    """One computation under way: who waits for it, and where its outcome will be."""

    def __init__(self) -> None:
        self.outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def cancel(self) -> None:
        """Nobody waits any more: stop the computation, from whatever thread."""
        if self.task is not None and self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.task.cancel)


class Flights(Generic[_T]):
    """Computations under way, by key.

    The first caller of a key leads: its computation runs in a task of its own, so that the leader's
    cancellation does not fail the others. It is cancelled when the last waiter is gone. An error
    goes to every waiter and is not kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight[_T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: bytes, work: Callable[[], Awaitable[_T]]) -> tuple[_T, bool]:
        """The outcome of ``work`` for ``key``, computed once for all who ask meanwhile; and whether
        this caller led.

        Raises:
            RecursiveComputeError: A computation asks for the key that it computes.
        """
        if key in _computing.get():
            raise RecursiveComputeError(
                "a computation asked get_or_compute for the very key that it computes; "
                "it would wait for itself"
            )
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
                flight.waiters += 1
            try:
                if is_inline():
                    return await self._inline(key, flight, work, leads), leads
                if leads:
                    flight.loop = asyncio.get_running_loop()
                    flight.task = flight.loop.create_task(
                        self._drive(key, flight, work), name="cogcache-compute"
                    )
                return await asyncio.shield(asyncio.wrap_future(flight.outcome)), leads
            except (asyncio.CancelledError, concurrent.futures.CancelledError):
                # The computation itself was cancelled, or raised CancelledError: a follower takes
                # the lead.
                if leads or not flight.outcome.cancelled() or _being_cancelled():
                    raise
            finally:
                with self._lock:
                    flight.waiters -= 1
                    abandoned = flight.waiters == 0 and not flight.outcome.done()
                if abandoned:
                    flight.cancel()

    async def _inline(
        self, key: bytes, flight: _Flight[_T], work: Callable[[], Awaitable[_T]], leads: bool
    ) -> _T:
        if leads:
            await self._drive(key, flight, work)
        return flight.outcome.result()  # a follower's thread waits here for the leader's

    async def _drive(
        self, key: bytes, flight: _Flight[_T], work: Callable[[], Awaitable[_T]]
    ) -> None:
        token = _computing.set(_computing.get() | {key})
        try:
            result = await work()
        except asyncio.CancelledError:
            self._land(key, flight)
            flight.outcome.cancel()
        except BaseException as error:
            self._land(key, flight)
            flight.outcome.set_exception(error)
            if not isinstance(error, Exception):
                # KeyboardInterrupt and SystemExit also end the loop, as they would without us
                raise
        else:
            self._land(key, flight)
            flight.outcome.set_result(result)
        finally:
            _computing.reset(token)

    def _land(self, key: bytes, flight: _Flight[_T]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]


def _being_cancelled() -> bool:
    if is_inline():
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def call_compute(compute: Callable[[], Any], executor: Executor | None) -> Any:
    """Run the caller's computation: a coroutine function is awaited, a plain one runs in a thread
    with this context.

    Under ``sync`` a plain one runs in the calling thread (CUDA contexts, signals and debuggers stay
    where they are).

    Raises:
        TypeError: A coroutine function under ``sync``: what it awaits would belong to another loop.
    """
    is_async = inspect.iscoroutinefunction(compute) or inspect.iscoroutinefunction(
        getattr(compute, "__call__", None)  # noqa: B004  an object with an async __call__
    )
    if is_inline():
        if is_async:
            raise TypeError(
                "under .sync the computation must be a plain function, not a coroutine function"
            )
        with not_inline():
            result = compute()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("under .sync the computation must return its value, not an awaitable")
        return result
    if is_async:
        return await compute()
    context = contextvars.copy_context()
    result = await asyncio.get_running_loop().run_in_executor(executor, context.run, compute)
    return await result if inspect.isawaitable(result) else result
