"""A source that the system cannot say anything of never takes the pipeline down."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support_cache import a_video

from cogcache import Key, PipelineArtifactCache
from cogcache._system import SYSTEM
from cogcache.testing import memory_cache


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it, and the system refuses to say what any source is."""

    def refuse(path: bytes) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    return lambda: monkeypatch.setattr(SYSTEM, "probe", refuse)


@pytest.mark.parametrize("identity", ["stat", "content"])
async def test_an_unreadable_source_is_a_miss_of_everything(
    tmp_path: Path, unreadable: Any, caplog: pytest.LogCaptureFixture, identity: Any
) -> None:
    cache = PipelineArtifactCache(memory_cache().cache, identity=identity)
    path = a_video(tmp_path / "video.mp4")
    assert await cache.set_transcript(path, {"of": "the readable one"})
    unreadable()
    assert await cache.get_transcript(path) is None
    for asked in (path, (await cache.video(path)).source):
        assert (await cache.lookup("transcript", asked)).reason == "source-unreadable"
        assert (await cache.store("transcript", asked, {"a": 1})).reason == "source-unreadable"
        assert (await cache.explain("transcript", asked)).reason == "source-unreadable"
        assert not await cache.set_keyframes(asked, {"keyframes": []}, {})
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"a": len(calls)}

    assert await cache.get_or_compute("transcript", path, compute) == {"a": 1}
    assert cache.sync.get_or_compute("transcript", path, compute) == {"a": 2}
    video = await cache.video(path, {"transcribe_audio": True, "extract_keyframes": True})
    assert await video.get_or_compute_transcript(compute) == {"a": 3}
    assert await video.set_transcript({"a": 4}) is False
    assert await video.get_transcript() is None
    frames = await video.get_or_compute_keyframes(
        lambda: ([{"frame_id": 1}], {1: b"\xff\xd8picture"}), load_images=True
    )
    assert frames[1].encoded(1) == b"\xff\xd8picture"
    artifacts = await cache.get_all_artifacts(path, {"transcribe_audio": True})
    assert (artifacts.video_id, artifacts.audio_transcript) == ("video", None)
    with pytest.raises(TypeError, match="model_size"):
        await cache.get_or_compute("transcript", path, compute, modelsize="base")
    said = [r for r in caplog.records if "cannot be read" in r.getMessage()]
    assert len(said) == 1


async def test_its_key_matches_nothing_and_its_name_still_invalidates(
    tmp_path: Path, unreadable: Any
) -> None:
    cache = memory_cache()
    path = a_video(tmp_path / "video.mp4")
    assert await cache.set_transcript(path, {"of": "the readable one"})
    unreadable()
    key = await cache.key("transcript", path)
    assert not await cache.cache.exists(key)
    assert key != await cache.key("transcript", path)
    assert Key.parse(str(key)) == key
    assert await cache.invalidate_video(path) == 1
    assert await cache.cache.list_keys() == []


@pytest.mark.parametrize("sync", [False, True])
async def test_a_source_that_becomes_unreadable_meanwhile_costs_no_result(
    tmp_path: Path, unreadable: Any, sync: bool
) -> None:
    cache = memory_cache()
    path = tmp_path / "young.mp4"
    path.write_bytes(b"just written: looked at once more before anything is filed")
    os.utime(path, ns=(time.time_ns() + 10**12,) * 2)
    video = await cache.video(path)
    assert video.source.young_ns

    def compute() -> dict[str, int]:
        unreadable()
        return {"a": 1}

    if sync:
        assert video.sync.get_or_compute_transcript(compute, strict=True) == {"a": 1}
        assert video.sync.store("transcript", {"a": 2}).reason == "source-unreadable"
    else:
        assert await video.get_or_compute_transcript(compute, strict=True) == {"a": 1}
        assert (await video.store("transcript", {"a": 2})).reason == "source-unreadable"
    assert await video.get_transcript() is None
