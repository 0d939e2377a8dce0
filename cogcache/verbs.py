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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

from cogcache import _core
from cogcache._arguments import check_kept, checked_frame_ids, checked_tags, flag, load_options
from cogcache._checks import choice, nearest
from cogcache._fork import renew_after_fork
from cogcache._identity import URI_TAG
from cogcache._inline import SyncFacade, is_inline
from cogcache._types import Duration, Lookup, StoreResult, duration_seconds
from cogcache.artifacts import ARTIFACTS, FRAMED, Artifact, Framed, artifact_of, new_artifact
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE, META_SOURCE_URI, tags_of
from cogcache.batches import compute_in_batches
from cogcache.computing import Gate, Recipe, own_copy
from cogcache.config import BackendConfig, CacheConfig
from cogcache.exceptions import ConfigError, shown, warn
from cogcache.explain import Explanation, explain_miss
from cogcache.fence import MissFence
from cogcache.framehits import FrameHits
from cogcache.frames import Bundle, check_channels, check_metadata, make_bundle
from cogcache.keys import Key
from cogcache.manager import CacheManager
from cogcache.memo import DigestMemo
from cogcache.origins import source_of
from cogcache.puts import Context
from cogcache.requests import Request, RequestMemo, make_request
from cogcache.settings import Settings, check_profile
from cogcache.sources import (
    IDENTITIES,
    Identity,
    Source,
    SourceRef,
    SourceUnavailableError,
    capture,
    capture_async,
    changed_async,
    check_arguments,
    settle_async,
    unreadable,
)
from cogcache.summaries import ArtifactStats
from cogcache.urls import tier_config

logger = logging.getLogger("cogcache")

_T = TypeVar("_T")
_Id = TypeVar("_Id", int, str)

