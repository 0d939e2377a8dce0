"""``PipelineArtifactCache``: the artifacts of a video, by what they were made from and how."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeVar, overload

from cogcache import _core
from cogcache._arguments import checked_frame_ids, checked_times, flag, warn_of_slips
from cogcache._offload import beside
from cogcache._types import Duration, Lookup
from cogcache.exceptions import shown
from cogcache.exporting import PATTERN, export_frames
from cogcache.frames import Frames, check_channels
from cogcache.keys import Key, Keyframes
from cogcache.segments import Segment, frames_of
from cogcache.sources import Source
from cogcache.verbs import ArtifactVerbs
from cogcache.video import VideoArtifacts, VideoCache

_T = TypeVar("_T")


class PipelineArtifactCache(ArtifactVerbs):
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

    # --- one video --------------------------------------------------------------------------------

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
            config: A pipeline configuration whose names give the defaults of the bound methods. It
                may hold names of other programs; one that is nearly one of these is warned about.
            source_id: Your own identity of the source, instead of looking at it.
            etag: The version of a remote source.
            missing: For a file that is gone: ``"latest"`` means the newest generation that the
                cache knows.

        A source that exists and cannot be looked at raises nothing: whatever is asked of it is a
        miss, and nothing is stored, with the reason ``source-unreadable``.
        """
        if not isinstance(missing, str) or missing not in ("uri", "latest"):
            raise ValueError(f"missing must be 'uri' or 'latest', not {shown(missing)}")
        if config is not None and not isinstance(config, Mapping):
            raise TypeError(f"config must be a mapping, not {type(config).__name__}")
        warn_of_slips(config or {})
        source = await self._capturing.source(video_path, source_id=source_id, etag=etag)
        if missing == "latest" and source.kind == "absent":
            source = await self._capturing.latest_generation(source)
        return VideoCache(self, source, dict(config or {}))

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

    async def get_frame(
        self,
        video_path: Source,
        frame_id: int | str,
        *,
        keyframes: Keyframes | None = None,
        decode: bool = False,
        channels: Literal["bgr", "rgb"] = "bgr",
    ) -> Any:
        """One keyframe, without reading the others: its stored bytes, or the picture with
        ``decode``; ``None`` on a miss, or when the keyframes have no such frame.

        Args:
            video_path: The video.
            frame_id: As the metadata has it.
            keyframes: Which keyframes; ``None`` are those with the default arguments.
            decode: Give an array (a PIL image for a frame stored as one) instead of bytes.
            channels: Order of the three in an array decoded from bytes.

        Raises:
            MissingExtraError: ``decode`` without Pillow.
            ValueError: Stored bytes that are no picture.
        """
        flag(decode, "decode")
        check_channels(channels)
        if not decode:
            counts = self._filing.counts_of("keyframes")
            data = self._frame_hits.now(video_path, keyframes, self.profile, frame_id, counts)
            if data is not None:
                if self.cache._lookups.turn_is_over():
                    await self.cache._lookups.breathe()
                return data
        request = await self._request("keyframes", video_path, _arguments_of(keyframes))
        load = {"load_images": True, "frames": checked_frame_ids([frame_id])}
        found = await self._filing.look(request, load)
        if found.value is None:
            return None
        frames: Frames = found.value[1]
        if not decode:
            self._frame_hits.learn(request, keyframes, self.profile, found)
            try:
                return frames.encoded(frame_id)
            except _core.DamagedError:  # since it was verified; it has been set aside
                return None
        decoded = await beside(lambda beat: frames.decode_here([frame_id], channels=channels))
        return decoded[str(frame_id)]

    async def export_keyframes(
        self,
        video_path: Source,
        directory: str | os.PathLike[str],
        *,
        keyframes: Keyframes | None = None,
        pattern: str = PATTERN,
    ) -> Any:
        """Write the keyframes as files, for programs that take paths.

        Args:
            video_path: The video.
            directory: Is made if it is not there; files of the same names are replaced.
            keyframes: Which keyframes; ``None`` are those with the default arguments.
            pattern: Of the names, with ``{frame_id}`` (``{frame_id:06}`` for numbers) and
                ``{suffix}``, which is ``.jpg`` for a JPEG, and so on.

        Returns:
            The metadata, in which the ``path`` of every frame, in every copy of the list, is where
            its file is now. ``None`` on a miss; then nothing is written.

        Raises:
            OSError: As the system has it: a full disk, no permission.
            ValueError: A pattern that gives no names of files, or two frames one; a frame that is
                stored as an array and not as a picture.
        """
        found = await self.get_keyframes(video_path, load_images=True, **_arguments_of(keyframes))
        if found is None:
            return None

        def work(beat: Callable[[], None]) -> Any:
            return export_frames(found[0], found[1], directory, pattern, beat)

        return await beside(work)

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

    @overload
    async def get_or_compute_transcript(
        self, video_path: Source, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_transcript(
        self, video_path: Source, compute: Callable[[], _T], **named: Any
    ) -> _T: ...

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

    @overload
    async def get_or_compute_descriptions(
        self,
        video_path: Source,
        compute: Callable[[], Awaitable[_T]],
        *,
        model_name: str,
        **named: Any,
    ) -> _T: ...

    @overload
    async def get_or_compute_descriptions(
        self, video_path: Source, compute: Callable[[], _T], *, model_name: str, **named: Any
    ) -> _T: ...

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

    @overload
    async def get_or_compute_embeddings(
        self,
        video_path: Source,
        compute: Callable[[], Awaitable[_T]],
        *,
        model_name: str,
        **named: Any,
    ) -> _T: ...

    @overload
    async def get_or_compute_embeddings(
        self, video_path: Source, compute: Callable[[], _T], *, model_name: str, **named: Any
    ) -> _T: ...

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

    async def get_all_segment_frames(
        self, video_path: Source, segments: Iterable[Segment], **named: Any
    ) -> dict[int, Any]:
        """The frames of many segments of a video in one call, which looks at the source once.

        Args:
            video_path: The source.
            segments: ``(segment_id, start_time, end_time)`` of each.
            **named: Of all of them, as for ``get_segment_frames``. With ``load_images=False`` no
                picture is read, so that the segments of hours cost little.

        Returns:
            What ``get_segment_frames`` gives, by segment id in the order of ``segments``; those
            that are missing are left out.

        Raises:
            TypeError: A segment that is not ``(segment_id, start_time, end_time)``.
            ValueError: A segment id that is there twice; an end before its start.
        """
        video = await self.video(video_path)

        async def look(segment: Segment) -> Lookup:
            where = dict(zip(("segment_id", "start_time", "end_time"), segment, strict=True))
            return await video.lookup("segment_frames", **{"load_images": True, **named}, **where)

        return await frames_of(segments, look)

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
        times = checked_times(timestamps)
        if isinstance(frames, str | bytes) or not isinstance(frames, Sequence):
            raise TypeError(f"frames must be a list of pictures, not {type(frames).__name__}")
        if len(frames) != len(times):
            raise ValueError(f"timestamps: {len(times)} of them for {len(frames)} frames")
        metadata = {
            "segment_id": segment_id,
            "start_time": start_time,
            "end_time": end_time,
            "timestamps": times,
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

    @overload
    async def get_or_compute_segmentation(
        self, video_path: Source, compute: Callable[[], Awaitable[_T]], **named: Any
    ) -> _T: ...

    @overload
    async def get_or_compute_segmentation(
        self, video_path: Source, compute: Callable[[], _T], **named: Any
    ) -> _T: ...

    async def get_or_compute_segmentation(
        self, video_path: Source, compute: Callable[[], Any], **options: Any
    ) -> Any:
        """``get_or_compute`` of a segmentation."""
        return await self.get_or_compute("segmentation", video_path, compute, **options)

    # --- a whole video ----------------------------------------------------------------------

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
        if not isinstance(pipeline_config, Mapping):
            raise TypeError(
                f"pipeline_config must be a mapping, not {type(pipeline_config).__name__}"
            )
        video = await self.video(video_path, pipeline_config)
        return await video.get_all_artifacts(load=load)


def _arguments_of(keyframes: Keyframes | None) -> dict[str, Any]:
    if keyframes is None:
        return {}
    if not isinstance(keyframes, Keyframes):
        raise TypeError(f"keyframes must be Keyframes or None, not {type(keyframes).__name__}")
    return keyframes.arguments()
