"""What a cache says of one video is never said of another one, in tiers that list more than they
were asked for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    BackendConfig,
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    _core,
)


@pytest.fixture(params=["stat", "content"])
def identity(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["memory", "indexed", "table-less"])
async def cache(
    request: pytest.FixtureRequest, tmp_path: Path, identity: Any
) -> AsyncIterator[PipelineArtifactCache]:
    tier: BackendConfig = MemoryCacheConfig()
    if request.param != "memory":
        root = str(tmp_path / "cache")
        _core.Store(root, table_less=request.param == "table-less").close()
        tier = FilesystemCacheConfig(root)
    async with PipelineArtifactCache(CacheManager(CacheConfig([tier])), identity=identity) as made:
        yield made


@pytest.fixture
async def videos(cache: PipelineArtifactCache, tmp_path: Path) -> tuple[Path, Path]:
    """Two videos with a transcript each, that of the second one stored last."""
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    for path in (first, second):
        path.write_bytes(path.name.encode() * 1000)
        os.utime(path, (1, 1))
        assert await cache.set_transcript(path, {"of": path.name})
    return first, second


async def test_what_a_missing_file_was_is_never_what_another_one_is(
    cache: PipelineArtifactCache, videos: tuple[Path, Path], identity: str
) -> None:
    first, _ = videos
    first.unlink()
    video = await cache.video(first, missing="latest")
    assert video.source.kind == identity
    assert await video.get_transcript() == {"of": "first.mp4"}


async def test_a_missing_file_that_was_never_seen_stays_unknown(
    cache: PipelineArtifactCache, videos: tuple[Path, Path], tmp_path: Path
) -> None:
    video = await cache.video(tmp_path / "never.mp4", missing="latest")
    assert video.source.kind == "absent"
    assert await video.get_transcript() is None


async def test_a_video_is_not_explained_by_entries_of_another_one(
    cache: PipelineArtifactCache, videos: tuple[Path, Path], tmp_path: Path
) -> None:
    third = tmp_path / "third.mp4"
    third.write_bytes(b"the third")
    found = await cache.explain("transcript", third)
    assert (found.reason, found.known, found.nearest) == ("absent", 0, ())
    found = await cache.explain("transcript", videos[0], language="de")
    [near] = found.nearest
    assert [one.part for one in near.differences] == ["lang"]
    assert found.reason == "absent"


async def test_a_video_that_is_asked_for_by_another_identity_is_explained(
    cache: PipelineArtifactCache, videos: tuple[Path, Path], identity: str
) -> None:
    other: Any = "content" if identity == "stat" else "stat"
    asking = PipelineArtifactCache(cache.cache, identity=other)
    found = await asking.explain("transcript", videos[0])
    [near] = found.nearest
    assert [one.part for one in near.differences] == ["source.kind"]
    assert (found.reason, found.known) == ("absent", 1)
    assert f"stored under identity={identity!r}" in str(found)
