"""Frames of all segments of a long video in one call (A15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cogcache import PipelineArtifactCache

PICTURE = b"\xff\xd8\xff\xe0 a picture \xff\xd9"
HOURS = [(number, number * 30.0, number * 30.0 + 30) for number in range(3 * 120)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"a video")
    return path


@pytest.fixture(params=["awaited", "blocking"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    cache = PipelineArtifactCache.open(tmp_path / "cache")
    yield cache if request.param == "awaited" else Blocking(cache)
    await cache.aclose()


class Blocking:
    """The same methods, called in the thread of the event loop."""

    def __init__(self, cache: PipelineArtifactCache) -> None:
        self.sync = cache.sync

    def __getattr__(self, name: str) -> Any:
        async def call(*values: Any, **named: Any) -> Any:
            return getattr(self.sync, name)(*values, **named)

        return call


async def store(cache: Any, video: Path, segment: tuple[int, float, float]) -> None:
    number, start, end = segment
    pictures = [PICTURE + bytes([number % 256])] * 2
    assert await cache.set_segment_frames(video, number, start, end, pictures, [start, start + 15])


async def test_three_hours_of_segments_are_one_call(cache: Any, video: Path) -> None:
    for segment in HOURS:
        await store(cache, video, segment)
    found = await cache.get_all_segment_frames(video, HOURS)
    assert list(found) == [number for number, _, _ in HOURS]
    for number, start, _ in HOURS:
        metadata, pictures = found[number]
        assert metadata["timestamps"] == [start, start + 15]
        assert pictures == [PICTURE + bytes([number % 256])] * 2
    known = await cache.get_all_segment_frames(video, HOURS[:5], load_images=False)
    assert [one["segment_id"] for one in known.values()] == [0, 1, 2, 3, 4]


async def test_one_changed_parameter_of_one_of_sixty_segments_is_one_miss(
    cache: Any, video: Path
) -> None:
    for segment in HOURS[:60]:
        await store(cache, video, segment)
    changed = [*HOURS[:17], (17, 17 * 30.0, 17 * 30.0 + 31), *HOURS[18:60]]
    found = await cache.get_all_segment_frames(video, changed)
    assert len(found) == 59
    assert 17 not in found


async def test_the_source_is_looked_at_once(
    cache: Any, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    whole = PipelineArtifactCache.video

    async def counted(self: PipelineArtifactCache, *values: Any, **named: Any) -> Any:
        looks.append(values)
        return await whole(self, *values, **named)

    monkeypatch.setattr(PipelineArtifactCache, "video", counted)
    assert await cache.get_all_segment_frames(video, HOURS) == {}
    assert len(looks) == 1


async def test_a_wrong_segment_is_named(cache: Any, video: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        (None, "segments must be"),
        ("1", "segments must be"),
        ([(1, 0.0)], r"segments\[0\] must be \(segment_id, start_time, end_time\)"),
        ([(1, 0.0, 1.0), 2], r"segments\[1\]"),
        ([(1, 0.0, 1.0), (1, 1.0, 2.0)], r"segments\[1\]: segment 1 is there twice"),
        ([(1, 2.0, 1.0)], "end_time"),
    ]
    for segments, said in wrong:
        with pytest.raises((TypeError, ValueError), match=said):
            await cache.get_all_segment_frames(video, segments)
    with pytest.raises(TypeError, match="max_frame"):
        await cache.get_all_segment_frames(video, HOURS, max_frame=12)
