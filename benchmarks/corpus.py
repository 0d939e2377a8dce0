"""Artifacts of the sizes that a real video pipeline produces.

The counts and sizes are those of a processed test set of 13 videos: 3 to 2,150 keyframes a video
(median 133), about 650 bytes of description a frame, transcripts up to 45 KB with times of words,
JPEG pictures of about 50 KB and multi-vector embeddings of 98 MB for 150 frames. The content is
made up, from a fixed seed, so that it compresses like the real thing: text about 3.5 times, JPEG
and embeddings not at all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["document", "frames", "array"]

_VOCABULARY = """
    a the and with of in on to man woman person people street car building window table screen
    camera light shadow background foreground wearing holding standing sitting walking looking
    smiling speaking pointing behind beside front left right centre corner bright dark blurred
    close wide shot scene frame shows appears seems several two three large small old young red
    blue green white black grey brown yellow wooden metal glass water sky tree grass road door
    wall floor chair desk paper phone laptop text sign logo crowd animal dog horse bicycle train
"""
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True)
class Artifact:
    """One row of the benchmark.

    Attributes:
        name: What it is, for the table.
        kind: ``document`` (a dict), ``frames`` (metadata and pictures) or ``array``.
        make: Builds the value; the same bytes every time.
        operations: How many a timed block holds: more for small ones.
        rounds: How many blocks each contender gets.
    """

    name: str
    kind: Kind
    make: Callable[[], Any]
    operations: int
    rounds: int


def _text(random_: random.Random, size: int) -> str:
    words: list[str] = []
    length = 0
    while length < size:
        word = random_.choice(_WORDS)
        if random_.random() < 0.03:  # names, numbers and rarer words compress less
            word = f"{word}{random_.randrange(1000)}"
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:size]


def transcript() -> dict[str, Any]:
    """45 KB as JSON: 122 segments, each with the times of its words."""
    random_ = random.Random(1)
    segments = []
    clock = 0.0
    for number in range(122):
        start = clock
        words = []
        for word in _text(random_, 40).split():
            length = round(random_.uniform(0.08, 0.6), 2)
            end = round(clock + length, 2)
            words.append({"w": word, "s": round(clock, 2), "e": end})
            clock = end
        text = " ".join(word["w"] for word in words)
        segments.append({"id": number, "start": start, "end": clock, "text": text, "words": words})
    return {
        "video_id": "v_-6dz6tBH77I",
        "model": "base",
        "language": "en",
        "duration": clock,
        "full_text": " ".join(str(segment["text"]) for segment in segments),
        "segments": segments,
    }


def descriptions(frames: int) -> dict[str, Any]:
    """About 650 bytes a frame."""
    random_ = random.Random(2)
    texts = {str(number): _text(random_, 640) for number in range(frames)}
    return {"video_id": "v_-6dz6tBH77I", "descriptions": texts, "total_descriptions": frames}


def keyframes(frames: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata of about 150 bytes and a picture of 50 KB a frame."""
    random_ = random.Random(3)
    listed = [
        {
            "frame_id": number,
            "timestamp": round(number / 2, 3),
            "filename": f"frame_{number:04d}.jpg",
            "correlation": round(random_.uniform(0.9, 0.999), 6),
        }
        for number in range(frames)
    ]
    start = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    pictures = {
        str(number): start + random_.randbytes(50_000 - len(start) - 2) + b"\xff\xd9"
        for number in range(frames)
    }
    return {"video_id": "v_-6dz6tBH77I", "keyframes": listed}, pictures


def embeddings() -> np.ndarray[Any, np.dtype[np.float16]]:
    """98 MB: 150 frames of 1,024 vectors of 320 numbers, two bytes each."""
    vectors = np.random.default_rng(4).standard_normal((150, 1024, 320), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors.astype(np.float16)


def raw_size(value: Any) -> int:
    """Bytes of a value in its plainest form: compact JSON, pictures, the array's buffer."""
    if isinstance(value, tuple):
        metadata, pictures = value
        return raw_size(metadata) + sum(len(picture) for picture in pictures.values())
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(json.dumps(value, separators=(",", ":")))


ARTIFACTS = (
    Artifact("transcript", "document", transcript, 20, 15),
    Artifact("descriptions of 133 frames", "document", lambda: descriptions(133), 20, 15),
    Artifact("descriptions of 2,150 frames", "document", lambda: descriptions(2150), 5, 11),
    Artifact("150 keyframes", "frames", lambda: keyframes(150), 3, 9),
    Artifact("2,150 keyframes", "frames", lambda: keyframes(2150), 1, 5),
    Artifact("embeddings of 150 frames", "array", embeddings, 1, 7),
)
