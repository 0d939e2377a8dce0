"""A frame that is asked for again is read without the metadata, and whatever became of the entry
meanwhile, nothing is given but the frame that is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_frames import frames_built
from support_pool import needs_inline

from cogcache import (
    ClosedError,
    FilesystemCacheConfig,
    Keyframes,
    MemoryCacheConfig,
    PipelineArtifactCache,
)
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.framehits import WRITES_KEPT
from cogcache.video import VideoCache

COUNT = 5
METADATA = [{"frame_id": number} for number in range(COUNT)]


def pictures(version: int, size: int = 20_000) -> list[bytes]:
    """Pictures of one write: no two of any two writes are the same."""
    return [bytes([version, number]) * (size // 2) for number in range(COUNT)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "c"


@pytest.fixture
async def cache(folder: Path) -> AsyncIterator[PipelineArtifactCache]:
    async with PipelineArtifactCache.open(FilesystemCacheConfig(folder)) as cache:
        yield cache


@pytest.fixture
async def video(cache: PipelineArtifactCache, tmp_path: Path) -> VideoCache:
    """A video whose frame 3 was read twice: the third time will be the short way."""
    path = tmp_path / "v.mp4"
    path.write_bytes(b"v" * 100)
    video = await cache.video(path)
    assert await video.set_keyframes(METADATA, pictures(1))
    for _ in range(2):
        assert await video.get_frame(3) == pictures(1)[3]
    return video


def objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "v1" / "objects").glob("*/*") if path.is_file()]


@needs_inline
async def test_the_metadata_is_looked_at_once(
    video: VideoCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = frames_built(monkeypatch)
    for number in range(COUNT):
        assert await video.get_frame(number) == pictures(1)[number]
        assert await video.get_frame(str(number)) == pictures(1)[number]
    assert built == Counter()
    assert await video.get_frame(4, decode=False, keyframes=Keyframes()) == pictures(1)[4]
    assert built == Counter({"4": 1})  # asked with other keyframes, of which nothing is known


async def test_it_counts_as_it_would_have(tmp_path: Path) -> None:
    """The memory tier always takes the long way: both count the same."""
    counted = []
    path = tmp_path / "v.mp4"
    path.write_bytes(b"v" * 100)
    for tier in (MemoryCacheConfig(), FilesystemCacheConfig(tmp_path / "c")):
        async with PipelineArtifactCache.open(tier) as cache:
            video = await cache.video(path)
            await video.set_keyframes(METADATA, pictures(1), cost_seconds=2.0)
            for frame in (1, 1, 2, 99, 1):
                await video.get_frame(frame)
            stats = await cache.get_cache_stats()
            [tier_stats] = stats["overall"]["backends"].values()
            counted.append(
                (
                    stats["artifacts"]["keyframes"],
                    [stats["overall"]["manager"][name] for name in ("hits", "misses")],
                    [tier_stats[name] for name in ("hits", "misses")],
                )
            )
    assert counted[0] == counted[1]
    assert counted[0][0]["seconds_saved"] == 8.0


async def test_a_frame_that_is_not_there_is_a_miss(video: VideoCache) -> None:
    for missing in (99, "99", "", "003", -1, "\ud800", "x" * 300):
        assert await video.get_frame(missing) is None
    with pytest.raises(TypeError, match="frame id"):
        await video.get_frame(1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="frame id"):
        await video.get_frame(True)
    assert await video.get_frame(np.int64(3)) == pictures(1)[3]  # type: ignore[arg-type]


async def test_a_new_write_is_seen_whoever_made_it(video: VideoCache, folder: Path) -> None:
    assert await video.set_keyframes(METADATA, pictures(2))
    for _ in range(3):
        assert await video.get_frame(3) == pictures(2)[3]
    async with PipelineArtifactCache.open(FilesystemCacheConfig(folder)) as other:
        again = await other.video(video.source)
        assert await again.set_keyframes(METADATA, pictures(3))
    for _ in range(3):
        assert await video.get_frame(3) == pictures(3)[3]
    program = (
        "import sys; from pathlib import Path; from cogcache import *\n"
        "cache = PipelineArtifactCache.open(sys.argv[1]).sync\n"
        "frames = [bytes([4, number]) * 10000 for number in range(5)]\n"
        "ids = [{'frame_id': number} for number in range(5)]\n"
        "assert cache.set_keyframes(Path(sys.argv[2]), ids, frames)\n"
        "cache.aclose()\n"
    )
    path = str(folder.parent / "v.mp4")
    subprocess.run([sys.executable, "-c", program, str(folder), path], check=True)
    for _ in range(3):
        assert await video.get_frame(3) == pictures(4)[3]


async def test_another_write_in_the_place_of_the_file_is_seen(
    video: VideoCache, folder: Path, tmp_path: Path
) -> None:
    [file] = objects(folder)
    first = file.read_bytes()
    assert await video.set_keyframes(METADATA, pictures(2))
    second = file.read_bytes()
    assert len(first) == len(second)
    assert await video.get_frame(3) == pictures(2)[3]
    for image, version in ((first, 1), (second, 2), (first, 1)):  # overwritten in place
        with file.open("r+b") as open_file:
            open_file.write(image)
        for _ in range(2):
            assert await video.get_frame(3) == pictures(version)[3]
    aside = file.with_name(file.name + "-aside")
    aside.write_bytes(second)
    aside.chmod(0o600)
    os.replace(aside, file)
    for _ in range(2):
        assert await video.get_frame(3) == pictures(2)[3]


@pytest.mark.parametrize("place", ["frame", "index", "footer"])
async def test_damage_is_a_miss(video: VideoCache, folder: Path, place: str) -> None:
    [file] = objects(folder)
    image = bytearray(file.read_bytes())
    at = {"frame": image.index(pictures(1)[3]) + 7, "index": -130, "footer": -30}[place]
    image[at] ^= 0x10
    file.write_bytes(image)
    for _ in range(2):
        assert await video.get_frame(3) is None
    assert not file.exists()


async def test_a_shorter_file_is_a_miss(video: VideoCache, folder: Path) -> None:
    [file] = objects(folder)
    os.truncate(file, file.stat().st_size - 1)
    assert await video.get_frame(3) is None


async def test_a_deleted_entry_is_a_miss(video: VideoCache, folder: Path) -> None:
    [file] = objects(folder)
    file.unlink()
    assert await video.get_frame(3) is None
    assert await video.set_keyframes(METADATA, pictures(2))
    assert await video.get_frame(3) == pictures(2)[3]
    assert await video.invalidate_video() == 1
    assert await video.get_frame(3) is None


async def test_an_invalidated_and_an_expired_one_are_misses(
    cache: PipelineArtifactCache, video: VideoCache
) -> None:
    assert await video.set_keyframes(METADATA, pictures(2), tags=["cut"], ttl=100)
    for _ in range(2):
        assert await video.get_frame(3) == pictures(2)[3]
    tier = cache.cache.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)
    tier.set_clock_offset(101_000)
    assert await video.get_frame(3) is None
    tier.set_clock_offset(0)
    assert await video.get_frame(3) == pictures(2)[3]
    await cache.cache.invalidate_tags("cut")
    assert await video.get_frame(3) is None


async def test_other_keyframes_are_other_frames(video: VideoCache) -> None:
    video.config["max_frames_per_video"] = 7
    assert await video.get_frame(3) is None
    assert await video.set_keyframes(METADATA, pictures(2))
    for _ in range(3):
        assert await video.get_frame(3) == pictures(2)[3]
    del video.config["max_frames_per_video"]
    assert await video.get_frame(3) == pictures(1)[3]
    video.config["keyframe_strategy"] = None
    with pytest.raises(ValueError, match="keyframe_strategy"):
        await video.get_frame(3)
    del video.config["keyframe_strategy"]
    params: dict[str, Any] = {"crop": 1}  # may change, so nothing is known by it
    keyframes = Keyframes(params=params)
    for crop in (1, 2):
        params["crop"] = crop
        named = {"params": {"crop": crop}}
        assert await video.set_keyframes(METADATA, pictures(5 + crop), **named)  # type: ignore[arg-type]
    for crop in (1, 2, 1):
        params["crop"] = crop
        for _ in range(2):
            assert await video.get_frame(3, keyframes=keyframes) == pictures(5 + crop)[3]


async def test_a_profile_has_frames_of_its_own(
    cache: PipelineArtifactCache, video: VideoCache
) -> None:
    cache.profile = "other"
    assert await video.get_frame(3) is None
    cache.profile = None
    assert await video.get_frame(3) == pictures(1)[3]


async def test_long_and_packed_frames_take_the_long_way(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    path = tmp_path / "w.mp4"
    path.write_bytes(b"w")
    video = await cache.video(path)
    long = pictures(1, 600_000)
    arrays = [np.full((64, 64, 4), number, np.float32) for number in range(COUNT)]
    assert await video.set_keyframes(METADATA, long)
    for _ in range(3):
        assert await video.get_frame(2) == long[2]
    assert await video.set_keyframes(METADATA, arrays)
    for _ in range(3):
        assert await video.get_frame(2) == arrays[2].tobytes()
        assert np.array_equal(await video.get_frame(2, decode=True), arrays[2])


@needs_inline
async def test_what_is_known_is_bounded(cache: PipelineArtifactCache, video: VideoCache) -> None:
    frames = Keyframes()
    for _ in range(WRITES_KEPT + 10):
        frames = Keyframes()
        assert await video.get_frame(3, keyframes=frames) == pictures(1)[3]
    assert 0 < len(cache._frame_hits._writes) <= WRITES_KEPT
    assert await video.get_frame(3, keyframes=frames) == pictures(1)[3]


async def test_a_closed_cache_says_so(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"v")
    cache = PipelineArtifactCache.open(FilesystemCacheConfig(folder))
    video = await cache.video(path)
    await video.set_keyframes(METADATA, pictures(1))
    for _ in range(2):
        await video.get_frame(3)
    await cache.aclose()
    with pytest.raises(ClosedError):
        await video.get_frame(3)
