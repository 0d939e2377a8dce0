"""The pipeline through cogcache: the part of this example to read, and to copy.

Each stage is asked for by what it depends on: the video, the model, the settings, and the results
it is made from. What is known comes from the cache, what is not is computed and kept. Nothing else
in a pipeline has to change, and the stages themselves (``stages.py``) know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from cogcache import Keyframes, PipelineArtifactCache, VideoCache


class Stages(Protocol):
    """The four stages and the names of their models."""

    SPEECH_MODEL: str
    DESCRIPTION_MODEL: str
    EMBEDDING_MODEL: str

    def extract_keyframes(
        self, path: Path, *, threshold: float | None, fps: float | Fraction | None
    ) -> tuple[dict[str, Any], Mapping[str, bytes]]: ...

    def transcribe(self, path: Path) -> dict[str, Any]: ...

    def describe(
        self, keyframes: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> dict[str, Any]: ...

    def embed(
        self, descriptions: Mapping[str, Any], transcript: Mapping[str, Any]
    ) -> dict[str, Any]: ...


class Watch(Protocol):
    """Who wants to know what happens: the story does. A pipeline of your own needs none of this."""

    def stage(
        self, video: VideoCache, artifact: str, named: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[None]:
        """Surround a stage."""
        ...


@dataclass(frozen=True)
class Ingested:
    """The four artifacts of one video."""

    keyframes: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    transcript: Mapping[str, Any]
    descriptions: Mapping[str, Any]
    embeddings: Mapping[str, Any]


async def settings(
    video: VideoCache, stages: Stages, chosen: Keyframes
) -> dict[str, dict[str, Any]]:
    """What each artifact depends on beside the video: said once, for storing and for reading."""
    spoken = {"model_size": stages.SPEECH_MODEL, "language": "en"}
    described = {"model_name": stages.DESCRIPTION_MODEL, "keyframes": chosen}
    return {
        "keyframes": {
            "strategy": chosen.strategy,
            "threshold": chosen.threshold,
            "fps": chosen.fps,
            "load_images": True,
        },
        "transcript": spoken,
        # Descriptions are of these keyframes: other keyframes, other descriptions.
        "descriptions": described,
        # Embeddings are of those two results, whatever they were made with.
        "embeddings": {
            "model_name": stages.EMBEDDING_MODEL,
            "keyframes": chosen,
            "inputs": {
                "descriptions": await video.key("descriptions", **described),
                "transcript": await video.key("transcript", **spoken),
            },
        },
    }


async def ingest(
    video: VideoCache, path: Path, stages: Stages, chosen: Keyframes, watch: Watch
) -> Ingested:
    """Run the pipeline on one video; compute only what the cache does not know.

    ``video`` comes from ``await cache.video(path)``: the file is identified there, once, so that
    everything computed below is filed under the very file that was there at the beginning.
    """
    named = await settings(video, stages, chosen)

    async with watch.stage(video, "keyframes", named["keyframes"]):
        keyframes, pictures = await video.get_or_compute_keyframes(
            lambda: stages.extract_keyframes(path, threshold=chosen.threshold, fps=chosen.fps),
            **named["keyframes"],
        )
    async with watch.stage(video, "transcript", named["transcript"]):
        transcript = await video.get_or_compute_transcript(
            lambda: stages.transcribe(path), **named["transcript"]
        )
    async with watch.stage(video, "descriptions", named["descriptions"]):
        descriptions = await video.get_or_compute_descriptions(
            lambda: stages.describe(keyframes, pictures), **named["descriptions"]
        )
    async with watch.stage(video, "embeddings", named["embeddings"]):
        embeddings = await video.get_or_compute_embeddings(
            lambda: stages.embed(descriptions, transcript), **named["embeddings"]
        )
    return Ingested(keyframes, pictures, transcript, descriptions, embeddings)


async def read_back(
    cache: PipelineArtifactCache, path: Path, stages: Stages, chosen: Keyframes
) -> Ingested:
    """Everything the cache has of a video, without computing anything.

    Raises:
        LookupError: something is not there.
    """
    video = await cache.video(path)
    named = await settings(video, stages, chosen)
    keyframes = await video.get_keyframes(**named["keyframes"])
    transcript = await video.get_transcript(**named["transcript"])
    descriptions = await video.get_descriptions(**named["descriptions"])
    embeddings = await video.get_embeddings(**named["embeddings"])
    if keyframes is None or transcript is None or descriptions is None or embeddings is None:
        raise LookupError(f"not everything of {path.name} is in the cache any more")
    metadata, pictures = keyframes
    return Ingested(metadata, pictures, transcript, descriptions, embeddings)
