"""One pass of the pipeline, watched: what each stage took, whether it was computed, and why."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogcache import Explanation, Keyframes, PipelineArtifactCache, VideoCache
from ingest.cached import Ingested, ingest
from ingest.terminal import Teller, counted, duration


@dataclass(frozen=True)
class Step:
    """What happened at one stage of one pass."""

    artifact: str
    computed: bool
    seconds: float
    why: str
    raw_bytes: int
    stored_bytes: int
    result: str

    def line(self) -> str:
        """The step in one line of the story."""
        word = "computed" if self.computed else "hit"
        taken = duration(self.seconds)
        return f"   {self.artifact:<13} {word:<9} {taken:>8}   {self.result:<13} {self.why}"


@dataclass(frozen=True)
class Pass:
    """One run of the pipeline."""

    name: str
    identity_seconds: float  # what it took to find out which video this is
    steps: Mapping[str, Step]
    value: Ingested

    @property
    def seconds(self) -> float:
        """Time of everything that the pipeline waited for."""
        return self.identity_seconds + sum(step.seconds for step in self.steps.values())


class Reported:
    """The stages, as the pipeline calls them: progress is shown and every call is noted."""

    def __init__(self, stages: Any, teller: Teller) -> None:
        self.called: set[str] = set()
        self.SPEECH_MODEL: str = stages.SPEECH_MODEL
        self.DESCRIPTION_MODEL: str = stages.DESCRIPTION_MODEL
        self.EMBEDDING_MODEL: str = stages.EMBEDDING_MODEL
        self._stages = stages
        self._teller = teller

    def extract_keyframes(self, path: Path, **chosen: Any) -> Any:
        """Stage 1."""
        return self._run("keyframes", self._stages.extract_keyframes, path, **chosen)

    def transcribe(self, path: Path) -> Any:
        """Stage 2."""
        return self._run("transcript", self._stages.transcribe, path)

    def describe(self, keyframes: Mapping[str, Any], pictures: Mapping[str, bytes]) -> Any:
        """Stage 3."""
        return self._run("descriptions", self._stages.describe, keyframes, pictures)

    def embed(self, descriptions: Mapping[str, Any], transcript: Mapping[str, Any]) -> Any:
        """Stage 4."""
        return self._run("embeddings", self._stages.embed, descriptions, transcript)

    def _run(self, artifact: str, stage: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
        self.called.add(artifact)
        return stage(*inputs, progress=self._teller.progress(artifact), **settings)


class Recorder:
    """Watches one pass: what each stage took, whether it was computed, and why."""

    def __init__(self, stages: Reported, teller: Teller) -> None:
        self.steps: dict[str, Step] = {}
        self._stages = stages
        self._teller = teller

    @asynccontextmanager
    async def stage(
        self, video: VideoCache, artifact: str, named: Mapping[str, Any]
    ) -> AsyncIterator[None]:
        """See ``cached.Watch``. Only what happens inside is timed."""
        explanation = await video.explain(artifact, **named)
        begun = self._teller.clock()
        yield
        seconds = self._teller.clock() - begun
        known = await video.lookup(artifact, **named)
        why = reason(explanation) if known.hit else f"but not kept: {known.reason}"
        step = Step(
            artifact=artifact,
            computed=artifact in self._stages.called,
            seconds=seconds,
            why=why,
            raw_bytes=raw_size(known.value),
            stored_bytes=known.stored_bytes,
            result=summary(artifact, known.value),
        )
        self.steps[artifact] = step
        self._teller.say(step.line())


async def run_pass(
    name: str,
    cache: PipelineArtifactCache,
    path: Path,
    stages: Any,
    chosen: Keyframes,
    teller: Teller,
) -> Pass:
    """Run the pipeline once and tell it."""
    reported = Reported(stages, teller)
    recorder = Recorder(reported, teller)
    begun = teller.clock()
    video = await cache.video(path)
    identity_seconds = teller.clock() - begun
    value = await ingest(video, path, reported, chosen, recorder)
    return Pass(name, identity_seconds, recorder.steps, value)


def surprises(done: Pass, expected: Sequence[str]) -> list[str]:
    """Every stage that was computed though it should have been a hit, or the other way round."""
    return [
        f"{done.name}: {artifact} was {'computed' if step.computed else 'a hit'}, "
        f"not {'computed' if artifact in expected else 'a hit'}"
        for artifact, step in done.steps.items()
        if step.computed != (artifact in expected)
    ]


def reason(explanation: Explanation) -> str:
    """Why a stage was a hit or had to be computed, in a few words."""
    if explanation.hit:
        answer = next(tier for tier in explanation.tiers if tier.present)
        return f"kept {answer.age_seconds or 0:.0f} s ago, took {duration(answer.cost_seconds)}"
    if explanation.nearest:
        parts = ", ".join(difference.part for difference in explanation.nearest[0].differences)
        return f"{explanation.reason}: the nearest entry differs in {parts}"
    return f"{explanation.reason}: nothing like it is known of this video"


def raw_size(value: Any) -> int:
    """Bytes of a value in its plainest form: pictures, the buffers of arrays, JSON for the rest."""
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, tuple | list):
        return 2 + sum(raw_size(item) + 1 for item in value)
    if isinstance(value, Mapping):
        return 2 + sum(len(str(key)) + 4 + raw_size(item) for key, item in value.items())
    return len(json.dumps(value))


def summary(artifact: str, value: Any) -> str:
    """What a result is, in two words."""
    if value is None:
        return ""
    if artifact == "keyframes":
        metadata = value[0] if isinstance(value, tuple) else value
        return counted(len(metadata["keyframes"]), "frame")
    if artifact == "transcript":
        return counted(len(value["segments"]), "segment")
    if artifact == "descriptions":
        return counted(len(value["descriptions"]), "text")
    return counted(len(value["vectors"]), "vector")
