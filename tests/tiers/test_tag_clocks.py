"""An invalidation holds in every tier, although a host whose clock is ahead gave a tag its
version."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, MemoryCacheConfig

AHEAD_MS = 30_000


@pytest.mark.parametrize("ahead", [0, 1, 2])
async def test_an_invalidation_outdates_what_carries_the_version_of_a_clock_ahead(
    tmp_path: Path, ahead: int
) -> None:
    tiers = [
        MemoryCacheConfig(max_size_mb=64),
        FilesystemCacheConfig(tmp_path / "near", priority=1),
        FilesystemCacheConfig(tmp_path / "far", priority=2),
    ]
    async with CacheManager(CacheConfig(tiers)) as manager:
        other = manager.backends[ahead]
        theirs = (other.now_ms() + AHEAD_MS) * 1000
        await other.invalidate_tags(["video"], theirs)  # as by the clock of another host
        assert other.tag_version("video") > theirs
        assert (await manager.store("key", "old", tags=["video"])).stored
        assert await manager.get("key") == "old"
        await manager.invalidate_tags("video")
        assert await manager.get("key") is None
        for tier in manager.backends:
            assert tier.tag_version("video") > theirs
        assert (await manager.store("key", "new", tags=["video"])).stored
        assert await manager.get("key") == "new"


async def test_a_version_to_go_beyond_is_gone_beyond(tmp_path: Path) -> None:
    for config in (MemoryCacheConfig(max_size_mb=64), FilesystemCacheConfig(tmp_path)):
        async with CacheManager(CacheConfig([config])) as manager:
            [tier] = manager.backends
            above = (tier.now_ms() + AHEAD_MS) * 1000
            await tier.invalidate_tags(["a", "b"], above)
            assert tier.tag_version("a") > above
            assert tier.tag_version("b") > above
            await tier.invalidate_tags(["a"], 0)
            assert tier.tag_version("a") > above
