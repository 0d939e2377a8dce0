"""What teams do with many variants of a video: segments, listings, new versions (A15, K07, K10,
Q10, T21).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import tier_at

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    _bridge,
)
from cogcache.backends.filesystem import FilesystemCacheBackend

# The row says 10^5; what is counted does not depend on how many there are.
OTHERS = 100_000 if os.environ.get("COGCACHE_TORTURE") else 500


def files_at(path: Path) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path, cleanup_on_startup=False))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"video" * 1000)
    os.utime(path, (1e9, 1e9))
    return path


async def test_one_changed_segment_of_sixty_is_one_miss(tmp_path: Path, video: Path) -> None:
    """A15: 60 segments of 30 s."""
    cache = PipelineArtifactCache(manager_over(files_at(tmp_path / "cache")))
    computed: list[int] = []

    async def process(max_frames_of_17: int) -> None:
        ref = await cache.video(video)
        for segment in range(60):

            def compute(number: int = segment) -> tuple[dict[str, int], list[bytes]]:
                computed.append(number)
                return {"segment": number}, [b"\xff\xd8\xff" + bytes([number])]

            metadata, frames = await ref.get_or_compute_segment_frames(
                compute,
                segment_id=segment,
                start_time=segment * 30.0,
                end_time=segment * 30.0 + 30.0,
                max_frames=max_frames_of_17 if segment == 17 else 12,
            )
            assert metadata["segment"] == segment
            assert frames == [b"\xff\xd8\xff" + bytes([segment])]

    await process(12)
    assert computed == list(range(60))
    computed.clear()
    await process(12)
    assert computed == []
    await process(13)
    assert computed == [17]
    await cache.aclose()


async def test_listing_the_variants_of_a_video_opens_no_other_entry(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K07: by the index of sources."""
    manager = manager_over(files_at(tmp_path / "cache"))
    cache = PipelineArtifactCache(manager)
    for number in range(OTHERS):
        await cache.set_transcript(f"s3://raw/{number}.mp4", {"text": "another"})
    for model in ("tiny", "base", "large"):
        await cache.set_transcript(video, {"text": model}, model_size=model)
    await cache.set_descriptions(video, {"text": "x"}, model_name="llava")
    opened: list[bytes] = []
    original = _bridge.run

    async def counted(target: Any, operation: str, *args: Any, **named: Any) -> Any:
        if operation == "fetch_digests":
            opened.extend(args[0])
        return await original(target, operation, *args, **named)

    monkeypatch.setattr(_bridge, "run", counted)
    plan = await manager.select(source=video, artifact="transcript")
    assert {one.key.params["model"] for one in plan.entries} == {"tiny", "base", "large"}
    assert len(opened) == 4
    opened.clear()
    assert (await manager.select()).count == OTHERS + 4
    assert len(opened) == OTHERS + 4
    await manager.aclose()


async def test_a_new_version_of_a_video_leaves_the_old_one_to_be_reclaimed(
    tmp_path: Path, video: Path
) -> None:
    """K10: the old generation is a miss at once, listed with its source, and removed alone."""
    manager = manager_over(files_at(tmp_path / "cache"))
    cache = PipelineArtifactCache(manager)
    computed: list[int] = []

    def compute() -> dict[str, int]:
        computed.append(1)
        return {"run": len(computed)}

    for _ in range(2):
        assert await cache.get_or_compute("transcript", video, compute) == {"run": 1}
    video.write_bytes(b"a new version" * 500)
    assert await cache.get_transcript(video) is None
    for _ in range(2):
        assert await cache.get_or_compute("transcript", video, compute) == {"run": 2}
    current = await cache.key("transcript", video)
    plan = await manager.select(source=video)
    assert plan.count == 2
    old = plan.only(lambda one: one.key.source != current.source)
    assert (old.count, await old.delete()) == (1, 1)
    assert await cache.get_transcript(video) == {"run": 2}
    assert (await manager.select(source=video)).count == 1
    await cache.aclose()


def test_a_hit_in_memory_waits_for_nothing() -> None:
    """Q10: neither a thread nor a turn of an event loop."""
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    manager.sync.set("key", b"x" * 4096)
    hit = manager.get("key")
    with pytest.raises(StopIteration) as answer:
        hit.send(None)
    assert answer.value.value == b"x" * 4096


@pytest.mark.s3("weed")
async def test_pods_compute_once_and_each_pulls_once(s3_place: S3Place, tmp_path: Path) -> None:
    """T21: two pods with a disk each, one bucket."""
    computed: list[str] = []
    pods = [manager_over(files_at(tmp_path / f"pod{n}"), tier_at(s3_place)) for n in range(3)]
    for round_number in range(2):
        for number, pod in enumerate(pods):

            def compute(pod_number: int = number) -> dict[str, Any]:
                computed.append(f"pod {pod_number}")
                return {"text": "hello", "data": b"x" * 10_000}

            value = await pod.get_or_compute("key", compute)
            assert value == {"text": "hello", "data": b"x" * 10_000}
            while pod._tiers.promotions.tasks:  # the copy onto the pod's disk
                await asyncio.gather(*pod._tiers.promotions.tasks)
        assert computed == ["pod 0"]
        pulled = [pod.backends[1].counters["hits"] for pod in pods]
        assert pulled == [0, 1, 1], round_number
    for pod in pods:
        await pod.aclose()
