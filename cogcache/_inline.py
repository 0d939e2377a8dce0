"""Serving asynchronous code in the calling thread, for ``cache.sync``.

While *inline* is on (a context variable), every awaitable of this package is ready at once: local
tiers block in the calling thread instead of asking their workers. So a coroutine can be driven with
one ``send`` and no event loop, which costs nothing beside the hit itself. Coroutines of tiers that
must wait for a network run on one background loop instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

_inline: ContextVar[bool] = ContextVar("cogcache_inline", default=False)


def is_inline() -> bool:
    """Whether the current call is to block in this thread rather than to await."""
    return _inline.get()


@contextlib.contextmanager
def not_inline() -> Iterator[None]:
    """Around the caller's own code: whatever it starts is not part of the inline call."""
    token = _inline.set(False)
    try:
        yield
    finally:
        _inline.reset(token)


def run_inline(work: Coroutine[Any, Any, _T]) -> _T:
    """Drive a coroutine to its end in this thread.

    Raises:
        RuntimeError: It wanted to wait for an event loop, which is a fault of this package.
    """
    token = _inline.set(True)
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        _inline.reset(token)
    work.close()
    raise RuntimeError("an inline call tried to wait for an event loop")


class _Call(Generic[_T]):
    """A coroutine on the background loop, which its caller may give up at any moment."""

    def __init__(self, work: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._abandoned = False

    async def run(self) -> _T:
        self._task = asyncio.current_task()
        if self._abandoned:
            self._work.close()
            raise asyncio.CancelledError
        return await self._work

    def abandon(self) -> None:
        self._abandoned = True
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


class _BackgroundLoop:
    """One event loop in a daemon thread, made when first needed, forgotten after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="cogcache-sync", daemon=True).start()
                self._loop = loop
            return self._loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        background = self.loop()
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is background:
            work.close()
            raise RuntimeError(
                "cache.sync was called on its own event loop; await the method instead"
            )
        call = _Call(work, background)
        try:
            return asyncio.run_coroutine_threadsafe(call.run(), background).result()
        except BaseException:
            call.abandon()  # an interrupted wait; nothing if the exception is the call's own
            raise


_background = _BackgroundLoop()


def call_in_background(call: Callable[..., object], *args: Any) -> asyncio.AbstractEventLoop:
    """Run ``call(*args)`` soon on the background loop, which no caller's loop outlives; it is never
    inline there.
    """
    loop = _background.loop()
    with not_inline():
        loop.call_soon_threadsafe(call, *args)
    return loop


async def _closing(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


class SyncFacade:
    """The methods of an asynchronous object, blocking.

    Everything that is awaited, iterated or entered asynchronously there is called, iterated or
    entered plainly here. Local tiers answer in the calling thread; others through one background
    loop.
    """

    def __init__(self, target: Any, runs_inline: Callable[[], bool]) -> None:
        self._target = target
        self._runs_inline = runs_inline

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return run_inline(work) if self._runs_inline() else _background.run(work)

    def _iterate(self, items: AsyncIterator[_T]) -> Iterator[_T]:
        async def step() -> tuple[bool, Any]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        try:
            while True:
                more, item = self._run(step())
                if not more:
                    return
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                self._run(_closing(items))

    @contextlib.contextmanager
    def _enter(self, manager: Any) -> Iterator[Any]:
        value = self._run(manager.__aenter__())
        try:
            yield self._face(value)
        except BaseException as error:
            if not self._run(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._run(manager.__aexit__(None, None, None))

    def _face(self, value: Any) -> Any:
        return value.sync if isinstance(getattr(value, "sync", None), SyncFacade) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also what pickle and copy ask for before there is a target
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        member: Any = getattr(self._target, name)
        if not callable(member):
            return self._face(member)

        def call(*args: Any, **named: Any) -> Any:
            result: Any = member(*args, **named)
            if inspect.iscoroutine(result):
                return self._face(self._run(result))
            if hasattr(result, "__aenter__"):
                return self._enter(result)
            if hasattr(result, "__anext__"):
                return self._iterate(result)
            return result

        call.__name__ = name
        call.__doc__ = member.__doc__
        return call

    def __reduce__(self) -> Any:
        return getattr, (self._target, "sync")

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._target) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<sync face of {self._target!r}>"

    def __enter__(self) -> SyncFacade:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._target.__aexit__(None, None, None))
