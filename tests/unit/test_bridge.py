"""Work of event loops in the thread pool: delivery, cancellation, loops that come and go."""

import asyncio
import contextlib
import copy
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_pool import (
    HANG_SECONDS,
    POOL_THREADS,
    Gate,
    descriptors,
    draft_of,
    gate,
    leftovers,
    needs_inline,
    tier_at,
)

from cogcache import _bridge, _core
from cogcache._inline import run_inline
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.config import MemoryCacheConfig
from cogcache.exceptions import ClosedError


@pytest.fixture
def store(tmp_path: Path) -> _core.Store:
    return _core.Store(str(tmp_path), max_bytes=100_000_000)


@contextlib.contextmanager
def unraisable() -> Iterator[list[type[BaseException]]]:
    """The types of what could only be written to stderr."""
    seen: list[type[BaseException]] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda what: seen.append(what.exc_type)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


async def in_thread(call: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


# --- delivery -------------------------------------------------------------------------------------


async def test_a_result_arrives(store: _core.Store) -> None:
    assert await _bridge.run(store, "put", draft_of([1, 2])) is None
    entry = await _bridge.run(store, "fetch", _core.raw_key("key"))
    assert entry.value() == [1, 2]
    assert store.in_flight == 0


async def test_an_exception_arrives(store: _core.Store) -> None:
    image = bytearray(draft_of(os.urandom(10_000)).compose().tobytes())
    image[100] ^= 1
    damaged = _core.Entry.from_bytes(bytes(image))
    with pytest.raises(_core.DamagedError):
        await _bridge.run(damaged, "verify")
    with pytest.raises(ValueError, match="no bytes 5..99999 in part 0"):
        await _bridge.run(damaged, "read", 0, 5, 99999)
    assert store.in_flight == 0


async def test_completions_come_in_batches(store: _core.Store) -> None:
    with gate() as held:
        held.fill_pool()
        waiting = [
            asyncio.ensure_future(_bridge.run(store, "fetch", _core.raw_key(f"absent {i}")))
            for i in range(64)
        ]
        await asyncio.sleep(0)
        before = _core.pool_stats()
        held.open()
        # This loop looks at nothing until all are done: one wake-up must be enough.
        assert _core.drain_pool(HANG_SECONDS)
        after = _core.pool_stats()
        assert after["wakeups"] - before["wakeups"] == 1
        assert after["jobs"] - before["jobs"] == 64 + POOL_THREADS
        assert await asyncio.gather(*waiting) == ["absent"] * 64


async def test_a_tier_in_memory_leaves_large_work_to_the_pool() -> None:
    tier = MemoryCacheBackend(MemoryCacheConfig(max_size_mb=50))
    jobs = _core.pool_stats()["jobs"]
    small, large = {"a": b"x" * 5000}, {"a": os.urandom(3_000_000)}
    assert await tier.set("small", small)
    assert await tier.get("small") == small
    assert tier.get_inline(_core.raw_key("small"), "miss", "slow") == small
    assert _core.pool_stats()["jobs"] == jobs
    assert await tier.set("large", large)
    assert _core.pool_stats()["jobs"] == jobs + 2  # compose, copy
    assert tier.get_inline(_core.raw_key("large"), "miss", "slow") == "slow"
    assert await tier.get("large") == large
    assert _core.pool_stats()["jobs"] == jobs + 4  # document, copy
    await tier.aclose()


@needs_inline
async def test_nothing_is_made_before_something_must_wait(tmp_path: Path) -> None:
    before = _core.pool_stats()
    open_before = descriptors()
    tier = tier_at(tmp_path)
    assert tier._store.put(draft_of([1, 2])) is None
    opened = descriptors() - open_before
    assert tier.get_inline(_core.raw_key("key"), "miss", "slow") == [1, 2]
    assert await tier.get("key") == [1, 2]
    assert await tier.exists("key")
    assert (await tier.get_metadata("key") or {})["key"] == "key"
    assert _core.pool_stats() == before
    assert descriptors() - open_before == opened
    assert asyncio.get_running_loop() not in _bridge._channels._known
    await tier.aclose()


def test_inline_needs_no_loop_and_no_thread(store: _core.Store) -> None:
    before = _core.pool_stats()
    assert run_inline(_bridge.run(store, "put", draft_of(1))) is None
    assert run_inline(_bridge.run(store, "fetch", _core.raw_key("key"))).value() == 1
    assert _core.pool_stats() == before


async def test_one_drain_does_not_hold_the_loop_for_a_crowd(store: _core.Store) -> None:
    """Results that take long to build come in several rounds, between which the loop runs."""
    document = [{"number": n, "text": f"line {n}"} for n in range(3000)]
    assert store.put(draft_of(document)) is None
    entries = [store.fetch(_core.raw_key("key")) for _ in range(24)]
    waiting = [asyncio.ensure_future(_bridge.run(entry, "value")) for entry in entries]
    await asyncio.sleep(0)
    assert _core.drain_pool(HANG_SECONDS)
    rounds = 0
    while not all(one.done() for one in waiting):
        await asyncio.sleep(0)
        rounds += 1
    assert rounds > 4
    assert all(one.result() == document for one in waiting)


# --- cancellation ---------------------------------------------------------------------------------


async def test_what_is_cancelled_before_it_begins_never_does(store: _core.Store) -> None:
    with gate() as held, gate() as never:
        held.fill_pool()
        put = asyncio.ensure_future(_bridge.run(store, "put", draft_of(b"x" * 100_000)))
        read = asyncio.ensure_future(_bridge.run(never.entry, "verify"))
        await asyncio.sleep(0)
        for one in (put, read):
            one.cancel()
        await asyncio.gather(put, read, return_exceptions=True)
        assert put.cancelled() and read.cancelled()
        assert store.in_flight == 0
        assert _core.pool_stats()["waiting"] == 0
        held.open()
        assert _core.drain_pool(HANG_SECONDS)
    assert store.fetch(_core.raw_key("key")) == "absent"
    assert never.reads == 0
    assert leftovers(store.root) == []


async def test_the_result_of_a_cancelled_job_is_dropped(store: _core.Store) -> None:
    with gate() as held:
        job = asyncio.ensure_future(_bridge.run(held.entry, "verify"))
        await in_thread(held.await_entered)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        channel = _bridge._channels.of(asyncio.get_running_loop())
        assert channel.pending == 1
        held.open()
        assert _core.drain_pool(HANG_SECONDS)
        assert await _bridge.run(store, "fetch", _core.raw_key("absent")) == "absent"
        assert channel.pending == 0


async def test_a_cancelled_put_may_be_composed_but_is_not_published(store: _core.Store) -> None:
    """Once the caller has its buffers back, they may change under what is being composed."""
    outcomes = set()
    for _ in range(30):
        data = bytearray(os.urandom(1 << 20))
        put = asyncio.ensure_future(_bridge.run(store, "put", draft_of(data)))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        original = bytes(data)
        data[:] = bytes(len(data))
        assert _core.drain_pool(HANG_SECONDS)
        found = store.fetch(_core.raw_key("key"))
        outcomes.add(found if isinstance(found, str) else "stored")
        if not isinstance(found, str):
            assert found.value() == original
            store.delete(_core.raw_key("key"))
    assert outcomes <= {"absent", "damaged", "stored"}
    assert leftovers(store.root) == []


async def test_cancelling_thousands_is_quick_and_leaves_nothing(store: _core.Store) -> None:
    with gate() as held:
        held.fill_pool()
        waiting = [
            asyncio.ensure_future(_bridge.run(store, "fetch", _core.raw_key(f"key {i}")))
            for i in range(5000)
        ]
        await asyncio.sleep(0)
        assert _core.pool_stats()["waiting"] == 5000
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert _core.pool_stats()["waiting"] == 0
        assert _bridge._channels.of(asyncio.get_running_loop()).pending == 0


# --- loops that come and go -----------------------------------------------------------------------


def test_a_loop_may_be_closed_with_jobs_in_flight(store: _core.Store) -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def leave_running(held: Gate) -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        asyncio.ensure_future(_bridge.run(held.entry, "verify"))  # noqa: RUF006
        for _ in range(POOL_THREADS + 3):
            asyncio.ensure_future(  # noqa: RUF006
                _bridge.run(held.entry, "verify")
            )
        await in_thread(held.await_entered, POOL_THREADS)

    with gate() as held:
        asyncio.run(leave_running(held))
        stats = _core.pool_stats()
        assert (stats["running"], stats["waiting"]) == (POOL_THREADS, 0)  # the rest was given up
        held.open()
        assert _core.drain_pool(HANG_SECONDS)

    async def another() -> Any:
        return await _bridge.run(store, "fetch", _core.raw_key("absent"))

    assert asyncio.run(another()) == "absent"
    assert store.in_flight == 0
    gc.collect()
    assert loops[0]() is None, "the pool keeps a closed loop alive"


def test_many_loops_in_a_row_leak_no_descriptor(store: _core.Store) -> None:
    async def once() -> None:
        await _bridge.run(store, "fetch", _core.raw_key("absent"))

    asyncio.run(once())
    before = descriptors()
    for _ in range(20):
        asyncio.run(once())
    assert descriptors() <= before


def test_several_loops_in_several_threads(store: _core.Store) -> None:
    failures: list[BaseException] = []

    async def work(number: int) -> None:
        for round_ in range(30):
            names = [f"{number} {round_} {i}" for i in range(5)]
            reasons = await asyncio.gather(
                *(_bridge.run(store, "put", draft_of(name, name)) for name in names)
            )
            assert reasons == [None] * 5
            entries = await asyncio.gather(
                *(_bridge.run(store, "fetch", _core.raw_key(name)) for name in names)
            )
            assert [entry.value() for entry in entries] == names

    def run(number: int) -> None:
        try:
            asyncio.run(work(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert failures == []
    assert store.in_flight == 0


# --- fork -----------------------------------------------------------------------------------------


def exit_status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_fork_with_jobs_in_flight(store: _core.Store) -> None:
    assert store.put(draft_of("value")) is None
    with gate() as held:
        held.fill_pool()
        waiting = asyncio.ensure_future(_bridge.run(store, "fetch", _core.raw_key("key")))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            os._exit(_in_child(store))
        assert exit_status(child) == 0
        held.open()
        assert (await waiting).value() == "value"


def _in_child(store: _core.Store) -> int:
    """A loop, a pool and the store work here as if the parent's had never been."""
    try:
        asyncio.events._set_running_loop(None)  # what asyncio itself does from 3.12 on

        async def work() -> None:
            assert (await _bridge.run(store, "fetch", _core.raw_key("key"))).value() == "value"
            assert await _bridge.run(store, "put", draft_of("child's", "child")) is None

        asyncio.run(work())
    except BaseException as error:
        os.write(2, repr(error).encode())
        return 1
    return 0


def test_fork_in_a_thread_while_others_work(store: _core.Store) -> None:
    stop = threading.Event()

    async def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            assert await _bridge.run(store, "put", draft_of(number, f"key {number % 7}")) is None

    worker = threading.Thread(target=asyncio.run, args=(work(),))
    worker.start()
    assert store.put(draft_of("value")) is None
    try:
        for _ in range(15):
            child = os.fork()
            if child == 0:
                os._exit(_in_child(store))
            assert exit_status(child) == 0
    finally:
        stop.set()
        worker.join(HANG_SECONDS)
    assert store.fetch(_core.raw_key("child")).value() == "child's"  # type: ignore[union-attr]


# --- misuse ---------------------------------------------------------------------------------------


def test_a_closed_store_says_so(store: _core.Store) -> None:
    store.close()
    store.close()
    assert store.closed
    for call in (
        lambda: store.get_value(b"k", 1, 2),
        lambda: store.get_values([b"k"], 1, 2),
        lambda: store.fetch_now(b"k"),
        lambda: store.fetch(b"k"),
        lambda: store.put(draft_of(1)),
        lambda: store.stats(),
        lambda: store.now_ms(),
        lambda: store.submit(None, None, "sweep"),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_closing_lets_what_is_under_way_end_well(store: _core.Store) -> None:
    with gate() as held:
        held.fill_pool()
        store.submit(None, None, "put", draft_of("value"))
        store.close()
        assert store.in_flight == 1
    assert store.in_flight == 0
    again = _core.Store(str(Path(store.root).parent))
    assert again.fetch(_core.raw_key("key")).value() == "value"  # type: ignore[union-attr]


def test_submit_refuses_what_it_cannot_do(store: _core.Store) -> None:
    channel = _core.Channel()
    with pytest.raises(ValueError, match="no operation 'nonsense'"):
        store.submit(None, None, "nonsense")
    with pytest.raises(TypeError, match="both a channel and a future"):
        store.submit(channel, None, "sweep")
    with pytest.raises(TypeError, match="channel must be a Channel or None, not int"):
        store.submit(3, object(), "sweep")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="submit"):
        store.submit(None, None)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        store.submit(None, None, "fetch", "not bytes")
    with pytest.raises(TypeError, match="entry must be an Entry, not int"):
        store.delete_entries([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="does not come from a store"):
        store.delete_entries([draft_entry()])
    with pytest.raises(ValueError, match="mode must be 'cow', 'view' or 'copy', not 'cwo'"):
        draft_entry().submit(None, None, "value", mode="cwo")
    with pytest.raises(ValueError, match="no operation 'put'"):
        draft_entry().submit(None, None, "put")
    channel.close()
    channel.close()
    assert channel.closed and channel.fileno() == -1
    with pytest.raises(RuntimeError, match="closed"):
        store.submit(channel, object(), "sweep")
    assert store.in_flight == 0


def draft_entry() -> _core.Entry:
    return _core.Entry.from_bytes(draft_of(1).compose().tobytes())


def test_a_store_cannot_be_pickled(store: _core.Store) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(store)


def test_a_future_that_misbehaves_harms_nobody(store: _core.Store) -> None:
    class Odd:
        def done(self) -> bool:
            return False

        def set_result(self, result: object) -> None:
            raise LookupError("odd")

    channel = _core.Channel()
    store.submit(channel, Odd(), "fetch", _core.raw_key("absent"))
    assert _core.drain_pool(HANG_SECONDS)
    with unraisable() as seen:
        assert channel.drain() == 1
    assert seen == [LookupError]
    assert store.in_flight == 0
