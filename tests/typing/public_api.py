"""What type checkers must make of the public API. Never run: ``test_typing.py`` has them check
it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from cogcache import (
    ArtifactStats,
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Frames,
    Key,
    Keyframes,
    Lookup,
    MemoryCacheConfig,
    PipelineArtifactCache,
    SourceRef,
    StoreResult,
    StreamResult,
    VideoArtifacts,
    VideoCache,
    parse_range,
)


async def transcribe() -> dict[str, str]:
    return {"text": "words"}


def extract() -> tuple[list[dict[str, int]], dict[int, bytes]]:
    return [{"frame_id": 1}], {1: b"picture"}


def measure() -> list[float]:
    return [0.5]


def enough(value: dict[str, str]) -> bool:
    return bool(value)


async def managers() -> None:
    config = CacheConfig([FilesystemCacheConfig("dir", max_size_mb=100), MemoryCacheConfig()])
    async with CacheManager(config) as manager:
        assert_type(await manager.set("key", 1, ttl="7d"), bool)
        assert_type(await manager.lookup("key", mode="view", frames=[1, "2"]), Lookup)
        assert_type(await manager.store("key", 1, tags=["a"], cost_seconds=2.5), StoreResult)
        # The awaitable's result, not the coroutine.
        assert_type(await manager.get_or_compute("key", transcribe), dict[str, str])
        assert_type(await manager.get_or_compute("key", measure), list[float])
        assert_type(
            await manager.get_or_compute(
                "key", transcribe, gate=asyncio.Semaphore(1), should_store=enough
            ),
            dict[str, str],
        )
        assert_type(await manager.get_or_compute("key", lambda: 5), int)
        assert_type(await manager.put_stream("key", [b"a", b"b"], ttl="7d"), StreamResult)
        assert_type(await manager.read_range("key", 0, 10), bytes | None)
        async for piece in manager.get_stream("key"):
            assert_type(piece, bytes)
        async with manager.tee_stream("key", [b"a", b"b"], finish=True) as stream:
            async for piece in stream:
                assert_type(piece, bytes)
        assert_type(await stream.stored(), StreamResult)
        assert_type(parse_range("bytes=0-1", 10), tuple[int, int] | None)
        async with manager.open("key", "frame/17") as reader:
            if reader is not None:
                assert_type(await reader.read(0, 10), bytes)
        await manager.lookup("key", mode="veiw")  # type: ignore[arg-type]  # pyright: ignore
        await manager.lookup("key", mod="view")  # type: ignore[call-arg]  # pyright: ignore


async def artifacts(path: Path) -> None:
    async with PipelineArtifactCache.open(path, identity="content", ttl={"*": "7d"}) as cache:
        assert_type(cache, PipelineArtifactCache)
        assert_type(await cache.get_or_compute("transcript", path, transcribe), dict[str, str])
        assert_type(
            await cache.get_or_compute("transcript", path, measure, model_size="base"), list[float]
        )
        assert_type(await cache.get_or_compute_transcript(path, transcribe), dict[str, str])
        # What is stored comes back, not what was computed: metadata, or metadata and Frames.
        assert_type(await cache.get_or_compute("keyframes", path, extract), Any)
        assert_type(await cache.get_or_compute("keyframes", path, extract, load_images=True), Any)
        assert_type(await cache.get_or_compute("segment_frames", path, extract, segment_id=1), Any)
        assert_type(await cache.get_or_compute_keyframes(path, extract), Any)
        assert_type(
            await cache.get_or_compute_descriptions(path, transcribe, model_name="m"),
            dict[str, str],
        )
        assert_type(
            await cache.get_or_compute_embeddings(path, measure, model_name="m"), list[float]
        )
        assert_type(await cache.set_transcript(path, {}, "base", "en", ttl=0), bool)
        key = await cache.key("keyframes", path, fps=2, strategy="fps")
        assert_type(key, Key)
        await cache.get_descriptions(path, "model", keyframes=key)
        await cache.get_descriptions(path, "model", keyframes=Keyframes(threshold=0.5))
        await cache.get_embeddings(path, "model", inputs={"frames": key}, mode="view")
        assert_type(await cache.get_all_artifacts(path, {}), VideoArtifacts)
        assert_type(await cache.invalidate_video(path), int)
        assert_type(await cache.get_cache_stats(), ArtifactStats)
        await cache.get_transcript(path, modelsize="base")  # type: ignore[call-arg]  # pyright: ignore


async def one_video(cache: PipelineArtifactCache, config: Mapping[str, Any]) -> None:
    video = await cache.video("video.mp4", config, missing="latest")
    assert_type(video, VideoCache)
    assert_type(video.source, SourceRef)
    assert_type(await video.get_or_compute("transcript", transcribe), dict[str, str])
    assert_type(await video.get_or_compute_transcript(measure), list[float])
    assert_type(await video.get_or_compute("keyframes", extract), Any)
    assert_type(await video.get_or_compute_keyframes(extract), Any)
    assert_type(await video.set_transcript({}, "base"), bool)
    await video.get_descriptions()
    await video.get_descriptions("model", 100, prompt="what is this?")
    await video.get_embeddings(mode="copy")
    await video.get_transcript(modelsize="base")  # type: ignore[call-arg]  # pyright: ignore


async def pictures(frames: Frames) -> None:
    assert_type(frames.encoded(17), bytes)
    assert_type(frames.content_type("17"), str)
    assert_type(list(frames), list[str])
    await frames.decode([1, 2], threads=2)
