"""Slips of callers are errors that name the argument; they cost nothing that is stored."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video, filesystem_cache

from cogcache import (
    CacheConfig,
    CacheManager,
    ConfigError,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
)
from cogcache.testing import memory_cache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "video.mp4")


@pytest.mark.parametrize("frames", [5, "1", b"1", [1.5], [None], [True], {1: 2}])
async def test_frames_that_are_no_ids_never_cost_the_entry(
    tmp_path: Path, video: Path, frames: Any
) -> None:
    cache = filesystem_cache(tmp_path / "cache")
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": 1}]}, {1: b"\xff\xd8picture"})
    key = await cache.key("keyframes", video)
    with pytest.raises(TypeError, match="frame"):
        await cache.get_keyframes(video, load_images=True, frames=frames)
    with pytest.raises(TypeError, match="frame"):
        await cache.cache.lookup(key, frames=frames)
    _, images = await cache.get_keyframes(video, load_images=True, frames=[np.int64(1)])
    assert images.encoded(1) == b"\xff\xd8picture"
    await cache.aclose()


async def test_a_frame_that_was_not_stored_is_a_miss(video: Path) -> None:
    cache = memory_cache()
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": 1}]}, {1: b"\xff\xd8picture"})
    assert await cache.get_keyframes(video, load_images=True, frames=[1, 2]) is None


@pytest.mark.parametrize(
    ("artifact", "named", "said"),
    [
        ("transcript", {"model_size": None}, "model_size"),
        ("transcript", {"model_size": ""}, "model_size"),
        ("transcript", {"language": ""}, "language"),
        ("descriptions", {"model_name": ""}, "model_name"),
        ("descriptions", {"model_name": "m", "batch_size": None}, "batch_size"),
        ("descriptions", {"model_name": "m", "batch_size": -1}, "batch_size"),
        ("embeddings", {"model_name": 5}, "model_name"),
        ("keyframes", {"max_frames": None}, "max_frames"),
        ("keyframes", {"max_frames": float("inf")}, "max_frames"),
        ("keyframes", {"max_frames": 2.5}, "max_frames"),
        ("keyframes", {"max_frames": [1]}, "max_frames"),
        ("keyframes", {"threshold": float("inf")}, "threshold"),
        ("keyframes", {"threshold": "0.9"}, "threshold"),
        ("keyframes", {"treshold": 0.9}, "'threshold'"),
        ("keyframes", {"mode": "view"}, "mode"),
        ("transcript", {"load_images": True}, "load_images"),
        ("embeddings", {"model_name": "m", "mode": "veiw"}, "mode"),
        ("embeddings", {"model_name": "m", "names": "abc"}, "names"),
        ("transcipt", {}, "'transcript'"),
        ("transcript", {"params": {"a": object()}}, r"\$\.params\.a"),
    ],
)
async def test_a_wrong_argument_of_an_artifact_is_named(
    video: Path, artifact: str, named: dict[str, Any], said: str
) -> None:
    cache = memory_cache()
    with pytest.raises((TypeError, ValueError), match=said):
        await cache.lookup(artifact, video, **named)


async def test_channels_belong_to_pictures(video: Path) -> None:
    cache = memory_cache()
    with pytest.raises(TypeError, match="channels"):
        await cache.store("transcript", video, {}, channels="rgb")
    with pytest.raises(TypeError, match="channels"):
        await cache.get_or_compute("transcript", video, dict, channels="rgb")


async def test_a_wrong_argument_of_the_manager_is_named() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    wrong: list[tuple[str, Any]] = [
        ("mode", lambda: manager.lookup("key", mode="veiw")),  # type: ignore[arg-type]
        ("keys", lambda: manager.get_many("abc")),
        ("items", lambda: manager.set_many([("a", 1)])),  # type: ignore[arg-type]
        ("metadata", lambda: manager.store("key", 1, metadata="text")),  # type: ignore[arg-type]
        ("content_type", lambda: manager.store("key", 1, content_type=5)),  # type: ignore[arg-type]
        ("tags", lambda: manager.store("key", 1, tags="one")),
        ("cost_seconds", lambda: manager.store("key", 1, cost_seconds=-1)),
        ("ttl", lambda: manager.set("key", 1, ttl=10**400)),
        ("ttl", lambda: manager.touch("absent", ttl=-1)),
        ("timeout", lambda: manager.aclose(-1)),
    ]
    for said, call in wrong:
        with pytest.raises((TypeError, ValueError), match=said):
            await call()
    with pytest.raises(TypeError, match="mod"):
        await manager.lookup("key", mod="view")  # type: ignore[call-arg]
    with pytest.warns(UserWarning, match="NUL"):
        assert await manager.clear("a\0b") == 0


async def test_closed_means_closed() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    await manager.aclose()
    for call in (
        manager.list_keys,
        manager.clear,
        manager.cleanup_expired,
        lambda: manager.invalidate_tags("a"),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            await call()


@pytest.mark.parametrize(
    "options",
    [
        {"max_size_mb": 1e13},
        {"max_size_mb": 10**400},
        {"min_free_mb": 1 << 50},
        {"max_files": 2.5},
        {"max_files": 10**14},
        {"touch_seconds": 0.5},
        {"touch_seconds": 10**14},
    ],
)
def test_absurd_sizes_are_configuration_errors(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        FilesystemCacheConfig("cache", **options)


def test_a_missing_option_and_a_mixed_up_kind_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backends"):
        CacheConfig.from_dict({})
    wrong = FilesystemCacheConfig(tmp_path, backend_type="memory")
    with pytest.raises(ConfigError, match="MemoryCacheConfig"):
        CacheManager(CacheConfig([wrong]))


def test_open_takes_urls_of_directories_and_keeps_the_order(tmp_path: Path) -> None:
    cache = PipelineArtifactCache.open(
        f"file://{tmp_path}/a%20b", tmp_path / "second", {"backend_type": "memory"}
    )
    assert (tmp_path / "a b" / "v1").is_dir()
    assert [tier.name for tier in cache.cache.backends] == [
        "FilesystemCacheBackend",
        "FilesystemCacheBackend#2",
        "MemoryCacheBackend",
    ]
    cache.sync.aclose()
    with pytest.raises(ConfigError, match="s3"):
        PipelineArtifactCache.open("gcs://bucket/prefix")
    with pytest.raises(ConfigError, match="int"):
        PipelineArtifactCache.open(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["a\0b", "\ud800", "x" * 1_000_000, 5])
def test_a_profile_that_no_key_can_hold_is_refused_at_once(profile: Any) -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    with pytest.raises(ConfigError, match="profile"):
        PipelineArtifactCache(manager, profile=profile)


async def test_a_video_takes_its_arguments_by_position_as_the_cache_does(video: Path) -> None:
    cache = memory_cache()
    bound = await cache.video(video, {"whisper_model": "large", "keyframe_threshold": 0.5})
    assert await bound.set_transcript({"text": "a"}, "small", "en")
    assert await bound.get_transcript("small", "en") == {"text": "a"}
    assert await cache.get_transcript(video, "small", "en") == {"text": "a"}
    assert await bound.get_transcript() is None  # large
    assert await bound.set_descriptions({"1": "text"}, "model", 100)
    assert await bound.get_descriptions("model", 100) == {"1": "text"}
    assert await bound.key("keyframes", max_frames=7) == await cache.key(
        "keyframes", video, threshold=0.5, max_frames=7
    )
    assert await bound.key("keyframes", strategy="fps", fps=2) == await cache.key(
        "keyframes", video, strategy="fps", fps=2
    )
    with pytest.raises(ValueError, match="SourceRef"):
        await cache.video(bound.source, source_id="other")
    with pytest.raises(TypeError, match="config"):
        await cache.video(video, [1])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: fork beside threads
def test_a_directory_that_this_user_cannot_write_is_a_configuration_error() -> None:
    above = tempfile.mkdtemp()  # the test's own directories lie under one that is private
    root = Path(above, "theirs")
    root.mkdir()
    Path(above).chmod(0o755)
    root.chmod(0o555)
    child = os.fork()
    if child == 0:
        said = ""
        with contextlib.suppress(BaseException):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            try:
                PipelineArtifactCache.open(root)
            except ConfigError as error:
                said = str(error)
        os._exit(0 if "base_path" in said and "choose another directory" in said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    root.rmdir()
    os.rmdir(above)
