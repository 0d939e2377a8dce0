"""The artifact cache: what is found again, what is not, and what is never kept."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video, filesystem_cache

from cogcache import (
    CogcacheWarning,
    ConfigError,
    Frames,
    Key,
    Keyframes,
    MemoryCacheConfig,
    PipelineArtifactCache,
    VideoArtifacts,
)
from cogcache.config import CacheConfig
from cogcache.manager import CacheManager
from cogcache.testing import FakeClock, memory_cache

TRANSCRIPT = {
    "video_id": "v",
    "language": "en",
    "duration": 24.7,
    "full_text": "hello there",
    "segments": [
        {"start": 0.0, "end": 1.5, "text": "hello"},
        {"start": 1.5, "end": 3, "text": "there"},
    ],
}


@pytest.fixture(params=["memory", "filesystem"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> PipelineArtifactCache:
    if request.param == "memory":
        return memory_cache()
    return filesystem_cache(tmp_path / "cache")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "v.mp4")


def keyframes_of(number: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    frames = [
        {"frame_id": n, "timestamp": n / 2, "filename": f"{n}.jpg", "path": f"/tmp/x/{n}.jpg"}
        for n in range(number)
    ]
    images = {str(n): b"\xff\xd8\xff" + bytes([n % 256]) * 5000 for n in range(number)}
    return {"video_id": "v", "keyframes": frames, "metadata": {"keyframes": frames}}, images


# --- each artifact round-trips --------------------------------------------------------------------


async def test_transcripts_in_six_variants_stay_apart(
    cache: PipelineArtifactCache, video: Path
) -> None:
    variants = list(itertools.product(("base", "large"), ("en", "fr", None)))
    for model, language in variants:
        assert await cache.set_transcript(video, {"of": [model, language]}, model, language)
    for model, language in variants:
        assert await cache.get_transcript(video, model, language) == {"of": [model, language]}
    assert await cache.get_transcript(video, "tiny") is None
    # None is "auto"
    assert await cache.get_transcript(video, "base", "auto") == {"of": ["base", None]}


@pytest.mark.parametrize("empty", [{"segments": []}, {}, [], ""])
async def test_an_empty_transcript_is_a_hit(
    cache: PipelineArtifactCache, video: Path, empty: Any
) -> None:
    assert await cache.set_transcript(video, empty)
    assert (await cache.lookup("transcript", video)).hit
    assert await cache.get_transcript(video) == empty


async def test_a_failed_transcript_is_not_kept(cache: PipelineArtifactCache, video: Path) -> None:
    assert not await cache.set_transcript(video, {"error": "CUDA out of memory", "segments": []})
    assert (await cache.store("transcript", video, {"error": "x"})).reason == "failed-result"
    assert await cache.get_transcript(video) is None
    calls = []

    def transcribe() -> dict[str, Any]:
        calls.append(1)
        return {"error": "again"} if len(calls) == 1 else TRANSCRIPT

    assert (await cache.get_or_compute_transcript(video, transcribe))["error"] == "again"
    assert await cache.get_or_compute_transcript(video, transcribe) == TRANSCRIPT
    assert await cache.get_or_compute_transcript(video, transcribe) == TRANSCRIPT
    assert len(calls) == 2


async def test_a_failed_batch_of_descriptions_is_not_kept(
    cache: PipelineArtifactCache, video: Path
) -> None:
    assert not await cache.set_descriptions(
        video, {"descriptions": {}, "total_descriptions": 0}, "vlm"
    )
    assert await cache.get_descriptions(video, "vlm") is None


async def test_descriptions_keep_their_id_types(cache: PipelineArtifactCache, video: Path) -> None:
    texts: dict[Any, str] = {n: f"frame {n}: a man rides a bicycle " * 20 for n in range(2150)}
    texts["0"] = "not the same as 0"
    assert await cache.set_descriptions(video, {"descriptions": texts}, "Qwen2-VL", 500)
    got = await cache.get_descriptions(video, "Qwen2-VL", 500)
    assert got == {"descriptions": texts}
    assert {type(key) for key in got["descriptions"]} == {int, str}
    assert await cache.get_descriptions(video, "other", 500) is None
    assert await cache.get_descriptions(video, "Qwen2-VL", 100) is None


async def test_descriptions_belong_to_their_keyframes(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_descriptions(video, {"of": "default"}, "vlm")
    await cache.set_descriptions(video, {"of": "2 fps"}, "vlm", keyframes=Keyframes("fps", fps=2))
    assert await cache.get_descriptions(video, "vlm") == {"of": "default"}
    assert await cache.get_descriptions(video, "vlm", keyframes=Keyframes(threshold=0.999)) == {
        "of": "default"
    }
    key = await cache.key("keyframes", video, strategy="fps", fps=Fraction(2))
    assert await cache.get_descriptions(video, "vlm", keyframes=key) == {"of": "2 fps"}
    assert await cache.get_descriptions(video, "vlm", keyframes=Keyframes(threshold=0.5)) is None
    assert await cache.get_descriptions(video, "vlm", prompt="in one word") is None
    assert await cache.get_descriptions(video, "vlm", revision="main") is None


async def test_embeddings_are_exact_and_writable(cache: PipelineArtifactCache, video: Path) -> None:
    import ml_dtypes

    nan = np.array([0x7FC00001, 0xFF812345, 0x80000000], np.uint32).view(np.float32)
    data = {
        "frames": np.random.default_rng(1).normal(size=(150, 384)).astype(np.float32),
        "half": np.zeros((3, 4), ml_dtypes.bfloat16),
        "nan": nan,
    }
    assert await cache.set_embeddings(video, data, "minilm")
    got = await cache.get_embeddings(video, "minilm")
    for name, array in data.items():
        assert got[name].dtype == array.dtype
        assert got[name].tobytes() == array.tobytes()
    got["frames"] /= 2
    again = await cache.get_embeddings(video, "minilm", names=["frames"])
    assert again.keys() == {"frames"}
    assert np.array_equal(again["frames"], data["frames"])
    view = await cache.get_embeddings(video, "minilm", mode="view")
    assert not view["frames"].flags.writeable
    assert await cache.get_embeddings(video, "other") is None


async def test_keyframes_come_back_with_the_very_same_bytes(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    metadata, images = keyframes_of(30)
    given: dict[Any, Any] = dict(images)
    file = tmp_path / "frame3.jpg"
    file.write_bytes(images["3"])
    given["3"] = file
    assert await cache.set_keyframes(video, metadata, given, threshold=0.999, max_frames=3000)
    file.unlink()
    assert await cache.get_keyframes(video, threshold=0.999, max_frames=3000) == metadata
    found = await cache.get_keyframes(video, load_images=True)
    assert isinstance(found, tuple)
    got_metadata, frames = found
    assert got_metadata == metadata
    assert isinstance(frames, Frames)
    assert list(frames) == [str(n) for n in range(30)]
    assert frames[3] == frames["3"] == images["3"]
    assert frames.encoded(4) == images["4"]
    some = await cache.get_keyframes(video, load_images=True, frames=[1, "2"])
    assert set(some[1]) == {"1", "2"}


async def test_zero_keyframes_are_a_result(cache: PipelineArtifactCache, video: Path) -> None:
    assert await cache.set_keyframes(video, {"keyframes": []}, {})
    assert await cache.get_keyframes(video) == {"keyframes": []}
    metadata, frames = await cache.get_keyframes(video, load_images=True)
    assert (metadata, dict(frames)) == ({"keyframes": []}, {})


async def test_images_that_were_not_stored_are_a_miss(
    cache: PipelineArtifactCache, video: Path
) -> None:
    metadata, _ = keyframes_of(3)
    await cache.set_keyframes(video, metadata)
    assert await cache.get_keyframes(video) == metadata
    assert await cache.get_keyframes(video, load_images=True) is None
    assert (await cache.lookup("keyframes", video, load_images=True)).reason == "no-images"


async def test_falsy_arguments_are_not_defaults(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.set_keyframes(video, {"of": 0.0}, threshold=0.0)
    assert await cache.get_keyframes(video) is None
    assert await cache.get_keyframes(video, threshold=0.0) == {"of": 0.0}
    await cache.set_keyframes(video, {"of": "fps"}, strategy="fps")
    assert await cache.get_keyframes(video, "fps", fps=1) == {"of": "fps"}
    assert await cache.get_keyframes(video, "fps", fps=1.0, max_frames=np.int64(3000)) == {
        "of": "fps"
    }
    assert await cache.get_keyframes(video, "fps", fps=Fraction(30000, 1001)) is None


async def test_contradicting_arguments_are_errors(
    cache: PipelineArtifactCache, video: Path
) -> None:
    with pytest.raises(ValueError, match="fps belongs to strategy='fps'"):
        await cache.get_keyframes(video, fps=2.0)
    with pytest.raises(ValueError, match="threshold belongs to strategy='similarity'"):
        await cache.get_keyframes(video, "fps", threshold=0.5)
    with pytest.raises(ValueError, match="into params"):
        await cache.get_keyframes(video, "scene", threshold=0.5)
    with pytest.raises(TypeError, match="threshold must be a number, not str"):
        await cache.get_keyframes(video, threshold="0.9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_frames must be a number of at least 1"):
        await cache.get_keyframes(video, max_frames=-1)
    with pytest.raises(TypeError, match="did you mean 'model_size'"):
        await cache.lookup("transcript", video, modelsize="base")
    with pytest.raises(TypeError, match="missing argument 'model_name'"):
        await cache.lookup("descriptions", video)
    with pytest.raises(ValueError, match="did you mean 'transcript'"):
        await cache.lookup("transcripts", video)
    with pytest.raises(TypeError, match=r"params"):
        await cache.get_transcript(video, params={"beam": object()})
    with pytest.raises(TypeError, match="file_digest"):
        await cache.get_transcript(video, params={"prompt": Path("prompt.txt")})


async def test_other_strategies_take_params(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.set_keyframes(video, {"of": "scene"}, strategy="scene", params={"min_len": 2})
    assert await cache.get_keyframes(video, "scene", params={"min_len": 2}) == {"of": "scene"}
    assert await cache.get_keyframes(video, "scene", params={"min_len": 3}) is None
    assert await cache.get_keyframes(video, "scene") is None


async def test_segment_frames_keep_order_and_times(
    cache: PipelineArtifactCache, video: Path
) -> None:
    frames = [b"\xff\xd8\xff" + bytes([n]) * 100 for n in range(12)]
    times = [5 + n / 2 for n in range(12)]
    assert await cache.set_segment_frames(video, 7, 5.0, 11.0, frames, times)
    metadata, got = await cache.get_segment_frames(video, 7, 5.0, 11.0)
    assert got == frames
    assert metadata["timestamps"] == times
    assert metadata["num_frames"] == 12
    assert await cache.get_segment_frames(video, 7, 5.0, 11.0, load_images=False) == metadata
    assert await cache.get_segment_frames(video, 7, 5.0, 11.5) is None
    assert await cache.get_segment_frames(video, 8, 5.0, 11.0) is None
    assert await cache.get_segment_frames(video, 7, 5.0, 11.0, sampling_fps=1.0) is None
    with pytest.raises(ValueError, match="timestamps: 1 of them for 2 frames"):
        await cache.set_segment_frames(video, 1, 0, 1, [b"", b""], [0.0])


async def test_any_change_of_a_segmentation_misses(
    cache: PipelineArtifactCache, video: Path
) -> None:
    named: dict[str, Any] = {
        "strategy": "fixed",
        "segment_seconds": 6.0,
        "overlap_seconds": 1.0,
        "fps": 2.0,
        "max_frames": 12,
        "transcript": await cache.key("transcript", video),
    }
    value = {"segments": [{"start": 0.0, "frames": [1]}]}
    assert await cache.set_segmentation(video, value, **named)
    got = await cache.get_segmentation(video, **named)
    assert got == value
    got["segments"].clear()
    assert await cache.get_segmentation(video, **named) == value
    changes = {
        "segment_seconds": 5,
        "overlap_seconds": 0,
        "fps": 1,
        "max_frames": 11,
        "transcript": None,
    }
    for name, other in changes.items():
        assert await cache.get_segmentation(video, **{**named, name: other}) is None, name


# --- sources --------------------------------------------------------------------------------------


async def test_the_same_name_in_two_directories_is_two_videos(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    one, two = a_video(tmp_path / "a" / "v.mp4"), a_video(tmp_path / "b" / "v.mp4")
    await cache.set_transcript(one, {"of": "one"})
    assert await cache.get_transcript(two) is None
    assert await cache.get_transcript(str(one)) == {"of": "one"}
    assert await cache.get_transcript(f"file://{one}") == {"of": "one"}
    assert await cache.get_transcript(os.fsencode(one)) == {"of": "one"}


async def test_a_changed_file_is_another_source(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.set_transcript(video, {"of": "old"})
    a_video(video, b"another video of another length")
    assert await cache.get_transcript(video) is None
    explanation = await cache.explain("transcript", video)
    assert explanation.reason == "source-changed"
    assert "size" in str(explanation) or "source" in str(explanation)


async def test_copies_share_under_content_identity(tmp_path: Path) -> None:
    cache = filesystem_cache(tmp_path / "cache", identity="content")
    one = a_video(tmp_path / "a.mp4", b"x" * 10_000)
    two = tmp_path / "elsewhere.mp4"
    two.write_bytes(one.read_bytes())
    await cache.set_transcript(one, TRANSCRIPT)
    assert await cache.get_transcript(two) == TRANSCRIPT
    two.write_bytes(b"x" * 9_999 + b"y")
    assert await cache.get_transcript(two) is None
    await cache.aclose()


async def test_a_file_replaced_while_computing_gets_no_old_results(
    cache: PipelineArtifactCache, video: Path
) -> None:
    assert await cache.get_transcript(video) is None
    a_video(video, b"replaced while the old one was transcribed")
    result = await cache.store("transcript", video, {"of": "the old file"})
    assert (result.stored, result.reason) == (False, "source-changed")
    assert await cache.get_transcript(video) is None
    assert await cache.set_transcript(video, {"of": "the new file"})
    assert await cache.get_transcript(video) == {"of": "the new file"}


async def test_get_or_compute_looks_at_the_source_again(
    cache: PipelineArtifactCache, video: Path
) -> None:
    def compute() -> dict[str, str]:
        a_video(video, b"replaced meanwhile by something else")
        return {"of": "who knows"}

    assert await cache.get_or_compute_transcript(video, compute) == {"of": "who knows"}
    assert await cache.get_transcript(video) is None
    assert (await cache.get_cache_stats())["artifacts"]["transcript"]["refused"] == 1


async def test_a_captured_video_stands_for_what_it_was(
    cache: PipelineArtifactCache, video: Path
) -> None:
    bound = await cache.video(video)
    assert await bound.set_transcript({"of": "captured"})
    copy = pickle.loads(pickle.dumps(bound.source))
    a_video(video, b"a new file at the same place")
    assert await cache.get_transcript(video) is None
    assert await cache.get_transcript(copy) == {"of": "captured"}
    video.unlink()
    assert await bound.get_transcript() == {"of": "captured"}
    assert (await cache.lookup("transcript", video)).reason == "source-missing"
    latest = await cache.video(video, missing="latest")
    assert await latest.get_transcript() == {"of": "captured"}


async def test_paths_that_do_not_exist_are_names(cache: PipelineArtifactCache) -> None:
    assert await cache.set_transcript("/nowhere/v.mp4", TRANSCRIPT)
    assert await cache.get_transcript("/nowhere/v.mp4") == TRANSCRIPT
    assert await cache.get_transcript("/nowhere/w.mp4") is None


async def test_remote_sources_are_never_opened_and_keep_no_secret(
    cache: PipelineArtifactCache,
) -> None:
    signed = "https://user:pw@host/v.mp4?X-Amz-Signature=secret1&X-Amz-Date=1&part=2"
    assert await cache.set_transcript(signed, TRANSCRIPT)
    assert await cache.get_transcript("https://host/v.mp4?part=2") == TRANSCRIPT
    keys = await cache.cache.list_keys(include_metadata=True)
    assert "secret1" not in repr(keys) and "pw" not in repr(keys)
    tagged = await cache.video("s3://bucket/v.mp4", etag='"abc"')
    await tagged.set_transcript({"of": "abc"})
    other = await cache.video("s3://bucket/v.mp4", etag='"def"')
    assert await other.get_transcript() is None


async def test_a_directory_is_refused(cache: PipelineArtifactCache, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source_id="):
        await cache.get_transcript(tmp_path)


async def test_an_unreadable_source_is_a_miss_with_one_warning(
    cache: PipelineArtifactCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cogcache import capturing
    from cogcache.sources import SourceUnavailableError

    async def refuse(*_: Any, **__: Any) -> Any:
        raise SourceUnavailableError(13, "Permission denied")

    monkeypatch.setattr(capturing, "capture_async", refuse)
    with caplog.at_level(logging.WARNING, "cogcache"):
        assert await cache.get_transcript("/secret/v.mp4") is None
        assert await cache.set_transcript("/secret/v.mp4", TRANSCRIPT) is False
        assert (await cache.lookup("transcript", "/secret/v.mp4")).reason == "source-unreadable"
        assert (
            await cache.get_or_compute_transcript("/secret/v.mp4", lambda: TRANSCRIPT) == TRANSCRIPT
        )
    assert len([r for r in caplog.records if "cannot be read" in r.getMessage()]) == 1


# --- profiles, lives, invalidation ----------------------------------------------------------------


async def test_profiles_are_apart(tmp_path: Path, video: Path) -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    plain = PipelineArtifactCache(manager)
    one, two = (PipelineArtifactCache(manager, profile=name) for name in ("direct", "direct_large"))
    for number, cache in enumerate((plain, one, two)):
        await cache.set_transcript(video, {"of": number})
    assert [await c.get_transcript(video) for c in (plain, one, two)] == [
        {"of": 0},
        {"of": 1},
        {"of": 2},
    ]
    assert await manager.clear("direct:*") == 1
    assert await one.get_transcript(video) is None
    assert await two.get_transcript(video) == {"of": 2}
    assert await two.invalidate_video(video) == 1
    assert await plain.get_transcript(video) == {"of": 0}


async def test_two_videos_without_a_profile_get_their_own(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    one, two = a_video(tmp_path / "1.mp4", b"1"), a_video(tmp_path / "2.mp4", b"2")
    await cache.set_transcript(one, {"of": 1})
    await cache.set_transcript(two, {"of": 2})
    assert [await cache.get_transcript(p) for p in (one, two)] == [{"of": 1}, {"of": 2}]


async def test_lives_by_artifact(tmp_path: Path, video: Path) -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    cache = PipelineArtifactCache(manager, ttl={"transcript": "1h", "*": "2d"})
    clock = FakeClock(cache)
    await cache.set_transcript(video, TRANSCRIPT)
    await cache.set_descriptions(video, {"1": "text"}, "vlm")
    await cache.set_embeddings(video, [1.0], "m", ttl=0)
    clock.advance("90m")
    assert await cache.get_transcript(video) is None
    assert await cache.get_descriptions(video, "vlm") is not None
    clock.advance("30d")
    assert await cache.get_descriptions(video, "vlm") is None
    assert await cache.get_embeddings(video, "m") == [1.0]
    with pytest.raises(ValueError, match="did you mean 'transcript'"):
        PipelineArtifactCache(manager, ttl={"transcripts": 5})
    with pytest.raises(ValueError, match="negative"):
        PipelineArtifactCache(manager, ttl=-1)


async def test_the_default_life_is_seven_days(cache: PipelineArtifactCache, video: Path) -> None:
    clock = FakeClock(cache)
    await cache.set_transcript(video, TRANSCRIPT)
    clock.advance(604_799)
    assert await cache.get_transcript(video) is not None
    clock.advance(2)
    assert await cache.get_transcript(video) is None


async def test_invalidating_a_video_forgets_every_generation_of_it(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    other = a_video(tmp_path / "other.mp4", b"other")
    await cache.set_transcript(other, {"of": "other"})
    await cache.set_transcript(video, TRANSCRIPT)
    await cache.set_descriptions(video, {"1": "x"}, "vlm")
    metadata, images = keyframes_of(3)
    await cache.set_keyframes(video, metadata, images)
    a_video(video, b"a newer generation of the file")
    await cache.set_transcript(video, {"of": "newer"})
    assert await cache.invalidate_video(video) == 4
    assert await cache.get_transcript(video) is None
    assert await cache.get_transcript(other) == {"of": "other"}
    assert await cache.invalidate_video(video) == 0
    late = await cache.store("transcript", video, {"of": "before the second invalidation"})
    assert (late.stored, late.reason) == (False, "tag-invalidated")
    await cache.set_transcript(video, {"of": "after"})
    assert await cache.get_transcript(video) == {"of": "after"}


async def test_a_result_computed_before_an_invalidation_is_not_served(
    cache: PipelineArtifactCache, video: Path
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def compute() -> dict[str, str]:
        started.set()
        await release.wait()
        return {"computed": "before"}

    task = asyncio.create_task(cache.get_or_compute_transcript(video, compute))
    await started.wait()
    FakeClock(cache).advance(1)
    await cache.invalidate_video(video)
    release.set()
    assert await task == {"computed": "before"}
    assert await cache.get_transcript(video) is None


# --- a whole video --------------------------------------------------------------------------------

FLAGS = ("extract_keyframes", "transcribe_audio", "generate_descriptions", "generate_embeddings")
FIELDS = ("keyframes", "audio_transcript", "frame_descriptions", "embeddings")


@pytest.mark.parametrize("enabled", list(itertools.product((False, True), repeat=4)))
def test_complete_means_everything_enabled_is_there(enabled: tuple[bool, ...]) -> None:
    config = dict(zip(FLAGS, enabled, strict=True))
    for present in itertools.product((False, True), repeat=4):
        values = {f: {} if there else None for f, there in zip(FIELDS, present, strict=True)}
        artifacts = VideoArtifacts("v", **values)
        wanted = [
            f for f, on, there in zip(FIELDS, enabled, present, strict=True) if on and not there
        ]
        assert artifacts.missing(config) == wanted
        assert artifacts.is_complete(config) == (not wanted)


async def test_all_artifacts_come_with_one_call(cache: PipelineArtifactCache, video: Path) -> None:
    config = {
        **dict.fromkeys(FLAGS, True),
        "keyframe_strategy": "fps",
        "keyframe_fps": 2,
        "max_frames_per_video": 100,
        "whisper_model": "large",
        "language": "en",
        "vlm_batch_size": 50,
        "embedding_model": "minilm",
    }
    bound = await cache.video(video, config)
    metadata, images = keyframes_of(5)
    await bound.set_keyframes(metadata, images)
    await bound.set_transcript({"segments": []})
    await bound.set_descriptions({"1": "text"})
    await bound.set_embeddings(np.ones((2, 3), np.float32))
    artifacts = await cache.get_all_artifacts(video, config)
    assert artifacts.video_id == "v"
    assert artifacts.keyframes == metadata
    assert artifacts.audio_transcript == {"segments": []}
    assert artifacts.frame_descriptions == {"1": "text"}
    assert artifacts.embeddings.shape == (2, 3)
    assert artifacts.is_complete(config)
    some = await cache.get_all_artifacts(video, config, load=["transcript"])
    assert some.missing(config) == ["keyframes", "frame_descriptions", "embeddings"]
    # The same with plain paths and explicit arguments.
    keyframes = Keyframes("fps", fps=2, max_frames=100)
    assert await cache.get_keyframes(video, "fps", fps=2, max_frames=100) == metadata
    assert (
        await cache.get_descriptions(video, "Qwen/Qwen2-VL-2B-Instruct", 50, keyframes=keyframes)
        is not None
    )
    assert await cache.get_transcript(video, "large", "en") == {"segments": []}


async def test_what_a_configuration_leaves_out_is_not_asked_for(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_transcript(video, TRANSCRIPT)
    await cache.set_descriptions(video, {"1": "x"}, "Qwen/Qwen2-VL-2B-Instruct")
    config = {"transcribe_audio": False, "generate_descriptions": True}
    artifacts = await cache.get_all_artifacts(video, config)
    assert artifacts.frame_descriptions == {"1": "x"}
    assert artifacts.audio_transcript is None and artifacts.is_complete(config)
    counts = (await cache.get_cache_stats())["artifacts"]
    assert counts["descriptions"]["hits"] == 1
    for name in ("transcript", "keyframes", "embeddings"):
        assert counts[name]["hits"] == counts[name]["misses"] == 0


async def test_mistakes_in_a_configuration_are_errors(
    cache: PipelineArtifactCache, video: Path
) -> None:
    with pytest.raises(ValueError, match="keyframe_strategy: unknown value 'scenes'"):
        await cache.get_all_artifacts(
            video, {"extract_keyframes": True, "keyframe_strategy": "scenes"}
        )
    with pytest.raises(ValueError, match="embedding_model"):
        await cache.get_all_artifacts(video, {"generate_embeddings": True})
    with pytest.raises(ValueError, match="load: unknown artifact 'sound'"):
        await cache.get_all_artifacts(video, {}, load=["sound"])


# --- computing once, and what the computing caller gets -------------------------------------------


async def test_what_is_computed_is_what_later_callers_get(
    cache: PipelineArtifactCache, video: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    metadata = {"keyframes": [{"frame_id": 0}]}
    calls = []

    def extract() -> Any:
        calls.append(1)
        return metadata, {"0": pixels}

    cold = await cache.get_or_compute_keyframes(video, extract, load_images=True)
    warm = await cache.get_or_compute_keyframes(video, extract, load_images=True)
    assert len(calls) == 1
    assert np.array_equal(cold[1][0], warm[1][0])
    assert cold[1].encoded(0) == warm[1].encoded(0)
    assert warm[1].content_type(0) == "image/jpeg"
    assert await cache.get_or_compute_keyframes(video, extract) == metadata


async def test_a_none_is_a_hit_and_computed_ones_are_kept_on_request(
    cache: PipelineArtifactCache, video: Path
) -> None:
    assert await cache.set_transcript(video, None)
    found = await cache.lookup("transcript", video)
    assert (found.hit, found.value) == (True, None)
    calls = []

    def compute() -> None:
        calls.append(1)

    for _ in range(2):
        assert await cache.get_or_compute_transcript(video, compute, model_size="large") is None
    assert len(calls) == 2
    for _ in range(2):
        await cache.get_or_compute_transcript(
            video, compute, model_size="small", should_store=lambda value: True
        )
    assert len(calls) == 3


async def test_a_rerun_computes_only_what_is_missing(tmp_path: Path, video: Path) -> None:
    def pipeline(cache: PipelineArtifactCache, fail: bool) -> list[str]:
        done: list[str] = []

        def stage(name: str, value: Any) -> Any:
            def compute() -> Any:
                if fail and name == "descriptions":
                    raise KeyboardInterrupt
                done.append(name)
                return value

            return compute

        cache.sync.get_or_compute_keyframes(video, stage("keyframes", keyframes_of(2)))
        cache.sync.get_or_compute_transcript(video, stage("transcript", TRANSCRIPT))
        cache.sync.get_or_compute_descriptions(
            video, stage("descriptions", {"1": "x"}), model_name="vlm"
        )
        return done

    with pytest.raises(KeyboardInterrupt):
        pipeline(filesystem_cache(tmp_path / "cache"), fail=True)
    assert pipeline(filesystem_cache(tmp_path / "cache"), fail=False) == ["descriptions"]
    assert pipeline(filesystem_cache(tmp_path / "cache"), fail=False) == []


async def test_statistics_by_artifact(cache: PipelineArtifactCache, video: Path) -> None:
    metadata, images = keyframes_of(40)
    await cache.get_keyframes(video)
    await cache.set_keyframes(video, metadata, images, cost_seconds=30.0)
    await cache.get_keyframes(video, load_images=True)
    await cache.get_keyframes(video)
    stats = await cache.get_cache_stats()
    kept = stats["artifacts"]["keyframes"]
    assert (kept["hits"], kept["misses"], kept["sets"]) == (2, 1, 1)
    assert kept["seconds_saved"] == 60.0
    assert kept["stored_bytes"] > 40 * 5000
    assert stats["overall"]["manager"]["hits"] == 2
    assert set(stats["artifacts"]) >= {"keyframes", "transcript", "descriptions", "embeddings"}


async def test_explanations_name_the_cause(cache: PipelineArtifactCache, video: Path) -> None:
    assert (await cache.explain("transcript", video)).reason == "absent"
    await cache.set_transcript(video, TRANSCRIPT, "base", "en", cost_seconds=3)
    hit = await cache.explain("transcript", video, model_size="base", language="en")
    assert hit.hit
    assert hit.tiers[0].present and hit.tiers[0].cost_seconds == 3
    near = await cache.explain("transcript", video, model_size="large", language="en")
    assert near.reason == "absent"
    assert len(near.nearest) == 1
    assert "model" in str(near) and "base" in str(near) and "large" in str(near)
    assert (await cache.explain("transcript", "/nowhere.mp4")).reason == "source-missing"
    clock = FakeClock(cache)
    clock.advance("8d")
    assert (await cache.explain("transcript", video, language="en")).reason == "expired"
    before = (await cache.get_cache_stats())["artifacts"]["transcript"]
    assert before["hits"] == before["misses"] == 0  # explaining counts nothing


async def test_an_explanation_says_what_of_the_source_changed(
    cache: PipelineArtifactCache, video: Path
) -> None:
    size = video.stat().st_size
    await cache.set_transcript(video, TRANSCRIPT)
    await cache.set_transcript(video, TRANSCRIPT, "large")
    a_video(video, b"longer than it was before")
    said = str(await cache.explain("transcript", video))
    assert f"source.size: 25 bytes here, {size} bytes there" in said
    FakeClock(cache).advance(1)
    await cache.set_transcript(video, {"of": "the new file"}, "small")
    nearest = (await cache.explain("transcript", video)).nearest[0]
    assert [one.part for one in nearest.differences] == ["model"]
    key = await cache.key("transcript", video)
    assert key.explain().uri == video.as_uri()


async def test_an_explanation_of_a_deleted_file_counts_what_is_known(
    cache: PipelineArtifactCache, video: Path
) -> None:
    await cache.set_transcript(video, TRANSCRIPT)
    await cache.set_transcript(video, TRANSCRIPT, "large")
    await cache.set_transcript(video, TRANSCRIPT, "small", ttl=5)
    await cache.set_descriptions(video, {"1": "x"}, "vlm")
    FakeClock(cache).advance(10)
    video.unlink()
    gone = await cache.explain("transcript", video)
    assert (gone.reason, gone.known) == ("source-missing", 2)
    assert "source-missing, 2 entries known" in str(gone) and "missing='latest'" in str(gone)
    assert "source-missing, 1 entry known" in str(
        await cache.explain("descriptions", video, model_name="vlm")
    )
    nothing = await cache.explain("keyframes", video)
    assert "0 entries known" in str(nothing) and "latest" not in str(nothing)


async def test_an_explanation_of_what_is_never_looked_at_says_so(
    cache: PipelineArtifactCache, video: Path
) -> None:
    opened = "s3://bucket/v.mp4"
    for hit in (False, True):
        explanation = await cache.explain("transcript", opened)
        assert explanation.hit is hit
        assert "never looked at" in str(explanation) and "etag=" in str(explanation)
        await cache.set_transcript(opened, TRANSCRIPT)
    for told in ({"etag": '"1"'}, {"source_id": "mine"}):
        bound = await cache.video(opened, **told)  # type: ignore[arg-type]
        assert "never looked at" not in str(await bound.explain("transcript"))
    assert "never looked at" not in str(await cache.explain("transcript", video))


@pytest.mark.parametrize("identity", ["stat", "content", "sampled", "sha256"])
async def test_an_entry_tells_what_it_was_made_from(identity: Any, video: Path) -> None:
    """K06: whatever the key holds of the source, its URI is found in the metadata."""
    cache = PipelineArtifactCache(memory_cache().cache, identity=identity)
    await cache.set_transcript(video, TRANSCRIPT)
    await (await cache.video("https://u:pw@host/v.mp4", source_id="mine")).set_transcript({})
    listed = await cache.cache.list_keys(include_metadata=True)
    uris = {
        about.get("source_uri") or about["source"][1] for _, about in listed if about is not None
    }
    assert uris == {video.as_uri(), "https://host/v.mp4"}


async def test_a_profile_is_taken_to_the_letter(video: Path) -> None:
    manager = memory_cache().cache
    profiles = ("p", "p2", "p:q", "p*", "*", "p%3Aq", "")
    caches = [PipelineArtifactCache(manager, profile=name) for name in profiles]
    for name, cache in zip(profiles, caches, strict=True):
        assert await cache.set_transcript(video, {"of": name})
    assert await manager.clear("p:*") == 1
    assert [await cache.get_transcript(video) for cache in caches] == [
        None,
        *({"of": name} for name in profiles[1:]),
    ]
    assert await manager.clear("p%3Aq:*") == 1  # as it is printed
    assert await caches[2].get_transcript(video) is None
    assert await PipelineArtifactCache(manager, profile=None).get_transcript(video) == {"of": ""}


async def test_long_prompts_are_compared_in_full(cache: PipelineArtifactCache, video: Path) -> None:
    prompt = "Describe the frame in the style of a shipping forecast. " * 50
    await cache.set_descriptions(video, {"1": "x"}, "vlm", prompt=prompt)
    assert await cache.get_descriptions(video, "vlm", prompt=prompt) == {"1": "x"}
    assert await cache.get_descriptions(video, "vlm", prompt=prompt + ".") is None
    listed = await cache.cache.list_keys(include_metadata=True)
    key, metadata = listed[0]
    assert metadata is not None and metadata["full_params"]["prompt"] == prompt
    assert await cache.cache.get(key) == {"1": "x"}
    assert Key.parse(key).artifact == "descriptions"


def test_wrong_construction_is_named() -> None:
    with pytest.raises(ConfigError, match="cache_manager must be a CacheManager"):
        PipelineArtifactCache({})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="identity: unknown value"):
        memory = memory_cache().cache
        PipelineArtifactCache(memory, identity="mtime")  # type: ignore[arg-type]


async def test_the_cache_pickles_and_works_elsewhere(tmp_path: Path, video: Path) -> None:
    cache = filesystem_cache(tmp_path / "cache", profile="p", identity="content")
    await cache.set_transcript(video, TRANSCRIPT)
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.profile, copy.identity) == ("p", "content")
    assert await copy.get_transcript(video) == TRANSCRIPT
    bound = pickle.loads(pickle.dumps(await cache.video(video, {"whisper_model": "base"})))
    assert await bound.get_transcript() == TRANSCRIPT


def test_open_takes_paths_and_configurations(tmp_path: Path, video: Path) -> None:
    cache = PipelineArtifactCache.open(
        MemoryCacheConfig(priority=-1), tmp_path / "cache", profile="p"
    )
    assert [tier.name for tier in cache.cache.backends] == [
        "MemoryCacheBackend",
        "FilesystemCacheBackend",
    ]
    assert cache.sync.set_transcript(video, TRANSCRIPT)
    again = PipelineArtifactCache.open(tmp_path / "cache", profile="p")
    assert again.sync.get_transcript(video) == TRANSCRIPT
    with again.sync.video(video) as bound:
        assert bound.get_transcript() == TRANSCRIPT


async def test_unstorable_artifacts_are_returned(cache: PipelineArtifactCache, video: Path) -> None:
    with pytest.warns(CogcacheWarning, match="not kept"):
        got = await cache.get_or_compute_transcript(video, lambda: {"model": open})
    assert got == {"model": open}
    with pytest.raises(TypeError, match=r"\$\.model"):
        await cache.set_transcript(video, {"model": open})


async def test_computed_segment_frames_are_what_a_hit_gives(
    cache: PipelineArtifactCache, video: Path
) -> None:
    named: dict[str, Any] = {"segment_id": 1, "start_time": 0.0, "end_time": 6.0}
    frames = [b"\xff\xd8\xff one", b"\xff\xd8\xff two"]

    def compute() -> Any:
        return {"timestamps": [0.0, 0.5]}, frames

    cold = await cache.get_or_compute_segment_frames(video, compute, **named)
    warm = await cache.get_or_compute_segment_frames(video, compute, **named)
    generic = await cache.get_or_compute("segment_frames", video, compute, **named)
    assert cold == warm == generic == ({"timestamps": [0.0, 0.5]}, frames)


async def test_what_is_known_of_a_copy_elsewhere_explains_a_miss(tmp_path: Path) -> None:
    cache = filesystem_cache(tmp_path / "cache", identity="content")
    here, there = a_video(tmp_path / "v.mp4"), tmp_path / "elsewhere" / "copy.mp4"
    there.parent.mkdir()
    there.write_bytes(here.read_bytes())
    other = a_video(tmp_path / "other.mp4", b"another film")
    assert await cache.set_transcript(here, TRANSCRIPT, language="en")
    assert await cache.set_transcript(other, TRANSCRIPT, language="en")
    explanation = await cache.explain("transcript", there, language="fr")
    assert explanation.reason == "absent"
    assert [str(d) for near in explanation.nearest for d in near.differences] == [
        "lang: 'fr' here, 'en' there"
    ]
    assert (await cache.explain("descriptions", there, model_name="m")).nearest == ()


async def test_usage_by_profile_artifact_and_tag_adds_up(
    cache: PipelineArtifactCache, video: Path
) -> None:
    manager = cache.cache
    second = PipelineArtifactCache(manager, profile="second")
    text = {"full_text": "the same words again and again. " * 2000}
    assert await cache.set_transcript(video, text, tags=["news", "en"])
    assert await second.set_transcript(video, TRANSCRIPT, tags=["news"])
    assert await second.set_descriptions(video, {"descriptions": {"1": "x"}}, "model")
    assert await manager.set("key", 1)
    usage = await manager.usage()
    assert {name: group["entries"] for name, group in usage["profiles"].items()} == {
        "": 2,
        "second": 2,
    }
    assert {name: group["entries"] for name, group in usage["artifacts"].items()} == {
        "transcript": 2,
        "descriptions": 1,
        "": 1,
    }
    assert {name: group["entries"] for name, group in usage["tags"].items()} == {"news": 2, "en": 1}
    for by in ("profiles", "artifacts", "ages"):
        for number in ("entries", "stored_bytes", "raw_bytes"):
            assert sum(group[number] for group in usage[by].values()) == usage[number]
    listed = await manager.list_keys(None, include_metadata=True)
    assert usage["stored_bytes"] == sum(meta["size_bytes"] for _, meta in listed if meta)
    assert usage["raw_bytes"] >= len(text["full_text"])


def test_the_blocking_face_of_a_blocking_face_is_itself(
    cache: PipelineArtifactCache, video: Path
) -> None:
    bound = cache.sync.video(video)
    assert bound.sync is bound
    assert bound.sync.set_transcript(TRANSCRIPT)
    assert bound.get_transcript() == TRANSCRIPT
