"""What the filesystem tier promises beyond the contract of every tier."""

import asyncio
import contextlib
import gc
import logging
import os
import pickle
import resource
import sys
import types
import warnings
from collections.abc import Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_pool import (
    descriptors,
    draft_of,
    gate,
    leftovers,
    needs_inline,
    needs_maps,
    settle,
    tier_at,
)

from cogcache import _bridge, _core
from cogcache._inline import run_inline
from cogcache.backends.filesystem import FilesystemCacheBackend, StructuredFilesystemBackend
from cogcache.config import StructuredFilesystemConfig
from cogcache.exceptions import ClosedError, ConfigError


def objects(tier: FilesystemCacheBackend) -> list[Path]:
    return sorted(path for path in Path(tier.root, "objects").rglob("*") if path.is_file())


# --- the hit --------------------------------------------------------------------------------------


@needs_inline
@pytest.mark.parametrize("size", [10, 4000, 50_000, 200_000])
async def test_a_warm_hit_makes_no_job(tmp_path: Path, size: int) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    value = {"bytes": os.urandom(size), "text": "t"}
    assert await tier.set("key", value)
    settle()
    jobs = _core.pool_stats()["jobs"]
    for _ in range(10):
        assert tier.get_inline(_core.raw_key("key"), "miss", "slow") == value
        assert await tier.get("key") == value
    assert _core.pool_stats()["jobs"] == jobs
    await tier.aclose()


