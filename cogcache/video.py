"""One video: its artifacts together, and the cache's methods bound to it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from fractions import Fraction
from operator import is_not
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from cogcache._checks import nearest
from cogcache._inline import SyncFacade, is_inline
from cogcache._types import Duration, Lookup, StoreResult
from cogcache.artifacts import Framed
from cogcache.computing import Gate
from cogcache.exceptions import shown
from cogcache.exporting import PATTERN
from cogcache.keys import Key, Keyframes
from cogcache.segments import Segment
from cogcache.sources import SourceRef

if TYPE_CHECKING:
    from cogcache.explain import Explanation
    from cogcache.pipeline import PipelineArtifactCache

_T = TypeVar("_T")

DEFAULT_VLM = "Qwen/Qwen2-VL-2B-Instruct"

# Flag in a pipeline configuration -> (field of VideoArtifacts, artifact).
_ENABLED_BY = {
    "extract_keyframes": ("keyframes", "keyframes"),
    "transcribe_audio": ("audio_transcript", "transcript"),
    "generate_descriptions": ("frame_descriptions", "descriptions"),
    "generate_embeddings": ("embeddings", "embeddings"),
}

_KEYFRAME_NAMES = (
    "keyframe_strategy",
    "keyframe_threshold",
    "keyframe_fps",
    "max_frames_per_video",
)

FROM_CONFIG: Any = type("_FromConfig", (), {"__repr__": lambda self: "<from the configuration>"})()
"""The default of arguments that are left to the configuration, and then to the artifact."""


@dataclass
class VideoArtifacts:
    """The artifacts of one video; ``None`` is one that is missing, anything else (an empty one too)
    is there.

    Attributes:
        video_id: Name of the file without its ending.
        keyframes: Metadata of the keyframes.
        audio_transcript: Transcript.
        frame_descriptions: Descriptions of the keyframes.
        embeddings: Embeddings.
    """

    video_id: str
    keyframes: Any = None
    audio_transcript: Any = None
    frame_descriptions: Any = None
    embeddings: Any = None

    def is_complete(self, pipeline_config: Mapping[str, Any]) -> bool:
        """Whether everything that the configuration enables is there."""
        return not self.missing(pipeline_config)

    def missing(self, pipeline_config: Mapping[str, Any]) -> list[str]:
        """The names of the fields that the configuration enables and that are not there."""
        return [
            field
            for flag, (field, _) in _ENABLED_BY.items()
            if pipeline_config.get(flag, False) and getattr(self, field) is None
        ]


class VideoCache:
    """The methods of a ``PipelineArtifactCache`` bound to one captured source, with defaults from a
    configuration.

    Picklable: hand it to workers. Arguments that are left out come from the configuration, then
    from the artifact's own defaults. Descriptions and embeddings are those of the configuration's
    keyframes unless told otherwise.

    Attributes:
        source: What was captured.
        config: The configuration.
        cache: The artifact cache.
        sync: The same methods, blocking.
    """

    def __init__(
        self, cache: PipelineArtifactCache, source: SourceRef, config: Mapping[str, Any]
    ) -> None:
        self.cache = cache
        self.source = source
        self.config = dict(config)
        self.sync: Any = SyncFacade(self, cache.cache._runs_inline)
        self._keyframes: tuple[list[Any], Keyframes] | None = None

    # --- what the configuration says --------------------------------------------------------------

    @property
    def keyframes(self) -> Keyframes:
        """The keyframes that the configuration means.

        Raises:
            ValueError: Its ``keyframe_strategy`` is none that can be configured.
        """
        said = [self.config.get(name, FROM_CONFIG) for name in _KEYFRAME_NAMES]
        if self._keyframes is None or any(map(is_not, said, self._keyframes[0])):
            self._keyframes = (said, _keyframes_of(self.config))
        return self._keyframes[1]

    def arguments(self, artifact: str, named: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of an artifact: those given, else the configuration's, else left to their
        defaults.

        Raises:
            ValueError: The artifact needs a model that neither names.
        """
        given = dict(named or {})
        config = self.config
        if artifact == "keyframes":
            theirs = self._keyframe_arguments()
            strategy = given.get("strategy", theirs["strategy"])
            if not isinstance(strategy, str) or strategy != theirs["strategy"]:
                del theirs["threshold"], theirs["fps"]  # those of another strategy
            given = {**theirs, **given}
        elif artifact == "transcript":
            _fill(given, "model_size", config, "whisper_model")
            _fill(given, "language", config, "whisper_language", "language")
        elif artifact == "descriptions":
            _fill(given, "model_name", config, "vlm_model")
            given.setdefault("model_name", DEFAULT_VLM)
            _fill(given, "batch_size", config, "vlm_batch_size")
            given.setdefault("keyframes", self.keyframes)
        elif artifact == "embeddings":
            _fill(given, "model_name", config, "embedding_model")
            if "model_name" not in given:
                raise ValueError(
                    "embeddings: name the model, as model_name= or embedding_model "
                    "in the configuration"
                )
            given.setdefault("keyframes", self.keyframes)
        return given

    def _keyframe_arguments(self) -> dict[str, Any]:
        frames = self.keyframes
        return {
            "strategy": frames.strategy,
            "threshold": frames.threshold,
            "fps": frames.fps,
            "max_frames": frames.max_frames,
        }

    # --- the generic verbs ------------------------------------------------------------------------

    async def key(self, artifact: str, /, **named: Any) -> Key:
        """The key of an artifact of this video."""
        return await self.cache.key(artifact, self.source, **self.arguments(artifact, named))

    async def lookup(self, artifact: str, /, **named: Any) -> Lookup:
        """See ``PipelineArtifactCache.lookup``."""
        return await self.cache.lookup(artifact, self.source, **self.arguments(artifact, named))

    async def store(self, artifact: str, value: Any, /, **named: Any) -> StoreResult:
        """See ``PipelineArtifactCache.store``."""
        return await self.cache.store(
            artifact, self.source, value, **self.arguments(artifact, named)
        )

    async def explain(self, artifact: str, /, **named: Any) -> Explanation:
        """See ``PipelineArtifactCache.explain``."""
        return await self.cache.explain(artifact, self.source, **self.arguments(artifact, named))

    @overload
    async def get_or_compute(
        self, artifact: Framed, compute: Callable[[], Any], /, **named: Any
    ) -> Any: ...

    @overload
    async def get_or_compute(
        self, artifact: str, compute: Callable[[], Awaitable[_T]], /, **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute(
        self, artifact: str, compute: Callable[[], _T], /, **named: Any
    ) -> _T: ...

    async def get_or_compute(
        self, artifact: str, compute: Callable[[], Any], /, **named: Any
    ) -> Any:
        """See ``PipelineArtifactCache.get_or_compute``."""
        return await self.cache.get_or_compute(
            artifact, self.source, compute, **self.arguments(artifact, named)
        )

    async def get_or_compute_batched(
        self,
        artifact: str,
        ids: Iterable[Any],
        compute: Callable[[list[Any]], Any],
        /,
        *,
        batch_size: int = 100,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        **named: Any,
    ) -> dict[Any, Any]:
        """See ``PipelineArtifactCache.get_or_compute_batched``. A ``vlm_batch_size`` of the
        configuration stays in the key, as ``get_descriptions`` has it.
        """
        how = {"gate": gate, "refresh": refresh, "strict": strict, "executor": executor}
        kept = {"ttl": ttl, "tags": tags}
        meant = self.arguments(artifact, named)
        return await self.cache._batched(
            artifact, self.source, ids, compute, batch_size, how, kept, meant
        )

    async def _lookup(self, artifact: str, **named: Any) -> Lookup:
        return await self.cache.lookup(
            artifact, self.source, **self.arguments(artifact, _given(named))
        )

    async def _store(self, artifact: str, value: Any, **named: Any) -> StoreResult:
        return await self.store(artifact, value, **_given(named))

    # --- the artifacts ----------------------------------------------------------------------------

    async def get_keyframes(
        self,
        strategy: str = FROM_CONFIG,
        threshold: float | None = FROM_CONFIG,
        fps: float | Fraction | None = FROM_CONFIG,
        max_frames: int = FROM_CONFIG,
        load_images: bool = False,
        *,
        image_codec: str = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        frames: Iterable[int | str] | None = None,
    ) -> Any:
        """See ``PipelineArtifactCache.get_keyframes``."""
        found = await self._lookup(
            "keyframes",
            strategy=strategy,
            threshold=threshold,
            fps=fps,
            max_frames=max_frames,
            load_images=load_images,
            image_codec=image_codec,
            revision=revision,
            params=params,
            frames=frames,
        )
        return found.value

    async def set_keyframes(
        self,
        keyframes_metadata: Any,
        keyframe_images: Mapping[Any, Any] | Sequence[Any] | None = None,
        strategy: str = FROM_CONFIG,
        threshold: float | None = FROM_CONFIG,
        fps: float | Fraction | None = FROM_CONFIG,
        max_frames: int = FROM_CONFIG,
        *,
        image_codec: str = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        channels: Literal["bgr", "rgb"] = "bgr",
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See ``PipelineArtifactCache.set_keyframes``."""
        result = await self._store(
            "keyframes",
            (keyframes_metadata, keyframe_images),
            strategy=strategy,
            threshold=threshold,
            fps=fps,
            max_frames=max_frames,
            image_codec=image_codec,
            revision=revision,
            params=params,
            channels=channels,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )
        return result.stored

    async def get_frame(
        self,
        frame_id: int | str,
        *,
        keyframes: Keyframes | None = None,
        decode: bool = False,
        channels: Literal["bgr", "rgb"] = "bgr",
    ) -> Any:
        """See ``PipelineArtifactCache.get_frame``; of the configuration's keyframes unless told
        otherwise.
        """
        return await self.cache.get_frame(
            self.source,
            frame_id,
            keyframes=self.keyframes if keyframes is None else keyframes,
            decode=decode,
            channels=channels,
        )

    async def export_keyframes(
        self,
        directory: str | os.PathLike[str],
        *,
        keyframes: Keyframes | None = None,
        pattern: str = PATTERN,
    ) -> Any:
        """See ``PipelineArtifactCache.export_keyframes``; of the configuration's keyframes unless
        told otherwise.
        """
        return await self.cache.export_keyframes(
            self.source,
            directory,
            keyframes=self.keyframes if keyframes is None else keyframes,
            pattern=pattern,
        )

    async def get_or_compute_keyframes(self, compute: Callable[[], Any], **options: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_keyframes``."""
        return await self.get_or_compute("keyframes", compute, **options)

    async def get_transcript(
        self,
        model_size: str = FROM_CONFIG,
        language: str | None = FROM_CONFIG,
        *,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
    ) -> Any:
        """See ``PipelineArtifactCache.get_transcript``."""
        found = await self._lookup(
            "transcript",
            model_size=model_size,
            language=language,
            revision=revision,
            params=params,
        )
        return found.value

    async def set_transcript(
        self,
        transcript_data: Any,
        model_size: str = FROM_CONFIG,
        language: str | None = FROM_CONFIG,
        *,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See ``PipelineArtifactCache.set_transcript``."""
        result = await self._store(
            "transcript",
            transcript_data,
            model_size=model_size,
            language=language,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )
        return result.stored

    @overload
    async def get_or_compute_transcript(
        self, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_transcript(self, compute: Callable[[], _T], **named: Any) -> _T: ...

    async def get_or_compute_transcript(self, compute: Callable[[], Any], **options: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_transcript``."""
        return await self.get_or_compute("transcript", compute, **options)

    async def get_descriptions(
        self,
        model_name: str = FROM_CONFIG,
        batch_size: int = FROM_CONFIG,
        *,
        prompt: str | None = FROM_CONFIG,
        keyframes: Keyframes | Key | None = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
    ) -> Any:
        """See ``PipelineArtifactCache.get_descriptions``."""
        found = await self._lookup(
            "descriptions",
            model_name=model_name,
            batch_size=batch_size,
            prompt=prompt,
            keyframes=keyframes,
            revision=revision,
            params=params,
        )
        return found.value

    async def set_descriptions(
        self,
        descriptions_data: Any,
        model_name: str = FROM_CONFIG,
        batch_size: int = FROM_CONFIG,
        *,
        prompt: str | None = FROM_CONFIG,
        keyframes: Keyframes | Key | None = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See ``PipelineArtifactCache.set_descriptions``."""
        result = await self._store(
            "descriptions",
            descriptions_data,
            model_name=model_name,
            batch_size=batch_size,
            prompt=prompt,
            keyframes=keyframes,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )
        return result.stored

    @overload
    async def get_or_compute_descriptions(
        self, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_descriptions(self, compute: Callable[[], _T], **named: Any) -> _T: ...

    async def get_or_compute_descriptions(self, compute: Callable[[], Any], **options: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_descriptions``."""
        return await self.get_or_compute("descriptions", compute, **options)

    async def get_embeddings(
        self,
        model_name: str = FROM_CONFIG,
        *,
        keyframes: Keyframes | Key | None = FROM_CONFIG,
        inputs: Mapping[str, Key] | None = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        mode: Literal["cow", "view", "copy"] = "cow",
        names: Iterable[str] | None = None,
    ) -> Any:
        """See ``PipelineArtifactCache.get_embeddings``."""
        found = await self._lookup(
            "embeddings",
            model_name=model_name,
            keyframes=keyframes,
            inputs=inputs,
            revision=revision,
            params=params,
            mode=mode,
            names=names,
        )
        return found.value

    async def set_embeddings(
        self,
        embeddings_data: Any,
        model_name: str = FROM_CONFIG,
        *,
        keyframes: Keyframes | Key | None = FROM_CONFIG,
        inputs: Mapping[str, Key] | None = FROM_CONFIG,
        revision: str | None = FROM_CONFIG,
        params: Mapping[str, Any] | None = FROM_CONFIG,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See ``PipelineArtifactCache.set_embeddings``."""
        result = await self._store(
            "embeddings",
            embeddings_data,
            model_name=model_name,
            keyframes=keyframes,
            inputs=inputs,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )
        return result.stored

    @overload
    async def get_or_compute_embeddings(
        self, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_embeddings(self, compute: Callable[[], _T], **named: Any) -> _T: ...

    async def get_or_compute_embeddings(self, compute: Callable[[], Any], **options: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_embeddings``."""
        return await self.get_or_compute("embeddings", compute, **options)

    async def get_segment_frames(
        self, segment_id: int, start_time: float, end_time: float, **named: Any
    ) -> Any:
        """See ``PipelineArtifactCache.get_segment_frames``."""
        return await self.cache.get_segment_frames(
            self.source, segment_id, start_time, end_time, **named
        )

    async def get_all_segment_frames(
        self, segments: Iterable[Segment], **named: Any
    ) -> dict[int, Any]:
        """See ``PipelineArtifactCache.get_all_segment_frames``."""
        return await self.cache.get_all_segment_frames(self.source, segments, **named)

    async def set_segment_frames(
        self,
        segment_id: int,
        start_time: float,
        end_time: float,
        frames: Sequence[Any],
        timestamps: Sequence[float],
        **named: Any,
    ) -> bool:
        """See ``PipelineArtifactCache.set_segment_frames``."""
        return await self.cache.set_segment_frames(
            self.source, segment_id, start_time, end_time, frames, timestamps, **named
        )

    async def get_or_compute_segment_frames(self, compute: Callable[[], Any], **named: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_segment_frames``."""
        return await self.cache.get_or_compute_segment_frames(self.source, compute, **named)

    async def get_segmentation(self, **named: Any) -> Any:
        """See ``PipelineArtifactCache.get_segmentation``."""
        return (await self.lookup("segmentation", **named)).value

    async def set_segmentation(self, segmentation_data: Any, **named: Any) -> bool:
        """See ``PipelineArtifactCache.set_segmentation``."""
        return (await self.store("segmentation", segmentation_data, **named)).stored

    @overload
    async def get_or_compute_segmentation(
        self, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_segmentation(self, compute: Callable[[], _T], **named: Any) -> _T: ...

    async def get_or_compute_segmentation(self, compute: Callable[[], Any], **named: Any) -> Any:
        """See ``PipelineArtifactCache.get_or_compute_segmentation``."""
        return await self.get_or_compute("segmentation", compute, **named)

    # --- the whole --------------------------------------------------------------------------------

    async def get_all_artifacts(self, *, load: Iterable[str] | None = None) -> VideoArtifacts:
        """See ``PipelineArtifactCache.get_all_artifacts``."""
        if isinstance(load, str | bytes) or not isinstance(load, Iterable | None):
            raise TypeError(f"load must be several names of artifacts, not {shown(load)}")
        known = [artifact for _, artifact in _ENABLED_BY.values()]
        wanted = None if load is None else list(load)
        for name in wanted or ():
            if name not in known:
                raise ValueError(f"load: unknown artifact {shown(name)}{nearest(name, known)}")
        enabled = [
            (field, artifact)
            for flag, (field, artifact) in _ENABLED_BY.items()
            if self.config.get(flag, False) and (wanted is None or artifact in wanted)
        ]
        arguments = [
            self.arguments(artifact) for _, artifact in enabled
        ]  # every mistake is found before any call
        lookups = [
            self.cache.lookup(artifact, self.source, **named)
            for (_, artifact), named in zip(enabled, arguments, strict=True)
        ]
        found = [await one for one in lookups] if is_inline() else await _together(lookups)
        artifacts = VideoArtifacts(video_id=self.source.stem)
        for (field, _), one in zip(enabled, found, strict=True):
            setattr(artifacts, field, one.value)
        return artifacts

    async def invalidate_video(self) -> int:
        """See ``PipelineArtifactCache.invalidate_video``."""
        return await self.cache.invalidate_video(self.source)

    async def __aenter__(self) -> VideoCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close: the artifact cache outlives its videos."""

    def __reduce__(self) -> Any:
        return type(self), (self.cache, self.source, self.config)

    def __repr__(self) -> str:
        return f"<VideoCache of {self.source.uri!r}>"


def _keyframes_of(config: Mapping[str, Any]) -> Keyframes:
    strategy = config.get("keyframe_strategy", "similarity")
    max_frames = config.get("max_frames_per_video")
    max_frames = 3000 if max_frames is None else max_frames
    if strategy == "similarity":
        return Keyframes(threshold=config.get("keyframe_threshold"), max_frames=max_frames)
    if strategy == "fps":
        return Keyframes("fps", fps=config.get("keyframe_fps"), max_frames=max_frames)
    raise ValueError(f"keyframe_strategy: unknown value {strategy!r}; known: similarity, fps")


def _given(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not FROM_CONFIG}


async def _together(lookups: list[Any]) -> list[Lookup]:
    import asyncio

    return list(await asyncio.gather(*lookups))


def _fill(given: dict[str, Any], argument: str, config: Mapping[str, Any], *names: str) -> None:
    """Take ``argument`` from the first of ``names`` that the configuration has, unless it was
    given.
    """
    if argument in given:
        return
    for name in names:
        if config.get(name) is not None:
            given[argument] = config[name]
            return
