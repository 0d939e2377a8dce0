"""What happens around a computation: the gate, the second look, keeping, and sharing with those who
waited. A computed result is never lost to something that only the cache wanted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cogcache import _core
from cogcache._arguments import flag
from cogcache._inline import in_calling_thread, is_inline, is_sync, without_stop
from cogcache._types import Lookup, StoreResult
from cogcache.codecs import stored_form
from cogcache.exceptions import warn
from cogcache.freshness import Flights, is_forgotten, is_nested
from cogcache.hostlock import HostLocks

Gate = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]


def is_not_none(value: Any) -> bool:
    """What is worth keeping unless the caller says otherwise."""
    return value is not None


def own_copy(value: Any) -> Any:
    """What a hit would give, for one more caller; a value that cannot be stored is shared."""
    try:
        return stored_form(value)
    except Exception:
        return value


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one caller wants one value made.

    Attributes:
        compute: Makes the value.
        keep: Stores it; is told the seconds that computing took.
        look_again: Asks the cache once more, without counting a miss.
        gate: Entered by the leader around the computation.
        refresh: Compute even when the value is there.
        strict: Raise what keeps the value from being stored.
        should_store: Whether a computed value is to be kept.
        executor: For a plain ``compute``.
        finish: Turns a computed value into the form in which it is stored.
        share: Gives a follower its own copy of a computed value that cannot be looked up.
        hand_out: Turns a computed value into what a hit of this caller would be.

    Raises:
        TypeError: An argument that could only fail after the computation; it is named.
    """

    compute: Callable[[], Any]
    keep: Callable[[Any, float], Coroutine[Any, Any, StoreResult]]
    look_again: Callable[[], Coroutine[Any, Any, Lookup]]
    gate: Gate | None = None
    refresh: bool = False
    strict: bool = False
    should_store: Callable[[Any], bool] = is_not_none
    executor: Executor | None = None
    finish: Callable[[Any], Coroutine[Any, Any, Any]] | None = None
    share: Callable[[Any], Any] = own_copy
    hand_out: Callable[[Any], Any] = _itself

    def __post_init__(self) -> None:
        if inspect.iscoroutine(self.compute):
            raise TypeError("compute must be a function, not a coroutine: leave out the ()")
        if not callable(self.compute):
            raise TypeError(f"compute must be a function, not {type(self.compute).__name__}")
        if is_sync() and is_async(self.compute):
            raise TypeError(
                "compute must be a plain function under .sync, not a coroutine function; await "
                "get_or_compute() of the cache itself instead of .sync.get_or_compute()"
            )
        if not callable(self.should_store):
            raise TypeError(
                f"should_store must be a function, not {type(self.should_store).__name__}"
            )
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise TypeError(
                f"executor must be a concurrent.futures.Executor, "
                f"not {type(self.executor).__name__}"
            )
        flag(self.refresh, "refresh")
        flag(self.strict, "strict")
        check_gate(self.gate)