async def test_a_large_copy_is_left_to_the_pool(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    value = os.urandom(2_000_000)
    assert await tier.set("key", value)
    assert tier.get_inline(_core.raw_key("key"), "miss", "slow") == "slow"
    jobs = _core.pool_stats()["jobs"]
    assert await tier.get("key") == value
    assert _core.pool_stats()["jobs"] > jobs
    await tier.aclose()


def lines(count: int, word: str = "line") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


@needs_inline
async def test_a_long_document_is_read_at_once_and_a_longer_one_left_to_the_pool(
    tmp_path: Path,
) -> None:
    tier = tier_at(tmp_path, enable_compression=False, cleanup_on_startup=False)
    long, longer = lines(100_000), lines(250_000)
    assert await tier.set("long", long)
    assert await tier.set("longer", longer)
    jobs = _core.pool_stats()["jobs"]
    for _ in range(4):  # verified, verified and kept, kept
        assert tier.get_inline(_core.raw_key("long"), "miss", "slow") == long
    assert _core.pool_stats()["jobs"] == jobs
    assert tier.get_inline(_core.raw_key("longer"), "miss", "slow") == "slow"
    assert await tier.get("longer") == longer
    assert _core.pool_stats()["jobs"] > jobs
    await tier.aclose()


@needs_inline
async def test_a_kept_document_is_that_of_the_newest_write(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, enable_compression=False)
    key = _core.raw_key("key")
    for word in ("first", "other"):
        value = lines(100_000, word)
        assert await tier.set("key", value)
        for _ in range(4):
            assert tier.get_inline(key, "miss", "slow") == value
    assert await tier.delete("key")
    assert await tier.get("key") is None
    await tier.aclose()


async def test_a_damaged_long_document_is_never_decoded(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, enable_compression=False)
    assert await tier.set("key", lines(100_000))
    (path,) = objects(tier)
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(b"LINE")
    assert tier.get_inline(_core.raw_key("key"), "miss", "slow") == "slow"
    assert await tier.get("key") is None
    assert not path.exists()  # set aside
    await tier.aclose()


@needs_inline
@needs_maps
async def test_a_large_array_is_lent_writable_and_nobody_else_sees_changes(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    array = np.random.default_rng(1).standard_normal((1000, 500))
    assert await tier.set("key", array)
    first = await tier.get("key")
    jobs = _core.pool_stats()["jobs"]
    second = tier.get_inline(_core.raw_key("key"), "miss", "slow")
    assert _core.pool_stats()["jobs"] == jobs
    first += 1
    np.testing.assert_array_equal(second, array)
    np.testing.assert_array_equal(await tier.get("key"), array)
    np.testing.assert_array_equal(first, array + 1)
    assert await tier.delete("key")
    np.testing.assert_array_equal(second, array)
    await tier.aclose()
    second[:] = 0


@needs_inline
async def test_many_keys_in_one_call(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    for number in range(30):
        assert await tier.set(f"key {number}", number)
    keys = [_core.raw_key(f"key {number}") for number in range(30)]
    for key in keys:
        tier.get_inline(key, None, None)
    found: list[Any] = []
    while len(found) < len(keys):
        more = tier.get_many_inline(keys[len(found) :], "miss", "slow")
        assert more
        found += more
    assert found == list(range(30))
    assert tier.get_many_inline([], "miss", "slow") == []
    reasons = await _bridge.run(
        tier._store, "put_many", [draft_of(n, f"key {n}") for n in range(40, 45)]
    )
    assert reasons == [None] * 5
    assert await tier.get("key 44") == 44
    await tier.aclose()


@needs_inline
async def test_a_batch_does_not_hold_the_loop_for_ever(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    assert await tier.set("key", os.urandom(200_000))
    keys = [_core.raw_key("key")] * 2000
    assert 1 <= len(tier.get_many_inline(keys, "miss", "slow")) < 2000
    await tier.aclose()


async def test_parts_are_read_by_range(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    data = os.urandom(12_000_000)
    assert await tier.set("key", data)
    entry = await tier.fetch(_core.raw_key("key"), index_only=True)
    assert not isinstance(entry, str)
    part = next(p for p in entry.parts() if p.kind == "blob")
    for start, stop in ((0, 1), (5 << 20, (5 << 20) + 1), (5_242_870, 5_242_890), (0, len(data))):
        assert await tier.read_part(entry, part.number, start, stop) == data[start:stop]
    await tier.aclose()


# --- lives and listings ---------------------------------------------------------------------------


async def test_expired_entries_are_misses_and_cleanup_counts_them(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    for number in range(5):
        assert await tier.set(f"short {number}", number, ttl=60)
    assert await tier.set("long", 1, ttl=10_000)
    tier.set_clock_offset(61_000)
    assert await tier.get("short 1") is None
    assert not await tier.exists("short 2")
    assert [key for key, _ in await tier.list_keys()] == ["long"]
    assert await tier.cleanup_expired() >= 3  # reading one may have dropped it already
    assert len(objects(tier)) == 1
    assert await tier.get("long") == 1
    await tier.aclose()


async def test_cleanup_while_another_sweeps_still_cleans_up(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    assert await tier.set("short", 1, ttl=60)
    tier.set_clock_offset(61_000)
    store = types.SimpleNamespace(sweep=lambda: None)

    async def busy(target: object, operation: str, *args: Any, **named: Any) -> Any:
        return None if operation == "sweep" else await real(target, operation, *args, **named)

    real = _bridge.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bridge, "run", busy)
        assert store.sweep() is None
        assert await tier.cleanup_expired() == 1
    assert objects(tier) == []
    await tier.aclose()


async def test_without_ttl_nothing_expires(tmp_path: Path) -> None:
    # no sweep meanwhile: it would take what has expired for one of the two
    lives = tier_at(tmp_path, cleanup_on_startup=False)
    assert await lives.set("key", 1, ttl=60)
    ignores = tier_at(tmp_path, enable_ttl=False, cleanup_on_startup=False)
    assert await ignores.set("own", 2, ttl=60)
    for tier in (lives, ignores):
        tier.set_clock_offset(61_000)
    assert await ignores.get("key") == 1
    assert ignores.get_inline(_core.raw_key("key"), "miss", "slow") == "slow"
    assert await lives.get("own") == 2
    assert await lives.get("key") is None
    for tier in (lives, ignores):
        await tier.aclose()


async def test_touching_and_copying_files_changes_no_life(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    assert await tier.set("key", 1, ttl=60)
    (path,) = objects(tier)
    os.utime(path, (1, 1))
    assert await tier.get("key") == 1
    os.utime(path, (2**33, 2**33))
    tier.set_clock_offset(61_000)
    assert await tier.get("key") is None
    await tier.aclose()


async def test_refresh_lengthens_a_life_and_leaves_the_bytes(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    key = _core.raw_key("key")
    value = os.urandom(100_000)
    assert await tier.set("key", value, ttl=60)
    for minute in range(1, 6):
        tier.set_clock_offset(minute * 50_000)
        assert await tier.refresh(key, 60_000)
        found = await tier.get_metadata("key")
        assert found is not None and found["ttl"] == 60
    assert not await tier.refresh(key, 1)
    assert await tier.get("key") == value
    assert not await tier.refresh(_core.raw_key("absent"), 60_000)
    await tier.aclose()


async def test_invalidated_tags_are_misses_everywhere(tmp_path: Path) -> None:
    # No sweep: it would reclaim what is looked at here.
    tier, other = (tier_at(tmp_path, cleanup_on_startup=False) for _ in range(2))
    now_us = max(tier.now_ms() * 1000, tier.tag_version("video"))
    draft = tier.draft(_core.raw_key("key"), 1, ttl_ms=None, meta={3: [["video", now_us]]})
    assert await tier.put(draft)
    assert await other.get("key") == 1
    await tier.invalidate_tags(["video", "ünï"])
    for one in (tier, other):
        assert await one.get("key") is None
        assert await one.fetch(_core.raw_key("key")) == "tag-invalidated"
        assert one.tag_version("video") > now_us
    again = tier.draft(
        _core.raw_key("key"), 2, ttl_ms=None, meta={3: [["video", tier.tag_version("video")]]}
    )
    assert await tier.put(again)
    assert await other.get("key") == 2
    for one in (tier, other):
        await one.aclose()


async def test_listing_opens_few_files_at_once(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    store = tier._store
    assert store.put_many([draft_of(n, f"key {n}") for n in range(700)]) == [None] * 700
    before = descriptors()
    most = 0
    seen = set()
    async for entry in tier.scan():
        seen.add(entry.key)
        most = max(most, descriptors() - before)
    assert len(seen) == 700
    assert most <= 70
    assert await tier.clear("key 1") == 1
    assert await tier.clear("*") == 699
    assert objects(tier) == []
    await tier.aclose()


async def test_clear_spares_an_entry_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    assert await tier.set("key", "old")
    entry = await tier.fetch(_core.raw_key("key"))
    assert not isinstance(entry, str)
    assert await tier.set("key", "new")
    assert not await tier.discard_entry(entry)
    assert await tier.get("key") == "new"
    await tier.aclose()


@needs_inline
async def test_statistics_need_no_walk_and_count_every_hit(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, max_size_mb=100)
    assert await tier.set("key", b"x" * 10)
    assert tier.get_inline(_core.raw_key("key"), "miss", "slow") == b"x" * 10
    assert await tier.get("key") == b"x" * 10
    assert await tier.get("absent") is None
    stats = await tier.get_stats()
    assert stats["hits"] == 2 and stats["misses"] == 1 and stats["sets"] == 1
    assert stats["total_files"] == 1 and stats["limit_bytes"] == 100_000_000
    assert 0 < stats["size_bytes"] < 100_000_000
    await tier.aclose()


async def test_a_sweep_starts_with_the_first_write_and_not_again_at_once(tmp_path: Path) -> None:
    started: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bridge, "start", lambda target, operation: started.append(operation))
        tier = tier_at(tmp_path)
        await tier.get("absent")
        assert started == []
        await tier.set("a", 1)
        await tier.set("b", 1)
        assert started == ["sweep"]
        later = tier_at(tmp_path, cleanup_on_startup=False)
        await later.set("c", 1)
        assert started == ["sweep"]
    for one in (tier, later):
        await one.aclose()


# --- construction, copies, the end ----------------------------------------------------------------


async def test_it_travels_by_its_configuration(tmp_path: Path) -> None:
    config = StructuredFilesystemConfig(tmp_path, enable_compression=False)
    tier = StructuredFilesystemBackend(config)
    tier.name = "StructuredFilesystemBackend#2"
    assert await tier.set("key", [1, 2])
    copy = pickle.loads(pickle.dumps(tier))
    assert type(copy) is StructuredFilesystemBackend
    assert (copy.name, copy.enable_compression, copy.root) == (tier.name, False, tier.root)
    assert await copy.get("key") == [1, 2]
    for one in (tier, copy):
        await one.aclose()


def test_a_relative_path_and_variables_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me").mkdir()
    for path, expanded in (
        ("here", tmp_path / "here"),
        ("$CACHE_HOME/x", tmp_path / "home/x"),
        ("~/cache", tmp_path / "me/cache"),
    ):
        tier = tier_at(path)
        assert tier.root == str(expanded / "v1")
        run_inline(tier.aclose())


def test_a_file_in_the_place_of_the_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ConfigError, match=str(tmp_path / "file")):
        tier_at(tmp_path / "file")


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "loop"])
def test_a_name_that_cannot_be_a_directory_is_a_configuration_error(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="base_path"):
        tier_at(tmp_path / name)


def test_a_directory_in_the_place_of_the_index_is_named_with_what_to_do(tmp_path: Path) -> None:
    run_inline(tier_at(tmp_path).aclose())
    (tmp_path / "v1" / "index").unlink()
    (tmp_path / "v1" / "index").mkdir()
    with pytest.raises(ConfigError, match="'index' is a directory there: remove it"):
        tier_at(tmp_path)


async def test_a_tier_that_keeps_nothing_says_so_once_and_when_it_does_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(tmp_path / "cache")
    index = tmp_path / "cache" / "v1" / "index"
    assert await tier.set("key", 1)
    index.unlink()
    index.mkdir()
    with caplog.at_level(logging.WARNING, logger="cogcache"):
        for _ in range(3):
            assert not await tier.set("other", 2)
        assert await tier.get("key") == 1
        assert [r.getMessage() for r in caplog.records] == [
            f"{tier.name}: keeps nothing for now: io-error"
        ]
        index.rmdir()
        for _ in range(3):
            assert await tier.set("other", 2)
        assert [r.getMessage() for r in caplog.records][1:] == [f"{tier.name}: keeps values again"]
    await tier.aclose()


async def test_the_size_of_a_cache_is_what_its_entries_occupy(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    assert (await tier.get_stats())["size_bytes"] < 1_000_000  # nothing yet
    for n in range(50):
        assert await tier.set(f"key {n}", os.urandom(100_000))
    objects = tmp_path / "v1" / "objects"
    occupied = sum(p.lstat().st_blocks * 512 for p in objects.rglob("*"))
    stats = await tier.get_stats()
    assert occupied <= stats["size_bytes"] <= occupied + 50 * 1024 + 256 * 4096
    assert stats["used_bytes"] == stats["size_bytes"] + stats["fixed_bytes"]
    await tier.aclose()


async def test_a_read_only_tier_reads_and_says_why_it_does_not_write(tmp_path: Path) -> None:
    writer = tier_at(tmp_path)
    assert await writer.set("key", 1)
    reader = tier_at(tmp_path, read_only=True)
    assert await reader.get("key") == 1
    draft = reader.draft(_core.raw_key("other"), 1, ttl_ms=None)
    assert await reader.write(draft) == "read-only"
    assert not await reader.set("other", 1)
    assert await reader.cleanup_expired() == 0
    for one in (writer, reader):
        await one.aclose()


async def test_too_large_is_refused_with_a_reason(tmp_path: Path) -> None:
    tier = tier_at(tmp_path, max_size_mb=20)
    draft = tier.draft(_core.raw_key("key"), os.urandom(10_000_000), ttl_ms=None)
    assert await tier.write(draft) == "too-large"
    assert leftovers(tier.root) == []
    await tier.aclose()


async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    puts = [asyncio.ensure_future(tier.set(f"key {n}", os.urandom(300_000))) for n in range(20)]
    await asyncio.sleep(0)
    assert tier._store.in_flight == 20
    await tier.aclose()
    assert tier._store.in_flight == 0
    assert await asyncio.gather(*puts) == [True] * 20
    await tier.aclose()
    for call in (tier.get("key"), tier.set("key", 1), tier.delete("key"), tier.usage()):
        with pytest.raises(ClosedError):
            await call
    again = tier_at(tmp_path)
    assert len(await again.list_keys()) == 20
    await again.aclose()


@pytest.mark.parametrize("inline", [False, True])
async def test_nothing_runs_after_closing_a_sweep_neither(tmp_path: Path, inline: bool) -> None:
    tier = tier_at(tmp_path, cleanup_on_startup=False)
    assert await tier.set("short", 1, ttl=60)
    tier.set_clock_offset(61_000)
    settle()
    with gate() as held:
        held.fill_pool()
        _bridge.start(tier._store, "sweep")
        closing = asyncio.ensure_future(
            asyncio.to_thread(run_inline, tier.aclose()) if inline else tier.aclose()
        )
        while not tier._store.closed:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not closing.done(), "closed while a sweep was still to come"
        held.open()
        await closing
        assert tier._store.wait(0)
    assert tier._store.in_flight == 0
    assert len(objects(tier)) == 1, "the sweep began although its store was closed"


def test_everything_works_inline(tmp_path: Path) -> None:
    jobs = _core.pool_stats()["jobs"]
    tier = tier_at(tmp_path)
    array = np.arange(1_000_000)
    assert run_inline(tier.set("array", array))
    np.testing.assert_array_equal(run_inline(tier.get("array")), array)
    assert run_inline(tier.set("bytes", b"x" * 3_000_000))
    assert run_inline(tier.get("bytes")) == b"x" * 3_000_000
    assert run_inline(tier.list_keys()) == [("array", None), ("bytes", None)]
    assert run_inline(tier.clear()) == 2
    assert run_inline(tier.cleanup_expired()) == 0
    assert run_inline(tier.usage())["total_files"] == 0
    run_inline(tier.aclose())
    assert _core.pool_stats()["jobs"] == jobs


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Whoever opens something in here gets EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_there_are_no_hits_and_no_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(tmp_path)
    assert await tier.set("key", "value")
    settle()
    with caplog.at_level(logging.WARNING, "cogcache"):
        with no_descriptors():
            outcomes = [await tier.fetch(_core.raw_key("key")) for _ in range(3)]
            stored = [await tier.set("key", "new") for _ in range(3)]
            inline = tier.get_inline(_core.raw_key("key"), "miss", "slow")
        assert outcomes == ["unavailable"] * 3
        assert stored == [False] * 3
        assert inline == "slow"
        assert [r.message for r in caplog.records if "cannot be read" in r.message]
        assert len(caplog.records) == 1
        assert await tier.get("key") == "value"
        assert "works again" in caplog.records[-1].message
    assert (await tier.get_stats())["errors"] >= 3
    assert leftovers(tier.root) == []
    await tier.aclose()


async def test_a_loop_that_cannot_have_a_channel_gets_misses(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    assert await tier.set("key", "value")

    async def ask() -> list[Any]:
        return [await tier.get("key", "miss"), await tier.set("key", 1)]

    def in_a_loop_of_its_own() -> list[Any]:
        with asyncio.Runner() as runner:
            runner.get_loop()  # has descriptors of its own
            with no_descriptors():
                return runner.run(ask())

    found = await asyncio.get_running_loop().run_in_executor(None, in_a_loop_of_its_own)
    assert found == ["miss", False]
    assert await tier.get("key") == "value"
    await tier.aclose()


# --- cancelled at every await ---------------------------------------------------------------------


@types.coroutine
def cancelled_at(
    work: Coroutine[Any, Any, Any], await_number: int
) -> Generator[Any, Any, tuple[bool, Any]]:
    """Run ``work``, but cancel it at its n-th await; whether that came to be, and the result."""
    sent: Any = None
    awaits = 0
    while True:
        try:
            waited_for = work.send(sent)
        except StopIteration as end:
            return False, end.value
        awaits += 1
        if awaits == await_number:
            with pytest.raises(asyncio.CancelledError):
                work.throw(asyncio.CancelledError())
            return True, None
        sent = yield waited_for


async def _nothing(tier: FilesystemCacheBackend) -> None:
    async for _ in tier.scan():
        pass


async def _read_part(tier: FilesystemCacheBackend) -> None:
    entry = await tier.fetch(_core.raw_key("large"), index_only=True)
    assert not isinstance(entry, str)
    assert len(await tier.read_part(entry, 0, 5, 1_000_000)) == 999_995


async def _close_busy(tier: FilesystemCacheBackend) -> None:
    with gate() as held:
        held.fill_pool()
        _bridge.start(tier._store, "put", draft_of(os.urandom(2_000_000), "another"))
        # Closing has to wait: the gate opens when the loop turns.
        asyncio.get_running_loop().call_soon(held.open)
        await tier.aclose()


OPERATIONS: dict[str, Any] = {
    "set": lambda tier: tier.set("key", {"new": os.urandom(400_000)}),
    "get": lambda tier: tier.get("large"),
    "get many": lambda tier: tier.fetch_many([_core.raw_key("key"), _core.raw_key("large")] * 8),
    "read part": lambda tier: _read_part(tier),
    "delete": lambda tier: tier.delete("key"),
    "clear": lambda tier: tier.clear("key"),
    "clear all": lambda tier: tier.clear(),
    "scan": _nothing,
    "cleanup": lambda tier: tier.cleanup_expired(),
    "refresh": lambda tier: tier.refresh(_core.raw_key("key"), 10_000_000),
    "invalidate": lambda tier: tier.invalidate_tags(["tag"]),
    "stats": lambda tier: tier.get_stats(),
    "close": lambda tier: _close_busy(tier),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_every_await(tmp_path: Path, name: str) -> None:
    old, large = {"old": b"o" * 5000}, os.urandom(3_000_000)
    outer_before = descriptors()
    channel_pending = _bridge._channels.of(asyncio.get_running_loop())
    was_cancelled = True
    number = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
        while was_cancelled and number < 12:
            number += 1
            tier = tier_at(tmp_path / str(number))
            assert await tier.set("key", old) and await tier.set("large", large)
            settle()
            gc.collect()
            before = descriptors()
            was_cancelled, _ = await cancelled_at(OPERATIONS[name](tier), number)
            settle()
            channel_pending.drain()
            await asyncio.sleep(0)  # what the loop runs now still holds the last result
            gc.collect()
            assert channel_pending.pending == 0
            assert descriptors() <= before
            assert leftovers(tier.root) == []
            if name != "close":
                found = await tier.get("key", "gone")
                assert found in (old, "gone") or found.keys() == {"new"}
                assert await tier.get("large", large) == large
            settle()
            channel_pending.drain()
            await tier.aclose()
            assert tier._store.in_flight == 0
            del tier
    assert number > 1, "nothing was ever awaited: this test tests nothing"
    gc.collect()
    assert descriptors() <= outer_before + 2  # the loop's own channel, which may be a pipe


async def test_a_cancelled_wait_in_the_crowd_disturbs_nobody(tmp_path: Path) -> None:
    tier = tier_at(tmp_path)
    value = os.urandom(1_000_000)
    assert await tier.set("key", value)
    with gate() as held:
        held.fill_pool()
        waiting = [asyncio.ensure_future(tier.get("key")) for _ in range(64)]
        await asyncio.sleep(0)
        for one in waiting[::3]:
            one.cancel()
        held.open()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    for number, result in enumerate(results):
        if number % 3 == 0:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert result == value
    await tier.aclose()


# --- the loop goes on -----------------------------------------------------------------------------


def loop_thread_io() -> tuple[int, int]:
    """Bytes that this thread has read and written through system calls."""
    fields = dict(
        line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines()
    )
    return int(fields["rchar"]), int(fields["wchar"])


@pytest.mark.skipif(not os.access("/proc/thread-self/io", os.R_OK), reason="no I/O accounting")
async def test_the_loops_thread_moves_no_values(tmp_path: Path) -> None:
    """Hundreds of megabytes go in and out; the thread of the loop reads and writes next to none."""
    tier = tier_at(tmp_path)
    size = 8_000_000
    values = [os.urandom(size) for _ in range(4)]
    arrays = [np.frombuffer(value, np.float32) for value in values]
    faults_before = _thread_faults()
    read_before, written_before = loop_thread_io()
    ticks = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.ensure_future(ticker())
    for round_ in range(4):
        await asyncio.gather(*(tier.set(f"b{round_}{n}", v) for n, v in enumerate(values)))
        await asyncio.gather(*(tier.set(f"a{round_}{n}", v) for n, v in enumerate(arrays)))
        got = await asyncio.gather(*(tier.get(f"b{round_}{n}") for n in range(4)))
        assert _core.hash128(got[3]) == _core.hash128(values[3])
        lent = await asyncio.gather(*(tier.get(f"a{round_}{n}") for n in range(4)))
        assert lent[2].shape == arrays[2].shape
        del got, lent
    ticking.cancel()
    read, written = loop_thread_io()
    faults = _thread_faults() - faults_before
    moved = 4 * 4 * 2 * size
    # Reading entries back touches their last 64 KiB; the comparison above reads two of 32 values.
    assert written - written_before < moved / 100
    assert read - read_before < moved / 50
    if not sys.flags.dev_mode and "PYTHONMALLOC" not in os.environ:  # those touch all memory
        assert faults * 4096 < moved / 4
    assert ticks > 100
    await tier.aclose()


def _thread_faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
