"""Artifacts in the cache, request by request: looked up, kept, computed once.

A value is filed under what its source was when it began to be made. What changed or was invalidated
since is not kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from cogcache import _core
from cogcache._arguments import check_kept, checked_tags
from cogcache._inline import is_inline
from cogcache._types import Duration, Lookup, StoreResult
from cogcache.artifacts import FRAMED
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE, META_SOURCE_URI
from cogcache.computing import Gate, Recipe, own_copy
from cogcache.exceptions import warn
from cogcache.fence import MissFence
from cogcache.forms import NOTHING, as_stored, decoding, handed_out, metadata_of
from cogcache.frames import Bundle, check_channels
from cogcache.manager import CacheManager
from cogcache.puts import Context
from cogcache.requests import Request
from cogcache.sources import SourceUnavailableError, changed_async, settle_async
from cogcache.stamps import Stamps

__all__ = ["Filing"]


class Filing:
    """The artifacts of one cache.

    Args:
        manager: Where they are kept.
        profile: Of the cache.
        lives: Of values by artifact; ``"*"`` is that of all others. It may grow.

    Attributes:
        manager: As given.
        stamps: When values began to be computed.
    """

    def __init__(
        self, manager: CacheManager, profile: str | None, lives: Mapping[str, Duration]
    ) -> None:
        self.manager = manager
        self._profile = profile
        self._lives = lives
        self._fence = MissFence()
        self._counts: dict[str, dict[str, float]] = {}
        self.stamps = Stamps(manager, profile)

    async def look(
        self, request: Request, load: Mapping[str, Any], *, again: bool = False
    ) -> Lookup:
        """Look a request up, in the form that ``load`` says; ``again`` for a call that has been
        counted already.
        """
        if not request.is_readable:
            if not again:
                self._count(request.artifact.name, "misses")
            return Lookup(False, reason="source-unreadable")
        options, pick = decoding(request.artifact.name, load)
        found = await self.manager.look(request.key, options, again=again)
        name = request.artifact.name
        if found.hit:
            value = pick(found.value)
            if value is not NOTHING:
                if not again:
                    counts = self.counts_of(name)
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
            self.stamps.note_miss(request)
        return found

    async def put(
        self, request: Request, value: Any, *, channels: str = "bgr", **options: Any
    ) -> StoreResult:
        """Keep a value that a caller gives, unless its source has changed since it was missed;
        ``options`` are those of ``keep``.
        """
        artifact = request.artifact.name
        if not request.is_readable:
            return self.refused(artifact, "source-unreadable")
        if request.artifact.failed(metadata_of(artifact, value)):
            return self.refused(artifact, "failed-result")
        if not request.pinned:
            source = self._fence.check(request.source, request.scope)
            if source is None:
                return self.refused(artifact, "source-changed")
            request = dataclasses.replace(request, source=source)
        stored = await as_stored(artifact, request.key.params, value, channels)
        return await self.keep(request, stored, **options)

    async def compute(
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
        """See ``ArtifactVerbs.get_or_compute``; the request is made once the arguments are
        checked.
        """
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
                return self.refused(artifact, why_not)
            seconds = seconds if cost_seconds is None else cost_seconds
            return await self.keep(
                request, value, ttl=ttl, cost_seconds=seconds, stamp=stamp, stamps=stamps
            )

        def worth_keeping(value: Any) -> bool:
            metadata = metadata_of(artifact, value)
            if (metadata is None and should_store is None) or request.artifact.failed(metadata):
                self._count(artifact, "failed")
                return False
            return should_store is None or should_store(value)

        recipe = Recipe(
            compute=compute,
            keep=keep,
            look_again=lambda: self.look(request, load, again=True),
            gate=gate,
            refresh=refresh,
            strict=strict,
            should_store=worth_keeping
            if should_store is None or callable(should_store)
            else should_store,
            executor=executor,
            finish=lambda value: as_stored(artifact, request.key.params, value, channels),
            share=lambda value: value if isinstance(value, Bundle) else own_copy(value),
            hand_out=lambda value: handed_out(artifact, value, load),
        )
        request = await request_of()
        if not refresh:
            found = await self.look(request, load)
            if found.hit:
                return found.value
        stamp = self.stamps.take(request)
        stamps += [(tag, self.manager.capture_stamp([tag])) for tag in tags]
        known_by = [self.stamps.uri_tag(request.source), *tags]
        return await self.manager.compute_once(request.key.encoded, recipe, known_by)

    async def keep(
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
            return self.refused(request.artifact.name, "source-unreadable")
        if not settled:
            return self.refused(request.artifact.name, "source-changed")
        stamp = self.stamps.take(request) if stamp is None else stamp
        stamped = ((self.stamps.uri_tag(source), stamp), *stamps)
        if any(at < tier.tag_version(tag) for tag, at in stamped for tier in self.manager.backends):
            return self.refused(request.artifact.name, "tag-invalidated")  # since the miss
        meta: dict[int | str, Any] = {META_SOURCE: list(source.identity)}
        if source.uri not in meta[META_SOURCE]:
            meta[META_SOURCE_URI] = source.uri
        full = request.key.long_values
        if full:
            meta[META_FULL_PARAMS] = full
        name = request.artifact.name
        result = await self.manager.store(
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
                kind=_core.hash64(f"{self._profile or ''}\0{name}".encode("utf-8", "surrogatepass"))
                & 0xFFFFFFFF,
            ),
        )
        if not result.stored:
            return self.refused(name, result.reason)
        counts = self.counts_of(name)
        counts["sets"] += 1
        counts["stored_bytes"] += result.stored_bytes
        return result

    async def keep_merged(
        self, request: Request, value: Any, *, strict: bool, **options: Any
    ) -> StoreResult:
        """Keep what was computed in parts, each of which was kept unless it could not be."""
        why_not = await self._why_not_filed(request)
        if why_not is None and request.artifact.failed(value):
            why_not = "failed-result"
        if why_not is not None:
            return self.refused(request.artifact.name, why_not)
        try:
            return await self.keep(request, value, **options)
        except Exception as error:
            if strict:
                raise
            warn(f"computed, but not kept: value: {type(error).__name__}: {error}")
            return self.refused(request.artifact.name, "unstorable")

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

    def refused(self, artifact: str, reason: str) -> StoreResult:
        """The answer for a value that is not kept, counted."""
        self._count(artifact, "refused")
        return StoreResult(False, reason)

    def counts_of(self, artifact: str) -> dict[str, float]:
        """What is counted of an artifact."""
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
        self.counts_of(artifact)[name] += 1
