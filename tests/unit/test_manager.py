"""The manager: values through one or more tiers."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import BrokenTier, DictTier, filesystem_manager, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    ClosedError,
    CogcacheWarning,
    ConfigError,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    RecursiveComputeError,
    ValueTypeError,
)
from cogcache.testing import FakeClock

MISSING = object()


@pytest.fixture(params=["memory", "filesystem"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CacheManager:
    if request.param == "memory":
        return CacheManager(CacheConfig([MemoryCacheConfig()]))
    return filesystem_manager(tmp_path / "cache")


@pytest.mark.parametrize("value", [0, "", [], {}, False, b"", 0.0, (), "text", {"a": 1}])
async def test_anything_but_none_is_a_hit(manager: CacheManager, value: Any) -> None:
    assert await manager.set("key", value)
    got = await manager.get("key", MISSING)
    assert got == value
    assert type(got) is type(value)
    await manager.aclose()


async def test_a_stored_none_is_seen_by_lookup_exists_and_default(manager: CacheManager) -> None:
    assert await manager.set("key", None)
    assert await manager.get("key", MISSING) is None
    assert (await manager.lookup("key")).hit
    assert await manager.exists("key")
    assert not (await manager.lookup("other")).hit
    await manager.aclose()


async def test_arrays_come_back_writable_and_private(manager: CacheManager) -> None:
    array = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    await manager.set("array", array)
    first = await manager.get("array")
    first /= 2
    second = await manager.get("array")
    assert np.array_equal(second, array)
    assert second.dtype == array.dtype
    await manager.aclose()


async def test_a_value_that_cannot_be_stored_names_its_place(manager: CacheManager) -> None:
    with pytest.raises(TypeError, match=r"\$\.frames\[1\]\.meta"):
        await manager.set("key", {"frames": [1, {"meta": object()}]})
    assert not await manager.exists("key")
    await manager.aclose()


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", ValueError),
        ("x" * 70_000, ValueError),
        ("\ud800", ValueError),
        (5, TypeError),
        (b"x", TypeError),
        (None, TypeError),
    ],
)
async def test_a_bad_key_is_an_error(
    manager: CacheManager, key: Any, error: type[Exception]
) -> None:
    for call in (manager.get(key), manager.set(key, 1), manager.exists(key), manager.delete(key)):
        with pytest.raises(error):
            await call
    await manager.aclose()


async def test_a_megabyte_of_key_names_the_limit(manager: CacheManager) -> None:
    with pytest.raises(ValueError, match="65000.*1000000"):
        await manager.get("k" * 1_000_000)
    await manager.aclose()


async def test_a_nul_in_a_key_answers_and_warns_once(manager: CacheManager) -> None:
    with pytest.warns(CogcacheWarning, match="NUL") as seen:
        assert await manager.set("a\0b", 1) is False
        assert await manager.get("a\0b") is None
        assert await manager.exists("a\0b") is False
        assert (await manager.lookup("a\0b")).reason == "bad-key"
        assert (await manager.store("a\0b", 1)).reason == "bad-key"
    assert len(seen) == 1
    await manager.aclose()


async def test_lives_default_override_and_never(manager: CacheManager) -> None:
    clock = FakeClock(manager)
    await manager.set("default", 1)
    await manager.set("short", 1, ttl=10)
    await manager.set("never", 1, ttl=0)
    await manager.set("text", 1, ttl="2h")
    with pytest.raises(ValueError, match="negative"):
        await manager.set("bad", 1, ttl=-1)
    clock.advance(11)
    assert [await manager.exists(k) for k in ("default", "short", "never", "text")] == [
        True,
        False,
        True,
        True,
    ]
    assert (await manager.lookup("short")).reason == "expired"
    clock.advance(3600)
    assert [await manager.exists(k) for k in ("default", "never", "text")] == [False, True, True]
    clock.advance("365d")
    assert await manager.get("never") == 1
    await manager.aclose()


async def test_an_expired_entry_is_gone_to_the_second(manager: CacheManager) -> None:
    clock = FakeClock(manager)
    await manager.set("key", 1, ttl=604_800)
    clock.advance(604_799)
    assert await manager.get("key") == 1
    clock.advance(2)
    assert await manager.get("key") is None
    await manager.aclose()


async def test_lookup_tells_where_from_how_old_and_what_it_saved(manager: CacheManager) -> None:
    clock = FakeClock(manager)
    result = await manager.store(
        "key", {"text": "x" * 100}, ttl=100, cost_seconds=12.5, metadata={"rank": 42}, tags=["t"]
    )
    assert result.stored
    assert result.tiers == (manager.backends[0].name,)
    assert result.stored_bytes > 100
    clock.advance(10)
    found = await manager.lookup("key")
    assert found.hit
    assert found.tier == manager.backends[0].name
    assert found.age_seconds is not None and 9.5 < found.age_seconds < 60
    assert found.seconds_saved == 12.5
    assert found.stored_bytes == result.stored_bytes
    metadata = await manager.get_metadata("key")
    assert metadata is not None
    assert metadata["user"] == {"rank": 42}
    assert metadata["tags"] == ["t"]
    assert metadata["ttl"] == 100
    await manager.aclose()


async def test_tags_are_invalidated_together(manager: CacheManager) -> None:
    await manager.store("a", 1, tags=["title:1", "platform:x"])
    await manager.store("b", 2, tags=["title:2", "platform:x"])
    await manager.store("c", 3, tags=["title:2"])
    clock = FakeClock(manager)
    clock.advance(1)
    await manager.invalidate_tags("platform:x")
    assert await manager.get_many(["a", "b", "c"]) == {"c": 3}
    assert (await manager.lookup("a")).reason == "tag-invalidated"
    clock.advance(1)
    await manager.store("a", 4, tags=["title:1", "platform:x"])
    assert await manager.get("a") == 4
    with pytest.raises(TypeError, match="tags must be several strings"):
        await manager.store("a", 1, tags="oops")
    await manager.aclose()


async def test_many_at_once(manager: CacheManager) -> None:
    items = {f"key:{n}": bytes([n]) * 5000 for n in range(100)}
    assert await manager.set_many(items) == dict.fromkeys(items, True)
    got = await manager.get_many([*items, "absent"])
    assert got == items
    assert list(got) == list(items)
    assert await manager.get_many([]) == {}
    await manager.aclose()


async def test_clear_and_list_by_segments(manager: CacheManager) -> None:
    for key in ("p:a", "p:b", "p2:a", "p"):
        await manager.set(key, key)
    assert await manager.clear("p:*") == 2
    assert [key for key, _ in await manager.list_keys()] == ["p", "p2:a"]
    with pytest.raises(ValueError, match="whole segments"):
        await manager.clear("p*x:*")
    assert await manager.clear("p") == 1
    assert await manager.clear() == 1
    await manager.aclose()


async def test_statistics_have_upstreams_shape(manager: CacheManager) -> None:
    stats = await manager.get_stats()
    assert stats["manager"]["hit_rate"] == 0.0
    await manager.set("key", b"x" * 1000)
    await manager.get("key")
    await manager.get("absent")
    await manager.delete("key")
    stats = await manager.get_stats()
    wanted = {"hits": 1, "misses": 1, "sets": 1, "deletes": 1, "hit_rate": 0.5}
    assert {name: stats["manager"][name] for name in wanted} == wanted
    assert {"size_bytes", "total_files"} <= stats["manager"].keys()
    tier = stats["backends"][manager.backends[0].name]
    assert (tier["hits"], tier["misses"], tier["sets"]) == (1, 1, 1)
    await manager.aclose()


async def test_switched_off_statistics_stay_zero() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()], enable_stats=False))
    await manager.set("key", 1)
    await manager.get("key")
    stats = await manager.get_stats()
    assert stats["enabled"] is False
    assert stats["manager"]["hits"] == stats["manager"]["sets"] == 0


async def test_a_closed_cache_says_so(manager: CacheManager) -> None:
    await manager.aclose()
    await manager.aclose()
    with pytest.raises(ClosedError, match="closed"):
        await manager.get("key")


async def test_it_is_an_async_context_manager(tmp_path: Path) -> None:
    async with filesystem_manager(tmp_path) as manager:
        await manager.set("key", 1)
    with pytest.raises(ClosedError):
        await manager.get("key")


async def test_a_manager_pickles_as_its_configuration(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    await manager.set("key", {"a": 1})
    copy = pickle.loads(pickle.dumps(manager))
    assert await copy.get("key") == {"a": 1}
    await manager.aclose()
    await copy.aclose()


# --- several tiers --------------------------------------------------------------------------------


async def test_a_value_is_written_to_every_tier_and_read_from_the_first() -> None:
    first, second = DictTier(), DictTier()
    manager = manager_over(first, second)
    await manager.set("key", "value")
    assert len(first.images) == len(second.images) == 1
    second.calls.clear()
    assert await manager.get("key") == "value"
    assert second.calls == []


async def test_a_hit_below_fills_the_tiers_above_with_the_remaining_life() -> None:
    first, second = DictTier(), DictTier()
    manager = manager_over(first, second)
    clock = FakeClock(manager)
    await manager.set("key", "value", ttl=100)
    first.images.clear()
    clock.advance(60)
    assert await manager.get("key") == "value"
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert first.images == second.images
    clock.advance(41)
    second.images.clear()
    assert await manager.get("key") is None  # the promoted copy ended with the original


async def test_a_broken_tier_is_skipped_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, working = BrokenTier(), DictTier()
    broken.name = "broken"
    manager = manager_over(broken, working)
    with caplog.at_level(logging.WARNING, "cogcache"):
        assert await manager.set("key", 1) is True
        assert await manager.get("key") == 1
        assert await manager.delete("key") is True
        assert await manager.list_keys() == []
    assert broken.counters["errors"] >= 3
    down = [
        r for r in caplog.records if "broken" in r.getMessage() and "going on" in r.getMessage()
    ]
    assert len(down) == 1


async def test_with_every_tier_broken_nothing_is_raised() -> None:
    manager = manager_over(BrokenTier())
    assert await manager.set("key", 1) is False
    assert await manager.get("key") is None
    assert (await manager.lookup("key")).reason == "unavailable"
    assert await manager.get_or_compute("key", lambda: 5) == 5


# --- computing once -------------------------------------------------------------------------------


async def test_many_callers_compute_once_and_share_nothing(manager: CacheManager) -> None:
    calls = 0
    release = asyncio.Event()

    async def compute() -> dict[str, list[int]]:
        nonlocal calls
        calls += 1
        await release.wait()
        return {"frames": [1, 2]}

    tasks = [asyncio.create_task(manager.get_or_compute("key", compute)) for _ in range(50)]
    while calls == 0:
        await asyncio.sleep(0)
    release.set()
    values = await asyncio.gather(*tasks)
    assert calls == 1
    assert all(value == {"frames": [1, 2]} for value in values)
    assert len({id(value) for value in values}) == 50
    assert await manager.get("key") == {"frames": [1, 2]}
    await manager.aclose()


async def test_an_error_goes_to_every_waiter_and_is_not_kept(manager: CacheManager) -> None:
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        (flight,) = manager._computations.flights._flights.values()
        while flight.waiters < 8:
            await asyncio.sleep(0)
        raise LookupError("no GPU")

    results = await asyncio.gather(
        *(manager.get_or_compute("key", fail) for _ in range(8)), return_exceptions=True
    )
    assert calls == 1
    assert all(isinstance(result, LookupError) for result in results)
    assert await manager.get_or_compute("key", lambda: 7) == 7
    await manager.aclose()


async def test_a_cancelled_leader_leaves_the_computation_to_its_followers(
    manager: CacheManager,
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def compute() -> str:
        started.set()
        await release.wait()
        return "value"

    leader = asyncio.create_task(manager.get_or_compute("key", compute))
    await started.wait()
    follower = asyncio.create_task(manager.get_or_compute("key", compute))
    (flight,) = manager._computations.flights._flights.values()
    while flight.waiters < 2:
        await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    release.set()
    assert await follower == "value"
    await manager.aclose()


async def test_the_last_waiter_to_go_stops_the_computation(manager: CacheManager) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def compute() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    tasks = [asyncio.create_task(manager.get_or_compute("key", compute)) for _ in range(2)]
    await started.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait_for(stopped.wait(), 300)
    assert len(manager._computations.flights) == 0
    await manager.aclose()


async def test_a_computation_that_cancels_itself_is_tried_again_by_a_follower(
    manager: CacheManager,
) -> None:
    calls = 0

    async def compute() -> int:
        nonlocal calls
        calls += 1
        (flight,) = manager._computations.flights._flights.values()
        while calls == 1 and flight.waiters < 4:
            await asyncio.sleep(0)
        if calls == 1:
            raise asyncio.CancelledError
        return calls

    results = await asyncio.gather(
        *(manager.get_or_compute("key", compute) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 1
    assert results.count(2) == 3
    await manager.aclose()


async def test_computing_a_key_inside_itself_is_an_error(manager: CacheManager) -> None:
    async def compute() -> Any:
        return await manager.get_or_compute("key", compute)

    with pytest.raises(RecursiveComputeError):
        await asyncio.wait_for(manager.get_or_compute("key", compute), 300)
    await manager.aclose()


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context(
    manager: CacheManager,
) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("caller's")
    seen: list[Any] = []

    def compute() -> int:
        seen.append((threading.current_thread() is threading.main_thread(), variable.get()))
        return 1

    assert await manager.get_or_compute("key", compute) == 1
    assert seen == [(False, "caller's")]
    await manager.aclose()


async def test_a_gate_is_entered_by_the_leader_alone_and_the_cache_asked_again(
    manager: CacheManager,
) -> None:
    entered = 0

    class Gate:
        async def __aenter__(self) -> None:
            nonlocal entered
            entered += 1
            (flight,) = manager._computations.flights._flights.values()
            while flight.waiters < 5:  # who comes later would find another flight, or the value
                await asyncio.sleep(0)
            await manager.set("key", "arrived meanwhile")

        async def __aexit__(self, *_: object) -> None:
            pass

    def never() -> None:
        raise AssertionError("computed although the value had arrived")

    gates = Gate()
    values = await asyncio.gather(
        *(manager.get_or_compute("key", never, gate=gates) for _ in range(5))
    )
    assert values == ["arrived meanwhile"] * 5
    assert entered == 1
    await manager.aclose()


async def test_what_cannot_be_stored_is_returned_with_a_warning(manager: CacheManager) -> None:
    thing = object()
    with pytest.warns(CogcacheWarning, match="not kept"):
        assert await manager.get_or_compute("key", lambda: thing) is thing
    with pytest.raises(ValueTypeError):
        await manager.get_or_compute("key", lambda: thing, strict=True)
    assert (await manager.get_stats())["manager"]["unstorable"] == 2
    await manager.aclose()


async def test_none_is_kept_only_on_request(manager: CacheManager) -> None:
    assert await manager.get_or_compute("key", lambda: None) is None
    assert not await manager.exists("key")
    await manager.get_or_compute("key", lambda: None, should_store=lambda value: True)
    assert await manager.exists("key")
    await manager.aclose()


async def test_refresh_computes_again(manager: CacheManager) -> None:
    await manager.set("key", "old")
    assert await manager.get_or_compute("key", lambda: "new", refresh=True) == "new"
    assert await manager.get("key") == "new"
    await manager.aclose()


async def test_the_measured_time_is_kept_as_cost(manager: CacheManager) -> None:
    await manager.get_or_compute("key", lambda: 1, cost_seconds=3.25)
    assert (await manager.lookup("key")).seconds_saved == 3.25
    await manager.aclose()


def test_several_event_loops_share_one_computation(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path)
    calls: list[int] = []
    together = threading.Barrier(4)
    answers: list[Any] = []

    def compute() -> str:
        calls.append(1)
        return "value"

    def work() -> None:
        together.wait()
        answers.append(asyncio.run(manager.get_or_compute("key", compute)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == ["value"] * 4
    assert len(calls) == 1
    manager.sync.aclose()


# --- the synchronous face -------------------------------------------------------------------------


def test_sync_serves_local_tiers_in_the_calling_thread(manager: CacheManager) -> None:
    before = set(threading.enumerate())
    array = np.arange(100_000, dtype=np.int32)
    assert manager.sync.set("key", array)
    assert np.array_equal(manager.sync.get("key"), array)
    assert manager.sync.get_many(["key", "absent"]).keys() == {"key"}
    assert manager.sync.get("absent", MISSING) is MISSING
    here = threading.current_thread()
    seen: list[threading.Thread] = []
    manager.sync.get_or_compute("computed", lambda: seen.append(threading.current_thread()) or 1)
    assert seen == [here]
    with manager.sync.open("key", "array/0") as reader:
        assert reader.size == array.nbytes
        assert reader.read(4, 8) == array.tobytes()[4:8]
    assert [key for key, _ in manager.sync.list_keys()] == ["computed", "key"]
    assert set(threading.enumerate()) <= before  # idle ones of others may have ended
    manager.sync.aclose()


async def test_sync_works_inside_a_running_loops_thread(manager: CacheManager) -> None:
    manager.sync.set("key", 1)
    assert manager.sync.get("key") == 1
    assert await manager.get("key") == 1
    await manager.aclose()


def test_a_coroutine_function_under_sync_is_an_error(manager: CacheManager) -> None:
    async def compute() -> int:
        return 1

    with pytest.raises(TypeError, match="plain function"):
        manager.sync.get_or_compute("key", compute)
    manager.sync.aclose()


def test_sync_over_a_tier_that_waits_uses_one_background_loop() -> None:
    class Waiting(DictTier):
        async def read(self, key: bytes) -> Any:
            await asyncio.sleep(0)
            return await super().read(key)

    manager = manager_over(Waiting())
    assert manager.sync.set("key", [1])
    assert manager.sync.get("key") == [1]


# --- what is compressed ---------------------------------------------------------------------------


async def test_arrays_are_compressed_where_a_tier_asks_for_it(tmp_path: Path) -> None:
    positions = np.arange(100_000, dtype=np.int64).reshape(1000, 100)
    manager = CacheManager(
        CacheConfig(
            [
                MemoryCacheConfig(),
                FilesystemCacheConfig(tmp_path, priority=1, compress_arrays=True),
            ]
        )
    )
    assert await manager.set("key", {"positions": positions, "text": "as it is"})
    sizes = [
        metadata["size_bytes"]
        for tier in manager.backends
        async for _, metadata in tier.iter_keys(include_metadata=True)
        if metadata
    ]
    assert sizes[0] > positions.nbytes > 20 * sizes[1]
    await manager.backends[0].clear()
    for _ in range(2):  # from the files, then as promoted
        value = await manager.get("key")
        np.testing.assert_array_equal(value["positions"], positions)
        value["positions"][0] = 0  # one's own
    with pytest.raises(ConfigError, match="compress_arrays"):
        MemoryCacheConfig(compress_arrays="yes")  # type: ignore[arg-type]
    await manager.aclose()


# --- reading parts --------------------------------------------------------------------------------


async def test_open_reads_ranges_of_one_generation(manager: CacheManager) -> None:
    data = bytes(range(256)) * 50_000
    await manager.store("blob", data, content_type="video/mp4")
    async with manager.open("blob") as reader:
        assert reader is not None
        await manager.set("blob", b"another")
        assert reader.size == len(data)
        assert reader.content_type == "video/mp4"
        assert await reader.read(5_242_879, 5_242_881) == data[5_242_879:5_242_881]
        assert b"".join([piece async for piece in reader.stream()]) == data
        first_tag = reader.etag
        size = len(data)
        assert await reader.read(size - 2, size + 10) == data[-2:]  # cut, as a slice and read_range
        assert await reader.read(size + 5, size + 10) == b""
        assert b"".join([piece async for piece in reader.stream(size - 2, 2 * size)]) == data[-2:]
        for start, stop, said in ((-1, 5, "must not be negative"), (7, 5, "must not lie before")):
            with pytest.raises(ValueError, match=said):
                await reader.read(start, stop)
    async with manager.open("blob") as reader:
        assert reader is not None and reader.etag != first_tag
        assert await reader.read() == b"another"
    async with manager.open("absent") as reader:
        assert reader is None
    await manager.set("mapping", {"a": 1})
    with pytest.raises(ValueError, match="a part must be named"):
        async with manager.open("mapping"):
            pass
    with pytest.raises(ValueError, match="has no part 'frame/1'"):
        async with manager.open("mapping", "frame/1"):
            pass
    await manager.aclose()


async def test_a_document_that_is_kept_expanded_is_never_an_old_one(manager: CacheManager) -> None:
    for turn in range(4):
        value = {"texts": {str(n): f"turn {turn}: a man rides a bicycle " * 20 for n in range(150)}}
        await manager.set("key", value)
        for _ in range(4):
            got = await manager.get("key")
            assert got == value
            got["texts"].clear()  # ours alone
    await manager.delete("key")
    assert await manager.get("key") is None
    await manager.aclose()


async def test_a_batch_with_a_bad_value_keeps_what_came_before(manager: CacheManager) -> None:
    with pytest.raises(ValueTypeError, match=r"\$\[1\]"):
        await manager.set_many({"first": 1, "second": [1, object()], "third": 3})
    assert await manager.get_many(["first", "second", "third"]) == {"first": 1}
    with pytest.warns(CogcacheWarning, match="NUL"):
        assert await manager.set_many({"a\0b": 1, "good": 2}) == {"a\0b": False, "good": True}
    await manager.aclose()
