"""The usage examples that the cache was promised with run with only their import line changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

EXAMPLE_1 = """
from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.pipeline_cache import PipelineArtifactCache

# Configure multi-tier cache
cache_config = CacheConfig(
    backends=[
        # Fast local cache
        FilesystemCacheConfig(
            base_path="~/.cache/cogniverse/pipeline",
            max_size_mb=50000,  # 50GB
            eviction_policy="lru",
            priority=0  # Highest priority
        ),
    ],
    default_ttl=604800,  # 7 days
    enable_compression=True
)

# Create cache manager and pipeline cache
cache_manager = CacheManager(cache_config)
pipeline_cache = PipelineArtifactCache(cache_manager)
"""

EXAMPLE_2 = """
async def example_2(video_path):
    # Check cache before extraction
    cached_keyframes = await pipeline_cache.get_keyframes(
        video_path="path/to/video.mp4",
        threshold=0.999,
        max_frames=3000
    )

    if cached_keyframes:
        print("Using cached keyframes")
        return cached_keyframes

    # Extract and cache
    keyframes_metadata, keyframe_images = extract_keyframes(video_path)
    await pipeline_cache.set_keyframes(
        video_path,
        keyframes_metadata,
        keyframe_images,
        threshold=0.999,
        max_frames=3000
    )
"""

EXAMPLE_3 = """
async def example_3(video_path):
    # Check cache
    cached_transcript = await pipeline_cache.get_transcript(
        video_path="path/to/video.mp4",
        model_size="base",
        language="en"
    )

    if cached_transcript:
        return cached_transcript

    # Transcribe and cache
    transcript = transcribe_audio(video_path)
    await pipeline_cache.set_transcript(
        video_path,
        transcript,
        model_size="base",
        language="en"
    )
"""

EXAMPLE_4 = """
async def process_video_with_cache(video_path: str, pipeline_config: dict):
    # Get all cached artifacts
    artifacts = await pipeline_cache.get_all_artifacts(
        video_path,
        pipeline_config
    )

    # Check what's missing
    if not artifacts.is_complete(pipeline_config):
        # Process only what's missing
        if pipeline_config["extract_keyframes"] and not artifacts.keyframes:
            artifacts.keyframes = await extract_and_cache_keyframes(video_path)

        if pipeline_config["transcribe_audio"] and not artifacts.audio_transcript:
            artifacts.audio_transcript = await transcribe_and_cache_audio(video_path)

        if pipeline_config["generate_descriptions"] and not artifacts.frame_descriptions:
            artifacts.frame_descriptions = await generate_and_cache_descriptions(video_path)

    return artifacts
"""

CONFIG = {
    "extract_keyframes": True,
    "transcribe_audio": True,
    "generate_descriptions": True,
    "keyframe_threshold": 0.999,
    "whisper_model": "base",
    "whisper_language": "en",
    "vlm_model": "Qwen2-VL",
}


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<example>", "exec"), names)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the examples take for granted."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    video = tmp_path / "path" / "to" / "video.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"stands for a video")
    os.utime(video, (1_700_000_000, 1_700_000_000))
    calls: list[str] = []

    def extract_keyframes(path: str) -> Any:
        calls.append("keyframes")
        return {"keyframes": [{"frame_id": 5}]}, {"5": b"\xff\xd8\xff frame"}

    def transcribe_audio(path: str) -> Any:
        calls.append("transcript")
        return {"segments": [{"text": "hello"}]}

    names: dict[str, Any] = {
        "calls": calls,
        "extract_keyframes": extract_keyframes,
        "transcribe_audio": transcribe_audio,
    }
    run(EXAMPLE_1, names)
    return names


async def test_example_1_makes_its_directory_in_the_home(
    names: dict[str, Any], tmp_path: Path
) -> None:
    assert (tmp_path / "home" / ".cache" / "cogniverse" / "pipeline" / "v1").is_dir()
    assert names["pipeline_cache"].ttl == 604800
    assert names["pipeline_cache"].cache is names["cache_manager"]
    await names["cache_manager"].aclose()


async def test_examples_2_and_3_compute_once(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run(EXAMPLE_2, names)
    run(EXAMPLE_3, names)
    path = "path/to/video.mp4"
    assert await names["example_2"](path) is None
    assert await names["example_3"](path) is None
    assert await names["example_2"](path) == {"keyframes": [{"frame_id": 5}]}
    assert await names["example_3"](path) == {"segments": [{"text": "hello"}]}
    assert names["calls"] == ["keyframes", "transcript"]
    assert "Using cached keyframes" in capsys.readouterr().out
    await names["cache_manager"].aclose()


async def test_examples_3_and_4_together_are_complete(names: dict[str, Any]) -> None:
    run(EXAMPLE_3, names)
    run(EXAMPLE_4, names)
    cache, calls, path = names["pipeline_cache"], names["calls"], "path/to/video.mp4"

    async def extract_and_cache_keyframes(video_path: str) -> Any:
        metadata, images = names["extract_keyframes"](video_path)
        await cache.set_keyframes(video_path, metadata, images)
        return metadata

    async def transcribe_and_cache_audio(video_path: str) -> Any:
        await names["example_3"](video_path)
        return await names["example_3"](video_path)

    async def generate_and_cache_descriptions(video_path: str) -> Any:
        calls.append("descriptions")
        texts = {"descriptions": {"5": "a person"}}
        await cache.set_descriptions(video_path, texts, "Qwen2-VL", 500)
        return texts

    names.update(
        extract_and_cache_keyframes=extract_and_cache_keyframes,
        transcribe_and_cache_audio=transcribe_and_cache_audio,
        generate_and_cache_descriptions=generate_and_cache_descriptions,
    )
    process = names["process_video_with_cache"]
    assert (await process(path, CONFIG)).is_complete(CONFIG)
    assert calls == ["keyframes", "transcript", "descriptions"]
    again = await process(path, CONFIG)
    assert again.is_complete(CONFIG)
    assert again.audio_transcript == {"segments": [{"text": "hello"}]}
    assert calls == ["keyframes", "transcript", "descriptions"]
    # Example 3 alone had stored the transcript: what is found in example 4 is that one.
    found = await cache.get_all_artifacts(path, CONFIG)
    assert found.missing(CONFIG) == []
    await names["cache_manager"].aclose()
