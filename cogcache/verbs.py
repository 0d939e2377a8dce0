"""What can be done with any artifact of any source: capture, look up, store, compute once, explain,
invalidate.

``PipelineArtifactCache`` (``pipeline.py``) adds a method for each artifact that there is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal, Self, TypeVar, overload

from cogcache._checks import choice, nearest
from cogcache._inline import SyncFacade
from cogcache._types import Duration, Lookup, StoreResult, duration_seconds
from cogcache.artifacts import ARTIFACTS, FRAMED, Artifact, Framed, artifact_of, new_artifact
from cogcache.backends.base import tags_of
from cogcache.batches import compute_in_batches
from cogcache.capturing import Capturing
from cogcache.computing import Gate
from cogcache.config import BackendConfig, CacheConfig
from cogcache.exceptions import ConfigError, shown, warn
from cogcache.explain import Explanation, explain_miss
from cogcache.filing import Filing
from cogcache.forms import LOAD_OPTIONS, taken_load_options
from cogcache.framehits import FrameHits
from cogcache.keys import Key
from cogcache.manager import CacheManager
from cogcache.requests import Request, RequestMemo, make_request
from cogcache.settings import Settings, check_profile
from cogcache.sources import (
    IDENTITIES,
    Identity,
    Source,
    SourceRef,
)
from cogcache.summaries import ArtifactStats
from cogcache.urls import tier_config

logger = logging.getLogger("cogcache")

_T = TypeVar("_T")
_Id = TypeVar("_Id", int, str)

# Arguments of ``store`` that say how to keep a value, not what it is.
_STORE_OPTIONS = ("ttl", "cost_seconds", "tags", "channels")
# Names that a call takes beside those of the artifact, and so no artifact's own.
_RESERVED = frozenset(
    (*LOAD_OPTIONS, *_STORE_OPTIONS, "gate", "refresh", "strict", "should_store", "executor")
)


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
        self._requests = RequestMemo()
        self._frame_hits = FrameHits(cache_manager)
        self._capturing = Capturing(cache_manager, identity, memo)
        self._filing = Filing(cache_manager, profile, self._lives)

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
        load = taken_load_options(artifact, named, self._artifacts)
        return await self._filing.look(await self._request(artifact, video_path, named), load)

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
        return await self._filing.put(request, value, **options)

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
        load = taken_load_options(artifact, named, self._artifacts)
        return await self._filing.compute(
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
        how = {"gate": gate, "refresh": refresh, "strict": strict, "executor": executor}
        kept = {"ttl": ttl, "tags": tags}
        return await self._batched(artifact, video_path, ids, compute, batch_size, how, kept, named)

    async def explain(self, artifact: str, video_path: Source, /, **named: Any) -> Explanation:
        """Why an artifact is or is not there: each tier's answer, and what the nearest entries
        differ in.
        """
        taken_load_options(artifact, named, self._artifacts)
        request = await self._request(artifact, video_path, named)
        if not request.is_readable:
            return Explanation(None, artifact, request.source.uri, "source-unreadable", (), ())
        return await explain_miss(self.cache, request.key, request.source, artifact)

    # --- all of a source, and about itself --------------------------------------------------------
    async def invalidate_video(self, video_path: Source) -> int:
        """Forget every artifact of a source in this profile, older generations of the file
        included; how many.
        """
        source = await self._capturing.source(video_path)
        tag = self._filing.stamps.uri_tag(source)
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
        artifacts = {name: dict(self._filing.counts_of(name)) for name in self._artifacts}
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

    async def _batched(
        self,
        artifact: str,
        video_path: Source,
        ids: Iterable[Any],
        compute: Callable[[list[Any]], Any],
        batch_size: int,
        how: Mapping[str, Any],
        kept: Mapping[str, Any],
        named: Mapping[str, Any],
    ) -> dict[Any, Any]:
        """``get_or_compute_batched`` of arguments that may have a ``batch_size`` of their own."""

        async def request() -> Request:
            return await self._request(artifact, video_path, named)

        return await compute_in_batches(
            self._filing, artifact, request, ids, compute, batch_size, how, kept
        )

    async def _request(self, name: str, video_path: Source, named: Mapping[str, Any]) -> Request:
        profile = self.profile or ""
        artifact = artifact_of(name, self._artifacts)
        if isinstance(video_path, SourceRef):
            return self._requests.get(profile, artifact, video_path, named)
        source = await self._capturing.source(video_path)
        return make_request(profile, artifact, source, named, pinned=False)

    async def _set(self, artifact: str, video_path: Source, value: Any, **named: Any) -> bool:
        return (await self.store(artifact, video_path, value, **named)).stored


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
