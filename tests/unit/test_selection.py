"""Plans: entries chosen by what they are, looked at, and deleted."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Key,
    Keyframes,
    KeyTypeError,
    MemoryCacheConfig,
    PipelineArtifactCache,
)
from cogcache.backends.memory import MemoryCacheBackend

PROMPT = "Describe the picture in one sentence, and name every text that is to be read in it."


@pytest.fixture(params=["memory", "filesystem", "both"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheManager]:
    files, memory = FilesystemCacheConfig(tmp_path / "cache", priority=1), MemoryCacheConfig()
    tiers = {"memory": [memory], "filesystem": [files], "both": [memory, files]}[request.param]
    async with CacheManager(CacheConfig(tiers, default_ttl=None)) as manager:
        yield manager


@pytest.fixture
async def filled(manager: CacheManager, tmp_path: Path) -> PipelineArtifactCache:
    """Two videos with transcripts and descriptions, in two profiles, and two raw keys."""
    cache = PipelineArtifactCache(manager, profile="team")
    for name in ("one", "two"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 1000)
        video = await cache.video(tmp_path / f"{name}.mp4")
        await video.set_transcript({"text": name}, model_size="base", tags=["nightly", name])
        await video.set_transcript({"text": name}, model_size="large", params={"beam": 5})
        await video.set_descriptions({"text": os.urandom(4000)}, model_name="llava", prompt=PROMPT)
    other = PipelineArtifactCache(manager)
    await other.set_transcript(tmp_path / "one.mp4", {"text": "other"}, model_size="base")
    await manager.set("mine:a", 1)
    await manager.set("mine:b", b"x" * 8000)
    return cache


async def texts(manager: CacheManager, **filters: Any) -> list[str]:
    plan = await manager.select(**filters)
    assert plan.count == len(plan.entries)
    assert plan.stored_bytes == sum(one.stored_bytes for one in plan.entries)
    return sorted(
        f"{one.key.profile}/{one.key.artifact or one.key.text}"
        f"/{one.key.params.get('model', '')}"
        f"/{Path(one.source_uri).stem}"
        for one in plan.entries
    )


async def test_every_filter_has_to_hold(filled: PipelineArtifactCache, tmp_path: Path) -> None:
    manager = filled.cache
    assert len(await texts(manager)) == 9
    assert len(await texts(manager, profile="team")) == 6
    assert await texts(manager, profile="", artifact="transcript") == ["/transcript/base/one"]
    assert await texts(manager, artifact="descriptions") == [
        "team/descriptions/llava/one",
        "team/descriptions/llava/two",
    ]
    assert await texts(manager, params={"model_size": "large"}, source=tmp_path / "two.mp4") == [
        "team/transcript/large/two"
    ]
    assert await texts(manager, params={"beam": 5.0}) == [
        "team/transcript/large/one",
        "team/transcript/large/two",
    ]
    assert len(await texts(manager, params={"prompt": PROMPT})) == 2
    assert await texts(manager, params={"prompt": PROMPT + "!"}) == []
    assert await texts(manager, params={"beam": "5"}) == []
    assert await texts(manager, params={"no_such": None}) == []
    assert len(await texts(manager, params={"model": "llava"})) == 2  # as keys print it
    assert len(await texts(manager, params={"model_size": "base", "revision": None})) == 3
    assert len(await texts(manager, params={"language": "auto"})) == 5
    assert await texts(manager, tags=["nightly", "two"]) == ["team/transcript/base/two"]
    assert await texts(manager, pattern="mine:*") == ["/mine:a//", "/mine:b//"]
    assert await texts(manager, pattern="mine:*", min_bytes=4000) == ["/mine:b//"]
    assert await texts(manager, source=tmp_path / "three.mp4") == []


async def test_age_counts_from_when_the_value_was_stored(filled: PipelineArtifactCache) -> None:
    assert await texts(filled.cache, older_than="1h") == []
    assert len(await texts(filled.cache, older_than=0)) == 9
    for tier in filled.cache.backends:
        tier.set_clock_offset(2 * 3600 * 1000)
    assert len(await texts(filled.cache, older_than="1h")) == 9
    assert await texts(filled.cache, older_than="1d") == []


async def test_a_path_means_every_generation_and_a_digest_every_place(tmp_path: Path) -> None:
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "cache")])) as manager:
        path, copy = tmp_path / "v.mp4", tmp_path / "copy.mp4"
        by_place = PipelineArtifactCache(manager)
        for content in (b"first", b"second!"):
            path.write_bytes(content)
            await by_place.set_transcript(path, {"text": content}, model_size=content.decode())
        copy.write_bytes(b"second!")
        by_content = PipelineArtifactCache(manager, identity="content")
        await by_content.set_transcript(copy, {"text": "copied"}, model_size="copied")

        sizes = {one.key.params["model"] for one in (await manager.select(source=path)).entries}
        assert sizes == {"first", "second!"}
        captured = (await by_content.video(path)).source
        sizes = {one.key.params["model"] for one in (await manager.select(source=captured)).entries}
        assert sizes == {"first", "second!", "copied"}
        path.unlink()
        assert (await manager.select(source=path)).count == 2


async def test_a_plan_deletes_what_it_shows(filled: PipelineArtifactCache, tmp_path: Path) -> None:
    manager = filled.cache
    plan = await manager.select(artifact="transcript", profile="team")
    assert plan.count == 4
    assert await filled.get_transcript(tmp_path / "one.mp4") is not None  # nothing happened yet
    assert await plan.delete() == 4
    assert await filled.get_transcript(tmp_path / "one.mp4") is None
    assert len(await texts(manager)) == 5
    assert await plan.delete() == 0


async def test_what_was_replaced_meanwhile_stays(manager: CacheManager) -> None:
    await manager.set("kept", "old")
    await manager.set("gone", "old")
    plan = await manager.select()
    await manager.set("kept", "new")
    assert await plan.delete() == 1
    assert await manager.get("kept") == "new"
    assert await manager.get("gone") is None


async def test_an_entry_of_two_tiers_is_one_of_the_plan(tmp_path: Path) -> None:
    tiers = [MemoryCacheConfig(), FilesystemCacheConfig(tmp_path, priority=1)]
    async with CacheManager(CacheConfig(tiers)) as manager:
        await manager.store("key", [1, 2, 3], tags=["mine"], cost_seconds=1.5, ttl="1h")
        (one,) = (await manager.select()).entries
        assert one.key == Key.parse("key")
        assert one.tiers == tuple(tier.name for tier in manager.backends)
        sizes = [(await tier.list_keys(None, True))[0][1] for tier in manager.backends]
        assert one.stored_bytes == sum(size["size_bytes"] for size in sizes if size)
        assert one.expires_at is not None
        assert round(one.expires_at - one.created_at) == 3600
        assert (one.tags, one.cost_seconds, one.source_uri) == (("mine",), 1.5, "")
        assert await (await manager.select()).delete() == 1
        assert not await manager.exists("key")


async def test_expired_and_invalidated_entries_are_not_selected(manager: CacheManager) -> None:
    await manager.store("short", 1, ttl=60)
    await manager.store("tagged", 2, tags=["t"])
    await manager.store("stays", 3)
    await manager.invalidate_tags("t")
    for tier in manager.backends:
        tier.set_clock_offset(3600 * 1000)
    assert [one.key.text for one in (await manager.select()).entries] == ["stays"]


async def test_a_tier_that_is_down_is_named_and_the_others_are_done() -> None:
    memory = MemoryCacheBackend(MemoryCacheConfig())
    manager = manager_over(memory, BrokenTier())
    await manager.set("key", 1)
    plan = await manager.select()
    assert (plan.count, plan.unavailable) == (1, (manager.backends[1].name,))
    assert "not available" in str(plan)
    assert await plan.delete() == 1
    await manager.aclose()


async def test_a_tier_of_somebody_elses_is_selected_from(tmp_path: Path) -> None:
    manager = manager_over(DictTier())
    await manager.set("a", 1)
    await manager.set("b", 1)
    plan = await manager.select(pattern="a")
    await manager.set("b", 2)
    assert await plan.delete() == 1
    assert await manager.get("b") == 2
    await manager.aclose()


async def test_a_plan_prints_the_largest_first(manager: CacheManager) -> None:
    assert str(await manager.select()) == "0 entries, 0 bytes stored"
    for number in range(30):
        await manager.set(f"key{number:02}", b"x" * (100 + 10 * number))
    printed = str(await manager.select()).splitlines()
    assert printed[0].startswith("30 entries, ")
    rows = [line.split()[0] for line in printed if line.lstrip().startswith("key")][1:]
    assert rows == [f"key{number:02}" for number in range(29, 9, -1)]
    assert printed[-1] == "and 10 more"


async def test_nothing_waits_that_a_plan_deleted(tmp_path: Path) -> None:
    files = FilesystemCacheConfig(tmp_path / "files")
    later = FilesystemCacheConfig(tmp_path / "later", priority=1, write_mode="behind")
    async with CacheManager(CacheConfig([files, later])) as manager:
        for number in range(20):
            await manager.set(f"key{number}", number)
        await (await manager.select()).delete()
        assert await manager.flush(30) == 0
        await (await manager.select()).delete()  # what had been sent by the first plan
        assert (await manager.select()).count == 0


async def test_filters_that_cannot_be_are_refused(manager: CacheManager) -> None:
    for filters, error, words in (
        ({"pattern": "a*b"}, ValueError, "whole segments"),
        ({"profile": 3}, TypeError, "profile"),
        ({"artifact": b"x"}, TypeError, "artifact"),
        ({"params": {"x": {1, 2}}}, KeyTypeError, "x"),
        ({"params": [1]}, TypeError, "params"),
        ({"tags": "nightly"}, TypeError, "tags"),
        ({"older_than": -1}, ValueError, "older_than"),
        ({"older_than": "soon"}, ValueError, "older_than"),
        ({"min_bytes": -1}, ValueError, "min_bytes"),
        ({"min_bytes": "1GB"}, ValueError, "min_bytes"),
        ({"source": ""}, ValueError, "empty"),
        ({"source": 5}, TypeError, "source"),
    ):
        with pytest.raises(error, match=words):
            await manager.select(**filters)  # type: ignore[arg-type]


def test_plans_work_through_the_blocking_face(tmp_path: Path) -> None:
    cache = PipelineArtifactCache.open(tmp_path / "cache")
    video = tmp_path / "v.mp4"
    video.write_bytes(b"v" * 100)
    cache.sync.set_keyframes(video, {"keyframes": []})
    plan = cache.cache.sync.select(artifact="keyframes", params={"max_frames": 3000})
    assert plan.count == 1
    assert plan.entries[0].key.params["max_frames"] == Keyframes().max_frames
    assert plan.delete() == 1
    assert cache.cache.sync.select().count == 0
    cache.sync.aclose()