def check_gate(gate: Any) -> None:
    """Raise ``TypeError`` unless ``gate`` can be entered here."""
    if gate is None:
        return
    wanted, hint = ("__enter__", "threading") if is_sync() else ("__aenter__", "asyncio")
    if isinstance(gate, type) or not hasattr(gate, wanted):
        kind = "a context manager" if is_sync() else "an asynchronous context manager"
        where = "under .sync " if is_sync() else ""
        raise TypeError(
            f"gate must be {kind} {where}such as {hint}.Semaphore(1), "
            f"not {gate.__qualname__ if isinstance(gate, type) else type(gate).__name__}"
        )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a flight brought: a value that was found (in the leader's form) or computed, and when
    that began (microseconds).
    """

    value: Any
    began: int
    found: bool = False
    kept: bool = False


class Computations:
    """The single flight behind every ``get_or_compute``.

    Attributes:
        flights: What is under way.
        counters: ``computed`` and ``unstorable``.
        locks: Of the host, where its processes share flights.
    """

    def __init__(self, counters: dict[str, int]) -> None:
        self.flights: Flights[_Outcome] = Flights()
        self.counters = counters
        self.locks: HostLocks | None = None

    async def once(self, key: bytes, recipe: Recipe, *, began: int = 0, valid_from: int = 0) -> Any:
        """The value of ``key`` by ``recipe``, or by that of whoever began to compute it before.

        Args:
            key: Canonical encoding.
            recipe: Of this caller.
            began: When this caller missed it, in microseconds.
            valid_from: What others began to compute before then is not valid for this caller: one
                of its tags was invalidated before it asked.
        """
        while True:
            outcome, led = await self.flights.run(key, lambda: self._fly_alone(key, recipe, began))
            if led:
                return outcome.value if outcome.found else recipe.hand_out(outcome.value)
            if outcome.found and recipe.refresh:
                continue  # the other one did not compute
            if outcome.found or outcome.kept:
                own = await recipe.look_again()
                if own.hit:
                    return own.value
                if outcome.found:
                    continue  # found, and gone again
            if outcome.began < valid_from:
                continue
            return recipe.hand_out(recipe.share(outcome.value))

    async def _fly_alone(self, key: bytes, recipe: Recipe, began: int) -> _Outcome:
        """``_fly``, while no other process of the host does. A computation within another never
        waits for one: two of two processes might wait for each other.
        """
        if self.locks is None:
            return await self._fly(recipe, began)
        async with self.locks.held(_core.hash128(key).hex(), wait=not is_nested()):
            return await self._fly(recipe, began)

    async def _fly(self, recipe: Recipe, began: int) -> _Outcome:
        async with _entered(recipe.gate):
            # Between this caller's miss and its lead, or at the gate, another may have brought it.
            if not recipe.refresh:
                found = await recipe.look_again()
                if found.hit:
                    return _Outcome(found.value, began, found=True)
            start = time.perf_counter()
            value = await call_compute(recipe.compute, recipe.executor)
            seconds = time.perf_counter() - start
        self.counters["computed"] += 1
        doing = "should_store"
        try:
            if not await in_calling_thread(recipe.should_store, value):
                return _Outcome(value, began)
            doing = "value"
            if recipe.finish is not None:
                value = await recipe.finish(value)
            if is_forgotten():
                return _Outcome(value, began)
            return _Outcome(value, began, kept=(await recipe.keep(value, seconds)).stored)
        except Exception as error:
            self.counters["unstorable"] += 1
            if recipe.strict:
                raise
            warn(f"computed, but not kept: {doing}: {type(error).__name__}: {error}")
            return _Outcome(value, began)


@contextlib.asynccontextmanager
async def _entered(gate: Any) -> AsyncIterator[None]:
    """Within the gate, which is told of an error of the computation and cannot swallow it: there
    would be no value.
    """
    error: BaseException | None = None
    if gate is None:
        yield
    elif not is_sync():
        async with gate:
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
    elif is_inline():
        with gate:
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
    else:
        await in_calling_thread(gate.__enter__)
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            about = (None if error is None else type(error), error, None)
            try:
                await in_calling_thread(gate.__exit__, *about)
            except asyncio.CancelledError:
                gate.__exit__(*about)  # that thread was interrupted; a gate never stays shut
                raise
    if error is not None:
        raise error


def is_async(compute: Callable[..., Any]) -> bool:
    """Whether it is a coroutine function, or an object with an asynchronous ``__call__``."""
    return inspect.iscoroutinefunction(compute) or inspect.iscoroutinefunction(
        getattr(compute, "__call__", None)  # noqa: B004
    )


async def call_compute(compute: Callable[[], Any], executor: Executor | None) -> Any:
    """Run the caller's computation: a coroutine function is awaited, a plain one runs in a thread
    with this context.

    Under ``sync`` it runs in the calling thread (CUDA contexts, signals and debuggers stay where
    they are), unless an executor is given.

    Raises:
        TypeError: Under ``sync`` it returned an awaitable: that would belong to another loop.
    """
    if is_sync():
        result = await in_calling_thread(_call_plain, compute, executor)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("compute must return its value under .sync, not an awaitable")
        return result
    if is_async(compute):
        return await compute()
    loop = asyncio.get_running_loop()
    if executor is None or isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        context = contextvars.copy_context()

        def work() -> Any:
            return context.run(without_stop, compute)

        result = await loop.run_in_executor(executor, work)
    else:  # a context does not travel to another process
        result = await loop.run_in_executor(executor, without_stop, compute)
    return await result if inspect.isawaitable(result) else result


def _call_plain(compute: Callable[[], Any], executor: Executor | None) -> Any:
    return compute() if executor is None else executor.submit(compute).result()
