"""Quick stages in place of the models, for the tests of the examples."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def jpeg(number: int, repeats: int = 20) -> bytes:
    """Something that is a JPEG to whoever looks at its first bytes."""
    return b"\xff\xd8\xff\xe0 picture %d " % number + bytes(range(256)) * repeats + b"\xff\xd9"


class QuickStages:
    """Four stages that depend on their inputs as the real ones do, and count their calls."""

    SPEECH_MODEL = "quick-speech"
    DESCRIPTION_MODEL = "quick-text"
    EMBEDDING_MODEL = "quick-vectors"
    repeats = 20  # quarters of a KiB in a picture

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def extract_keyframes(
        self, path: Path, *, progress: Any, threshold: float | None, fps: float | None
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        self.calls["keyframes"] += 1
        assert (threshold is None) != (fps is None)
        count = 3 if fps is None else round(2 * fps)
        progress(count, count)
        listed = [{"frame_id": 7 * n, "timestamp": n / 2} for n in range(count)]
        return {"keyframes": listed}, {str(7 * n): jpeg(n, self.repeats) for n in range(count)}

    def transcribe(self, path: Path, *, progress: Any) -> dict[str, Any]:
        self.calls["transcript"] += 1
        return {"segments": [{"start": 0.25, "end": 1.0, "text": "rather selfish"}]}

    def describe(self, keyframes: Any, pictures: Any, *, progress: Any) -> dict[str, Any]:
        self.calls["descriptions"] += 1
        ids = [str(k["frame_id"]) for k in keyframes["keyframes"]]
        assert [bytes(pictures[i]) for i in ids] == [jpeg(n, self.repeats) for n in range(len(ids))]
        return {"descriptions": {i: f"a face in frame {i}" for i in ids}}

    def embed(self, descriptions: Any, transcript: Any, *, progress: Any) -> dict[str, Any]:
        self.calls["embeddings"] += 1
        frames = list(descriptions["descriptions"])
        rows = len(frames) + len(transcript["segments"])
        return {"frames": frames, "vectors": np.eye(rows, 8, dtype=np.float32)}

    def encode(self, texts: list[str]) -> Any:
        # The last row of three keyframes and one segment is the segment.
        return np.array([np.eye(8)[3] if "selfish" in t else np.eye(8)[0] for t in texts])

    def thumbnail(self, data: bytes) -> bytes:
        return bytes(data)


class LargeStages(QuickStages):
    """With pictures of 3 MB, so that the keyframes take several ranges."""

    repeats = 12_000


class WaitingStages(QuickStages):
    """The transcript says that it has begun, and goes on for ever."""

    def transcribe(self, path: Path, *, progress: Any) -> dict[str, Any]:
        logging.getLogger("cogcache").warning("transcribing")
        while True:
            progress(1, 2)
            threading.Event().wait(0.01)
