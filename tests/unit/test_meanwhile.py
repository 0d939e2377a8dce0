"""What happens to a key while it is computed or put."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import (
    DictTier,
    a_video,
    filesystem_cache,
    filesystem_manager,
    manager_over,
)

from cogcache.keys import key_bytes
from cogcache.testing import FakeClock


class Computing:
    """A computation that waits in the middle, and one that does not."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def before(self) -> dict[str, str]:
        self.begun.set()
        await self.goes_on.wait()
        return {"computed": "before"}

    async def after(self) -> dict[str, str]:
        return {"computed": "after"}


async def test_who_asks_after_an_invalidation_gets_nothing_that_began_before(
    tmp_path: Path,
) -> None:
    work = Computing()
    async with filesystem_manager(tmp_path / "cache") as manager:
        clock = FakeClock(manager)
        first = asyncio.create_task(manager.get_or_compute("key", work.before, tags=["tag"]))
        await work.begun.wait()
        early = asyncio.create_task(manager.get_or_compute("key", work.after, tags=["tag"]))
        while manager._computations.flights._flights[key_bytes("key")].waiters < 2:
            await asyncio.sleep(0)
        clock.advance(1)
        await manager.invalidate_tags("tag")
        late = asyncio.create_task(manager.get_or_compute("key", work.after, tags=["tag"]))
        while manager._computations.flights._flights[key_bytes("key")].waiters < 3:
            await asyncio.sleep(0)
        work.goes_on.set()
        assert await first == await early == {"computed": "before"}
        assert await late == {"computed": "after"}
        assert await manager.get("key") == {"computed": "after"}
        assert manager.counters["computed"] == 2


async def test_artifacts_are_computed_anew_for_who_asks_after_an_invalidation(
    tmp_path: Path,
) -> None:
    work = Computing()
    video = a_video(tmp_path / "video.mp4")
    async with filesystem_cache(tmp_path / "cache") as cache:
        clock = FakeClock(cache)
        first = asyncio.create_task(cache.get_or_compute_transcript(video, work.before))
        await work.begun.wait()
        clock.advance(1)
        await cache.invalidate_video(video)
        late = asyncio.create_task(cache.get_or_compute_transcript(video, work.after))
        flights = cache.cache._computations.flights._flights
        while next(iter(flights.values())).waiters < 2:
            await asyncio.sleep(0)
        work.goes_on.set()
        assert await first == {"computed": "before"}
        assert await late == await cache.get_transcript(video) == {"computed": "after"}


async def test_a_tag_of_an_artifact_counts_from_when_it_was_begun(tmp_path: Path) -> None:
    work = Computing()
    video = a_video(tmp_path / "video.mp4")
    async with filesystem_cache(tmp_path / "cache") as cache:
        clock = FakeClock(cache)
        computing = asyncio.create_task(
            cache.get_or_compute("transcript", video, work.before, tags=["model"])
        )
        await work.begun.wait()
        clock.advance(1)
        await cache.cache.invalidate_tags("model")
        work.goes_on.set()
        assert await computing == {"computed": "before"}
        assert await cache.get_transcript(video) is None


@pytest.mark.filterwarnings("ignore:a key with a NUL")
@pytest.mark.parametrize("pattern", [None, "key", "*"])
async def test_what_is_forgotten_while_it_is_computed_does_not_come_back(
    pattern: str | None, tmp_path: Path
) -> None:
    work, other = Computing(), Computing()
    async with filesystem_manager(tmp_path / "cache") as manager:
        first = asyncio.create_task(manager.get_or_compute("key", work.before))
        bad = asyncio.create_task(manager.get_or_compute("NUL\0", other.before))
        await work.begun.wait()
        await other.begun.wait()
        await (manager.delete("key") if pattern == "key" else manager.clear(pattern))
        assert await manager.get_or_compute("key", work.after) == {"computed": "after"}
        work.goes_on.set()
        other.goes_on.set()
        assert await first == await bad == {"computed": "before"}
        assert await manager.get("key") == {"computed": "after"}


async def test_a_computation_may_forget_what_it_replaces(tmp_path: Path) -> None:
    async with filesystem_manager(tmp_path / "cache") as manager:

        async def compute() -> str:
            await manager.delete("key")
            return "new"

        assert await manager.get_or_compute("key", compute) == "new"
        assert await manager.get("key") == "new"


async def test_a_connection_that_a_computation_opens_does_not_keep_its_value(
    tmp_path: Path,
) -> None:
    ours, theirs = socket.socketpair()
    kept: list[weakref.ref[Any]] = []

    async def compute() -> Any:
        asyncio.get_running_loop().add_reader(ours, lambda: None)  # has the context from now on
        value = np.zeros(1000)
        kept.append(weakref.ref(value))
        return value

    async with filesystem_manager(tmp_path / "cache") as manager:
        await manager.get_or_compute("key", compute, should_store=lambda value: False)
        await asyncio.sleep(0)
        gc.collect()
        assert kept[0]() is None
    asyncio.get_running_loop().remove_reader(ours)
    ours.close()
    theirs.close()


async def test_a_failed_computation_lets_go_of_its_memory_with_its_error(tmp_path: Path) -> None:
    """Without waiting for the garbage collector: what failed for lack of memory is tried again."""
    kept: list[weakref.ref[Any]] = []

    async def compute() -> Any:
        much = np.zeros(1000)
        kept.append(weakref.ref(much))
        raise MemoryError(much.nbytes)

    async with filesystem_manager(tmp_path / "cache") as manager:
        await manager.get("key")
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(MemoryError) as raised:
                await manager.get_or_compute("key", compute)
            del raised
            await asyncio.sleep(0)
            assert kept[0]() is None
        finally:
            gc.enable()


async def test_a_cancelled_batch_begins_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = DictTier()
    manager = manager_over(tier)
    drafted = asyncio.Event()
    drafts = manager._writing.drafts

    async def slow(encoded: bytes, value: Any, *args: Any) -> Any:
        if value == "slow":
            drafted.set()
            await asyncio.Event().wait()
        return await drafts(encoded, value, *args)

    monkeypatch.setattr(manager._writing, "drafts", slow)
    putting = asyncio.create_task(manager.set_many({"a": "quick", "b": "slow"}))
    await drafted.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert tier.images == {}
