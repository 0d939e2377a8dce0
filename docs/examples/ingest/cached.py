"""The pipeline through cogcache: the part of this example to read, and to copy.

Each stage is asked for by what it depends on: the video, the model, the settings and the results
it is made from. What is known comes from the cache, what is not is computed and kept. Nothing
else in a pipeline has to change, and the stages themselves (``stages.py``) know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cogcache import Keyframes, PipelineArtifactCache, VideoCache

Progress = Callable[[int, int], None]


class Stages(Protocol):
    """The four stages and the names of their models; the module ``stages`` is one."""

    SPEECH_MODEL: str
    DESCRIPTION_MODEL: str
    EMBEDDING_MODEL: str

    def extract_keyframes(
        self, path: Path, progress: Progress, **chosen: Any
    ) -> tuple[dict[str, Any], dict[str, bytes]]: ...

    def transcribe(self, path: Path, progress: Progress) -> dict[str, Any]: ...

    def describe(
        self, metadata: Mapping[str, Any], pictures: Mapping[str, bytes], progress: Progress
    ) -> dict[str, Any]: ...

    def embed(
        self, descriptions: Mapping[str, Any], transcript: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]: ...
