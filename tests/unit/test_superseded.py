"""Generations of a video that a newer one has taken the place of (K10): what is called so, and
above all what is not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Keyframes,
    MemoryCacheConfig,
    PipelineArtifactCache,
)

Store = Callable[..., Awaitable[None]]


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[CacheManager]:
    tiers = [MemoryCacheConfig(), FilesystemCacheConfig(tmp_path / "cache")]
    async with CacheManager(CacheConfig(tiers)) as manager:
        yield manager


@pytest.fixture
def cache(manager: CacheManager) -> PipelineArtifactCache:
    return PipelineArtifactCache(manager, profile="team")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return tmp_path / "talk.mp4"


def make(video: Path, size: int, day: int) -> None:
    """The video as it is from a day on."""
    video.write_bytes(os.urandom(size))
    os.utime(video, (1e9 + 86400 * day, 1e9 + 86400 * day))


def later(manager: CacheManager, minutes: int = 1) -> None:
    """Time passes."""
    for tier in manager.backends:
        moved = getattr(manager, "moved_ms", 0) + minutes * 60_000
        tier.set_clock_offset(moved)
    manager.moved_ms = moved  # type: ignore[attr-defined]


async def both(cache: PipelineArtifactCache, video: Path, **sizes_and_days: int) -> None:
    """A transcript of each of two versions."""
    given = {"size": 1000, "size_later": 2000, "day": 1, "day_later": 2, **sizes_and_days}
    make(video, given["size"], given["day"])
    await cache.set_transcript(video, {"of": "older"})
    later(cache.cache)
    make(video, given["size_later"], given["day_later"])
    await cache.set_transcript(video, {"of": "newer"})


async def superseded(cache: PipelineArtifactCache, **filters: Any) -> list[str]:
    plan = await cache.cache.select(superseded=True, **filters)
    return sorted(one.key.artifact for one in plan.entries)


async def test_what_a_newer_version_replaced_goes_and_nothing_else(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    make(video, 1000, 1)
    (tmp_path / "another.mp4").write_bytes(b"another")
    await cache.set_keyframes(video, [{"frame_id": 1}])
    await cache.set_transcript(video, {"of": "older"}, model_size="large")  # in no newer version
    await cache.set_descriptions(video, {"of": "older"}, model_name="llava")  # of the keyframes
    await cache.set_transcript(tmp_path / "another.mp4", {"of": "another"})
    await cache.cache.set("mine", 1)
    later(cache.cache)
    make(video, 2000, 2)
    assert await superseded(cache) == []  # nothing newer is there yet
    await cache.set_keyframes(video, [{"frame_id": 1}])
    assert await superseded(cache) == ["keyframes"]
    await cache.set_descriptions(video, {"of": "newer"}, model_name="llava")
    assert await superseded(cache) == ["descriptions", "keyframes"]
    assert await superseded(cache, artifact="descriptions") == ["descriptions"]
    assert await superseded(cache, source=tmp_path / "another.mp4") == []
    assert await superseded(cache, source=video, profile="team") == ["descriptions", "keyframes"]

    plan = await cache.cache.select(superseded=True)
    assert all(len(one.tiers) == 2 for one in plan.entries)
    assert await plan.delete() == 2
    assert (await cache.cache.select(superseded=True)).count == 0
    assert await cache.get_descriptions(video, model_name="llava") == {"of": "newer"}
    assert await cache.get_keyframes(video) == [{"frame_id": 1}]
    assert (await cache.cache.select()).count == 5
    assert (await cache.cache.select(artifact="keyframes")).count == 1


async def test_of_many_versions_only_the_newest_stays(
    cache: PipelineArtifactCache, video: Path
) -> None:
    for day in range(4):
        make(video, 1000 + day % 2, day)
        await cache.set_transcript(video, {"day": day})
        later(cache.cache)
    plan = await cache.cache.select(superseded=True)
    assert (plan.count, await plan.delete()) == (3, 3)
    assert await cache.get_transcript(video) == {"day": 3}


@pytest.mark.parametrize(
    "sizes_and_days",
    [
        {"size_later": 1000},  # a copy whose time another host has not kept
        {"day_later": 0},  # an older file was put there
        {"day_later": 1},  # which of them is newer cannot be known
    ],
)
async def test_what_has_no_sure_order_is_left(
    cache: PipelineArtifactCache, video: Path, sizes_and_days: dict[str, int]
) -> None:
    await both(cache, video, **sizes_and_days)
    assert (await cache.cache.select(source=video)).count == 2
    assert await superseded(cache) == []


async def test_what_was_stored_in_the_other_order_is_left(
    cache: PipelineArtifactCache, video: Path
) -> None:
    """Another host has the older file, and uses the cache after the newer one was there."""
    make(video, 2000, 2)
    await cache.set_transcript(video, {"of": "newer"})
    later(cache.cache)
    make(video, 1000, 1)
    await cache.set_transcript(video, {"of": "older"})
    video.unlink()
    assert await superseded(cache) == []


@pytest.mark.parametrize("identity", ["content", "sampled", "sha256"])
async def test_content_has_no_order(manager: CacheManager, video: Path, identity: Any) -> None:
    cache = PipelineArtifactCache(manager, identity=identity)
    await both(cache, video)
    assert (await manager.select()).count == 2
    assert await superseded(cache) == []


async def test_what_is_never_looked_at_has_no_order(cache: PipelineArtifactCache) -> None:
    for etag in ("a", "b"):
        ref = await cache.video("s3://bucket/talk.mp4", etag=etag)
        await ref.set_transcript({"of": etag})
        later(cache.cache)
    assert (await cache.cache.select()).count == 2
    assert await superseded(cache) == []


async def test_what_somebody_goes_on_using_is_left(
    cache: PipelineArtifactCache, video: Path
) -> None:
    make(video, 1000, 1)
    await cache.set_transcript(video, {"of": "older"}, ttl="1h")
    key = await cache.key("transcript", video)
    later(cache.cache)
    make(video, 2000, 2)
    await cache.set_transcript(video, {"of": "newer"})
    assert await superseded(cache) == ["transcript"]
    later(cache.cache)
    assert await cache.cache.touch(key, ttl="2h")  # a host that has the older file
    assert await superseded(cache) == []


async def test_what_was_read_after_the_newer_one_was_stored_is_left(
    tmp_path: Path, video: Path
) -> None:
    """Another container has an older file at the same path, and uses the same directory."""
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "cache")])) as manager:
        cache = PipelineArtifactCache(manager)
        [tier] = manager.backends
        for minutes_ago, size in ((10, 1000), (5, 2000)):
            tier.set_clock_offset(-60_000 * minutes_ago)
            make(video, size, size)
            await cache.set_transcript(video, {"size": size})
        # The clock was set back, but uses are recorded by the system's: those of both are of now,
        # which is after the newer one was stored.
        uses = await tier.last_uses()
        plan = await manager.select(source=video)
        assert {one.key.digest for one in plan.entries} == set(uses)
        assert all(uses[one.key.digest] > one.created_at * 1000 + 200_000 for one in plan.entries)
        assert await superseded(cache) == []
        tier.set_clock_offset(60_000)
        await cache.set_transcript(video, {"size": 2000})
        assert await superseded(cache) == ["transcript"]


async def test_what_is_pinned_or_here_again_is_left(
    cache: PipelineArtifactCache, video: Path
) -> None:
    make(video, 1000, 1)
    before = video.read_bytes()
    await cache.set_transcript(video, {"of": "older"})
    key = await cache.key("transcript", video)
    later(cache.cache)
    make(video, 2000, 2)
    await cache.set_transcript(video, {"of": "newer"})
    assert await superseded(cache) == ["transcript"]
    assert await cache.cache.pin(key)
    assert await superseded(cache) == []
    assert await cache.cache.unpin(key)
    assert await superseded(cache) == ["transcript"]
    video.write_bytes(before)  # from a backup, with its time
    os.utime(video, (1e9 + 86400, 1e9 + 86400))
    assert await superseded(cache) == []
    video.unlink()
    assert await superseded(cache) == ["transcript"]


async def test_other_parameters_profiles_and_dead_entries_supersede_nothing(
    manager: CacheManager, video: Path
) -> None:
    cache, other = (PipelineArtifactCache(manager, profile=name) for name in ("team", "other"))
    make(video, 1000, 1)
    await cache.set_transcript(video, {"of": "older"})
    later(manager)
    make(video, 2000, 2)
    await cache.set_transcript(video, {"of": "newer"}, model_size="large")
    await other.set_transcript(video, {"of": "newer"})
    await cache.set_transcript(video, {"of": "newer"}, tags=["wrong"])
    assert await superseded(cache) == ["transcript"]
    await manager.invalidate_tags("wrong")
    assert await superseded(cache) == []


async def test_what_it_was_made_from_is_compared_as_what_it_is(
    manager: CacheManager, video: Path
) -> None:
    """Keys have the digests of other keys in them, which differ between versions."""
    cache = PipelineArtifactCache(manager)
    cache.register_artifact("summary", {"model": "s", "inputs": None})

    async def describe(fps: float) -> None:
        frames = Keyframes("fps", fps=fps)
        if fps > 1:
            await cache.set_keyframes(video, [], strategy="fps", fps=fps)
        await cache.set_descriptions(video, {"fps": fps}, model_name="m", keyframes=frames)
        spoken = await cache.key("transcript", video)
        seen = await cache.key("descriptions", video, model_name="m", keyframes=frames)
        # A map of two digests is longer than what a key holds in full.
        inputs = {"spoken": spoken.digest, "seen": seen.digest.hex(), "notes": ["a", 1]}
        await cache.store("summary", video, {"fps": fps}, inputs=inputs)

    make(video, 1000, 1)
    await cache.set_transcript(video, {"text": "x"})
    for fps in (1.0, 2.0):
        await describe(fps)
    later(manager)
    make(video, 2000, 2)
    await cache.set_transcript(video, {"text": "x"})
    await describe(2.0)
    assert await superseded(cache) == ["descriptions", "keyframes", "summary", "transcript"]
    # Without its keyframes nobody knows what the older description was made from.
    plan = await manager.select(superseded=True)
    assert await plan.only(lambda one: one.key.artifact == "keyframes").delete() == 1
    assert await superseded(cache) == ["transcript"]


async def test_an_entry_that_contradicts_its_key_is_not_believed(
    manager: CacheManager, cache: PipelineArtifactCache, video: Path
) -> None:
    from cogcache.backends.base import META_SOURCE
    from cogcache.manager import Context

    await both(cache, video)
    assert await superseded(cache) == ["transcript"]
    key = await cache.key("transcript", video)
    assert key.origin is not None
    foreign = [*key.origin.identity[:2], 3000, 5 * 10**18]
    await manager.store(key, 1, context=Context(artifact="transcript", meta={META_SOURCE: foreign}))
    assert await superseded(cache) == []
