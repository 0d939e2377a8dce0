"""What can be done with any artifact of any source: capture, look up, store, compute once, explain,
invalidate.

``PipelineArtifactCache`` (``pipeline.py``) adds a method for each artifact that there is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from cogcache import _core
from cogcache._inline import SyncFacade, is_inline
from cogcache._types import Duration, Lookup, StoreResult, duration_seconds
from cogcache.artifacts import ARTIFACTS, Artifact, artifact_of, key_params
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE
from cogcache.config import BackendConfig, CacheConfig, FilesystemCacheConfig
from cogcache.exceptions import ConfigError
from cogcache.explain import Explanation, explain_miss
from cogcache.fence import MissFence
from cogcache.frames import Bundle, make_bundle
from cogcache.keys import Key
from cogcache.manager import CacheManager, Context
from cogcache.memo import DigestMemo
from cogcache.sources import (
    Source,
    SourceRef,
    capture,
    capture_async,
    changed_async,
    settle_async,
)

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
    params: Mapping[str, Any]
    key: Key
    source: SourceRef
    pinned: bool  # the caller gave a SourceRef: its identity stands, whatever is at the path now

    @property
    def scope(self) -> tuple[str, bytes]:
        """What was asked for, whatever the source is by now."""
        return self.artifact.name, _core.encode_key_value(self.params)


class _UnreadableError(Exception):
    """The source exists but cannot be looked at now; the reason word is in args[0]."""


class ArtifactVerbs:
    """The generic half of ``PipelineArtifactCache``; see there."""

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
    ) -> Self:
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
        if not request.pinned:
            source = self._fence.check(request.source, request.scope)
            if source is None:
                return self._refused(artifact, "source-changed")
            request = dataclasses.replace(request, source=source)
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
        return _handed_out(artifact, value, load)

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

    # --- all of a source, and about itself --------------------------------------------------------
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        return _remade, (type(self), self.cache, self.ttl, self.profile, self.identity, self.memo)

    def __repr__(self) -> str:
        profile = "" if self.profile is None else f" profile={self.profile!r}"
        return f"<{type(self).__name__}{profile} identity={self.identity!r} over {self.cache!r}>"

    # --- inside -----------------------------------------------------------------------------------

    async def _capture(
        self, video_path: Source, *, source_id: str | bytes | None = None, etag: str | None = None
    ) -> SourceRef:
        if isinstance(video_path, SourceRef):
            return video_path
        named: dict[str, Any] = {"source_id": source_id, "etag": etag, "memo": self._digest_memo()}
        if is_inline():
            return capture(video_path, self.identity, **named)
        return await capture_async(video_path, self.identity, **named)

    def _digest_memo(self) -> DigestMemo | None:
        if not self.memo or self.identity == "stat":
            return None
        if self._digests is None:
            roots = [
                root
                for tier in self.cache.backends
                if (root := getattr(tier.config, "expanded_path", None))
            ]
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

        params = key_params(name, named, parent)
        key = self._key(source, name, params)
        return _Request(artifact, params, key, source, isinstance(video_path, SourceRef))

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
        self._fence.note_miss(request.source, request.scope)
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
        source = request.source
        if not (source.settle() if is_inline() else await settle_async(source)):
            return self._refused(request.artifact.name, "source-changed")
        stamp = self._stamp(request) if stamp is None else stamp
        tag = self._uri_tag(source)
        if stamp < max(tier.tag_version(tag) for tier in self.cache.backends):
            return self._refused(request.artifact.name, "tag-invalidated")  # since the miss
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
                tags=((tag, stamp),),
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
        source = request.source
        return source.changed() if is_inline() else await changed_async(source)

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
        return _handed_out(artifact, value, load)

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


def _handed_out(artifact: str, value: Any, load: Mapping[str, Any]) -> Any:
    """What the computing caller gets: for frames the decoded stored form, as every later caller."""
    if not isinstance(value, Bundle):
        return value
    images = bool(load.get("load_images", artifact == "segment_frames"))
    decoded = value.decoded(images, load.get("frames"))
    if images and artifact == "segment_frames":
        metadata, frames = decoded
        return metadata, list(frames.values())
    return decoded


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
    kind: type[ArtifactVerbs],
    manager: CacheManager,
    ttl: Duration | Mapping[str, Duration],
    profile: str | None,
    identity: Identity,
    memo: bool,
) -> ArtifactVerbs:
    return kind(manager, ttl, profile, identity=identity, memo=memo)