# Arguments of the generic verbs that say how to load or store, not what the artifact is.
_LOAD_OPTIONS = {
    "load_images": FRAMED,
    "frames": FRAMED,
    "mode": ("embeddings",),
    "names": ("embeddings",),
}
_STORE_OPTIONS = ("ttl", "cost_seconds", "tags", "channels")
# Names that a call takes beside those of the artifact, and so no artifact's own.
_RESERVED = frozenset(
    (*_LOAD_OPTIONS, *_STORE_OPTIONS, "gate", "refresh", "strict", "should_store", "executor")
)
STAMPS_KEPT = 4096


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
        choice(identity, "identity", IDENTITIES)
        check_profile(profile)
        if not isinstance(memo, bool):
            raise ConfigError(f"memo must be True or False, not {shown(memo)}")
        _warn_of_unshared_keys(cache_manager, identity)
        self.cache = cache_manager
        self.ttl = ttl
        self.profile = profile
        self.identity: Identity = identity
        self.memo = memo
        self.sync: Any = SyncFacade(self, cache_manager._runs_inline)
        self._lives = _lives(ttl)
        self._artifacts: dict[str, Artifact] = dict(ARTIFACTS)
        self._registered: dict[str, tuple[dict[str, Any], Duration | None]] = {}
        self._fence = MissFence()
        self._requests = RequestMemo()
        self._frame_hits = FrameHits(cache_manager)
        self._stamps: OrderedDict[bytes, int] = OrderedDict()
        self._stamps_lock = threading.Lock()
        self._unreadable: set[str] = set()
        self._counts: dict[str, dict[str, float]] = {}
        self._digests: DigestMemo | None = None
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._stamps_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        *tiers: str | os.PathLike[str] | BackendConfig | Mapping[str, Any],
        profile: str | None = None,
        identity: Identity | None = None,
        ttl: Duration | Mapping[str, Duration] | None = None,
    ) -> Self:
        """A cache over the given tiers in this order: a path is a filesystem tier of that
        directory, and a URL any kind of tier with its options (``docs/configuration.md``).

        Without any tier, the file of settings and the environment say which there are, and what
        else is not said here: ``from_config``. With tiers neither is looked at, and ``identity`` is
        ``"stat"`` and ``ttl`` seven days unless said otherwise.

        Raises:
            ConfigError: A tier that cannot be; says where it was said.
        """
        if not tiers:
            return cls.from_config(profile=profile, identity=identity, ttl=ttl)
        backends = [tier_config(tier, number) for number, tier in enumerate(tiers)]
        lives = "7d" if ttl is None else ttl
        same: Identity = "stat" if identity is None else identity
        return cls(CacheManager(CacheConfig(backends)), lives, profile, identity=same)

    @classmethod
    def from_config(
        cls, source: str | os.PathLike[str] | Settings | None = None, **options: Any
    ) -> Self:
        """A cache as a file, the environment and ``options`` say.

        Args:
            source: A file of settings, or settings that were loaded; ``None`` finds the file.
            **options: As of ``Settings.load``; they count most.

        Raises:
            ConfigError: A setting that cannot be; says where it was said.
        """
        if not isinstance(source, Settings):
            source = Settings.load(source, **options)
        elif options:
            raise TypeError("settings that were loaded take no further options")
        manager = CacheManager(source.cache)
        return cls(manager, source.ttl, source.profile, identity=source.identity, memo=source.memo)

    def register_artifact(
        self, name: str, params: Mapping[str, Any], ttl: Duration | None = None
    ) -> None:
        """Add an artifact of your own to this cache, for ``lookup``, ``store``,
        ``get_or_compute``, ``key`` and ``explain``.

        Args:
            name: As in keys, such as ``"speakers"``.
            params: Every argument that changes the value, with its default or ``REQUIRED``. All of
                them are in every key, so that another default or a further argument is a new name
                for everything; what is added later fits into ``params=`` of a call. A value may be
                a ``Key`` or ``Keyframes``: the artifact is then made from those. ``revision`` and
                ``params`` are there anyway.
            ttl: Life of a value; ``None`` is that of the cache for all artifacts.

        Raises:
            ValueError: One of cogcache's own, or registered with other arguments or another life;
                a name of an argument that means something else already.
            TypeError: A default that keys cannot hold.
        """
        if ttl is not None:
            duration_seconds(ttl)
        artifact = new_artifact(name, params, _RESERVED)
        known = self._artifacts.get(name)
        if known is not None and (known, self._registered[name][1]) != (artifact, ttl):
            raise ValueError(f"artifact {name!r} is registered with other arguments or another ttl")
        self._artifacts[name] = artifact
        self._registered[name] = (dict(params), ttl)
        if ttl is not None:
            self._lives[name] = ttl

    # --- the generic verbs ------------------------------------------------------------------------

    async def key(self, artifact: str, video_path: Source, /, **named: Any) -> Key:
        """The key of an artifact; for use as ``keyframes=`` or ``inputs=``, or with the manager.

        The key of a source that cannot be looked at now matches nothing.
        """
        return (await self._request(artifact, video_path, named)).key

    async def lookup(self, artifact: str, video_path: Source, /, **named: Any) -> Lookup:
        """``get_<artifact>`` with everything that is known about the answer."""
        load = self._taken_load_options(artifact, named)
        return await self._look(await self._request(artifact, video_path, named), load)

    async def store(
        self, artifact: str, video_path: Source, value: Any, /, **named: Any
    ) -> StoreResult:
        """``set_<artifact>`` with what became of the value.

        Keyframes and segment frames are given as ``(metadata, images)``, or the metadata alone.
        """
        options = {name: named.pop(name) for name in _STORE_OPTIONS if name in named}
        if "channels" in options and artifact not in FRAMED:
            raise TypeError(f"{artifact}: channels is for {' and '.join(FRAMED)} only")
        request = await self._request(artifact, video_path, named)
        if not request.is_readable:
            return self._refused(artifact, "source-unreadable")
        if request.artifact.failed(_metadata_of(artifact, value)):
            return self._refused(artifact, "failed-result")
        if not request.pinned:
            source = self._fence.check(request.source, request.scope)
            if source is None:
                return self._refused(artifact, "source-changed")
            request = dataclasses.replace(request, source=source)
        channels = options.pop("channels", "bgr")
        bundle = await self._bundled(artifact, request.key.params, value, channels)
        return await self._keep(request, bundle, **options)

    @overload  # frames come back in the form in which they are stored, not as they were computed
    async def get_or_compute(
        self,
        artifact: Framed,
        video_path: Source,
        compute: Callable[[], Any],
        /,
        *,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[Any], bool] | None = None,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        channels: Literal["bgr", "rgb"] = "bgr",
        **named: Any,
    ) -> Any: ...

    @overload
    async def get_or_compute(
        self,
        artifact: str,
        video_path: Source,
        compute: Callable[[], Awaitable[_T]],
        /,
        *,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[_T], bool] | None = None,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        channels: Literal["bgr", "rgb"] = "bgr",
        **named: Any,
    ) -> _T: ...

    @overload
    async def get_or_compute(
        self,
        artifact: str,
        video_path: Source,
        compute: Callable[[], _T],
        /,
        *,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[_T], bool] | None = None,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        channels: Literal["bgr", "rgb"] = "bgr",
        **named: Any,
    ) -> _T: ...

    async def get_or_compute(
        self,
        artifact: str,
        video_path: Source,
        compute: Callable[[], Any],
        /,
        *,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[Any], bool] | None = None,
        executor: Executor | None = None,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        channels: Literal["bgr", "rgb"] = "bgr",
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
        load = self._taken_load_options(artifact, named)
        return await self._computed(
            artifact,
            lambda: self._request(artifact, video_path, named),
            load,
            compute,
            gate=gate,
            refresh=refresh,
            strict=strict,
            should_store=should_store,
            executor=executor,
            ttl=ttl,
            cost_seconds=cost_seconds,
            tags=tags,
            channels=channels,
        )

    async def get_or_compute_batched(
        self,
        artifact: str,
        video_path: Source,
        ids: Iterable[_Id],
        compute: Callable[[list[_Id]], Awaitable[Mapping[_Id, _T]] | Mapping[_Id, _T]],
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
    ) -> dict[_Id, _T]:
        """An artifact that maps ids to results, computed some ids at a time, so that work of many
        minutes is not lost at its end.

        Each finished batch is an entry, kept before the next one begins; a run that was killed goes
        on with the first batch that is not there. When all are there they become one entry, what
        ``get_<artifact>`` gives, and the batches go. Ids that this entry lacks are computed and
        added to it.

        Args:
            artifact: Any but keyframes and segment frames.
            video_path: What it is made from.
            ids: Which results; those of frames, for example. Texts or whole numbers.
            compute: ``compute(ids)`` gives a mapping with a result for each. Those that it leaves
                out are returned as missing and asked for again the next time; until then the
                batches stay, and no whole artifact is kept.
            batch_size: Ids of one call of ``compute`` at most. A killed run is gone on with under
                the same ids and size. (An artifact's own parameter of that name, which changes no
                result, has its default.)
            gate: Entered around each batch.
            refresh: Compute all of them anew.
            strict: Raise what keeps a batch from being stored.
            executor: For a plain ``compute``.
            ttl: Life of the whole; batches live as long.
            tags: Of the whole and of the batches.
            **named: Arguments of the artifact.

        Returns:
            The results by id, in the order of ``ids``.

        Raises:
            TypeError: ``compute`` returned something else than a mapping.
            ValueError: An id that is there twice; a result for an id that was not asked for.
        """
        return await compute_in_batches(
            self,
            artifact,
            video_path,
            ids,
            compute,
            batch_size,
            {"gate": gate, "refresh": refresh, "strict": strict, "executor": executor},
            {"ttl": ttl, "tags": tags},
            named,
        )

    async def _computed(
        self,
        artifact: str,
        request_of: Callable[[], Awaitable[Request]],
        load: Mapping[str, Any],
        compute: Callable[[], Any],
        *,
        gate: Gate | None,
        refresh: bool,
        strict: bool,
        should_store: Callable[[Any], bool] | None,
        executor: Executor | None,
        ttl: Duration | None,
        cost_seconds: float | None = None,
        tags: Iterable[str],
        channels: str = "bgr",
    ) -> Any:
        """``get_or_compute`` of a request, which is made once the arguments are checked."""
        if artifact in FRAMED:
            check_channels(channels)
        elif not isinstance(channels, str) or channels != "bgr":
            raise TypeError(f"{artifact}: channels is for {' and '.join(FRAMED)} only")
        check_kept(ttl, cost_seconds)
        tags = checked_tags(tags)
        stamp: int | None = None
        stamps: list[tuple[str, int]] = []

        async def keep(value: Any, seconds: float) -> StoreResult:
            why_not = await self._why_not_filed(request)
            if why_not is not None:
                return self._refused(artifact, why_not)
            seconds = seconds if cost_seconds is None else cost_seconds
            return await self._keep(
                request, value, ttl=ttl, cost_seconds=seconds, stamp=stamp, stamps=stamps
            )

        def worth_keeping(value: Any) -> bool:
            metadata = _metadata_of(artifact, value)
            if (metadata is None and should_store is None) or request.artifact.failed(metadata):
                self._count(artifact, "failed")
                return False
            return should_store is None or should_store(value)

        recipe = Recipe(
            compute=compute,
            keep=keep,
            look_again=lambda: self._look(request, load, again=True),
            gate=gate,
            refresh=refresh,
            strict=strict,
            should_store=worth_keeping
            if should_store is None or callable(should_store)
            else should_store,
            executor=executor,
            finish=lambda value: self._bundled(artifact, request.key.params, value, channels),
            share=lambda value: value if isinstance(value, Bundle) else own_copy(value),
            hand_out=lambda value: _handed_out(artifact, value, load),
        )
        request = await request_of()
        if not refresh:
            found = await self._look(request, load)
            if found.hit:
                return found.value
        stamp = self._stamp(request)
        stamps += [(tag, self.cache.capture_stamp([tag])) for tag in tags]
        known_by = [self._uri_tag(request.source), *tags]
        return await self.cache.compute_once(request.key.encoded, recipe, known_by)

    async def explain(self, artifact: str, video_path: Source, /, **named: Any) -> Explanation:
        """Why an artifact is or is not there: each tier's answer, and what the nearest entries
        differ in.
        """
        self._taken_load_options(artifact, named)
        request = await self._request(artifact, video_path, named)
        if not request.is_readable:
            return Explanation(None, artifact, request.source.uri, "source-unreadable", (), ())
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
                    if tag in tags_of(entry):
                        key = entry.key
                        if await tier.discard_entry(entry):
                            removed.add(key)
            except Exception as error:
                logger.warning("%s: cannot remove the entries of a video: %s", tier.name, error)
        return len(removed)

    async def get_cache_stats(self) -> ArtifactStats:
        """``{"overall": the manager's statistics, "artifacts": {name: {hits, misses, sets,
        seconds_saved, ...}}}``: a dictionary that prints, and shows in a notebook, as a table.
        """
        artifacts = {name: dict(self._counts_of(name)) for name in self._artifacts}
        return ArtifactStats(overall=await self.cache.get_stats(), artifacts=artifacts)

    async def aclose(self, timeout: float = 10) -> None:
        """Close the manager; see there."""
        await self.cache.aclose(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        made = (type(self), self.cache, self.ttl, self.profile, self.identity, self.memo)
        return _remade, (*made, self._registered)

    def __repr__(self) -> str:
        profile = "" if self.profile is None else f" profile={self.profile!r}"
        return f"<{type(self).__name__}{profile} identity={self.identity!r} over {self.cache!r}>"

    # --- inside -----------------------------------------------------------------------------------

    async def _capture(
        self, video_path: Source, *, source_id: str | bytes | None = None, etag: str | None = None
    ) -> SourceRef:
        if isinstance(video_path, SourceRef):
            check_arguments(self.identity, source_id, etag, video_path)
            return video_path
        named: dict[str, Any] = {"source_id": source_id, "etag": etag, "memo": self._digest_memo()}
        try:
            if is_inline():
                return capture(video_path, self.identity, **named)
            return await capture_async(video_path, self.identity, **named)
        except SourceUnavailableError as error:
            self._note_unreadable(video_path, error)
            return unreadable(video_path)

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

    def _taken_load_options(self, artifact: str, named: dict[str, Any]) -> dict[str, Any]:
        """Take what says how to load out of ``named``; only what this artifact has."""
        load = {name: named.pop(name) for name in _LOAD_OPTIONS if name in named}
        if not load:
            return load
        artifact_of(artifact, self._artifacts)
        for name in load:
            if artifact not in _LOAD_OPTIONS[name]:
                raise TypeError(
                    f"{artifact}: {name} is for {' and '.join(_LOAD_OPTIONS[name])} only"
                )
        if load.get("frames") is not None:
            load["frames"] = checked_frame_ids(load["frames"])
        if load.get("names") is not None:
            if isinstance(load["names"], str | bytes) or not isinstance(load["names"], Iterable):
                raise TypeError(
                    f"names must be several names of arrays, not {shown(load['names'])}"
                )
            load["names"] = list(load["names"])
        if "mode" in load:
            load_options(load["mode"], True)
        if "load_images" in load:
            flag(load["load_images"], "load_images")
        return load

    async def _request(self, name: str, video_path: Source, named: Mapping[str, Any]) -> Request:
        profile = self.profile or ""
        artifact = artifact_of(name, self._artifacts)
        if isinstance(video_path, SourceRef):
            return self._requests.get(profile, artifact, video_path, named)
        source = await self._capture(video_path)
        return make_request(profile, artifact, source, named, pinned=False)

    async def _look(
        self, request: Request, load: Mapping[str, Any], *, again: bool = False
    ) -> Lookup:
        if not request.is_readable:
            if not again:
                self._count(request.artifact.name, "misses")
            return Lookup(False, reason="source-unreadable")
        options, pick = _load_options(request.artifact.name, load)
        found = await self.cache.look(request.key, options, again=again)
        name = request.artifact.name
        if found.hit:
            value = pick(found.value)
            if value is not _NOTHING:
                if not again:
                    counts = self._counts_of(name)
                    counts["hits"] += 1
                    counts["hit_bytes"] += found.stored_bytes
                    counts["seconds_saved"] += found.seconds_saved
                return found if value is found.value else dataclasses.replace(found, value=value)
            found = Lookup(False, reason="no-images")
        elif request.source.kind == "absent" and found.reason == "absent":
            found = Lookup(False, reason="source-missing")
        if not again:
            self._count(name, "misses")
            self._fence.note_miss(request.source, request.scope)
            self._note_stamp(request)
        return found

    async def _set(self, artifact: str, video_path: Source, value: Any, **named: Any) -> bool:
        return (await self.store(artifact, video_path, value, **named)).stored

    async def _bundled(
        self, artifact: str, params: Mapping[str, Any], value: Any, channels: str
    ) -> Any:
        """Frames in the form in which they are stored; other values as they are. Reads and encodes
        off the loop.
        """
        if artifact not in FRAMED:
            return value
        check_metadata(artifact, _metadata_of(artifact, value))
        if not (isinstance(value, tuple) and len(value) == 2):
            return value
        metadata, images = value
        if images is None:
            return metadata
        codec = params.get("image_codec", "jpeg:95")
        if is_inline():
            return make_bundle(metadata, images, image_codec=codec, channels=channels)
        return await asyncio.to_thread(
            make_bundle, metadata, images, image_codec=codec, channels=channels
        )

    async def _keep(
        self,
        request: Request,
        value: Any,
        *,
        ttl: Duration | None = None,
        cost_seconds: float | None = None,
        tags: Iterable[str] = (),
        stamp: int | None = None,
        stamps: Iterable[tuple[str, int]] = (),
    ) -> StoreResult:
        """Store a value.

        Args:
            request: What it is.
            value: As it is stored.
            ttl: Of this value.
            cost_seconds: What it took.
            tags: From now on.
            stamp: When it began to be computed; its last miss if not given.
            stamps: Tags, and when it began to be computed as far as they know.
        """
        source = request.source
        try:
            settled = source.settle() if is_inline() else await settle_async(source)
        except SourceUnavailableError:
            return self._refused(request.artifact.name, "source-unreadable")
        if not settled:
            return self._refused(request.artifact.name, "source-changed")
        stamp = self._stamp(request) if stamp is None else stamp
        stamped = ((self._uri_tag(source), stamp), *stamps)
        if any(at < tier.tag_version(tag) for tag, at in stamped for tier in self.cache.backends):
            return self._refused(request.artifact.name, "tag-invalidated")  # since the miss
        meta: dict[int | str, Any] = {META_SOURCE: list(source.identity)}
        if source.uri not in meta[META_SOURCE]:
            meta[META_SOURCE_URI] = source.uri
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
                tags=stamped,
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

    async def _keep_merged(
        self, request: Request, value: Any, *, strict: bool, **options: Any
    ) -> StoreResult:
        """Keep what was computed in parts, each of which was kept unless it could not be."""
        why_not = await self._why_not_filed(request)
        if why_not is None and request.artifact.failed(value):
            why_not = "failed-result"
        if why_not is not None:
            return self._refused(request.artifact.name, why_not)
        try:
            return await self._keep(request, value, **options)
        except Exception as error:
            if strict:
                raise
            warn(f"computed, but not kept: value: {type(error).__name__}: {error}")
            return self._refused(request.artifact.name, "unstorable")

    async def _why_not_filed(self, request: Request) -> str | None:
        """Why what was computed of a source must not be filed under what it was, if so."""
        source = request.source
        if not request.is_readable:
            return "source-unreadable"
        try:
            changed = source.changed() if is_inline() else await changed_async(source)
        except SourceUnavailableError:
            return "source-unreadable"
        return "source-changed" if changed else None

    async def _latest_generation(self, source: SourceRef) -> SourceRef:
        """The newest identity of a URI that the cache has entries of; the given one if there are
        none.
        """
        best, newest = source, -1
        for tier in self.cache.backends:
            try:
                async for entry in tier.scan(source.uri_hash):
                    ref = source_of(entry)  # a tier may list more than was asked for
                    if ref is not None and ref.uri == source.uri and entry.created_ms > newest:
                        best, newest = ref, entry.created_ms
            except Exception as error:
                logger.warning("%s: cannot list the entries of a video: %s", tier.name, error)
        return best

    def _uri_tag(self, source: SourceRef) -> str:
        return (
            URI_TAG + _core.hash128(_core.encode_key_value([self.profile or "", source.uri])).hex()
        )

    def _stamp(self, request: Request) -> int:
        """When the value of this key began to be computed: at its last miss here, else now."""
        with self._stamps_lock:
            noted = self._stamps.pop(request.key.digest, None)
        return (
            noted
            if noted is not None
            else self.cache.capture_stamp([self._uri_tag(request.source)])
        )

    def _note_stamp(self, request: Request) -> None:
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
    if artifact in FRAMED:
        if not load.get("load_images", artifact == "segment_frames"):
            return {"frames": False}, _as_it_is
        wanted = load.get("frames")

        def pick(value: Any) -> Any:
            if not (isinstance(value, tuple) and len(value) == 2):
                return _NOTHING  # stored without images
            if wanted is not None and any(one not in value[1] for one in wanted):
                return _NOTHING  # stored without this one
            return value if artifact == "keyframes" else (value[0], list(value[1].values()))

        return {"frames": True if wanted is None else wanted}, pick
    if not load:
        return {}, _as_it_is
    mode = {"mode": load["mode"]} if "mode" in load else {}
    return mode, lambda value: _named(value, load.get("names"))


def _as_it_is(value: Any) -> Any:
    return value


def _named(value: Any, names: list[Any] | None) -> Any:
    """Of a mapping of arrays those with these names; a miss when one of them is not there."""
    if names is None or not isinstance(value, Mapping):
        return value
    return {name: value[name] for name in names} if all(n in value for n in names) else _NOTHING


def _handed_out(artifact: str, value: Any, load: Mapping[str, Any]) -> Any:
    """What the computing caller gets: for frames the decoded stored form, as every later caller."""
    if artifact not in FRAMED:
        named = _named(value, load.get("names"))
        return value if named is _NOTHING else named
    images = bool(load.get("load_images", artifact == "segment_frames"))
    if not isinstance(value, Bundle):  # nothing to load, or it could not be brought into form
        return value if images else _metadata_of(artifact, value)
    decoded = value.decoded(images, load.get("frames"))
    if images and artifact == "segment_frames":
        metadata, frames = decoded
        return metadata, list(frames.values())
    return decoded


def _metadata_of(artifact: str, value: Any) -> Any:
    if artifact in FRAMED and isinstance(value, tuple) and len(value) == 2:
        return value[0]
    return value


def _warn_of_unshared_keys(manager: CacheManager, identity: str) -> None:
    remote = [tier.name for tier in manager.backends if tier.is_remote]
    if remote and identity == "stat":
        warn(
            f"identity='stat' with the remote tier {remote[0]}: keys then hold the path and the "
            f"modification time of the video, which differ on every host, so hosts share nothing; "
            f"use identity='content' (or 'sampled' for very large videos)"
        )


def _lives(ttl: Duration | Mapping[str, Duration]) -> dict[str, Duration]:
    if not isinstance(ttl, Mapping):
        duration_seconds(ttl)
        return {"*": ttl}
    lives: dict[str, Duration] = {"*": 604800}
    for name, life in ttl.items():
        if name != "*" and name not in ARTIFACTS:
            raise ConfigError(f"ttl: unknown artifact {name!r}{nearest(name, (*ARTIFACTS, '*'))}")
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
    registered: Mapping[str, tuple[Mapping[str, Any], Duration | None]],
) -> ArtifactVerbs:
    cache = kind(manager, ttl, profile, identity=identity, memo=memo)
    for name, (params, life) in registered.items():
        cache.register_artifact(name, params, life)
    return cache
