"""Defects D1 to D23 and D25 of the system that this one grows from: each test fails on the
original."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, a_video, filesystem_cache, filesystem_manager, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    ConfigError,
    FilesystemCacheConfig,
    Keyframes,
    MemoryCacheConfig,
    PipelineArtifactCache,
    VideoArtifacts,
)
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.testing import FakeClock


@pytest.fixture
def cache(tmp_path: Path) -> PipelineArtifactCache:
    return filesystem_cache(tmp_path / "cache")


@pytest.fixture
def manager(tmp_path: Path) -> CacheManager:
    return filesystem_manager(tmp_path / "cache")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "v.mp4")


def entry_files(root: Path) -> list[Path]:
    return [p for p in (root / "cache" / "v1" / "objects").rglob("*") if p.is_file()]


async def test_d1_without_a_profile_each_video_has_its_own_transcript(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    a, b = a_video(tmp_path / "a.mp4", b"a"), a_video(tmp_path / "b.mp4", b"b")
    await cache.set_transcript(a, {"text": "of a"})
    assert await cache.get_transcript(b) is None
    await cache.set_transcript(b, {"text": "of b"})
    assert await cache.get_transcript(a) == {"text": "of a"}


async def test_d2_parameters_are_in_the_path(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.set_transcript(video, {"of": "base"}, "base", "en")
    assert await cache.get_transcript(video, "large", "en") is None
    assert await cache.get_transcript(video, "base", "fr") is None
    await cache.set_keyframes(video, {"of": 0.999}, threshold=0.999)
    assert await cache.get_keyframes(video, threshold=0.5) is None
    assert await cache.get_keyframes(video, strategy="fps", fps=1.0) is None


async def test_d3_keys_that_look_alike_stay_apart(manager: CacheManager) -> None:
    keys = ["a:b", "a/b", "a_b", "p" * 250 + "1", "p" * 250 + "2"]
    for number, key in enumerate(keys):
        await manager.set(key, number)
    assert [await manager.get(key) for key in keys] == [0, 1, 2, 3, 4]


async def test_d4_a_replaced_file_has_no_artifacts(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_transcript(video, {"of": "old"})
    a_video(video, b"replaced by a longer file")
    assert await cache.get_transcript(video) is None


async def test_d5_descriptions_depend_on_model_keyframes_and_language(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_descriptions(video, {"1": "x"}, "model-a")
    assert await cache.get_descriptions(video, "model-b") is None
    assert (
        await cache.get_descriptions(video, "model-a", keyframes=Keyframes(threshold=0.5)) is None
    )
    await cache.set_transcript(video, {"of": "en"}, language="en")
    assert await cache.get_transcript(video, language="fr") is None


async def test_d6_zero_is_not_the_default_and_empty_is_not_absent(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_keyframes(video, {"of": "default"})
    assert await cache.get_keyframes(video, threshold=0.0) is None
    with pytest.raises(ValueError, match="fps"):
        # not silently 1.0 either
        await cache.get_keyframes(video, strategy="fps", fps=-0.5)
    await cache.set_transcript(video, {})
    assert await cache.get_transcript(video) == {}


async def test_d7_promotion_keeps_the_remaining_life() -> None:
    upper, lower = DictTier(), DictTier()
    manager = manager_over(upper, lower, default_ttl=3600)
    clock = FakeClock(manager)
    await manager.set("key", 1, ttl=2)
    upper.images.clear()
    clock.advance(1)
    assert await manager.get("key") == 1
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert upper.images
    clock.advance(1.5)
    assert await manager.get("key") is None


async def test_d8_invalidate_video_invalidates(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.set_transcript(video, {"of": "v"})
    assert await cache.invalidate_video(video) == 1
    assert await cache.get_transcript(video) is None


async def test_d9_clear_of_an_exact_key_clears_one(manager: CacheManager) -> None:
    for number in range(20):
        await manager.set(f"key{number}", number)
    assert await manager.clear("key7") == 1
    assert len(await manager.list_keys()) == 19


async def test_d10_clear_stops_at_segment_boundaries(manager: CacheManager) -> None:
    await manager.set("prof:x", 1)
    await manager.set("prof_large:x", 2)
    assert await manager.clear("prof:*") == 1
    assert await manager.get("prof_large:x") == 2
    with pytest.raises(ValueError, match="whole segments"):
        await manager.clear("pr*f:x")
    await manager.set("prof:x", 1)
    assert await manager.clear("prof*") == 1
    assert await manager.get("prof_large:x") == 2


async def test_d11_cleanup_expired_cleans(manager: CacheManager, tmp_path: Path) -> None:
    clock = FakeClock(manager)
    for number in range(5):
        await manager.set(f"mortal{number}", number, ttl=10)
    await manager.set("immortal", 1, ttl=0)
    clock.advance(11)
    assert await manager.cleanup_expired() == 5
    assert len(entry_files(tmp_path)) == 1


async def test_d12_metadata_and_listing_are_there(manager: CacheManager) -> None:
    await manager.set("key", {"a": 1}, ttl=60)
    metadata = await manager.get_metadata("key")
    assert metadata is not None
    assert {"key", "created_at", "size_bytes", "format", "expires_at", "ttl"} <= metadata.keys()
    assert await manager.list_keys(include_metadata=True) == [("key", metadata)]


async def test_d13_touching_or_copying_files_changes_no_life(tmp_path: Path) -> None:
    config = FilesystemCacheConfig(tmp_path / "cache", max_size_mb=20, cleanup_on_startup=False)
    manager = CacheManager(CacheConfig([config]))
    clock = FakeClock(manager)
    await manager.set("mortal", 1, ttl=100)
    await manager.set("immortal", 2, ttl=0)
    for file in entry_files(tmp_path):
        os.utime(file, (1, 1))
    assert await manager.get_many(["mortal", "immortal"]) == {"mortal": 1, "immortal": 2}
    for file in entry_files(tmp_path):
        os.utime(file)
    clock.advance(101)
    assert await manager.get("mortal") is None
    await manager.aclose()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    copy = filesystem_manager(tmp_path / "copy")
    FakeClock(copy).advance(101)
    assert await copy.get_many(["mortal", "immortal"]) == {"immortal": 2}
    metadata = await copy.get_metadata("immortal")
    assert metadata is not None and metadata["created_at"] > 0 and metadata["key"] == "immortal"
    await copy.aclose()


async def test_d14_a_truncated_entry_is_a_miss_and_a_life_cannot_get_lost(
    manager: CacheManager, tmp_path: Path
) -> None:
    await manager.set("key", b"x" * 10_000, ttl=100)
    (file,) = entry_files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert not await manager.exists("key")
    assert await manager.get("key") is None
    await manager.set("key", 1, ttl=100)
    assert len(entry_files(tmp_path)) == 1  # no second file that could be lost


async def test_d15_the_size_is_bounded_and_statistics_walk_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FilesystemCacheConfig(
        base_path=tmp_path / "cache", max_size_mb=20, eviction_policy="lru"
    )
    manager = CacheManager(CacheConfig([config]))
    for number in range(60):
        assert await manager.set(f"key{number}", os.urandom(1_000_000))
    on_disk = sum(p.stat().st_blocks * 512 for p in (tmp_path / "cache").rglob("*"))
    assert on_disk <= 20_000_000
    for name in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(
            os, name, lambda *_, **__: pytest.fail("statistics walked the directory")
        )
    stats = (await manager.get_stats())["backends"]["FilesystemCacheBackend"]
    assert stats["evictions"] > 0
    assert 0 < stats["size_bytes"] <= 20_000_000
    await manager.aclose()


async def test_d16_configurations_are_checked_copied_and_dataclasses_work(tmp_path: Path) -> None:
    tier = {"backend_type": "filesystem", "base_path": str(tmp_path / "a")}
    before = dict(tier)
    CacheManager(CacheConfig([tier], enable_compression=False))
    assert tier == before
    assert CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "b")])).backends
    with pytest.raises(ConfigError, match="unknown value 'filesytem'"):
        CacheManager(CacheConfig([{"backend_type": "filesytem"}]))
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ConfigError, match="base_path"):
        CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "file")]))


async def test_d17_tiers_of_one_class_are_told_apart_and_frames_are_one_hit(
    tmp_path: Path, video: Path
) -> None:
    tiers = [FilesystemCacheConfig(tmp_path / name, priority=n) for n, name in enumerate("ab")]
    cache = PipelineArtifactCache(CacheManager(CacheConfig(tiers)))
    images = {str(n): b"\xff\xd8\xff" + bytes(1000) for n in range(100)}
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": n} for n in range(100)]}, images)
    await cache.get_keyframes(video, load_images=True)
    stats = await cache.get_cache_stats()
    assert set(stats["overall"]["backends"]) == {
        "FilesystemCacheBackend",
        "FilesystemCacheBackend#2",
    }
    assert stats["overall"]["manager"]["hits"] == 1
    assert stats["artifacts"]["keyframes"]["hits"] == 1


async def test_d18_frames_are_one_entry_and_whole_or_a_miss(video: Path) -> None:
    tier = DictTier()
    cache = PipelineArtifactCache(manager_over(tier))
    images = {str(n): b"\xff\xd8\xff" + bytes([n % 256]) * 500 for n in range(2150)}
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": n} for n in range(2150)]}, images)
    assert len(tier.images) == 1
    tier.calls.clear()
    _, frames = await cache.get_keyframes(video, load_images=True)
    assert len(frames) == 2150
    assert tier.calls == ["read"]
    with pytest.raises(
        ValueError, match="7"
    ):  # a frame is missing: said at once, not found out later
        incomplete = {name: data for name, data in images.items() if name != "7"}
        await cache.set_keyframes(
            video, {"keyframes": [{"frame_id": n} for n in range(2150)]}, incomplete, threshold=0.5
        )


async def test_d19_encoded_frames_are_never_encoded_again(
    cache: PipelineArtifactCache, video: Path
) -> None:
    jpeg = b"\xff\xd8\xff\xe0 as the camera made it \xff\xd9"
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": 0}]}, {"0": jpeg})
    _, frames = await cache.get_keyframes(video, load_images=True)
    assert frames["0"] == frames.encoded("0") == jpeg


@pytest.mark.filterwarnings("ignore:serialization_format")
async def test_d20_types_survive_every_tier(tmp_path: Path) -> None:
    value = {1: ("a", "b"), "1": b"bytes", "shared": [{"path": "x"}]}
    tiers: list[Any] = [
        MemoryCacheConfig(serialization_format="json", priority=0),
        FilesystemCacheConfig(tmp_path / "cache", serialization_format="pickle", priority=1),
    ]
    manager = CacheManager(CacheConfig(tiers))
    assert await manager.set("key", value)
    for tier in manager.backends:
        got = await tier.get("key")
        assert got == value
        assert {type(k) for k in got} == {int, str}
        assert type(got[1]) is tuple
    await manager.aclose()


def test_d21_nothing_is_unpickled(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['pickle'] = sys.modules['_pickle'] = None\n"
        "from cogcache import *\n"
        "m = CacheManager(CacheConfig([FilesystemCacheConfig(sys.argv[1])]))\n"
        "assert m.sync.set('k', {1: (b'x', 2.5), 'l': [None, {3}]})\n"
        "print(m.sync.get('k'))\n"
        "m.sync.aclose()\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "c")],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "{1: (b'x', 2.5), 'l': [None, {3}]}"


@pytest.mark.filterwarnings("ignore:serialization_format")
async def test_d21_the_format_setting_never_makes_entries_unreadable(tmp_path: Path) -> None:
    for written, read in (("pickle", "json"), ("json", "msgpack")):
        one = CacheManager(
            CacheConfig([FilesystemCacheConfig(tmp_path / "c", serialization_format=written)])
        )
        await one.set("key", {"written": written})
        await one.aclose()
        two = CacheManager(
            CacheConfig([FilesystemCacheConfig(tmp_path / "c", serialization_format=read)])
        )
        assert await two.get("key") == {"written": written}
        await two.aclose()


async def test_d22_a_failed_batch_is_not_kept(cache: PipelineArtifactCache, video: Path) -> None:
    assert await cache.set_descriptions(video, {"descriptions": {}, "total": 0}, "vlm") is False
    assert await cache.get_descriptions(video, "vlm") is None


async def test_d23_embeddings_make_a_video_complete(
    cache: PipelineArtifactCache, video: Path
) -> None:
    config = {"generate_embeddings": True, "embedding_model": "minilm"}
    assert not (await cache.get_all_artifacts(video, config)).is_complete(config)
    await cache.set_embeddings(video, {"frames": [0.1, 0.2]}, "minilm")
    artifacts = await cache.get_all_artifacts(video, config)
    assert isinstance(artifacts, VideoArtifacts)
    assert artifacts.embeddings == {"frames": [0.1, 0.2]}
    assert artifacts.is_complete(config)


async def test_d25_many_callers_compute_once(cache: PipelineArtifactCache, video: Path) -> None:
    calls = []

    async def compute() -> dict[str, int]:
        calls.append(1)
        await asyncio.sleep(0)
        return {"n": len(calls)}

    results = await asyncio.gather(
        *(cache.get_or_compute_transcript(video, compute) for _ in range(20))
    )
    assert results == [{"n": 1}] * 20


async def test_entries_expire_whatever_cleanup_on_startup_says(tmp_path: Path) -> None:
    config = FilesystemCacheConfig(tmp_path / "cache", cleanup_on_startup=False)
    tier = FilesystemCacheBackend(config)
    await tier.set("key", 1, ttl=10)
    tier.set_clock_offset(11_000)
    assert await tier.get("key") is None
    await tier.aclose()
