"""What one host computed, another one finds whose directory was made later: the point of a
fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place
from support_redis import redis_config
from support_s3 import config_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, PipelineArtifactCache


def host(folder: Path, name: str, remote: Any) -> tuple[PipelineArtifactCache, Path]:
    """A cache on a host of its own, and where that host has the video."""
    video = folder / name / f"{name}.mp4"
    video.parent.mkdir()
    video.write_bytes(b"a video")
    os.utime(video, (len(name), len(name)))
    local = FilesystemCacheConfig(folder / name / "cache", max_size_mb=100)
    manager = CacheManager(CacheConfig([local, remote]))
    return PipelineArtifactCache(manager, identity="content"), video


async def first_computes_and_second_does_not(folder: Path, remote: Any) -> None:
    first, video = host(folder, "first", remote)
    async with first:
        text = {"segments": [{"start": 0, "end": 1, "text": "x"}]}
        assert await first.set_transcript(video, text, language="en", tags=["mine"])
    second, video = host(folder, "second", remote)
    async with second:
        found = await (await second.video(video)).lookup("transcript", language="en")
        assert found.reason == "hit"
        assert found.value == text
        assert found.tier == second.cache.backends[1].name
    again, video = host(folder, "second-again", remote)
    async with again:  # what is invalidated here from now on is a miss here
        await again.cache.invalidate_tags("mine")
        found = await (await again.video(video)).lookup("transcript", language="en")
        assert found.reason == "tag-invalidated"
        why = await (await again.video(video)).explain("transcript", language="en")
        assert why.reason == "tag-invalidated"


@pytest.mark.s3("weed", "bare")
async def test_a_new_host_finds_in_s3_what_was_stored_before_it_was_there(
    tmp_path: Path, s3_place: S3Place
) -> None:
    await first_computes_and_second_does_not(tmp_path, config_at(s3_place))


async def test_a_new_host_finds_in_redis_what_was_stored_before_it_was_there(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    await first_computes_and_second_does_not(tmp_path, redis_config(redis_server, priority=1))
