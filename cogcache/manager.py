"""``CacheManager``: tiers in order of priority, one namespace of keys, and what a value goes
through on its way.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from cogcache import pins
from cogcache._arguments import check_kept, checked_tags, load_options
from cogcache._checks import whole
from cogcache._inline import SyncFacade
from cogcache._types import Duration, Fault, Lookup, StoreResult, duration_ms, duration_seconds
from cogcache.archives import ArchiveReport
from cogcache.archives.reading import ArchiveSource, read_archive
from cogcache.archives.rekey import Rekey
from cogcache.archives.writing import ArchiveTarget, write_archive
from cogcache.assembly import make_tiers
from cogcache.backends.base import SLOW, CacheBackend, KeyPattern, describe_entry
from cogcache.calls import Calls
from cogcache.chunksizes import ChunkSizes
from cogcache.computing import Computations, Gate, Recipe, is_not_none
from cogcache.config import CacheConfig, ChunkingConfig
from cogcache.exceptions import ConfigError, shown
from cogcache.feeding import StreamSource
from cogcache.forgetting import Forgetting
from cogcache.intake import Intake
from cogcache.into import checked_array, fill
from cogcache.keys import Key, KeyParts
from cogcache.listing import PICTURES, Listing, list_entries
from cogcache.lookups import MISS, Lookups
from cogcache.puts import NO_CONTEXT, Context, Puts, entry_meta
from cogcache.ranges import half_open
from cogcache.reader import Reader
from cogcache.readers import Readers
from cogcache.selection import Filters, Plan, meant_by, select_from
from cogcache.sources import Source
from cogcache.streams import StreamResult
from cogcache.summaries import Stats, Usage
from cogcache.tee import TeeStream
from cogcache.tiering import Tiers
from cogcache.usage import usage_of
from cogcache.verifying import verify_tiers
from cogcache.verifyreport import VerifyProgress, VerifyReport
from cogcache.warming import WarmProgress, WarmReport, cold_of, warm_tiers
from cogcache.writing import Writing

if TYPE_CHECKING:
    import numpy as np

_T = TypeVar("_T")


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
        self._calls = Calls(config.enable_stats)
        self.counters = self._calls.counters
        self._computations = Computations(self.counters)
        given = config.chunking
        self._chunking = given if isinstance(given, ChunkingConfig) else ChunkingConfig()
        self._chunk_sizes = ChunkSizes(self._chunking)
        self.sync: Any = SyncFacade(self, self._runs_inline)
        self._use(make_tiers(config))

    def _use(self, backends: list[CacheBackend]) -> None:
        """Give each part of the manager the tiers, and what it needs of the others."""
        calls, chunking = self._calls, self._chunking
        most_uncut = None if chunking.enabled else chunking.size_threshold - 1
        tiers = Tiers(backends, self.counters, most_uncut=most_uncut)
        writing = Writing(tiers)
        self.backends = backends
        self._tiers = tiers
        self._writing = writing
        self._lookups = Lookups(tiers, calls)
        self._readers = Readers(tiers, calls, chunking)
        self._puts = Puts(writing, calls)
        most_chunks = None if self.config.chunking is None else chunking.max_chunks
        reading = self._readers.reading
        self._intake = Intake(tiers, writing, reading, calls, self._chunk_sizes, most_chunks)
        self._forgetting = Forgetting(tiers, writing, self._computations, calls)
        locks = [tier.host_locks for tier in backends if tier.host_locks is not None]
        self._computations.locks = locks[0] if locks else None

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
        encoded = self._calls.encoded(key)
        if encoded is None:
            return default
        # A warm hit goes through as few calls as can be.
        lookups = self._lookups
        value = lookups.at_hand(key, encoded)
        if value is SLOW or value is MISS:
            return await lookups.get(key, encoded, default, value)
        if lookups.turn_is_over():
            await lookups.breathe()
        return value

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
        encoded = self._calls.encoded(key)
        ttl_ms = duration_ms(ttl, self.default_ttl_ms)
        if encoded is None:
            return False
        return (await self._puts.put(encoded, value, ttl_ms, {}, NO_CONTEXT)).stored

    async def lookup(
        self,
        key: str | Key,
        *,
        mode: Literal["cow", "view", "copy"] = "cow",
        frames: bool | Sequence[int | str] = True,
    ) -> Lookup:
        """``get`` with everything that is known about the answer. A stored ``None`` is a hit here.

        Args:
            key: A string or a ``Key``.
            mode: ``"cow"`` gives writable arrays, ``"view"`` read-only ones, ``"copy"`` arrays that
                are independent of any file.
            frames: Of a value with frames: all of them, none (``False``: the metadata alone), or
                those with the given ids.

        Raises:
            ValueError: An unknown ``mode``.
            TypeError: ``frames`` is neither a bool nor several ids.
        """
        options = load_options(mode, frames)
        encoded = self._calls.encoded(key)
        if encoded is None:
            self._calls.count("misses")
            return Lookup(False, reason="bad-key")
        return await self._lookups.look(key, encoded, options)

    async def look(
        self, key: str | Key, options: Mapping[str, Any], *, again: bool = False
    ) -> Lookup:
        """``lookup`` for a layer above, which has checked the ``options``; ``again`` for a call
        that has been counted already.
        """
        encoded = self._calls.encoded(key)
        if encoded is None:
            return Lookup(False, reason="bad-key")
        return await self._lookups.look(key, encoded, options, counted=again)

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
        context: Context = NO_CONTEXT,
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
        encoded = self._calls.encoded(key)
        ttl_ms = duration_ms(ttl, self.default_ttl_ms)
        meta = entry_meta(self._tiers, tags, cost_seconds, metadata, content_type, context)
        if encoded is None:
            return StoreResult(False, "bad-key")
        return await self._puts.put(encoded, value, ttl_ms, meta, context)

    async def delete(self, key: str | Key) -> bool:
        """Forget ``key`` in every tier; whether any had it."""
        encoded = self._calls.encoded(key)
        return encoded is not None and await self._forgetting.key(encoded)

    async def exists(self, key: str | Key) -> bool:
        """Whether a live entry of ``key`` is in any tier."""
        encoded = self._calls.encoded(key)
        return encoded is not None and (await self._tiers.find(encoded))[0] is not None

    async def touch(self, key: str | Key, ttl: Duration | None = None) -> bool:
        """Begin the life of ``key`` anew, without touching its bytes; ``ttl`` ``None`` keeps the
        life it was given.

        A life is never shortened this way. False when no tier has a live entry.
        """
        encoded = self._calls.encoded(key)
        wanted_ms = duration_ms(ttl, None)
        if encoded is None:
            return False
        found, _ = await self._tiers.find(encoded)
        if found is None:
            return False
        ttl_ms = found[0].ttl_ms if ttl is None else wanted_ms
        return any(
            await self._tiers.each(
                "refresh", lambda tier: tier.refresh(encoded, ttl_ms), failed=False, bounded=True
            )
        )

    async def get_into(self, key: str | Key, array: np.ndarray[Any, Any]) -> bool:
        """Copy an array of the cache into one of yours; whether it was there.

        For training loops: the value is verified where it lies and copied once, without an array in
        between (unless it was stored with ``compress_arrays``). Large ones are copied beside the
        event loop.

        Args:
            key: A string or a ``Key``.
            array: A writable, C-contiguous numpy array of exactly the dtype and shape of the value.
                On a miss, and whenever an error is raised, it is as it was; who cancels the call
                may find it written in part.

        Raises:
            TypeError: ``array`` is no numpy array.
            ValueError: The value is no array, or has another dtype or shape: names both sides. Or
                ``array`` is read-only or not contiguous.
        """
        array = checked_array(array, "array")
        found = await self.lookup(key, mode="view")
        if found.hit:
            await fill(key, found.value, array)
        return found.hit

    @overload
    async def get_many(self, keys: Iterable[str | Key]) -> dict[str | Key, Any]: ...

    @overload
    async def get_many(
        self, keys: Iterable[str | Key], *, out: np.ndarray[Any, Any]
    ) -> list[bool]: ...

    async def get_many(
        self, keys: Iterable[str | Key], *, out: np.ndarray[Any, Any] | None = None
    ) -> dict[str | Key, Any] | list[bool]:
        """The values of those ``keys`` that are there, in their order; one call for a whole
        batch.

        Args:
            keys: Strings or ``Key`` objects.
            out: Copy the values, which are arrays, into the rows of this one instead: one row for
                each key, a key may come twice. Rows as for ``get_into``; that of a miss is as it
                was.

        Returns:
            The values by key; with ``out``, for each key whether its row was filled.

        Raises:
            ValueError: ``out`` has another number of rows than there are keys; and as for
                ``get_into``. Then some rows before that of the key hold its values already.
        """
        if out is not None:
            return await self._lookups.rows(keys, out)
        return await self._lookups.many(keys)

    async def set_many(
        self, items: Mapping[str | Key, Any] | Mapping[str, Any], ttl: Duration | None = None
    ) -> dict[str | Key, bool]:
        """``set`` for each item, in batches that each tier writes with one call; what became of
        each, in their order.

        Raises:
            ValueTypeError: Of the first value that cannot be stored; items before it have been.
        """
        if not isinstance(items, Mapping):
            raise TypeError(f"items must map keys to values, not {type(items).__name__}")
        ttl_ms = duration_ms(ttl, self.default_ttl_ms)
        return await self._puts.many(items, ttl_ms)

    @overload
    async def get_or_compute(
        self,
        key: str | Key,
        compute: Callable[[], Awaitable[_T]],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[_T], bool] | None = None,
        executor: Executor | None = None,
    ) -> _T: ...

    @overload
    async def get_or_compute(
        self,
        key: str | Key,
        compute: Callable[[], _T],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        gate: Gate | None = None,
        refresh: bool = False,
        strict: bool = False,
        should_store: Callable[[_T], bool] | None = None,
        executor: Executor | None = None,
    ) -> _T: ...

    async def get_or_compute(
        self,
        key: str | Key,
        compute: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        gate: Gate | None = None,
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
                An asynchronous context manager; under ``sync`` a plain one.
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
        encoded = self._calls.encoded(key)
        names = checked_tags(tags)
        check_kept(ttl, cost_seconds)
        stored_tags: tuple[tuple[str, int], ...] = ()

        async def keep(value: Any, seconds: float) -> StoreResult:
            return await self.store(
                key,
                value,
                ttl=ttl,
                cost_seconds=seconds if cost_seconds is None else cost_seconds,
                context=Context(tags=stored_tags),
            )

        recipe = Recipe(
            compute=compute,
            keep=keep,
            look_again=lambda: self.look(key, {}, again=True),
            gate=gate,
            refresh=refresh,
            strict=strict,
            should_store=is_not_none if should_store is None else should_store,
            executor=executor,
        )
        if not refresh:
            found = await self.lookup(key)
            if found.hit:
                return found.value
        stored_tags = tuple((tag, self.capture_stamp([tag])) for tag in names)
        return await self.compute_once(
            str(key).encode() if encoded is None else encoded, recipe, names
        )

    async def compute_once(self, encoded: bytes, recipe: Recipe, tags: Iterable[str] = ()) -> Any:
        """The value of a key by ``recipe``, or by that of whoever began to compute it before, if
        none of ``tags`` was invalidated since.
        """
        valid_from = self._tiers.tag_version(tags)
        began = max(self.capture_stamp(), valid_from)
        return await self._computations.once(encoded, recipe, began=began, valid_from=valid_from)

    # --- streams and parts ------------------------------------------------------------------------

    async def put_stream(
        self,
        key: str | Key,
        source: StreamSource,
        *,
        length: int | None = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        context: Context = NO_CONTEXT,
    ) -> StreamResult:
        """Keep the bytes that ``source`` gives, without ever holding them all: the entry is that of
        the same ``bytes`` by ``set``.

        The source is read once, as fast as the slowest tier takes it. Nothing is seen of it before
        it is complete; until then, and if it fails, an older value stays.

        Args:
            key: A string or a ``Key``.
            source: Bytes-like; anything with ``read(n)``, plain or asynchronous (an open file, an
                ``asyncio.StreamReader``); a socket; an iterator or asynchronous iterator of pieces
                of any size. Files and sockets are not closed.
            length: How many bytes will come, if that is known: then chunks are as large as
                ``chunking.max_chunks`` needs them, and a source that ends early is an error.
            ttl: As for ``set``.
            tags: As for ``store``, and so on.
            cost_seconds: See there.
            metadata: See there.
            content_type: See there.
            context: See there.

        Raises:
            TypeError: ``source`` is none of these or gives something else than bytes.
            IncompleteError: It ended before ``length``. (An ``OSError``.)
            ValueError: It gave more than ``length``, or than ``chunking.max_chunks`` hold.
            Exception: Whatever the source raises. Nothing of it is kept.
        """
        encoded = self._calls.encoded(key)
        meta = entry_meta(self._tiers, tags, cost_seconds, metadata, content_type, context)
        return await self._intake.put(
            encoded,
            source,
            length=length,
            ttl_ms=duration_ms(ttl, self.default_ttl_ms),
            meta=meta,
            context=context,
        )

    def tee_stream(
        self,
        key: str | Key,
        source: StreamSource,
        *,
        length: int | None = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        cost_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        finish: bool = False,
        wait_seconds: Duration = 0,
        buffer_mb: float = 32,
        context: Context = NO_CONTEXT,
    ) -> TeeStream:
        """Hand the bytes that ``source`` gives to the caller, and keep them as ``put_stream`` does:
        ``async with manager.tee_stream(key, source) as stream: async for piece in stream: ...``.

        A piece is handed out as soon as the source gives it, at most 1 MiB of it. The tiers take it
        beside that, each at its own pace; one that comes to lie more than ``buffer_mb`` behind is
        given up for this value, so a tier that stalls or fails is no matter of the caller's. After
        the last piece they go on in the background: ``flush`` and ``aclose`` wait for that, and
        ``await stream.stored()`` says what became of it.

        Held at a time: what ``put_stream`` holds, and ``buffer_mb`` once more for each kind of
        container that the tiers take (compressed or not).

        Args:
            key: A string or a ``Key``.
            source: See ``put_stream``. It is read by the caller's pace alone.
            length: How many bytes will come. If others come, the caller gets those, and nothing is
                kept.
            ttl: As for ``set``.
            tags: As for ``store``, and so on.
            cost_seconds: See there.
            metadata: See there.
            content_type: See there.
            finish: Where the caller leaves early or is cancelled, read the rest of the source in
                the background, for the tiers; it has to live on. Otherwise nothing is kept then.
            wait_seconds: How long the caller may wait for tiers that lag, in all, before they are
                given up: for sources that are quicker than disks.
            buffer_mb: See above, in units of 10**6 bytes; at least 4.
            context: As for ``store``.

        Raises:
            TypeError: ``source`` is none of these or gives something else than bytes, when it is
                read.
            ValueError: A bad key, duration, length or ``buffer_mb``.
        """
        encoded = self._calls.encoded(key)
        meta = entry_meta(self._tiers, tags, cost_seconds, metadata, content_type, context)
        return self._intake.tee(
            encoded,
            source,
            length=length,
            ttl_ms=duration_ms(ttl, self.default_ttl_ms),
            meta=meta,
            context=context,
            finish=finish,
            wait_seconds=wait_seconds,
            buffer_mb=buffer_mb,
        )

    def get_stream(
        self, key: str | Key, *, on_missing: Literal["raise", "zero"] = "raise"
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a value in order, in pieces of at most 1 MiB: ``async for piece in
        manager.get_stream(key)``. See ``Reader.stream``, which is for those who want its size or
        its type first.

        A value that was streamed from a remote tier to its end is copied into the local tiers
        afterwards, in the background; ranges are not.

        Args:
            key: A string or a ``Key``.
            on_missing: See ``Reader.stream``.

        Raises:
            NotFoundError: No tier has the value. (A ``KeyError``.)
            ValueError: The value is not bytes; ``open`` reads its parts.
            IncompleteError: It cannot be read to its end, in no tier. (An ``OSError``.)
        """
        return self._readers.stream(key, on_missing=on_missing)

    async def read_range(self, key: str | Key, start: int, stop: int | None = None) -> bytes | None:
        """Bytes ``start`` to ``stop`` of a value that is bytes, half open, as a slice has them:
        what lies beyond the value is not there. ``None`` on a miss.

        Only the chunks that it touches are read; of a remote tier, when ranges follow each other,
        the next one is read ahead. ``open`` reads several ranges of one generation,
        and other parts.

        Raises:
            ValueError: A negative ``start``, a ``stop`` before it, or a value that is not bytes.
        """
        start, stop = half_open(start, stop)
        return await self._readers.read(key, start, stop)

    async def read_range_inclusive(self, key: str | Key, first: int, last: int) -> bytes | None:
        """``read_range`` in the numbers of HTTP: bytes ``first`` to ``last``, both included."""
        if isinstance(last, bool) or not isinstance(last, int):
            raise TypeError(f"last must be the number of a byte, not {type(last).__name__}")
        return await self.read_range(key, first, last + 1)

    def open(
        self, key: str | Key, part: str | None = None
    ) -> AbstractAsyncContextManager[Reader | None]:
        """Open one generation of an entry and read ranges of one of its parts; ``None`` on a miss.
        Nothing is copied into higher tiers.

        Args:
            key: A string or a ``Key``.
            part: Such as ``"frame/17"``, ``"array/0"`` or ``"doc"``; ``None`` is the value's bytes,
                if it is bytes.

        Raises:
            ValueError: The entry has no such part; names those it has.
        """
        if part is not None and not isinstance(part, str):
            raise TypeError(f"part must be the name of a part, not {type(part).__name__}")
        return self._readers.open(key, part)

    # --- many keys --------------------------------------------------------------------------------

    async def clear(self, pattern: str | None = None) -> int:
        """Forget what matches in every tier; the number of entries, summed over the tiers.

        ``None`` and ``"*"`` are everything, ``"a:b:*"`` what lies under these whole segments, no
        star exactly one key.
        """
        self._calls.check_open()
        return await self._forgetting.matching(pattern)

    async def list_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> list[tuple[str, dict[str, Any] | None]]:
        """Every live key that matches, over all tiers, sorted, each with its metadata or
        ``None``.
        """
        self._calls.check_open()
        KeyPattern(pattern)
        found: dict[str, dict[str, Any] | None] = {}
        for listed in reversed(
            await self._tiers.each(
                "list", lambda tier: tier.list_keys(pattern, include_metadata), failed=()
            )
        ):
            found.update(listed)
        return sorted(found.items())

    def iter_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> AsyncGenerator[tuple[str, dict[str, Any] | None], None]:
        """The same one after another, in no order, as the tiers list them: for very many keys, and
        for whoever stops early. Of a tier that fails midway the rest is missing.
        """
        self._calls.check_open()
        KeyPattern(pattern)
        return self._tiers.iter_keys(pattern, include_metadata)

    async def select(
        self,
        *,
        pattern: str | None = None,
        profile: str | None = None,
        artifact: str | None = None,
        source: Source | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        older_than: Duration | None = None,
        min_bytes: int = 0,
        superseded: bool = False,
    ) -> Plan:
        """Choose entries by what they are: a plan to look at, whose ``delete()`` forgets them.

        Every filter that is given must hold. Reads the index of every live entry, or of those of
        one source, never a value.

        Args:
            pattern: Printed keys, as ``clear`` takes it.
            profile: ``""`` is that of no name.
            artifact: Such as ``"descriptions"``.
            source: What the entries were made from. A path or URI means every generation that was
                ever there; a ``SourceRef`` (``video.source``) of an identity by content also what
                was made from the same content elsewhere.
            params: Arguments of an artifact's ``set`` and their values, also those given in its
                ``params``. An artifact may have others.
            tags: All of them must be on the entry.
            older_than: Age of the value.
            min_bytes: As stored.
            superseded: Only what was made from a version of a local file that a newer one has
                replaced, as far as that is sure (``docs/inspect.md``), and is not pinned.

        Raises:
            KeyTypeError: A parameter of a type that keys cannot hold.
            ValueError: A pattern, tag, duration or source that cannot be.
        """
        self._calls.check_open()
        filters: Filters = {
            "pattern": pattern,
            "profile": profile,
            "artifact": artifact,
            "source": source,
            "params": params,
            "tags": tags,
            "older_than": older_than,
            "min_bytes": min_bytes,
        }
        return await select_from(
            self.backends,
            await meant_by(filters),
            self._writing.forgetting,
            self._runs_inline,
            superseded=superseded,
        )

    async def export_archive(
        self, target: ArchiveTarget, plan: Plan | None = None
    ) -> ArchiveReport:
        """Write entries into one plain tar file, with their lives, tags and versions: to carry them
        to another place, or to keep them.

        The same entries make the same bytes. Each is verified first; memory and temporary files
        hold one at a time. A file appears under its name when it is whole.

        Args:
            target: The path of a file, which is replaced, or a binary file that is open for
                writing, such as ``sys.stdout.buffer``.
            plan: Of ``select``: what to write; all live entries if not given. What was replaced
                meanwhile is written as it is now.

        Raises:
            OSError: The target cannot be written. Then an older file of that name is as it was.
            TypeError: ``target`` is no path and no binary file.
            ValueError: There is something else than a file under that name.
        """
        self._calls.check_open()
        if plan is None:
            plan = await self.select()
        elif not isinstance(plan, Plan):
            raise TypeError(f"plan must be what select() answers, not {type(plan).__name__}")
        return await write_archive(self._tiers, plan, target)

    async def import_archive(
        self,
        source: ArchiveSource,
        *,
        on_conflict: Literal["keep", "replace"] = "keep",
        rekey: Mapping[str, str] | None = None,
        max_entry_bytes: int = 64 << 30,
        max_entries: int = 1_000_000,
    ) -> ArchiveReport:
        """Take the entries of an archive into every tier, with the lives, tags and versions that
        they had.

        The archive may come from anybody: no name in it is used as a path, nothing in it is run,
        and each entry is verified whole before any tier shows it. What cannot be taken is counted
        in the report, with the reason, and the rest goes on. That a *value* is true can only be
        known by who made it.

        Args:
            source: The path of an archive, or a binary file that is open for reading, such as
                ``sys.stdin.buffer``.
            on_conflict: What becomes of a key that the cache has already: ``"keep"`` leaves it,
                ``"replace"`` overwrites it.
            rekey: Where sources lie here: paths or URIs there to those here, of a source or of a
                directory with all that is below it; the longest one counts. By default an artifact
                is only found for a video at the same path with the same time. With it the key is
                that of the file that is here, which must have the same size (that it is the same
                one is your word); where there is none yet, of a copy that will keep its time. An
                artifact that was made from another one needs that one in the archive, or the
                default keyframes. The report says from which of these places nothing came.
            max_entry_bytes: A larger entry is refused.
            max_entries: Those beyond are refused.

        Raises:
            OSError: The source cannot be read.
            TypeError: ``source`` is no path and no binary file.
            ValueError: It is no archive of cogcache, or one of a later version; a limit, a place
                or ``on_conflict`` that cannot be.
        """
        self._calls.check_open()
        if on_conflict not in ("keep", "replace"):
            raise ValueError(f"on_conflict must be 'keep' or 'replace', not {shown(on_conflict)}")
        whole(max_entry_bytes, "max_entry_bytes", least=1, most=1 << 62, none=False)
        whole(max_entries, "max_entries", least=1, most=1 << 50, none=False)
        report = await read_archive(
            self._tiers,
            self._writing,
            source,
            on_conflict=on_conflict,
            rekey=None if rekey is None else Rekey(rekey),
            max_entry_bytes=max_entry_bytes,
            max_entries=max_entries,
        )
        self._calls.count("sets", report.entries)
        return report

    async def ls(
        self, *, limit: int | None = 100, pictures: int = PICTURES, **filters: Unpack[Filters]
    ) -> Listing:
        """What is in the cache, the largest first: a list to print, and to see in a notebook.

        Args:
            limit: Entries of the list at most; ``None`` is all.
            pictures: Entries whose first frame is read, and shown small; the rest is read from
                indexes. 0 reads no frame.
            filters: Those of ``select``.

        Raises:
            TypeError, ValueError: See ``select``; a ``limit`` or ``pictures`` that is no number
                from 0 up.
        """
        self._calls.check_open()
        whole(limit, "limit", most=1 << 50)
        whole(pictures, "pictures", most=1000)
        meant = await meant_by(filters)
        plan = await select_from(self.backends, meant, self._writing.forgetting, self._runs_inline)
        return await list_entries(self._tiers, plan, limit, pictures or 0)

    async def select_cold(
        self, *, max_bytes: int | None = None, **filters: Unpack[Filters]
    ) -> Plan:
        """Of what ``select`` chooses, the entries that only tiers slower than the local one have:
        what ``warm`` would bring.

        Args:
            max_bytes: Stored bytes of all of them together; the newest are taken, as many as fit.
                Never more than the local tier can hold beside what is pinned.
            filters: Those of ``select``.

        Raises:
            TypeError, ValueError: See ``select``; no tier is local.
        """
        self._calls.check_open()
        whole(max_bytes, "max_bytes", most=1 << 60)
        meant = await meant_by(filters)
        plan = await select_from(self.backends, meant, self._writing.forgetting, self._runs_inline)
        return await cold_of(self._tiers, plan, max_bytes)

    async def warm(
        self,
        plan: Plan | None = None,
        *,
        progress: Callable[[WarmProgress], object] | None = None,
    ) -> WarmReport:
        """Bring entries from slower tiers (S3, Redis) into the local one, before they are needed.

        With their remaining lives, versions and tags, each verified; several at a time, in bounded
        memory. An entry is there whole or not at all, so cancel it at any time and go on later.
        What the local tier has already is left alone; what is put or deleted here meanwhile counts
        more than a copy.

        Args:
            plan: Of ``select_cold``, which is the default, or of ``select``.
            progress: Called after every entry. What it raises ends the warming.

        Raises:
            ValueError: No tier is local.
        """
        self._calls.check_open()
        plan = await self.select_cold() if plan is None else plan
        return await warm_tiers(self._tiers, self._writing, plan, progress)

    async def verify(
        self,
        *,
        fix: bool = False,
        progress: Callable[[VerifyProgress], object] | None = None,
        **filters: Unpack[Filters],
    ) -> VerifyReport:
        """Read every chunk of every entry in every tier and compare it with its checksum.

        Beside the work of the cache: a few entries at a time, in the threads of the tiers, in
        bounded memory, each bit of damage looked at twice. Cancel it at any time. Expired entries
        are read as well.

        Args:
            fix: Take away what is damaged: the filesystem tier moves it to ``quarantine/`` (or
                deletes it when that is full), other tiers delete it. Without, not a byte is
                changed.
            progress: Called every 8 MiB or 1,000 entries, and at the end of a tier. What it raises
                ends the verification.
            filters: Those of ``select``. An entry that cannot be opened does not tell what it is,
                and is always meant.

        Raises:
            TypeError: A filter that there is not.
            ValueError: See ``select``.
        """
        self._calls.check_open()
        return await verify_tiers(
            self.backends, await meant_by(filters), fix=fix, progress=progress
        )

    async def get_metadata(self, key: str | Key) -> dict[str, Any] | None:
        """What is known of an entry without touching its value; see
        ``backends.base.describe_entry``.
        """
        encoded = self._calls.encoded(key)
        found = None if encoded is None else (await self._tiers.find(encoded))[0]
        return None if found is None else describe_entry(found[0])

    async def pin(self, key: str | Key) -> bool:
        """Keep the entry of ``key`` from being evicted from the filesystem tier, by any process,
        until ``unpin``: for what must be at hand whatever else comes.

        A new value of the key is pinned too. Deletes, invalidated tags and the end of a life take
        it away all the same. At most 1,024 entries may be pinned, and half of ``max_size_mb``.

        Returns:
            Whether the entry is there and pinned.

        Raises:
            PinLimitError: More would be pinned than may be. (A ``ValueError``.)
        """
        encoded = self._calls.encoded(key)
        return encoded is not None and await pins.pin(self._tiers, encoded)

    async def unpin(self, key: str | Key) -> bool:
        """Let the entry of ``key`` be evicted again; whether it was pinned."""
        encoded = self._calls.encoded(key)
        return encoded is not None and await pins.unpin(self._tiers, encoded)

    async def pinned(self) -> list[Key]:
        """The keys of the entries that are pinned, sorted as they print."""
        self._calls.check_open()
        return await pins.pinned(self._tiers)

    async def cleanup_expired(self) -> int:
        """Remove what is past its life from every tier; how many entries."""
        self._calls.check_open()
        return sum(await self._tiers.each("cleanup", lambda tier: tier.cleanup_expired()))

    async def invalidate_tags(self, *tags: str) -> None:
        """Make every entry that carries one of ``tags`` a miss, however many there are, in time
        that does not depend on it.
        """
        names = checked_tags(tags)
        self._calls.check_open()
        # What is captured takes over the versions that any tier knows, perhaps made by a host whose
        # clock is ahead: each tier has to go beyond them all.
        above = self.capture_stamp(names)
        await self._tiers.each("invalidate", lambda tier: tier.invalidate_tags(names, above))

    def capture_stamp(self, tags: Iterable[str] = ()) -> int:
        """Now, in microseconds, as the version of values computed from here on; never below a tag's
        own version.
        """
        return self._tiers.capture_stamp(tags)

    # --- about itself -----------------------------------------------------------------------------

    def explain(self, key: str | Key) -> KeyParts:
        """What a key is made of; asks no tier."""
        return (key if isinstance(key, Key) else Key.parse(key)).explain()

    async def get_stats(self) -> Stats:
        """``{"manager": {hits, misses, sets, deletes, size_bytes, total_files, hit_rate, ...},
        "backends": {name: {...}}}``: a dictionary that prints, and shows in a notebook, as a table.
        """
        if not self.config.enable_stats:
            return Stats(enabled=False, manager=self._calls.summary([]), backends={})
        tiers = await self._tiers.each("get_stats", lambda tier: tier.get_stats(), failed={})
        named = {
            tier.name: {**tier.counters, **stats, **self._writing.describe(tier)}
            for tier, stats in zip(self.backends, tiers, strict=True)
        }
        return Stats(
            manager={
                **self._calls.summary(tiers),
                **self.counters,
                "streams": dict(self._readers.reading.counters),
                "computing": len(self._computations.flights),
            },
            backends=named,
        )

    async def usage(self) -> Usage:
        """What is stored: ``{"entries", "stored_bytes", "raw_bytes", "profiles": {...},
        "artifacts": {...}, "tags": {...}, "ages": {...}}``, each group with the same three numbers.

        The groups of ages are ``"1h"``, ``"1d"``, ``"7d"`` and so on: younger than that, and not in
        the group before; and ``"older"``. Keys of your own count as profile and artifact ``""``. An
        entry with several tags counts under each, one in several tiers in each of them. Opens every
        entry, without reading its value: for a look now and then.
        """
        self._calls.check_open()
        return await usage_of(self.backends)

    async def flush(self, timeout_seconds: float = 60) -> int:
        """Wait until the entries that were put into tiers with ``write_mode="behind"`` have been
        sent, at most so long; also those that other processes, alive or killed, have left waiting
        beside the entries of the filesystem tier, and the streams of this loop that ``tee_stream``
        still stores.

        Returns:
            How many have not: 0 means that every tier has everything.
        """
        self._calls.check_open()
        return await self._writing.flush(duration_seconds(timeout_seconds, "timeout_seconds"))

    def on_fault(self, hook: Callable[[Fault], object]) -> None:
        """Call ``hook`` with every fault of a tier, such as to feed a metric or an alarm.

        It is called where the fault was noticed, in whatever thread or task that is, and must
        return soon. What it raises is logged and goes no further.
        """
        for tier in self.backends:
            tier.fault_hooks.append(hook)

    async def aclose(self, timeout: float = 10) -> None:
        """Finish what is under way (at most ``timeout`` seconds) and close every tier. May be
        called twice.
        """
        seconds = duration_seconds(timeout, "timeout")
        self._calls.closed = True
        self._readers.reading.close()
        await self._tiers.aclose(seconds)

    async def __aenter__(self) -> CacheManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        return type(self), (self.config,)

    def __repr__(self) -> str:
        tiers = ", ".join(tier.name for tier in self.backends)
        stats = self._calls.stats
        return f"<CacheManager {tiers}: {stats['hits']} hits, {stats['misses']} misses>"

    def _runs_inline(self) -> bool:
        return self._tiers.runs_inline()
