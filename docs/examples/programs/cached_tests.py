"""Tests of a pipeline with a cache: in memory, with types checked as on disk, and time that moves.

pytest cached_tests.py
"""

import pytest

from cogcache import PipelineArtifactCache
from cogcache.testing import FakeClock, memory_cache


async def transcript_of(cache: PipelineArtifactCache, path: str, calls: list[str]) -> str:
    """The code under test."""

    def transcribe() -> dict[str, object]:
        calls.append(path)
        return {"full_text": "hello", "segments": []}

    found = await cache.get_or_compute_transcript(path, transcribe, ttl="1d")
    return str(found["full_text"])


async def test_a_transcript_is_made_once_a_day() -> None:
    clock, calls = FakeClock(), list[str]()
    async with memory_cache(clock=clock) as cache:
        assert await transcript_of(cache, "s3://bucket/a.mp4", calls) == "hello"
        assert await transcript_of(cache, "s3://bucket/a.mp4", calls) == "hello"
        assert len(calls) == 1
        clock.advance("25h")
        assert await transcript_of(cache, "s3://bucket/a.mp4", calls) == "hello"
        assert len(calls) == 2


async def test_a_type_that_cannot_be_kept_is_found_here_and_not_in_production() -> None:
    async with memory_cache() as cache:
        with pytest.raises(TypeError, match="full_text"):
            await cache.set_transcript("a.mp4", {"full_text": object()})
