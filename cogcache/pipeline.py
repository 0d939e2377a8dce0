"""``PipelineArtifactCache``: the artifacts of a video, by what they were made from and how."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from cogcache import _core
from cogcache._inline import SyncFacade, is_inline
from cogcache._types import Duration, Lookup, StoreResult, duration_seconds
from cogcache.artifacts import ARTIFACTS, Artifact, artifact_of, key_params
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE
from cogcache.config import BackendConfig, CacheConfig, FilesystemCacheConfig
from cogcache.exceptions import CogcacheError, ConfigError
from cogcache.explain import Explanation, explain_miss
from cogcache.frames import Bundle, make_bundle
from cogcache.keys import Key, Keyframes
from cogcache.manager import CacheManager, Context
from cogcache.sources import DigestMemo, MissFence, Source, SourceRef, capture_async, settle_async
from cogcache.video import VideoArtifacts, VideoCache

logger = logging.getLogger("cogcache")

Identity = Literal["stat", "content", "sampled", "sha256"]
IDENTITIES = ("stat", "content", "sampled", "sha256")

# Arguments of the generic verbs that say how to load or store, not what the artifact is.
_LOAD_OPTIONS = ("load_images", "frames", "mode", "names")
_STORE_OPTIONS = ("ttl", "cost_seconds", "tags", "channels")
STAMPS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class _Request:
    """One artifact of one source, as asked for: what every verb works on."""

    artifact: Artifact
    key: Key
    source: SourceRef
    pinned: bool  # the caller gave a SourceRef: its identity stands, whatever is at the path now


class _UnreadableError(Exception):
    """The source exists but cannot be looked at now; the reason word is in args[0]."""


class PipelineArtifactCache:
    """Keyframes, transcripts, descriptions, embeddings and segments of videos, kept so that nothing
    is computed twice.

    An artifact is found by its source (see ``identity``), its name and every parameter that changes
    it; parameters left out are their defaults. Results that carry an error are not kept.

    Args:
        cache_manager: Where entries are kept.
        ttl: Life of an entry, or a mapping from artifact names to lives (``"*"`` for the others);
            default seven days.
        profile: A namespace of keys; ``None`` is the empty one.
        identity: What makes two sources the same: ``"stat"`` (path, size and modification time),
            ``"content"`` (the bytes: copies and other hosts share), ``"sampled"`` (size and spread
            samples, for huge files) or ``"sha256"`` (for sources that you do not trust).
        memo: Remember content digests by path and file times, so that a file is read once.

    Attributes:
        cache: The manager.
        ttl: As given.
        profile: As given.
        identity: As given.
        sync: The same methods, blocking.
    """

    def __init__(
        self,
        cache_manager: CacheManager,
        ttl: Duration | Mapping[str, Duration] = 604800,
        profile: str | None = None,
        *,
        identity: Identity = "stat",
        memo: bool = True,
    ) -> None:
        if not isinstance(cache_manager, CacheManager):
            raise ConfigError(
                f"cache_manager must be a CacheManager, not {type(cache_manager).__name__}"
            )
        if identity not in IDENTITIES:
            raise ConfigError(f"identity must be one of {', '.join(IDENTITIES)}, not {identity!r}")
        if profile is not None and not isinstance(profile, str):
            raise ConfigError(f"profile must be a string or None, not {type(profile).__name__}")
        self.cache = cache_manager
        self.ttl = ttl
        self.profile = profile
        self.identity: Identity = identity
        self.memo = memo
        self.sync: Any = SyncFacade(self, cache_manager._runs_inline)
        self._lives = _lives(ttl)
        self._fence = MissFence()
        self._stamps: OrderedDict[bytes, int] = OrderedDict()
        self._stamps_lock = threading.Lock()
        self._unreadable: set[str] = set()
        self._counts: dict[str, dict[str, float]] = {}
        self._digests: DigestMemo | None = None

    @classmethod
    def open(
        cls,
        *tiers: str | os.PathLike[str] | BackendConfig | Mapping[str, Any],
        profile: str | None = None,
        identity: Identity = "stat",
        ttl: Duration | Mapping[str, Duration] = "7d",
    ) -> PipelineArtifactCache:
        """A cache over the given tiers in this order; a path is a filesystem tier of that
        directory.

        Without any, ``$COGCACHE_DIR`` or ``~/.cache/cogcache`` is used.
        """
        backends: list[BackendConfig | Mapping[str, Any]] = []
        for number, tier in enumerate(
            tiers or (os.environ.get("COGCACHE_DIR") or "~/.cache/cogcache",)
        ):
            if isinstance(tier, str | os.PathLike):
                backends.append(FilesystemCacheConfig(base_path=tier, priority=number))
            else:
                backends.append(tier)
        return cls(CacheManager(CacheConfig(backends)), ttl, profile, identity=identity)

    # --- the generic verbs ------------------------------------------------------------------------

    async def video(
        self,
        video_path: Source,
        config: Mapping[str, Any] | None = None,
        *,
        source_id: str | bytes | None = None,
        etag: str | None = None,
        missing: Literal["uri", "latest"] = "uri",
    ) -> VideoCache:
        """Capture the identity of a source once and give every method bound to it.

        Use it for more than one call on a source: the file is looked at once, and results computed
        from it are filed under what was captured, even if the file is replaced meanwhile.
        ``.source`` is a picklable ``SourceRef``.

        Args:
            video_path: A path, a ``file://`` or other URI, or a ``SourceRef``.
            config: A pipeline configuration whose names give the defaults of the bound methods.
            source_id: Your own identity of the source, instead of looking at it.
            etag: The version of a remote source.
            missing: For a file that is gone: ``"latest"`` means the newest generation that the
                cache knows.
        """
        source = await self._capture(video_path, source_id=source_id, etag=etag)
        if missing == "latest" and source.kind == "absent":
            source = await self._latest_generation(source)
        elif missing not in ("uri", "latest"):
            raise ValueError(f"missing must be 'uri' or 'latest', not {missing!r}")
        return VideoCache(self, source, dict(config or {}))

    async def key(self, artifact: str, video_path: Source, /, **named: Any) -> Key:
        """The key of an artifact; for use as ``keyframes=`` or ``inputs=``, or with the manager."""
        return (await self._request(artifact, video_path, named)).key

    async def lookup(self, artifact: str, video_path: Source, /, **named: Any) -> Lookup:
        """``get_<artifact>`` with everything that is known about the answer."""
        load = {name: named.pop(name) for name in _LOAD_OPTIONS if name in named}
        try:
            request = await self._request(artifact, video_path, named)
        except _UnreadableError as error:
            self._count(artifact, "misses")
            return Lookup(False, reason=str(error.args[0]))
        return await self._look(request, load)

    async def store(
        self, artifact: str, video_path: Source, value: Any, /, **named: Any
    ) -> StoreResult:
        """``set_<artifact>`` with what became of the value.

        Keyframes and segment frames are given as ``(metadata, images)``, or the metadata alone.
        """
        options = {name: named.pop(name) for name in _STORE_OPTIONS if name in named}
        try:
            request = await self._request(artifact, video_path, named)
        except _UnreadableError as error:
            return StoreResult(False, str(error.args[0]))
        if request.artifact.failed(_metadata_of(value)):
            return self._refused(artifact, "failed-result")
        if not request.pinned and not self._fence.check(request.source):
            return self._refused(artifact, "source-changed")
        channels = options.pop("channels", "bgr")
        bundle = await self._bundled(request, value, channels)
        return await self._keep(request, bundle, **options)

    async def get_or_compute(
        self,
        artifact: str,
        video_path: Source,
        compute: Callable[[], Any],
        /,
        *,
        gate: AbstractAsyncContextManager[Any] | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[Any], bool] | None = None,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        channels: str = "bgr",
        **named: Any,
    ) -> Any:
        """The artifact, computed and kept if it is not there; computed once however many ask
        meanwhile.

        ``compute`` takes no arguments and returns what ``set_<artifact>`` takes: for keyframes
        ``(metadata, images)``. The caller that computed gets what later callers will get: for
        frames the decoded stored form. See ``CacheManager.get_or_compute`` for the other arguments.
        A failed result, one whose source changed while it was computed, and one that cannot be
        stored are returned and not kept.
        """
        load = {name: named.pop(name) for name in _LOAD_OPTIONS if name in named}
        try:
            request = await self._request(artifact, video_path, named)
        except _UnreadableError:
            return await self._without_cache(artifact, compute, executor, load, channels)
        if not refresh:
            found = await self._look(request, load)
            if found.hit:
                return found.value
        stamp = self._stamp(request)

        async def keep(value: Any, seconds: float) -> StoreResult:
            if await self._changed_meanwhile(request):
                return self._refused(artifact, "source-changed")
            seconds = seconds if cost_seconds is None else cost_seconds
            return await self._keep(
                request, value, ttl=ttl, cost_seconds=seconds, tags=tags, stamp=stamp
            )

        async def look_again() -> Lookup:
            return Lookup(False) if refresh else await self._look(request, load)

        def worth_keeping(value: Any) -> bool:
            metadata = _metadata_of(value)
            if metadata is None or request.artifact.failed(metadata):
                self._count(artifact, "failed")
                return False
            return should_store is None or should_store(value)

        value = await self.cache.compute_once(
            request.key.encoded,
            compute,
            keep=keep,
            look_again=look_again,
            gate=gate,
            strict=strict,
            should_store=worth_keeping,
            executor=executor,
            finish=lambda value: self._bundled(request, value, channels),
        )
        return _handed_out(value, load)

    async def explain(self, artifact: str, video_path: Source, /, **named: Any) -> Explanation:
        """Why an artifact is or is not there: each tier's answer, and what the nearest entries
        differ in.
        """
        load = {name: named.pop(name) for name in _LOAD_OPTIONS if name in named}
        del load
        try:
            request = await self._request(artifact, video_path, named)
        except _UnreadableError as error:
            return Explanation(None, artifact, str(video_path), str(error.args[0]), (), ())
        return await explain_miss(self.cache, request.key, request.source, artifact)

    # --- keyframes --------------------------------------------------------------------------------

    async def get_keyframes(
        self,
        video_path: Source,
        strategy: str = "similarity",
        threshold: float | None = None,
        fps: float | Fraction | None = None,
        max_frames: int = 3000,
        load_images: bool = False,
        *,
        frames: Iterable[int | str] | None = None,
        image_codec: str = "jpeg:95",
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """The keyframes' metadata, or ``(metadata, frames)`` with ``load_images``; ``None`` on a
        miss.

        Metadata alone never reads a frame. ``frames`` limits which are loaded. An empty list of
        keyframes is a result: compare with ``is not None``.
        """
        found = await self.lookup(
            "keyframes",
            video_path,
            strategy=strategy,
            threshold=threshold,
            fps=fps,
            max_frames=max_frames,
            image_codec=image_codec,
            revision=revision,
            params=params,
            load_images=load_images,
            frames=frames,
        )
        return found.value

    async def set_keyframes(
        self,
        video_path: Source,
        keyframes_metadata: Any,
        keyframe_images: Mapping[Any, Any] | Sequence[Any] | None = None,
        strategy: str = "similarity",
        threshold: float | None = None,
        fps: float | Fraction | None = None,
        max_frames: int = 3000,
        *,
        image_codec: str = "jpeg:95",
        channels: Literal["bgr", "rgb"] = "bgr",
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep keyframes: the metadata and, by frame id, the images as bytes, paths, arrays or PIL
        images.

        Bytes and paths are stored untouched. Arrays of uint8 with one or three channels become JPEG
        at ``image_codec``'s quality, in BGR order unless ``channels`` says RGB; all others are
        stored losslessly.
        """
        return await self._set(
            "keyframes",
            video_path,
            (keyframes_metadata, keyframe_images),
            strategy=strategy,
            threshold=threshold,
            fps=fps,
            max_frames=max_frames,
            image_codec=image_codec,
            channels=channels,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )

    async def get_or_compute_keyframes(
        self,
        video_path: Source,
        compute: Callable[[], Any],
        *,
        strategy: str = "similarity",
        threshold: float | None = None,
        fps: float | Fraction | None = None,
        max_frames: int = 3000,
        load_images: bool = False,
        **options: Any,
    ) -> Any:
        """``get_or_compute`` of keyframes; ``compute`` gives ``(metadata, images)``."""
        return await self.get_or_compute(
            "keyframes",
            video_path,
            compute,
            strategy=strategy,
            threshold=threshold,
            fps=fps,
            max_frames=max_frames,
            load_images=load_images,
            **options,
        )

    # --- transcripts ------------------------------------------------------------------------------

    async def get_transcript(
        self,
        video_path: Source,
        model_size: str = "base",
        language: str | None = None,
        *,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """The transcript, or ``None`` on a miss. An empty one is a result: compare with ``is not
        None``.
        """
        found = await self.lookup(
            "transcript",
            video_path,
            model_size=model_size,
            language=language,
            revision=revision,
            params=params,
        )
        return found.value

    async def set_transcript(
        self,
        video_path: Source,
        transcript_data: Any,
        model_size: str = "base",
        language: str | None = None,
        *,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep a transcript; one that carries ``error`` is not kept, so that a later run tries
        again.
        """
        return await self._set(
            "transcript",
            video_path,
            transcript_data,
            model_size=model_size,
            language=language,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )

    async def get_or_compute_transcript(
        self,
        video_path: Source,
        compute: Callable[[], Any],
        *,
        model_size: str = "base",
        language: str | None = None,
        **options: Any,
    ) -> Any:
        """``get_or_compute`` of a transcript."""
        return await self.get_or_compute(
            "transcript", video_path, compute, model_size=model_size, language=language, **options
        )

    # --- descriptions -----------------------------------------------------------------------------

    async def get_descriptions(
        self,
        video_path: Source,
        model_name: str,
        batch_size: int = 500,
        *,
        prompt: str | None = None,
        keyframes: Keyframes | Key | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """The descriptions of the keyframes, or ``None`` on a miss.

        ``keyframes`` says which ones: a ``Keyframes`` or a ``Key``; ``None`` means those with the
        default arguments.
        """
        found = await self.lookup(
            "descriptions",
            video_path,
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
        video_path: Source,
        descriptions_data: Any,
        model_name: str,
        batch_size: int = 500,
        *,
        prompt: str | None = None,
        keyframes: Keyframes | Key | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep descriptions; a batch that failed as a whole (no text at all, or ``error``) is not
        kept.
        """
        return await self._set(
            "descriptions",
            video_path,
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

    async def get_or_compute_descriptions(
        self,
        video_path: Source,
        compute: Callable[[], Any],
        *,
        model_name: str,
        batch_size: int = 500,
        prompt: str | None = None,
        keyframes: Keyframes | Key | None = None,
        **options: Any,
    ) -> Any:
        """``get_or_compute`` of descriptions."""
        return await self.get_or_compute(
            "descriptions",
            video_path,
            compute,
            model_name=model_name,
            batch_size=batch_size,
            prompt=prompt,
            keyframes=keyframes,
            **options,
        )

    # --- embeddings -------------------------------------------------------------------------------

    async def get_embeddings(
        self,
        video_path: Source,
        model_name: str,
        *,
        keyframes: Keyframes | Key | None = None,
        inputs: Mapping[str, Key] | None = None,
        mode: Literal["cow", "view", "copy"] = "cow",
        names: Iterable[str] | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """The embeddings, bit for bit, or ``None`` on a miss.

        Args:
            video_path: The source.
            model_name: The model that made them.
            keyframes: The keyframes that they were made from; ``None`` means those with the default
                arguments.
            inputs: Keys of whatever else they were made from.
            mode: ``"cow"`` gives writable arrays (private to this call), ``"view"`` read-only ones,
                ``"copy"`` arrays that are independent of any file.
            names: Of a mapping of arrays, only these.
            revision: Of the model.
            params: Further parameters.
        """
        found = await self.lookup(
            "embeddings",
            video_path,
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
        video_path: Source,
        embeddings_data: Any,
        model_name: str,
        *,
        keyframes: Keyframes | Key | None = None,
        inputs: Mapping[str, Key] | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep embeddings: an array of any shape and dtype, or a mapping or list that holds
        arrays.
        """
        return await self._set(
            "embeddings",
            video_path,
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

    async def get_or_compute_embeddings(
        self,
        video_path: Source,
        compute: Callable[[], Any],
        *,
        model_name: str,
        keyframes: Keyframes | Key | None = None,
        inputs: Mapping[str, Key] | None = None,
        **options: Any,
    ) -> Any:
        """``get_or_compute`` of embeddings."""
        return await self.get_or_compute(
            "embeddings",
            video_path,
            compute,
            model_name=model_name,
            keyframes=keyframes,
            inputs=inputs,
            **options,
        )

    # --- segments ---------------------------------------------------------------------------------

    async def get_segment_frames(
        self,
        video_path: Source,
        segment_id: int,
        start_time: float,
        end_time: float,
        sampling_fps: float = 2.0,
        max_frames: int = 12,
        load_images: bool = True,
        *,
        image_codec: str = "jpeg:95",
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """``(metadata, frames)`` of one segment, or the metadata alone; ``None`` on a miss.

        ``frames`` is a list in the order of ``metadata["timestamps"]``.
        """
        found = await self.lookup(
            "segment_frames",
            video_path,
            segment_id=segment_id,
            start_time=start_time,
            end_time=end_time,
            sampling_fps=sampling_fps,
            max_frames=max_frames,
            load_images=load_images,
            image_codec=image_codec,
            revision=revision,
            params=params,
        )
        return found.value

    async def set_segment_frames(
        self,
        video_path: Source,
        segment_id: int,
        start_time: float,
        end_time: float,
        frames: Sequence[Any],
        timestamps: Sequence[float],
        sampling_fps: float = 2.0,
        max_frames: int = 12,
        *,
        image_codec: str = "jpeg:95",
        channels: Literal["bgr", "rgb"] = "bgr",
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep the frames of one segment with their times in seconds.

        Raises:
            ValueError: As many frames as timestamps are needed.
        """
        if len(frames) != len(timestamps):
            raise ValueError(f"timestamps: {len(timestamps)} of them for {len(frames)} frames")
        metadata = {
            "segment_id": segment_id,
            "start_time": start_time,
            "end_time": end_time,
            "timestamps": list(timestamps),
            "num_frames": len(frames),
            "sampling_fps": sampling_fps,
            "max_frames": max_frames,
        }
        return await self._set(
            "segment_frames",
            video_path,
            (metadata, frames),
            segment_id=segment_id,
            start_time=start_time,
            end_time=end_time,
            sampling_fps=sampling_fps,
            max_frames=max_frames,
            image_codec=image_codec,
            channels=channels,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )

    async def get_or_compute_segment_frames(
        self, video_path: Source, compute: Callable[[], Any], **options: Any
    ) -> Any:
        """``get_or_compute`` of one segment's frames; ``compute`` gives ``(metadata, frames)``."""
        options.setdefault("load_images", True)
        return await self.get_or_compute("segment_frames", video_path, compute, **options)

    async def get_segmentation(
        self,
        video_path: Source,
        *,
        strategy: str,
        segment_seconds: float,
        overlap_seconds: float,
        fps: float | Fraction,
        max_frames: int,
        transcript: Key | str | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """A segmentation, or ``None`` on a miss; ``transcript`` is the key (or your fingerprint) of
        the one it used.
        """
        found = await self.lookup(
            "segmentation",
            video_path,
            strategy=strategy,
            segment_seconds=segment_seconds,
            overlap_seconds=overlap_seconds,
            fps=fps,
            max_frames=max_frames,
            transcript=transcript,
            revision=revision,
            params=params,
        )
        return found.value

    async def set_segmentation(
        self,
        video_path: Source,
        segmentation_data: Any,
        *,
        strategy: str,
        segment_seconds: float,
        overlap_seconds: float,
        fps: float | Fraction,
        max_frames: int,
        transcript: Key | str | None = None,
        revision: str | None = None,
        params: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Keep a segmentation."""
        return await self._set(
            "segmentation",
            video_path,
            segmentation_data,
            strategy=strategy,
            segment_seconds=segment_seconds,
            overlap_seconds=overlap_seconds,
            fps=fps,
            max_frames=max_frames,
            transcript=transcript,
            revision=revision,
            params=params,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
        )

    async def get_or_compute_segmentation(
        self, video_path: Source, compute: Callable[[], Any], **options: Any
    ) -> Any:
        """``get_or_compute`` of a segmentation."""
        return await self.get_or_compute("segmentation", video_path, compute, **options)

    # --- a whole video ----------------------------------------------------------------------------

    async def get_all_artifacts(
        self,
        video_path: Source,
        pipeline_config: Mapping[str, Any],
        *,
        load: Iterable[str] | None = None,
    ) -> VideoArtifacts:
        """Every artifact that a pipeline configuration enables, fetched at once.

        Args:
            video_path: The source.
            pipeline_config: ``extract_keyframes``, ``transcribe_audio``, ``generate_descriptions``
                and ``generate_embeddings`` enable; ``keyframe_strategy``, ``keyframe_threshold``,
                ``keyframe_fps``, ``max_frames_per_video``, ``whisper_model``, ``whisper_language``
                (or ``language``), ``vlm_model``, ``vlm_batch_size`` and ``embedding_model`` are the
                parameters.
            load: Which artifacts to fetch, by name; ``None`` is every enabled one.

        Raises:
            ValueError: An unknown keyframe strategy, or embeddings without ``embedding_model``.
        """
        video = await self.video(video_path, pipeline_config)
        return await video.get_all_artifacts(load=load)

    async def invalidate_video(self, video_path: Source) -> int:
        """Forget every artifact of a source in this profile, older generations of the file
        included; how many.
        """
        source = await self._capture(video_path)
        tag = self._uri_tag(source)
        await self.cache.invalidate_tags(tag)
        removed: set[bytes] = set()
        for tier in self.cache.backends:
            try:
                async for entry in tier.scan(source.uri_hash):
                    if any(name == tag for name, _ in entry.meta.get(3) or ()):
                        key = entry.key
                        if await tier.discard_entry(entry):
                            removed.add(key)
            except OSError as error:
                logger.warning("%s: cannot remove the entries of a video: %s", tier.name, error)
        return len(removed)

    async def get_cache_stats(self) -> dict[str, Any]:
        """``{"overall": the manager's statistics, "artifacts": {name: {hits, misses, sets,
        ...}}}``.
        """
        artifacts = {name: dict(self._counts_of(name)) for name in ARTIFACTS}
        return {"overall": await self.cache.get_stats(), "artifacts": artifacts}

    async def aclose(self, timeout: float = 10) -> None:
        """Close the manager; see there."""
        await self.cache.aclose(timeout)

    async def __aenter__(self) -> PipelineArtifactCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        return _remade, (self.cache, self.ttl, self.profile, self.identity, self.memo)

    def __repr__(self) -> str:
        profile = "" if self.profile is None else f" profile={self.profile!r}"
        return f"<PipelineArtifactCache{profile} identity={self.identity!r} over {self.cache!r}>"

    # --- inside -----------------------------------------------------------------------------------

    async def _capture(
        self, video_path: Source, *, source_id: str | bytes | None = None, etag: str | None = None
    ) -> SourceRef:
        if isinstance(video_path, SourceRef):
            return video_path
        return await capture_async(
            video_path,
            identity=self.identity,
            source_id=source_id,
            etag=etag,
            memo=self._digest_memo(),
        )

    def _digest_memo(self) -> DigestMemo | None:
        if not self.memo or self.identity == "stat":
            return None
        if self._digests is None:
            roots = [root for tier in self.cache.backends if (root := getattr(tier, "root", None))]
            self._digests = DigestMemo.for_root(roots[0] if roots else None)
        return self._digests

    async def _request(self, name: str, video_path: Source, named: Mapping[str, Any]) -> _Request:
        artifact = artifact_of(name)
        try:
            source = await self._capture(video_path)
        except FileNotFoundError:
            raise  # the working directory is gone: nothing relative can be meant
        except OSError as error:
            self._note_unreadable(video_path, error)
            raise _UnreadableError("source-unreadable") from error

        def parent(arguments: Mapping[str, Any]) -> Key:
            return self._key(source, "keyframes", key_params("keyframes", arguments, parent))

        key = self._key(source, name, key_params(name, named, parent))
        return _Request(artifact, key, source, isinstance(video_path, SourceRef))

    def _key(self, source: SourceRef, artifact: str, params: Mapping[str, Any]) -> Key:
        return Key(self.profile or "", source, artifact, params)

    async def _look(self, request: _Request, load: Mapping[str, Any]) -> Lookup:
        options, pick = _load_options(request.artifact.name, load)
        found = await self.cache.lookup(request.key, **options)
        name = request.artifact.name
        if found.hit:
            value = pick(found.value)
            if value is not _NOTHING:
                counts = self._counts_of(name)
                counts["hits"] += 1
                counts["hit_bytes"] += found.stored_bytes
                counts["seconds_saved"] += found.seconds_saved
                return _with_value(found, value)
            found = Lookup(False, reason="no-images")
        elif request.source.kind == "absent" and found.reason == "absent":
            found = Lookup(False, reason="source-missing")
        self._count(name, "misses")
        self._fence.note_miss(request.source)
        self._note_stamp(request)
        return found

    async def _set(self, artifact: str, video_path: Source, value: Any, **named: Any) -> bool:
        return (await self.store(artifact, video_path, value, **named)).stored

    async def _bundled(self, request: _Request, value: Any, channels: str) -> Any:
        """Frames in the form in which they are stored; other values as they are. Reads and encodes
        off the loop.
        """
        if request.artifact.name not in ("keyframes", "segment_frames"):
            return value
        if not (isinstance(value, tuple) and len(value) == 2):
            return value
        metadata, images = value
        if images is None or isinstance(value, Bundle):
            return metadata if images is None else value
        codec = request.key.params.get("image_codec", "jpeg:95")
        if is_inline():
            return make_bundle(metadata, images, image_codec=codec, channels=channels)
        return await asyncio.to_thread(
            make_bundle, metadata, images, image_codec=codec, channels=channels
        )

    async def _keep(
        self,
        request: _Request,
        value: Any,
        *,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        stamp: int | None = None,
    ) -> StoreResult:
        if not await settle_async(request.source):
            return self._refused(request.artifact.name, "source-changed")
        stamp = self._stamp(request) if stamp is None else stamp
        meta: dict[int | str, Any] = {META_SOURCE: list(request.source.identity)}
        full = request.key.long_values
        if full:
            meta[META_FULL_PARAMS] = full
        name = request.artifact.name
        result = await self.cache.store(
            request.key,
            value,
            ttl=self._lives.get(name, self._lives["*"]) if ttl is None else ttl,
            tags=tags,
            cost_seconds=cost_seconds,
            context=Context(
                artifact=name,
                tags=((self._uri_tag(request.source), stamp),),
                meta=meta,
                source=request.source.uri_hash,
                kind=_core.hash64(f"{self.profile or ''}\0{name}".encode("utf-8", "surrogatepass"))
                & 0xFFFFFFFF,
            ),
        )
        if not result.stored:
            return self._refused(name, result.reason)
        counts = self._counts_of(name)
        counts["sets"] += 1
        counts["stored_bytes"] += result.stored_bytes
        return result

    async def _changed_meanwhile(self, request: _Request) -> bool:
        if is_inline():
            return request.source.changed()
        return (
            await asyncio.to_thread(request.source.changed)
            if request.source.may_block
            else request.source.changed()
        )

    async def _without_cache(
        self,
        artifact: str,
        compute: Callable[[], Any],
        executor: Executor | None,
        load: Mapping[str, Any],
        channels: str,
    ) -> Any:
        from cogcache.freshness import call_compute

        value = await call_compute(compute, executor)
        if (
            artifact in ("keyframes", "segment_frames")
            and isinstance(value, tuple)
            and len(value) == 2
        ):
            value = make_bundle(*value, channels=channels) if value[1] is not None else value[0]
        return _handed_out(value, load)

    async def _latest_generation(self, source: SourceRef) -> SourceRef:
        """The newest identity of a URI that the cache has entries of; the given one if there are
        none.
        """
        best, newest = source, -1
        for tier in self.cache.backends:
            async for entry in tier.scan(source.uri_hash):
                ref = SourceRef.from_identity(entry.meta.get(META_SOURCE), uri=source.uri)
                if ref is not None and ref.uri == source.uri and entry.created_ms > newest:
                    best, newest = ref, entry.created_ms
        return best

    def _uri_tag(self, source: SourceRef) -> str:
        return (
            "uri:" + _core.hash128(_core.encode_key_value([self.profile or "", source.uri])).hex()
        )

    def _stamp(self, request: _Request) -> int:
        """When the value of this key began to be computed: at its last miss here, else now."""
        with self._stamps_lock:
            noted = self._stamps.pop(request.key.digest, None)
        return (
            noted
            if noted is not None
            else self.cache.capture_stamp([self._uri_tag(request.source)])
        )

    def _note_stamp(self, request: _Request) -> None:
        stamp = self.cache.capture_stamp([self._uri_tag(request.source)])
        with self._stamps_lock:
            self._stamps[request.key.digest] = stamp
            self._stamps.move_to_end(request.key.digest)
            if len(self._stamps) > STAMPS_KEPT:
                self._stamps.popitem(last=False)

    def _note_unreadable(self, video_path: Source, error: OSError) -> None:
        shown = (
            Path(os.fsdecode(os.fspath(video_path))).name
            if not isinstance(video_path, SourceRef)
            else ""
        )
        if shown not in self._unreadable and len(self._unreadable) < STAMPS_KEPT:
            self._unreadable.add(shown)
            logger.warning(
                "source %r cannot be read, so nothing of it is cached: %s",
                shown,
                error.strerror or error,
            )

    def _refused(self, artifact: str, reason: str) -> StoreResult:
        self._count(artifact, "refused")
        return StoreResult(False, reason)

    def _counts_of(self, artifact: str) -> dict[str, float]:
        counts = self._counts.get(artifact)
        if counts is None:
            names = (
                "hits",
                "misses",
                "sets",
                "refused",
                "failed",
                "stored_bytes",
                "hit_bytes",
                "seconds_saved",
            )
            counts = self._counts[artifact] = dict.fromkeys(names, 0)
        return counts

    def _count(self, artifact: str, name: str) -> None:
        self._counts_of(artifact)[name] += 1


_NOTHING = object()


def _load_options(
    artifact: str, load: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """What the decoder is told, and how its answer becomes what the method gives."""
    if artifact in ("keyframes", "segment_frames"):
        if not load.get("load_images", artifact == "segment_frames"):
            return {"frames": False}, lambda value: value
        wanted = load.get("frames")
        options = {"frames": True if wanted is None else list(wanted)}

        def pick(value: Any) -> Any:
            if not (isinstance(value, tuple) and len(value) == 2):
                return _NOTHING  # stored without images
            return value if artifact == "keyframes" else (value[0], list(value[1].values()))

        return options, pick
    if artifact == "embeddings":
        names = None if load.get("names") is None else list(load["names"])
        mode = {"mode": load["mode"]} if "mode" in load else {}
        if names is None:
            return mode, lambda value: value
        return (
            mode,
            lambda value: {n: value[n] for n in names} if isinstance(value, Mapping) else value,
        )
    if load:
        raise TypeError(f"{artifact}: unknown argument {next(iter(load))!r}")
    return {}, lambda value: value


def _handed_out(value: Any, load: Mapping[str, Any]) -> Any:
    """What the computing caller gets: for frames the decoded stored form, as every later caller."""
    if not isinstance(value, Bundle):
        return value
    return value.decoded(bool(load.get("load_images", False)), load.get("frames"))


def _metadata_of(value: Any) -> Any:
    if isinstance(value, Bundle):
        return value.metadata
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Mapping):
        return value[0]
    return value


def _with_value(found: Lookup, value: Any) -> Lookup:
    return Lookup(
        True,
        value,
        found.tier,
        found.age_seconds,
        found.expires_at,
        found.stored_bytes,
        found.seconds_saved,
        found.reason,
    )


def _lives(ttl: Duration | Mapping[str, Duration]) -> dict[str, Duration]:
    if not isinstance(ttl, Mapping):
        duration_seconds(ttl)
        return {"*": ttl}
    lives: dict[str, Duration] = {"*": 604800}
    for name, life in ttl.items():
        if name != "*":
            artifact_of(name)
        duration_seconds(life, f"ttl[{name!r}]")
        lives[name] = life
    return lives


def _remade(
    manager: CacheManager,
    ttl: Duration | Mapping[str, Duration],
    profile: str | None,
    identity: Identity,
    memo: bool,
) -> PipelineArtifactCache:
    return PipelineArtifactCache(manager, ttl, profile, identity=identity, memo=memo)


__all__ = ["CogcacheError", "PipelineArtifactCache", "VideoArtifacts", "VideoCache"]
