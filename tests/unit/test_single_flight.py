"""One computation for many: what happens when loops end, processes fork and callers give up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, filesystem_manager, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    CogcacheWarning,
    MemoryCacheBackend,
    MemoryCacheConfig,
    RecursiveComputeError,
)

HANG = 200  # seconds after which a test calls it a hang


@pytest.fixture
def manager() -> CacheManager:
    return CacheManager(CacheConfig([MemoryCacheConfig()]))


async def test_a_loop_that_was_closed_in_the_middle_blocks_nobody(manager: CacheManager) -> None:
    def leave_half_done() -> None:
        loop = asyncio.new_event_loop()

        async def leader() -> None:
            manager_call = manager.get_or_compute("key", asyncio.Event().wait)
            _ = loop.create_task(manager_call, name="left")
            for _ in range(5):
                await asyncio.sleep(0)

        loop.run_until_complete(leader())
        left.extend(asyncio.all_tasks(loop))
        loop.close()  # its tasks are never told

    left: list[asyncio.Task[Any]] = []
    await asyncio.to_thread(leave_half_done)
    assert await asyncio.wait_for(manager.get_or_compute("key", lambda: 5), HANG) == 5
    for task in left:  # they can never run again; say so to the interpreter
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_followers_of_a_loop_that_was_closed_take_over(manager: CacheManager) -> None:
    left: list[asyncio.Task[Any]] = []
    begun, joined = threading.Event(), threading.Event()

    def leave_half_done() -> None:
        loop = asyncio.new_event_loop()

        async def leader() -> None:
            async def compute() -> None:
                begun.set()
                await asyncio.Event().wait()

            _ = loop.create_task(manager.get_or_compute("key", compute))
            for _ in range(5):
                await asyncio.sleep(0)

        loop.run_until_complete(leader())
        joined.wait(HANG)
        left.extend(asyncio.all_tasks(loop))
        loop.close()

    thread = threading.Thread(target=leave_half_done)
    thread.start()
    await asyncio.to_thread(begun.wait, HANG)
    follower = asyncio.create_task(manager.get_or_compute("key", lambda: 5))
    for _ in range(5):
        await asyncio.sleep(0)
    joined.set()
    await asyncio.to_thread(thread.join, HANG)
    # The next caller finds the loop closed, and wakes everybody who still waits for it.
    assert await asyncio.wait_for(manager.get_or_compute("key", lambda: 5), HANG) == 5
    assert await asyncio.wait_for(follower, HANG) == 5
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_computation_cancelled_before_its_first_step_blocks_nobody(manager: CacheManager) -> None:
    async def leader() -> None:
        call = manager.get_or_compute("key", asyncio.Event().wait)
        task = asyncio.get_running_loop().create_task(call)
        await asyncio.sleep(0)  # it has made the task of the computation, which has not begun
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(leader())
    assert len(manager._computations.flights) == 0
    value = asyncio.run(asyncio.wait_for(manager.get_or_compute("key", lambda: 5), HANG))
    assert value == 5


async def test_sync_inside_the_loop_that_computes_does_not_wait_for_itself(
    manager: CacheManager,
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def compute() -> str:
        begun.set()
        await release.wait()
        return "slow"

    leader = asyncio.create_task(manager.get_or_compute("key", compute))
    await begun.wait()
    # Blocking here for the leader would block the leader.
    assert manager.sync.get_or_compute("key", lambda: "own") == "own"
    release.set()
    assert await leader in ("slow", "own")


async def test_another_cache_may_be_asked_for_the_same_key_while_computing(
    manager: CacheManager,
) -> None:
    other = CacheManager(CacheConfig([MemoryCacheConfig()]))

    async def compute() -> Any:
        return await other.get_or_compute("key", lambda: "inner")

    assert await manager.get_or_compute("key", compute) == "inner"


async def test_computations_that_wait_for_each_other_are_an_error(manager: CacheManager) -> None:
    begun = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def asks(own: str, other: str) -> str:
        async def compute() -> str:
            begun[own].set()
            await begun[other].wait()
            return str(await manager.get_or_compute(other, lambda: "never"))

        return str(await manager.get_or_compute(own, compute))

    outcomes = await asyncio.wait_for(
        asyncio.gather(asks("a", "b"), asks("b", "a"), return_exceptions=True), HANG
    )
    assert any(isinstance(outcome, RecursiveComputeError) for outcome in outcomes)


async def test_what_a_computation_started_may_ask_again_when_it_has_ended(
    manager: CacheManager,
) -> None:
    later: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def afterwards() -> Any:
        await ended.wait()
        return await manager.get_or_compute("key", lambda: 2, refresh=True)

    async def compute() -> int:
        later.append(asyncio.create_task(afterwards()))
        return 1

    assert await manager.get_or_compute("key", compute) == 1
    ended.set()
    assert await later[0] == 2


async def test_a_computation_that_raises_stop_iteration_fails_and_does_not_hang(
    manager: CacheManager,
) -> None:
    def compute() -> Any:
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(manager.get_or_compute("key", compute), HANG)


def _answer() -> int:
    return os.getpid()


async def test_a_plain_computation_can_run_in_a_pool_of_processes(manager: CacheManager) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert await manager.get_or_compute("key", _answer, executor=executor) != os.getpid()


def test_sync_uses_the_executor_that_it_was_given(manager: CacheManager) -> None:
    with ThreadPoolExecutor(1) as executor:
        ident = manager.sync.get_or_compute("key", threading.get_ident, executor=executor)
    assert ident != threading.get_ident()
    assert manager.sync.get_or_compute("other", threading.get_ident) == threading.get_ident()


async def test_followers_of_a_refresh_share_nothing(manager: CacheManager) -> None:
    await manager.set("key", ["old"])
    release = asyncio.Event()

    async def compute() -> list[str]:
        await release.wait()
        return ["new"]

    calls = [
        asyncio.create_task(manager.get_or_compute("key", compute, refresh=True)) for _ in range(5)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    release.set()
    values = await asyncio.gather(*calls)
    assert values == [["new"]] * 5
    assert len({id(value) for value in values}) == 5


async def test_followers_share_nothing_when_the_value_was_not_kept(manager: CacheManager) -> None:
    release = asyncio.Event()

    async def compute() -> list[int]:
        await release.wait()
        return [1]

    calls = [
        asyncio.create_task(manager.get_or_compute("key", compute, should_store=lambda _: False))
        for _ in range(5)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    release.set()
    assert len({id(value) for value in await asyncio.gather(*calls)}) == 5
    assert not await manager.exists("key")


async def test_followers_behind_a_gate_share_nothing(manager: CacheManager) -> None:
    gate = asyncio.Semaphore(1)
    await gate.acquire()

    def compute() -> list[int]:
        raise AssertionError("the value came meanwhile")

    calls = [
        asyncio.create_task(manager.get_or_compute("key", compute, gate=gate)) for _ in range(5)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    await manager.set("key", [1])
    gate.release()
    values = await asyncio.gather(*calls)
    assert values == [[1]] * 5
    assert len({id(value) for value in values}) == 5


# --- a computed result is never lost --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": -1}, ValueError),
        ({"ttl": "soon"}, ValueError),
        ({"cost_seconds": -1}, ValueError),
        ({"tags": "one"}, TypeError),
        ({"gate": object()}, TypeError),
        ({"should_store": 5}, TypeError),
        ({"executor": 5}, TypeError),
    ],
)
async def test_a_wrong_option_is_found_before_anything_is_computed(
    manager: CacheManager, options: dict[str, Any], error: type[Exception]
) -> None:
    calls: list[int] = []
    (name,) = options
    with pytest.raises(error, match=name):
        await manager.get_or_compute("key", lambda: calls.append(1), **options)
    assert calls == []


async def test_a_computation_that_cannot_be_called_is_named(manager: CacheManager) -> None:
    with pytest.raises(TypeError, match="compute"):
        await manager.get_or_compute("key", "value")  # type: ignore[arg-type]

    async def work() -> int:
        return 1

    coroutine = work()
    with pytest.raises(TypeError, match="compute.*coroutine"):
        await manager.get_or_compute("key", coroutine)  # type: ignore[arg-type]
    coroutine.close()


async def test_a_cache_closed_meanwhile_costs_no_result(manager: CacheManager) -> None:
    async def compute() -> int:
        await manager.aclose()
        return 5

    with pytest.warns(CogcacheWarning, match="not kept"):
        assert await manager.get_or_compute("key", compute) == 5


async def test_a_predicate_that_fails_costs_no_result(manager: CacheManager) -> None:
    def predicate(value: Any) -> bool:
        raise KeyError("segments")

    with pytest.warns(CogcacheWarning, match="should_store"):
        assert await manager.get_or_compute("key", lambda: 5, should_store=predicate) == 5
    assert not await manager.exists("key")
    with pytest.raises(KeyError):
        await manager.get_or_compute("key", lambda: 5, should_store=predicate, strict=True)


async def test_a_generator_is_returned_unconsumed(manager: CacheManager) -> None:
    def compute() -> Iterator[int]:
        yield from (1, 2)

    with pytest.warns(CogcacheWarning, match="generator"):
        value = await manager.get_or_compute("key", compute)
    assert list(value) == [1, 2]


# --- sync -----------------------------------------------------------------------------------------


def test_threads_under_sync_compute_once(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    calls: list[int] = []
    waiting = threading.Barrier(8)
    begun, release = threading.Event(), threading.Event()

    def compute() -> list[int]:
        calls.append(threading.get_ident())
        begun.set()
        release.wait(HANG)
        return [1]

    def ask() -> list[int]:
        waiting.wait(HANG)
        value: list[int] = manager.sync.get_or_compute("key", compute)
        return value

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        assert begun.wait(HANG)
        release.set()
        values = [one.result(HANG) for one in asked]
    assert len(calls) == 1
    assert values == [[1]] * 8
    manager.sync.aclose()


def test_a_gate_under_sync_is_a_plain_context_manager(manager: CacheManager) -> None:
    gate = threading.Semaphore(1)
    assert manager.sync.get_or_compute("key", lambda: 5, gate=gate) == 5
    with pytest.raises(TypeError, match="gate.*threading"):
        manager.sync.get_or_compute("other", lambda: 5, gate=asyncio.Semaphore(1))


def test_a_keyboard_interrupt_of_the_leader_is_its_own(manager: CacheManager) -> None:
    begun, release = threading.Event(), threading.Event()

    def interrupted() -> int:
        begun.set()
        release.wait(HANG)
        raise KeyboardInterrupt

    def leader() -> None:
        with pytest.raises(KeyboardInterrupt):
            manager.sync.get_or_compute("key", interrupted)

    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(leader)
        begun.wait(HANG)
        following = pool.submit(manager.sync.get_or_compute, "key", lambda: "mine")
        while not any(
            flight.waiters == 2 for flight in manager._computations.flights._flights.values()
        ):
            pass
        release.set()
        leading.result(HANG)
        assert following.result(HANG) == "mine"
    assert len(manager._computations.flights) == 0


def test_the_sync_face_pickles(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    manager.sync.set("key", 1)
    face = pickle.loads(pickle.dumps(manager.sync))
    assert face.get("key") == 1
    with pytest.raises(AttributeError, match="_nothing"):
        manager.sync._nothing  # noqa: B018


@pytest.mark.parametrize("arrives", ["in the waiting thread", "in another thread"])
def test_an_interrupted_wait_for_the_background_loop_cancels_the_call(arrives: str) -> None:
    cancelled = threading.Event()
    begun = threading.Event()

    class WaitingTier(DictTier):
        async def read(self, key: bytes) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    manager = manager_over(WaitingTier())

    def interrupt() -> None:
        begun.wait(HANG)
        ident = threading.main_thread().ident
        assert ident is not None
        if arrives == "in another thread":  # which wakes nobody
            ident = threading.get_ident()
        signal.pthread_kill(ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        manager.sync.get("key")
    thread.join(HANG)
    assert cancelled.wait(HANG)


def test_an_interrupt_before_the_wait_for_the_background_loop_cancels_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, cancelled = threading.Event(), threading.Event()
    hand_over = asyncio.run_coroutine_threadsafe

    class WaitingTier(DictTier):
        async def read(self, key: bytes) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    def interrupted(*call: Any) -> None:
        hand_over(*call)
        assert begun.wait(HANG)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manager_over(WaitingTier()).sync.get("key")
    assert cancelled.wait(HANG)


# --- sync over a tier that waits for a network: the loop is elsewhere, the caller's code is not ---


class WaitingTier(DictTier):
    async def read(self, key: bytes) -> Any:
        await asyncio.sleep(0)
        return await super().read(key)


def test_under_sync_the_callers_code_runs_in_the_calling_thread_over_every_tier() -> None:
    manager = manager_over(WaitingTier())
    here = threading.get_ident()
    ran: list[tuple[str, int]] = []
    label = contextvars.ContextVar("label", default="none")
    label.set("mine")

    class Gate:
        def __enter__(self) -> None:
            ran.append(("enter", threading.get_ident()))

        def __exit__(self, *_: object) -> None:
            ran.append(("exit", threading.get_ident()))

    def compute() -> list[str]:
        ran.append(("compute", threading.get_ident()))
        assert asyncio.run(manager.get("other")) is None  # its own loop is none of ours
        assert manager.sync.get_or_compute("inner", lambda: [label.get()]) == ["mine"]
        return [label.get()]

    def keep(value: list[str]) -> bool:
        ran.append(("should_store", threading.get_ident()))
        return bool(value)

    value = manager.sync.get_or_compute("key", compute, gate=Gate(), should_store=keep)
    assert value == ["mine"] == manager.sync.get("key")
    assert ran == [(what, here) for what in ("enter", "compute", "exit", "should_store")]
    with pytest.raises(TypeError, match=r"gate.*threading"):
        manager.sync.get_or_compute("more", list, gate=asyncio.Semaphore(1))


@pytest.mark.parametrize("tier", [DictTier, WaitingTier])
def test_under_sync_a_coroutine_function_is_refused_before_anything_is_done(
    tier: type[DictTier],
) -> None:
    backend = tier()
    manager = manager_over(backend)
    assert manager.sync.set("there", 5)
    backend.calls.clear()

    async def compute() -> int:
        return 1

    for key in ("key", "there"):
        with pytest.raises(TypeError, match=r"^compute must be a plain function.*await"):
            manager.sync.get_or_compute(key, compute)
    assert backend.calls == []
    with pytest.raises(TypeError, match=r"^compute must return its value"):
        manager.sync.get_or_compute("key", lambda: compute())


def test_under_sync_errors_of_the_computation_come_as_they_are() -> None:
    manager = manager_over(WaitingTier())

    def fails(error: BaseException) -> None:
        raise error

    for error in (KeyError("mine"), asyncio.InvalidStateError("mine")):
        with pytest.raises(type(error), match="mine"):
            manager.sync.get_or_compute("key", functools.partial(fails, error))
    with pytest.raises(RuntimeError, match="StopIteration"):
        manager.sync.get_or_compute("key", functools.partial(fails, StopIteration()))
    with pytest.raises(RecursiveComputeError):
        manager.sync.get_or_compute("key", lambda: manager.sync.get_or_compute("key", lambda: 1))
    assert manager.sync.get_or_compute("key", lambda: 7) == 7


def test_an_interrupt_of_the_computing_thread_opens_the_gate_and_leaves_the_followers_alone() -> (
    None
):
    manager = manager_over(WaitingTier())
    gate = threading.Semaphore(1)
    begun, release = threading.Event(), threading.Event()

    def interrupted() -> int:
        begun.set()
        release.wait(HANG)
        raise KeyboardInterrupt

    def leader() -> None:
        with pytest.raises(KeyboardInterrupt):
            manager.sync.get_or_compute("key", interrupted, gate=gate)

    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(leader)
        begun.wait(HANG)
        following = pool.submit(manager.sync.get_or_compute, "key", lambda: "mine", gate=gate)
        while not any(
            flight.waiters == 2 for flight in manager._computations.flights._flights.values()
        ):
            pass
        release.set()
        leading.result(HANG)
        assert following.result(HANG) == "mine"
    assert gate.acquire(blocking=False)


@pytest.mark.parametrize("way", ["async", "inline", "waiting"])
async def test_a_gate_that_swallows_errors_swallows_no_error_of_the_computation(way: str) -> None:
    class Swallows:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> bool:
            return True

        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> bool:
            return True

    def fails() -> int:
        raise KeyError("mine")

    manager = manager_over(
        WaitingTier() if way == "waiting" else MemoryCacheBackend(MemoryCacheConfig())
    )
    with pytest.raises(KeyError, match="mine"):
        if way == "async":
            await manager.get_or_compute("key", fails, gate=Swallows())
        else:
            manager.sync.get_or_compute("key", fails, gate=Swallows())


async def test_a_sync_call_on_the_leaders_loop_does_not_wait_for_it() -> None:
    manager = manager_over(WaitingTier())
    begun = asyncio.Event()

    async def compute() -> str:
        begun.set()
        await asyncio.sleep(0)
        return "async"

    leading = asyncio.create_task(manager.get_or_compute("key", compute))
    await begun.wait()
    assert manager.sync.get_or_compute("key", lambda: "sync") == "sync"
    assert await leading == "async"


# --- fork -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: fork beside threads
@pytest.mark.parametrize("kind", ["memory", "filesystem"])
def test_a_child_forked_while_computing_computes_for_itself(kind: str, tmp_path: Path) -> None:
    manager = (
        CacheManager(CacheConfig([MemoryCacheConfig()]))
        if kind == "memory"
        else filesystem_manager(tmp_path)
    )
    begun, release = threading.Event(), threading.Event()

    def compute() -> str:
        begun.set()
        release.wait(HANG)
        return "parent"

    thread = threading.Thread(target=manager.sync.get_or_compute, args=("key", compute))
    thread.start()
    begun.wait(HANG)
    # As if another thread were inside at this very moment.
    with manager._computations.flights._lock:
        child = os.fork()
        if child == 0:
            answer = None
            with contextlib.suppress(BaseException):
                faulthandler_seconds(HANG)
                answer = manager.sync.get_or_compute("key", lambda: "child")
                manager.sync.aclose()
            os._exit(0 if answer == "child" else 1)
    status = os.waitpid(child, 0)[1]  # before the parent has a value that the child could find
    release.set()
    thread.join(HANG)
    assert os.waitstatus_to_exitcode(status) == 0
    manager.sync.aclose()


def faulthandler_seconds(seconds: int) -> None:
    """Ends a child that hangs."""
    import faulthandler

    faulthandler.dump_traceback_later(seconds, exit=True)
