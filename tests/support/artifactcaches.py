"""What tests of artifacts share: a video, and a cache of each local kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cogcache import FilesystemCacheConfig, MemoryCacheConfig, PipelineArtifactCache


@pytest.fixture(params=["memory", "filesystem"])
async def cache(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[PipelineArtifactCache]:
    """A cache in memory, and one in files."""
    tier = (
        MemoryCacheConfig() if request.param == "memory" else FilesystemCacheConfig(tmp_path / "c")
    )
    async with PipelineArtifactCache.open(tier) as cache:
        yield cache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A file that stands for a video."""
    path = tmp_path / "v.mp4"
    path.write_bytes(b"v" * 100)
    return path
