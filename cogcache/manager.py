"""``CacheManager``: tiers in order of priority, one namespace of keys, and what a value goes
through on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from cogcache import _bridge, _core
from cogcache._inline import SyncFacade, is_inline
from cogcache._types import Duration, Lookup, StoreResult, duration_ms
from cogcache.backends.base import (
    META_ARTIFACT,
    META_CONTENT_TYPE,
    META_COST,
    META_FULL_PARAMS,
    META_SOURCE,
    META_TAGS,
    META_USER,
    CacheBackend,
    CacheBackendRegistry,
    describe_entry,
)
from cogcache.backends.filesystem import FilesystemCacheBackend, StructuredFilesystemBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.config import CacheConfig
from cogcache.exceptions import ClosedError, CogcacheWarning, ConfigError, ValueTypeError
from cogcache.freshness import Flights, call_compute
from cogcache.keys import Key, KeyParts, key_bytes
from cogcache.reader import Reader

logger = logging.getLogger("cogcache")

_T = TypeVar("_T")

CacheBackendRegistry.register("filesystem", FilesystemCacheBackend)
CacheBackendRegistry.register("structured_filesystem", StructuredFilesystemBackend)
CacheBackendRegistry.register("memory", MemoryCacheBackend)

# After so many hits in a row that never left the running task, it lets the loop turn once: about
# 200 us of inline work.
INLINE_STREAK = 48
# A batch of ``set_many``: the first bound that is reached.
BATCH_ITEMS = 64
BATCH_BYTES = 64 << 20

# Entries on their way into higher tiers; beyond that a promotion is dropped, since the next hit can
# try again.
PROMOTIONS_LIMIT = 64

_MISS: Any = type("_Miss", (), {"__repr__": lambda self: "<miss>"})()
_SLOW: Any = type("_Slow", (), {"__repr__": lambda self: "<slow>"})()


@dataclass(frozen=True, slots=True)
class Context:
    """What a layer above knows of a value: what its entry carries beside it.

    Attributes:
        artifact: Name of the artifact, for statistics and listings.
        tags: (tag, version) pairs; the version is when the value began to be true, in microseconds.
        meta: Further metadata fields by number.
        source: Hash of the canonical URI of the source, 0 for none.
        kind: Hash of profile and artifact, 0 for none.
    """

    artifact: str | None = None
    tags: tuple[tuple[str, int], ...] = ()
    meta: Mapping[int | str, Any] | None = None
    source: int = 0
    kind: int = 0


_NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Found:
    """A live entry and the tier that gave it."""

    entry: _core.Entry
    tier: CacheBackend


class CacheManager:
    """Values by key over one or more tiers.

    Made from a ``CacheConfig`` or its dict form; neither is changed. No event loop is needed to
    construct one, it serves several loops and threads, survives ``fork`` and pickles as its
    configuration. Keys are strings or ``Key`` objects; a value is anything that the codec knows
    (``docs/values.md``), arrays included.

    A fault of a tier is never raised: it is a miss or an answer ``False``, counted and logged once
    per change of state.

    Attributes:
        config: As given.
        backends: The tiers, the one asked first first.
        sync: The same methods, blocking, for scripts and threads.

    Raises:
        ConfigError: A setting that cannot work; names the field and the choices.
    """

    def __init__(self, config: CacheConfig | Mapping[str, Any]) -> None:
        if isinstance(config, Mapping):
            config = CacheConfig.from_dict(config)
        if not isinstance(config, CacheConfig):
            raise ConfigError(
                f"config must be a CacheConfig or a dict, not {type(config).__name__}"
            )
        self.config = config
        self.default_ttl_ms = duration_ms(config.default_ttl, None, "default_ttl")
        self.backends: list[CacheBackend] = _make_tiers(config)
        self._flights: Flights[_Computed] = Flights()
        self._background: set[asyncio.Task[None]] = set()
        self._down: set[str] = set()
        self._streak = 0
        self._closed = False
        self._bad_key_noted = False
        self._stats = {"hits": 0, "misses": 0, "sets": 0, "deletes": 0}
        self.counters = {"unstorable": 0, "promotions": 0, "promotions_dropped": 0, "computed": 0}
        self.sync: Any = SyncFacade(self, self._runs_inline)
        if not self.backends:
            raise ConfigError(
                "backends: no enabled tier is configured; a cache without one would never hit"
            )
        self._first = self.backends[0]

    # --- values -----------------------------------------------------------------------------------

    async def get(self, key: str | Key, default: Any = None) -> Any:
        """The value of ``key`` from the first tier that has it, or ``default``.

        Every hit is a fresh decode: changing it changes nothing for anybody else. Arrays are
        writable. A warm local hit runs in the awaiting task, without a thread and without blocking.

        Raises:
            TypeError: ``key`` is neither a string nor a ``Key``.
            ValueError: An empty key, or one over 65,000 bytes.
            ClosedError: After ``aclose``.
        """
        encoded = self._encoded(key)
        if encoded is None:
            return default
        value = self._first.get_inline(encoded, _MISS, _SLOW)
        if value is not _SLOW and value is not _MISS:
            if self.config.enable_stats:
                self._stats["hits"] += 1
            self._streak += 1
            if self._streak >= INLINE_STREAK:
                await self._breathe()
            return value
        if value is _MISS and len(self.backends) == 1:
            self._count("misses")
            return default
        found = await self.lookup(key)
        return found.value if found.hit else default

    async def set(self, key: str | Key, value: Any, ttl: Duration | None = None) -> bool:
        """Keep ``value`` in every tier; whether at least one has it.

        Args:
            key: A string or a ``Key``.
            value: Anything that the codec knows. What is inside must not be changed until this
                returns.
            ttl: Life in seconds, as ``timedelta`` or text such as ``"7d"``; ``None`` is the
                configured default, 0 never ends.

        Raises:
            ValueTypeError: The value, or something inside it, cannot be stored; names the path. (A
                ``TypeError``.)
            ValueError: A negative ``ttl`` or a bad key.
        """
        return (await self.store(key, value, ttl=ttl)).stored

    async def lookup(
        self, key: str | Key, *, context: Context = _NO_CONTEXT, **options: Any
    ) -> Lookup:
        """``get`` with everything that is known about the answer. A stored ``None`` is a hit here.

        ``options`` go to the decoder: ``mode`` (``"cow"``, ``"view"``, ``"copy"``) and ``frames``.
        """
        encoded = self._encoded(key)
        if encoded is None:
            return Lookup(False, reason="bad-key")
        # Some frames or none: what is not asked for is not read.
        some = options.get("frames", True) is not True
        found, reason = await self._find(encoded, index_only=some)
        if found is None:
            self._count("misses")
            return Lookup(False, reason=reason)
        entry, tier = found.entry, found.tier
        if isinstance(key, Key) and not _is_meant(key, entry):
            self._count("misses")
            return Lookup(False, reason="foreign")
        image = (
            entry.to_image() if tier is not self._first else None
        )  # before the value takes the map
        try:
            value = await tier.load(entry, **options)
        except (_core.DamagedError, _core.UnsupportedError) as error:
            reason = await tier.value_failed(entry, error)
            self._count("misses")
            return Lookup(False, reason=reason)
        self._count("hits")
        tier.counters["hits"] += 1
        if image is not None:
            await self._promote(image, tier)
        return Lookup(
            hit=True,
            value=value,
            tier=tier.name,
            age_seconds=max(0.0, (tier.now_ms() - entry.refreshed_ms) / 1000),
            expires_at=None if entry.expires_ms is None else entry.expires_ms / 1000,
            stored_bytes=entry.length,
            seconds_saved=entry.cost_ms / 1000,
        )

    async def store(
        self,
        key: str | Key,
        value: Any,
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        context: Context = _NO_CONTEXT,
    ) -> StoreResult:
        """``set`` with everything that can be said about a value, and what became of it.

        Args:
            key: A string or a ``Key``.
            value: Anything that the codec knows.
            ttl: See ``set``.
            tags: Names under which ``invalidate_tags`` finds the entry.
            cost_seconds: What computing the value took; used by the ``cost`` policy and reported as
                saved on hits.
            metadata: A small map of your own, readable without the value.
            content_type: Such as ``"video/mp4"``.
            context: What a layer above adds.

        Raises:
            ValueTypeError: See ``set``.
        """
        encoded = self._encoded(key)
        ttl_ms = duration_ms(ttl, self.default_ttl_ms)
        if encoded is None:
            return StoreResult(False, "bad-key")
        meta = dict(context.meta or {})
        if context.artifact is not None:
            meta[META_ARTIFACT] = context.artifact
        versions = [
            *context.tags,
            *((tag, self.capture_stamp([tag])) for tag in _checked_tags(tags)),
        ]
        if versions:
            meta[META_TAGS] = [[name, version] for name, version in versions]
        if cost_seconds is not None:
            meta[META_COST] = _milliseconds(cost_seconds)
        if content_type is not None:
            meta[META_CONTENT_TYPE] = content_type
        if metadata:
            meta[META_USER] = dict(metadata)
        return await self._write(encoded, value, ttl_ms, meta, context)

    async def delete(self, key: str | Key) -> bool:
        """Forget ``key`` in every tier; whether any had it."""
        encoded = self._encoded(key)
        if encoded is None:
            return False
        removed = any(await self._each("delete", lambda tier: tier.discard(encoded)))
        self._count("deletes", removed)
        return removed

    async def exists(self, key: str | Key) -> bool:
        """Whether a live entry of ``key`` is in any tier."""
        encoded = self._encoded(key)
        return encoded is not None and (await self._find(encoded, index_only=True))[0] is not None

    async def touch(self, key: str | Key, ttl: Duration | None = None) -> bool:
        """Begin the life of ``key`` anew, without touching its bytes; ``ttl`` ``None`` keeps the
        life it was given.

        A life is never shortened this way. False when no tier has a live entry.
        """
        encoded = self._encoded(key)
        if encoded is None:
            return False
        found, _ = await self._find(encoded, index_only=True)
        if found is None:
            return False
        ttl_ms = duration_ms(ttl, found.entry.ttl_ms)
        return any(await self._each("refresh", lambda tier: tier.refresh(encoded, ttl_ms)))

    async def get_many(self, keys: Iterable[str | Key]) -> dict[str | Key, Any]:
        """The values of those ``keys`` that are there, in their order; one call for a whole
        batch.
        """
        wanted = list(dict.fromkeys(keys))
        encoded = [self._encoded(key) for key in wanted]
        batch = [e for e in encoded if e is not None]
        answered: list[Any] = []
        while len(answered) < len(batch):
            if answered:
                await self._breathe()
            answered += self._first.get_many_inline(batch[len(answered) :], _MISS, _SLOW)
        answers = iter(answered)
        values: dict[str | Key, Any] = {}
        later: list[str | Key] = []
        hits = misses = 0
        for key, one in zip(wanted, encoded, strict=True):
            answer = _MISS if one is None else next(answers)
            if answer is _SLOW or (answer is _MISS and len(self.backends) > 1 and one is not None):
                later.append(key)
                values[key] = _MISS
            elif answer is _MISS:
                misses += 1
            else:
                hits += 1
                values[key] = answer
        self._count("hits", hits)
        self._count("misses", misses)
        if later:
            found = await _gather([self.lookup(key) for key in later])
            values.update(
                {
                    key: one.value if one.hit else _MISS
                    for key, one in zip(later, found, strict=True)
                }
            )
        elif hits:
            await self._breathe()
        return {key: value for key, value in values.items() if value is not _MISS}

    async def set_many(
        self, items: Mapping[str | Key, Any] | Mapping[str, Any], ttl: Duration | None = None
    ) -> dict[str | Key, bool]:
        """``set`` for each item, in batches that each tier writes with one call; what became of
        each, in their order.

        Raises:
            ValueTypeError: Of the first value that cannot be stored; items before it have been.
        """
        ttl_ms = duration_ms(ttl, self.default_ttl_ms)
        results: dict[str | Key, bool] = {}
        batch: dict[str | Key, dict[bool, _core.Draft | _core.Image]] = {}
        weight = 0
        try:
            for key, value in items.items():
                encoded = self._encoded(key)
                results[key] = False
                if encoded is None:
                    continue
                batch[key] = await self._drafts(encoded, value, ttl_ms, {})
                weight += max(what.raw_bytes for what in batch[key].values())
                if len(batch) >= BATCH_ITEMS or weight >= BATCH_BYTES:
                    full, batch, weight = batch, {}, 0
                    results.update(await self._write_batch(full))
        finally:
            if batch:
                results.update(await self._write_batch(batch))
        return results

    async def _write_batch(
        self, batch: Mapping[str | Key, Mapping[bool, _core.Draft | _core.Image]]
    ) -> dict[str | Key, bool]:
        whats = list(batch.values())
        answers = await self._each(
            "write",
            lambda tier: tier.write_many([what[tier.enable_compression] for what in whats]),
            failed=["io-error"] * len(whats),
        )
        kept = dict.fromkeys(batch, False)
        for tier, reasons in zip(self.backends, answers, strict=True):
            for key, reason in zip(batch, reasons, strict=True):
                tier.counters["sets" if reason is None else "refused"] += 1
                kept[key] = kept[key] or reason is None
        self._count("sets", sum(kept.values()))
        return kept

    async def get_or_compute(
        self,
        key: str | Key,
        compute: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        gate: AbstractAsyncContextManager[Any] | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[Any], bool] | None = None,
        executor: Executor | None = None,
    ) -> Any:
        """The value of ``key``, computed and kept if it is not there; computed once however many
        ask meanwhile.

        Args:
            key: A string or a ``Key``.
            compute: Makes the value; a coroutine function is awaited, a plain one runs in a thread
                with the caller's context (under ``sync``: in the calling thread).
            ttl: See ``set``.
            tags: See ``store``.
            cost_seconds: Instead of the measured time of ``compute``.
            gate: Entered around the computation, by the leader alone, such as a semaphore for the
                GPU. The cache is asked again behind it, and the clock of the cost starts there.
            refresh: Compute even when the value is there.
            strict: Raise when the value cannot be stored, instead of returning it with a warning.
            should_store: Whether a computed value is to be kept; by default everything but
                ``None``.
            executor: For a plain ``compute``, instead of the loop's default.

        Returns:
            The value. Followers of another's computation get their own decode of it.

        Raises:
            RecursiveComputeError: ``compute`` asks for the same key.
            Exception: Whatever ``compute`` raises goes to every waiter and is not kept.
        """
        if not refresh:
            found = await self.lookup(key)
            if found.hit:
                return found.value
        stored_tags = tuple((tag, self.capture_stamp([tag])) for tag in _checked_tags(tags))

        async def keep(value: Any, seconds: float) -> StoreResult:
            return await self.store(
                key,
                value,
                ttl=ttl,
                cost_seconds=seconds if cost_seconds is None else cost_seconds,
                context=Context(tags=stored_tags),
            )

        async def again() -> Lookup:
            return Lookup(False) if refresh else await self.lookup(key)

        return await self.compute_once(
            key_bytes(key),
            compute,
            keep=keep,
            look_again=again,
            gate=gate,
            strict=strict,
            should_store=should_store or _is_not_none,
            executor=executor,
        )

    async def compute_once(
        self,
        encoded: bytes,
        compute: Callable[[], Any],
        *,
        keep: Callable[[Any, float], Coroutine[Any, Any, StoreResult]],
        look_again: Callable[[], Coroutine[Any, Any, Lookup]],
        gate: AbstractAsyncContextManager[Any] | None,
        strict: bool,
        should_store: Callable[[Any], bool],
        executor: Executor | None,
        finish: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The single flight behind every ``get_or_compute``: gate, second look, computing, keeping,
        sharing.

        ``finish`` turns a computed value into the form in which it is stored, so that cold and warm
        callers see the same.
        """

        async def fly() -> _Computed:
            async with gate if gate is not None else contextlib.nullcontext():
                if gate is not None:
                    found = await look_again()
                    if found.hit:
                        return _Computed(found.value, None, found=True)
                began = time.perf_counter()
                value = await call_compute(compute, executor)
                seconds = time.perf_counter() - began
            self.counters["computed"] += 1
            if finish is not None:
                value = finish(value)
                if hasattr(value, "__await__"):
                    value = await value
            if not should_store(value):
                return _Computed(value, None)
            try:
                await keep(value, seconds)
            except ValueTypeError as error:
                self.counters["unstorable"] += 1
                if strict:
                    raise
                warnings.warn(f"computed, but not kept: {error}", CogcacheWarning, stacklevel=2)
                return _Computed(value, None)
            return _Computed(value, look_again)

        computed, led = await self._flights.run(encoded, fly)
        if led or computed.look_again is None:
            return computed.value
        own = await computed.look_again()
        return own.value if own.hit else computed.value

    # --- reading parts ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open(self, key: str | Key, part: str | None = None) -> AsyncIterator[Reader | None]:
        """Open one generation of an entry and read ranges of one of its parts; ``None`` on a miss.

        Args:
            key: A string or a ``Key``.
            part: Such as ``"frame/17"``, ``"array/0"`` or ``"doc"``; ``None`` is the value's bytes,
                if it is bytes.

        Raises:
            ValueError: The entry has no such part; names those it has.
        """
        encoded = self._encoded(key)
        found = None if encoded is None else (await self._find(encoded, index_only=True))[0]
        self._count("misses" if found is None else "hits")
        yield None if found is None else await Reader.open(found.tier, found.entry, part)

    # --- many keys --------------------------------------------------------------------------------

    async def clear(self, pattern: str | None = None) -> int:
        """Forget what matches in every tier; the number of entries, summed over the tiers.

        ``None`` and ``"*"`` are everything, ``"a:b:*"`` what lies under these whole segments, no
        star exactly one key.
        """
        return sum(await self._each("clear", lambda tier: tier.clear(pattern)))

    async def list_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> list[tuple[str, dict[str, Any] | None]]:
        """Every live key that matches, over all tiers, sorted, each with its metadata or
        ``None``.
        """
        found: dict[str, dict[str, Any] | None] = {}
        for listed in reversed(
            await self._each(
                "list", lambda tier: tier.list_keys(pattern, include_metadata), failed=()
            )
        ):
            found.update(listed)
        return sorted(found.items())

    async def get_metadata(self, key: str | Key) -> dict[str, Any] | None:
        """What is known of an entry without touching its value; see
        ``backends.base.describe_entry``.
        """
        encoded = self._encoded(key)
        found = None if encoded is None else (await self._find(encoded, index_only=True))[0]
        return None if found is None else describe_entry(found.entry)

    async def cleanup_expired(self) -> int:
        """Remove what is past its life from every tier; how many entries."""
        return sum(await self._each("cleanup", lambda tier: tier.cleanup_expired()))

    async def invalidate_tags(self, *tags: str) -> None:
        """Make every entry that carries one of ``tags`` a miss, however many there are, in time
        that does not depend on it.
        """
        names = _checked_tags(tags)
        await self._each("invalidate", lambda tier: tier.invalidate_tags(names))

    def capture_stamp(self, tags: Iterable[str] = ()) -> int:
        """Now, in microseconds, as the version of values computed from here on; never below a tag's
        own version.
        """
        now_us = max(tier.now_ms() for tier in self.backends) * 1000
        return max([now_us, *(tier.tag_version(tag) for tag in tags for tier in self.backends)])

    # --- about itself -----------------------------------------------------------------------------

    def explain(self, key: str | Key) -> KeyParts:
        """What a key is made of; asks no tier."""
        return (key if isinstance(key, Key) else Key.parse(key)).explain()

    async def get_stats(self) -> dict[str, Any]:
        """``{"manager": {hits, misses, sets, deletes, size_bytes, total_files, hit_rate, ...},
        "backends": {name: {...}}}``.
        """
        if not self.config.enable_stats:
            return {"enabled": False, "manager": _manager_stats(self._stats, []), "backends": {}}
        tiers = await self._each("get_stats", lambda tier: tier.get_stats(), failed={})
        named = {tier.name: stats for tier, stats in zip(self.backends, tiers, strict=True)}
        return {
            "manager": {
                **_manager_stats(self._stats, tiers),
                **self.counters,
                "computing": len(self._flights),
            },
            "backends": named,
        }

    async def aclose(self, timeout: float = 10) -> None:
        """Finish what is under way (at most ``timeout`` seconds) and close every tier. May be
        called twice.
        """
        if self._background and not is_inline():
            await asyncio.wait(list(self._background), timeout=timeout)
            for task in list(self._background):
                task.cancel()
        self._closed = True
        await self._each("close", lambda tier: tier.aclose())

    async def __aenter__(self) -> CacheManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        return type(self), (self.config,)

    def __repr__(self) -> str:
        tiers = ", ".join(tier.name for tier in self.backends)
        return f"<CacheManager {tiers}: {self._stats['hits']} hits, {self._stats['misses']} misses>"

    # --- inside -----------------------------------------------------------------------------------

    def _runs_inline(self) -> bool:
        return all(tier.runs_inline for tier in self.backends)

    def _encoded(self, key: str | Key) -> bytes | None:
        """The canonical encoding of a key; ``None`` for one with a NUL, which is never there and
        never stored.
        """
        if self._closed:
            raise ClosedError("this cache was closed")
        try:
            return key_bytes(key)
        except ValueError:
            if not isinstance(key, str) or "\0" not in key:
                raise
        if not self._bad_key_noted:
            self._bad_key_noted = True
            warnings.warn(
                "a key with a NUL character is never stored (bad-key)",
                CogcacheWarning,
                stacklevel=3,
            )
        return None

    def _count(self, name: str, more: int = 1) -> None:
        if self.config.enable_stats:
            self._stats[name] += more

    async def _breathe(self) -> None:
        self._streak = 0
        if not is_inline():
            await asyncio.sleep(0)

    async def _find(self, encoded: bytes, *, index_only: bool = False) -> tuple[Found | None, str]:
        """The live entry of the first tier that has one, or the first tier's word for why not."""
        reason = ""
        for tier in self.backends:
            try:
                answer = await tier.fetch(encoded, index_only=index_only)
            except Exception as error:
                self._tier_failed(tier, "read", error)
                answer = "unavailable"
            if not isinstance(answer, str):
                self._tier_works(tier)
                return Found(answer, tier), "hit"
            tier.counters["misses"] += 1
            reason = answer if reason in ("", "absent") else reason
        return None, reason

    async def _drafts(
        self, encoded: bytes, value: Any, ttl_ms: int | None, meta: Mapping[int | str, Any]
    ) -> dict[bool, _core.Draft | _core.Image]:
        """The value as the tiers take it, by whether they compress; composed once for several."""
        what: dict[bool, _core.Draft | _core.Image] = {}
        for tier in self.backends:
            if tier.enable_compression not in what:
                draft = tier.draft(encoded, value, ttl_ms=ttl_ms, meta=meta)
                what[tier.enable_compression] = (
                    draft if len(self.backends) == 1 else await _bridge.compose(draft)
                )
        return what

    async def _write(
        self,
        encoded: bytes,
        value: Any,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        context: Context,
    ) -> StoreResult:
        what = await self._drafts(encoded, value, ttl_ms, meta)
        reasons = await self._each(
            "write",
            lambda tier: tier.write(
                what[tier.enable_compression], source=context.source, kind=context.kind
            ),
            failed="io-error",
        )
        kept = tuple(
            tier.name for tier, reason in zip(self.backends, reasons, strict=True) if reason is None
        )
        for tier, reason in zip(self.backends, reasons, strict=True):
            tier.counters["sets" if reason is None else "refused"] += 1
        if not kept:
            return StoreResult(False, next(r for r in reasons if r is not None))
        self._count("sets")
        return StoreResult(True, "stored", kept, max(_size(w) for w in what.values()))

    async def _promote(self, image: _core.Image, below: CacheBackend) -> None:
        """Copy an entry into the tiers above the one that gave it, with its remaining life, version
        and tags.
        """
        above = self.backends[: self.backends.index(below)]

        async def copy() -> None:
            for tier in above:
                try:
                    self.counters["promotions"] += await tier.write(image) is None
                except Exception as error:
                    self._tier_failed(tier, "promote", error)

        if is_inline():
            await copy()
        elif len(self._background) >= PROMOTIONS_LIMIT:
            self.counters["promotions_dropped"] += 1
        else:
            task = asyncio.create_task(copy(), name="cogcache-promote")
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _each(
        self, what: str, call: Callable[[CacheBackend], Coroutine[Any, Any, _T]], failed: Any = 0
    ) -> list[_T]:
        """Ask every tier at once; one that raises is logged and answers ``failed``."""

        async def guarded(tier: CacheBackend) -> _T:
            try:
                answer = await call(tier)
            except (TypeError, ValueError):
                raise  # the caller's mistake, such as a bad pattern
            except Exception as error:
                self._tier_failed(tier, what, error)
                result: _T = failed
                return result
            self._tier_works(tier)
            return answer

        return await _gather([guarded(tier) for tier in self.backends])

    def _tier_failed(self, tier: CacheBackend, what: str, error: Exception) -> None:
        tier.counters["errors"] += 1
        if tier.name not in self._down:
            self._down.add(tier.name)
            logger.warning(
                "%s: %s failed, going on without it: %s: %s",
                tier.name,
                what,
                type(error).__name__,
                error,
            )

    def _tier_works(self, tier: CacheBackend) -> None:
        if self._down and tier.name in self._down:
            self._down.discard(tier.name)
            logger.warning("%s: works again", tier.name)


