"""Serving asynchronous code in the calling thread, for ``cache.sync``.

While *inline* is on (a context variable), every awaitable of this package is ready at once: local
tiers block in the calling thread instead of asking their workers. So a coroutine can be driven with
one ``send`` and no event loop, which costs nothing beside the hit itself. Coroutines of tiers that
must wait for a network run on one background loop instead; what is the caller's own code (a
computation, its gate) runs in the calling thread all the same, which waits and serves meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from types import CoroutineType
from typing import Any, Generic, TypeVar

from cogcache._fork import renew_after_fork

_T = TypeVar("_T")

# A signal that arrives as Python begins to wait for a lock, or in another thread, does not end the
# wait: so often a waiting thread looks itself whether there was a Ctrl-C.
_LISTEN_SECONDS = 0.5

_inline: ContextVar[bool] = ContextVar("cogcache_inline", default=False)


def is_inline() -> bool:
    """Whether the current call is to block in this thread rather than to await."""
    return _inline.get()


def is_sync() -> bool:
    """Whether the current call came through ``cache.sync``, inline or by the background loop."""
    return _inline.get() or _caller.get() is not None


def waiting_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that stands still until the current ``sync`` call ends, if there is one."""
    caller = _caller.get()
    if caller is not None:
        return caller.loop
    return _running_loop() if _inline.get() else None


async def in_calling_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Call the caller's own code: under ``sync`` in the thread that waits there, else here.

    Whatever it starts is not part of the ``sync`` call.
    """
    caller = _caller.get()
    if caller is not None:
        return await caller.call(function, *args)
    token = _inline.set(False)
    try:
        return function(*args)
    finally:
        _inline.reset(token)


def without_stop(function: Callable[..., _T], *args: Any) -> _T:
    """Call ``function``; a ``StopIteration``, which no future can carry, becomes a ``RuntimeError``
    as it would in a coroutine.
    """
    try:
        return function(*args)
    except StopIteration as error:
        raise RuntimeError("the computation raised StopIteration") from error


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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


class _Caller:
    """A thread that waits in ``sync`` for the background loop, and runs what is its own there.

    Attributes:
        loop: The event loop that runs in this thread, and stands still meanwhile.
    """

    def __init__(self) -> None:
        self.loop = _running_loop()
        self._lock = threading.Lock()
        self._gone = False
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._work = queue.SimpleQueue()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In a child that the caller's own code has forked: the background loop is not there."""
        self._lock = threading.Lock()

    async def call(self, function: Callable[..., _T], *args: Any) -> _T:
        """From the background loop: run ``function`` in the calling thread, with this context.

        Raises:
            CancelledError: The calling thread was interrupted, and waits no more.
        """
        outcome: Future[_T] = Future()
        context = contextvars.copy_context()

        def work() -> _T:
            _caller.set(None)  # in this context alone
            return without_stop(function, *args)

        with self._lock:
            if self._gone:
                raise asyncio.CancelledError
            self._work.put((outcome, lambda: context.run(work)))
        return await asyncio.wrap_future(outcome)

    def serve(self) -> None:
        """In the calling thread: run what comes until ``end``."""
        while True:
            try:
                work = self._work.get(timeout=_LISTEN_SECONDS)
            except queue.Empty:  # a Ctrl-C, if there was one, is raised here
                continue
            if work is None:
                return
            outcome, function = work
            if outcome.cancelled():
                continue
            try:
                result = function()
            except Exception as error:
                _tell(outcome.set_exception, error)
            except BaseException:  # Ctrl-C and SystemExit are for this thread alone
                outcome.cancel()
                raise
            else:
                _tell(outcome.set_result, result)

    def end(self, *_: object) -> None:
        """The call has ended."""
        self._work.put(None)

    def leave(self) -> None:
        """The calling thread waits no more: what still comes is cancelled."""
        with self._lock:
            self._gone = True
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._work.get_nowait()
                if work is not None:
                    work[0].cancel()


def _tell(set_outcome: Callable[[Any], None], what: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
        set_outcome(what)


_caller: ContextVar[_Caller | None] = ContextVar("cogcache_caller", default=None)


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
                thread = threading.Thread(
                    target=loop.run_forever, name="cogcache-sync", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system gives none
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        background = self.loop()
        caller = _Caller()
        if caller.loop is background:
            work.close()
            raise RuntimeError(
                "cache.sync was called on its own event loop; await the method instead"
            )
        call = _Call(work, background)
        context = contextvars.copy_context()
        context.run(_caller.set, caller)
        try:  # from here on Ctrl-C may come at any moment
            outcome = context.run(asyncio.run_coroutine_threadsafe, call.run(), background)
            outcome.add_done_callback(caller.end)
            caller.serve()
            return outcome.result()
        except BaseException:
            caller.leave()
            call.abandon()  # an interrupted wait; nothing if the exception is the call's own
            raise


_background = _BackgroundLoop()


def call_in_background(call: Callable[..., object], *args: Any) -> asyncio.AbstractEventLoop:
    """Run ``call(*args)`` soon on the background loop, which no caller's loop outlives; it is never
    inline there.
    """
    loop = _background.loop()
    loop.call_soon_threadsafe(call, *args, context=without_caller())
    return loop


def without_caller() -> contextvars.Context:
    """This context, for what goes on when the call has ended: never inline, and in nobody's
    thread.
    """
    context = contextvars.copy_context()
    context.run(_inline.set, False)
    context.run(_caller.set, None)
    return context


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
        if isinstance(value, SyncFacade):  # the `sync` of what is blocking already
            return value
        return value.sync if isinstance(getattr(value, "sync", None), SyncFacade) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also what pickle and copy ask for before there is a target
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        member: Any = getattr(self._target, name)
        if not callable(member):
            return self._face(member)

        def call(*args: Any, **named: Any) -> Any:
            result: Any = getattr(self._target, name)(*args, **named)
            if isinstance(result, CoroutineType):
                return self._face(self._run(result))
            if hasattr(result, "__aenter__"):
                face = self._face(result)
                return self._enter(result) if face is result else face
            if hasattr(result, "__anext__"):
                return self._iterate(result)
            return result

        call.__name__ = name
        call.__doc__ = member.__doc__
        self.__dict__[name] = call  # found without coming here from now on
        return call

    def __reduce__(self) -> Any:
        return getattr, (self._target, "sync")

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._target) if not name.startswith("_")]

    def __str__(self) -> str:
        return str(self._target)

    def __repr__(self) -> str:
        return f"<sync face of {self._target!r}>"

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(aiter(self._target))

    def __enter__(self) -> SyncFacade:
        self._run(self._target.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._target.__aexit__(None, None, None))