@dataclass(frozen=True, slots=True)
class _Computed:
    """Outcome of a flight: the leader's value, and how a follower gets a decode of its own."""

    value: Any
    look_again: Callable[[], Coroutine[Any, Any, Lookup]] | None
    found: bool = False


def _make_tiers(config: CacheConfig) -> list[CacheBackend]:
    made: list[CacheBackend] = []
    for one in config.backends:
        enabled = (
            one.get("enabled", True) if isinstance(one, Mapping) else getattr(one, "enabled", True)
        )
        if not enabled:
            continue
        tier = CacheBackendRegistry.create(one)
        wanted = (
            one.get("enable_compression")
            if isinstance(one, Mapping)
            else getattr(one, "enable_compression", None)
        )
        if wanted is None:
            tier.enable_compression = config.enable_compression
        made.append(tier)
    made.sort(key=lambda tier: tier.priority)
    names: dict[str, int] = {}
    for tier in made:
        names[tier.name] = names.get(tier.name, 0) + 1
        if names[tier.name] > 1:
            tier.name = f"{tier.name}#{names[tier.name]}"
    return made


async def _gather(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines together; one after another when inline or alone. The first error is raised
    when all have ended.
    """
    if len(work) == 1 or is_inline():
        results: list[_T] = []
        waiting = list(work)
        try:
            while waiting:
                results.append(await waiting.pop(0))
        finally:
            for one in waiting:
                one.close()
        return results
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def _is_meant(key: Key, entry: _core.Entry) -> bool:
    """Compare in full what the key holds only as digests: long parameters and the identity of the
    source.
    """
    identity = key.origin.identity if key.origin is not None else None
    stored = entry.meta.get(META_SOURCE)
    if identity is not None and stored is not None and list(stored) != list(identity):
        return False
    return key.matches_long_values(entry.meta.get(META_FULL_PARAMS) or {})


def _size(what: _core.Draft | _core.Image) -> int:
    return len(what) if isinstance(what, _core.Image) else what.stored_bytes


def _is_not_none(value: Any) -> bool:
    return value is not None


def _checked_tags(tags: Iterable[str]) -> list[str]:
    if isinstance(tags, str | bytes):
        raise TypeError(
            f"tags must be several strings, not one {type(tags).__name__}; write [{tags!r}]"
        )
    names = list(dict.fromkeys(tags))
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a tag must be a non-empty string, not {name!r}")
        if len(name.encode("utf-8", "surrogatepass")) > 512:
            raise ValueError(f"a tag may have at most 512 UTF-8 bytes; {name[:40]!r}... has more")
    return names


def _milliseconds(seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError(f"cost_seconds must be a number of seconds from 0 to 1e9, not {seconds!r}")
    return round(seconds * 1000)


def _manager_stats(stats: Mapping[str, int], tiers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    asked = stats["hits"] + stats["misses"]
    tiers = list(tiers)
    return {
        **stats,
        "size_bytes": sum(tier.get("size_bytes", 0) for tier in tiers),
        "total_files": sum(tier.get("total_files", 0) for tier in tiers),
        "hit_rate": stats["hits"] / asked if asked else 0.0,
    }
