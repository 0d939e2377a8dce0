"""The contract of a tier, and what every tier gets for free on top of it.

A tier keeps *entries*: finished containers, found by the canonical encoding of their key. Five
methods are the whole of what a new one must do (``read``, ``write``, ``discard``, ``scan``,
``aclose``); values, lives, tags, patterns, listing and counting are built here from those.
``cogcache.testing.BackendConformance`` says whether a tier keeps the contract.
"""

from __future__ import annotations

import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from cogcache import _bridge, _core
from cogcache._offload import beside
from cogcache._types import Duration, Fault, duration_ms
from cogcache.backends.clocks import ClockDifference
from cogcache.backends.faults import NotAskedError
from cogcache.backends.places import Place, Sieve
from cogcache.backends.receiving import BufferedReceiver, Receiver, Unfinished
from cogcache.config import Compression
from cogcache.exceptions import ConfigError
from cogcache.hostlock import HostLocks
from cogcache.keys import Key, key_bytes

logger = logging.getLogger("cogcache")

PRODUCER = "cogcache"
COPY_BYTES = 8 << 20  # of one step of copying a container
AUTO_COMPRESS_FROM = 2 << 20  # bytes of a document; docs/decisions/0008 has the measurements
RECEIVE_BYTES = 32 << 20  # that a tier without a receiver of its own takes of a stream
SLOW: Any = type("_Slow", (), {"__repr__": lambda self: "<slow>"})()
"""Stands for a value that is not to be had without waiting."""

META_CREATED, META_COST, META_TAGS, META_CONTENT_TYPE, META_USER = 1, 2, 3, 4, 5
META_PRODUCER, META_ARTIFACT, META_CONTENT_DIGEST, META_SOURCE = 6, 7, 8, 9
META_STALE_IF_ERROR, META_PARTIAL, META_FULL_PARAMS, META_SOURCE_URI = 10, 11, 12, 13

_META_NAMES = {
    META_COST: "cost_ms",
    META_CONTENT_TYPE: "content_type",
    META_USER: "user",
    META_PRODUCER: "producer",
    META_ARTIFACT: "artifact",
    META_CONTENT_DIGEST: "content_digest",
    META_SOURCE: "source",
    META_STALE_IF_ERROR: "stale_if_error_ms",
    META_PARTIAL: "partial",
    META_FULL_PARAMS: "full_params",
    META_SOURCE_URI: "source_uri",
}


DraftKind = tuple[int | None, bool, bool]


class CacheBackend(ABC):
    """One tier of a cache.

    Entry level (what a tier implements): every ``key`` is the canonical encoding, as ``Entry.key``
    has it. Value level (what it inherits): every key is a string or a ``Key``.

    Attributes:
        runs_inline: Its coroutines never suspend while ``cogcache._inline`` is on, so ``sync``
            needs no loop.
        cuts_values: It keeps large entries in pieces, since one of its own values has a limit.
        keeps_deadlines: It keeps ``timeout_seconds`` itself; for others the manager does.
        remembers_tags: What ``invalidate_tags`` says outlives the process, for all who use the
            tier.
        CONFIG_CLASS: The dataclass of its configuration; the registry refuses a tier without one.
        config: As given.
        name: Its name in statistics; the manager makes it unique.
        priority: Lower numbers are asked first.
        is_remote: Its entries lie behind a network, where other hosts change them too;
            ``enable_compression="auto"`` then compresses every document of the whole cache.
        fetch_at_once: Keys that ``fetch_many`` takes with one call; 1: it is not called. Who
            overrides ``fetch`` of a tier overrides ``fetch_many`` too, or sets this to 1.
        enable_compression: Whether documents and blobs are compressed on the way in, see
            ``CacheConfig``; all entries stay readable.
        compress_arrays: Whether arrays are compressed too.
        beside_remote: Whether this tier or another of its cache is remote; the manager sets it.
        keeps_lives: Whether a life given to a value ends here.
        host_locks: By which the processes of a host compute a missing value once, or ``None``.
    """

    CONFIG_CLASS: ClassVar[type[Any] | None] = None
    runs_inline: ClassVar[bool] = False
    is_remote: ClassVar[bool] = False
    cuts_values: ClassVar[bool] = False
    keeps_deadlines: ClassVar[bool] = False
    remembers_tags: ClassVar[bool] = False
    fetch_at_once: ClassVar[int] = 1

    def __init__(self, config: Any) -> None:
        expected = self.CONFIG_CLASS
        if expected is not None and not isinstance(config, expected):
            raise ConfigError(
                f"{type(self).__name__} is configured by {expected.__name__}, "
                f"not {type(config).__name__}"
            )
        self.config = config
        self.name: str = type(self).__name__
        self.priority: int = getattr(config, "priority", 0)
        wanted = getattr(config, "enable_compression", None)
        self.enable_compression: Compression = "auto" if wanted is None else wanted
        self.compress_arrays: bool = getattr(config, "compress_arrays", False)
        self.beside_remote: bool = self.is_remote
        self.keeps_lives = True
        self.host_locks: HostLocks | None = None
        self._clock_offset_ms = 0
        self._tag_versions: dict[str, int] = {}
        self._refusing: str | None = None  # why, when last said to keep nothing
        self._fault: str | None = None  # what failed when the tier was last said to be down
        self.last_fault: Fault | None = None
        self.down_since: float | None = None  # Unix seconds
        self.fault_hooks: list[Callable[[Fault], object]] = []
        self._hook_failed = False
        self.counters: dict[str, int] = dict.fromkeys(
            ("hits", "misses", "sets", "deletes", "evictions", "damaged", "errors", "refused"), 0
        )

    @property
    def draft_kind(self) -> DraftKind:
        """Tiers of the same kind make the same draft of a value: what of it is compressed, and
        whether lives are kept.
        """
        return self.compress_from, self.compress_arrays, self.keeps_lives

    @property
    def compress_from(self) -> int | None:
        """Bytes from which documents and blobs are compressed; ``None`` is never."""
        if self.enable_compression == "auto":
            return 0 if self.beside_remote else AUTO_COMPRESS_FROM
        return 0 if self.enable_compression else None

    @property
    def writer_kind(self) -> tuple[bool, bool]:
        """Tiers of the same kind make the same entry of a stream."""
        return self.compress_from is not None, self.draft_kind[-1]

    # --- entry level: what a tier must do ---------------------------------------------------------

    @abstractmethod
    async def read(self, key: bytes) -> _core.Entry | None:
        """The entry of this key, or ``None``. It may be expired or invalidated: ``fetch`` looks at
        that.

        Raises:
            _core.DamagedError: The bytes are not whole; ``fetch`` then discards them.
            OSError: The tier cannot answer now; ``fetch`` counts that apart from a miss.
        """

    @abstractmethod
    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        """Keep an entry under ``what.key``, replacing an older one whole; ``None``, or one word for
        why not.

        Args:
            what: A value to be composed or a finished image.
            source: Hash of the source's URI, 0 if there is none; helps to find the entries of one
                source.
            kind: Hash of profile and artifact.
        """

    @abstractmethod
    async def discard(self, key: bytes) -> bool:
        """Forget the entry of this key; whether there was one."""

    @abstractmethod
    def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        """Every entry, in no order, expired ones too; with ``source``, at least all of that
        source.
        """

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything; may be called twice."""

    # --- entry level: what a tier may do better ---------------------------------------------------

    def get_inline(self, key: bytes, miss: object, slow: object) -> Any:
        """A value without waiting: the value, ``miss``, or ``slow`` where only ``fetch`` can
        tell.
        """
        return slow

    def frame_now(self, key: bytes, token: int, name: str, slow: object) -> Any:
        """The bytes of one frame of the write with this token, without waiting; ``None`` where the
        key has another live write by now, ``slow`` where only ``fetch`` can tell. Counts its hits.
        """
        return slow

    def fetch_now(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str | None:
        """What ``fetch`` answers, where that is at hand without waiting; else ``None``."""
        return None

    async def fetch(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str:
        """The live entry of this key, or one word for why there is none. Never raises for a fault
        of the tier.

        With ``index_only`` the value's bytes need not be brought along: metadata, existence,
        reading by part.
        """
        try:
            entry = await self.read(key)
        except _core.DamagedError as error:
            self.counters["damaged"] += 1
            logger.warning("%s: set aside a damaged entry: %s", self.name, error)
            await self._forget_damaged(key)
            return "damaged"
        except _core.ForeignError:
            return "absent"
        except OSError as error:
            self.note_fault("read", error)
            return "unavailable"
        self.note_works("read")
        return "absent" if entry is None else self._why_dead(entry) or entry

    def keep_records(self, store: _core.Store) -> None:
        """The store of a filesystem tier of the same cache: a place for what has to outlive the
        process.
        """

    async def receive(
        self, key: bytes, token: int, *, source: int = 0, kind: int = 0
    ) -> Receiver | str:
        """Begin to take an entry that is still being made (by ``writer``, which knows the
        ``token``), or one word for why not. Unless a tier can do better, it takes up to 32 MiB and
        writes them at the end.
        """
        write = functools.partial(self.write, source=source, kind=kind)
        return BufferedReceiver(write, key, RECEIVE_BYTES)

    async def unfinished(self, key: bytes) -> Unfinished | None:
        """What a put of this key that broke off has left, which ``receive`` then gets as
        ``unfinished``; ``None`` where there is nothing to go on with.
        """
        return None

    async def fetch_many(self, keys: Sequence[bytes]) -> list[_core.Entry | str]:
        """``fetch`` of each; what ``fetch`` answers, in their order. Called with at most
        ``fetch_at_once`` keys, and not at all by a tier that leaves that at 1.
        """
        return [await self.fetch(key) for key in keys]

    async def fetch_parts(self, key: bytes) -> _core.Entry | str:
        """``fetch`` of an entry that is read piece by piece, however large it is: it holds no more
        memory than what is being read.
        """
        return await self.fetch(key, index_only=True)

    async def write_many(self, whats: Sequence[_core.Draft | _core.Image]) -> list[str | None]:
        """``write`` of each; what ``write`` answers, in their order."""
        return [await self.write(what) for what in whats]

    def load_now(self, entry: _core.Entry, slow: object, **options: Any) -> Any:
        """The value of a fetched entry, where decoding it takes little and waits for nothing; else
        ``slow``.
        """
        return entry.value_now(slow, **options) if entry.in_memory else slow

    async def load(self, entry: _core.Entry, **options: Any) -> Any:
        """Decode the value of a fetched entry for which ``load_now`` was ``slow``, in the pool's
        threads.
        """
        return await _bridge.run(entry, "value", **options)

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of one part, every chunk that they touch verified."""
        data: bytes = await _bridge.run(entry, "read", part, start, stop)
        return data

    async def value_type(self, entry: _core.Entry) -> str:
        """The type of the value of a fetched entry, such as ``"bytes"``, without its bytes."""
        return entry.value_type()

    async def copy_to(self, entry: _core.Entry, sink: ContainerSink) -> str | None:
        """Write the container of a fetched entry into ``sink``, a piece at a time, whatever its
        size: every byte that ``sink.written`` does not have yet. Publishing it is the caller's.

        Returns:
            ``None`` when all of it was written, or one word for why not; then ``sink`` keeps what
            it has, and a later call goes on from there.
        """
        for start, stop in missing_ranges(sink.written, entry.length, COPY_BYTES):
            data = await _bridge.run(entry, "read_container", start, stop - start)
            word = await write_piece(sink, start, data)
            if word is not None:
                return word
        return None

    def get_many_inline(
        self, keys: Sequence[bytes], miss: object, slow: object, start: int = 0
    ) -> list[Any]:
        """``get_inline`` of many keys in one call, in their order: at least that at ``start``, and
        as many more as fit into a short turn of the loop.
        """
        return [self.get_inline(key, miss, slow) for key in keys[start:]]

    async def invalidate_tags(self, tags: Iterable[str], above: int = 0) -> None:
        """Make every entry captured before now that carries one of these tags a miss.

        Args:
            tags: Names.
            above: A version, in microseconds: entries that were captured up to it are meant too. A
                host whose clock is ahead may have made it, in another tier.
        """
        # Stamps are taken in whole milliseconds: the next one is later than any that was.
        next_us = max((self.now_ms() + 1) * 1000, above + 1)
        for tag in tags:
            self._tag_versions[tag] = max(next_us, self._tag_versions.get(tag, 0) + 1)

    def tag_version(self, tag: str) -> int:
        """The version (microseconds) that an entry with this tag must have been captured at or
        after.
        """
        return self._tag_versions.get(tag, 0)

    async def refresh(self, key: bytes, ttl_ms: int | None) -> bool:
        """Begin the life of an entry anew; never shortens it. False when the tier has no live entry
        or cannot.
        """
        return False

    async def pin(self, key: bytes) -> bool:
        """Keep the entry of this key from being evicted; whether this tier has one and can.

        Raises:
            PinLimitError: More would be pinned than may be.
        """
        return False

    async def unpin(self, key: bytes) -> bool:
        """Let the entry of this key be evicted again; whether it was pinned."""
        return False

    async def pinned(self) -> list[bytes]:
        """The keys of pinned entries that are here."""
        return []

    async def last_uses(self, source: int = 0) -> Mapping[bytes, int]:
        """When entries were last used by anybody, to about a minute, in Unix milliseconds by the
        digest of their key; those of which the tier knows. With ``source``, at least all of that
        source.
        """
        return {}

    async def usage(self) -> dict[str, Any]:
        """What the tier holds now: ``size_bytes``, ``total_files`` and whatever else it knows."""
        size = files = 0
        async for entry in self.scan():
            size += entry.disk_bytes
            files += 1
        return {"size_bytes": size, "total_files": files}

    # --- entry level: looking for damage ----------------------------------------------------------

    async def places(self, source: int = 0) -> AsyncIterator[Place]:
        """Every place of an entry, damaged ones too, as far as the tier can see them. Changes
        nothing. With ``source``, at least all of that source.
        """
        async for entry in self.scan(source):
            yield Place(str(Key.from_encoded(entry.key)), entry)

    def sieve(self, source: int, is_meant: Callable[[_core.Entry], bool] | None) -> Sieve | None:
        """What reads many entries with one call, for a tier that can; it stands for ``places``.

        Args:
            source: At least all of that source are read; 0: of any.
            is_meant: Which of them are; ``None``: all. Entries that cannot be opened always are.
        """
        return None

    async def place_again(self, place: Place) -> Place | None:
        """What is at a place now, read anew; ``None`` where that is nothing, or another entry."""
        if place.entry is None:
            return None
        try:
            entry = await self.read(place.entry.key)
        except _core.DamagedError as error:
            return Place(place.name, None, error=str(error), is_damaged=True)
        return (
            None if entry is None or entry.token != place.entry.token else Place(place.name, entry)
        )

    async def damage_in(
        self, entry: _core.Entry, first: int, stop: int
    ) -> list[tuple[int | None, int | None]]:
        """See ``_core.Entry.damage``; of an entry of ``places``.

        Raises:
            _core.DamagedError: It is damaged in a way that has no place.
            OSError: Its bytes are no longer there, or the tier cannot answer.
        """
        found: list[tuple[int | None, int | None]] = await _bridge.run(entry, "damage", first, stop)
        return found

    async def remove_place(self, place: Place) -> bool:
        """Take away what is at a place, if it is damaged and still the same; whether it is gone."""
        return place.entry is not None and await self.discard_entry(place.entry)

    # --- the clock --------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Unix milliseconds by this tier's clock."""
        return time.time_ns() // 1_000_000 + self._clock_offset_ms

    def set_clock_offset(self, offset_ms: int) -> None:
        """Shift the clock of this tier, for tests of lives."""
        self._clock_offset_ms = offset_ms

    async def clock_difference(self) -> ClockDifference | None:
        """This tier's clock beside that of its server; ``None`` where it has none.

        Raises:
            OSError: The server does not tell.
        """
        return None

    # --- value level ------------------------------------------------------------------------------

    async def get(self, key: str | Key, default: Any = None) -> Any:
        """The value of ``key``, or ``default``. Every hit is a fresh decode."""
        found = await self.fetch(key_bytes(key))
        if isinstance(found, str):
            self.counters["misses"] += 1
            return default
        try:
            value = self.load_now(found, SLOW)
            if value is SLOW:
                value = await self.load(found)
        except (_core.DamagedError, _core.UnsupportedError) as error:
            await self.value_failed(found, error)
            self.counters["misses"] += 1
            return default
        self.counters["hits"] += 1
        return value

    async def set(self, key: str | Key, value: Any, ttl: Duration | None = None) -> bool:
        """Keep ``value``; ``ttl`` ``None`` or 0 means that it never expires.

        Raises:
            ValueTypeError: The value, or something inside it, cannot be stored; names the path.
        """
        draft = self.draft(key_bytes(key), value, ttl_ms=duration_ms(ttl, None))
        return await self.put(draft)

    async def delete(self, key: str | Key) -> bool:
        """Forget ``key``; whether there was an entry."""
        removed = await self.discard(key_bytes(key))
        self.counters["deletes"] += removed
        return removed

    async def exists(self, key: str | Key) -> bool:
        """Whether a live entry of ``key`` is here."""
        return not isinstance(await self.fetch(key_bytes(key), index_only=True), str)

    async def put(self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0) -> bool:
        """``write`` with counting; True when it was stored."""
        reason = await self.write(what, source=source, kind=kind)
        self.counters["sets" if reason is None else "refused"] += 1
        return reason is None

    def draft(
        self,
        key: bytes,
        value: Any,
        *,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any] | None = None,
    ) -> _core.Draft:
        """Make a draft of ``value`` with this tier's clock and compression."""
        now = self.now_ms()
        compress_from = self.compress_from
        return _core.Draft(
            value,
            key,
            meta={META_CREATED: now, META_PRODUCER: PRODUCER, **(meta or {})},
            refreshed_ms=now,
            ttl_ms=ttl_ms if self.keeps_lives else None,
            compress=compress_from is not None,
            compress_from=compress_from or 0,
            compress_arrays=self.compress_arrays,
        )

    def entry_meta(self, meta: Mapping[int | str, Any]) -> dict[int | str, Any]:
        """``meta`` with what every entry carries."""
        return {META_CREATED: self.now_ms(), META_PRODUCER: PRODUCER, **meta}

    def writer(
        self,
        key: bytes,
        *,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any] | None = None,
        **options: Any,
    ) -> _core.EntryWriter:
        """``draft`` for a value that arrives as a stream; ``options`` are those of
        ``_core.EntryWriter``.
        """
        return _core.EntryWriter(
            key,
            meta=self.entry_meta(meta or {}),
            refreshed_ms=self.now_ms(),
            ttl_ms=ttl_ms if self.keeps_lives else None,
            compress=self.compress_from is not None,
            **options,
        )

    async def clear(self, pattern: str | None = None) -> int:
        """Forget what matches and say how many that were.

        ``None`` and ``"*"`` are everything; ``"a:b:*"`` is whatever lies under the whole segments
        ``a`` and ``b``; a pattern without ``*`` is exactly one key.
        """
        matcher = KeyPattern(pattern)
        if matcher.exact is not None:
            return int(await self.delete(matcher.exact))
        removed = 0
        async for entry in self.scan():
            if matcher.matches(str(Key.from_encoded(entry.key))):
                removed += await self.discard_entry(entry)
        self.counters["deletes"] += removed
        return removed

    async def discard_entry(self, entry: _core.Entry) -> bool:
        """Forget exactly this generation of an entry."""
        return await self.discard_write(entry.key, entry.token)

    async def discard_write(self, key: bytes, token: int) -> bool:
        """Forget what the write with this token left under ``key``; a later one stays. A tier that
        can do that in one step overrides it.
        """
        entry = await self.read(key)
        return entry is not None and entry.token == token and await self.discard(key)

    async def cleanup_expired(self) -> int:
        """Remove entries whose life is over or whose tags were invalidated; how many."""
        removed = 0
        async for entry in self.scan():
            if self._why_dead(entry) is not None:
                removed += await self.discard_entry(entry)
        return removed

    async def get_metadata(self, key: str | Key) -> dict[str, Any] | None:
        """What is known of an entry without touching its value, or ``None``. See
        ``describe_entry``.
        """
        found = await self.fetch(key_bytes(key), index_only=True)
        return None if isinstance(found, str) else describe_entry(found)

    async def iter_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
        """The keys of live entries that match, one after another; see ``clear`` for patterns."""
        matcher = KeyPattern(pattern)
        async for entry in self.scan():
            if self._why_dead(entry) is None and matcher.matches(
                text := str(Key.from_encoded(entry.key))
            ):
                yield text, describe_entry(entry) if include_metadata else None

    async def list_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> list[tuple[str, dict[str, Any] | None]]:
        """The keys of live entries that match, sorted, each with its metadata or ``None``."""
        found = [pair async for pair in self.iter_keys(pattern, include_metadata)]
        return sorted(found, key=lambda pair: pair[0])

    async def get_stats(self) -> dict[str, Any]:
        """Counters of this process and what the tier holds now."""
        return {**self.counters, **await self.usage()}

    def note_fault(self, what: str, error: Exception) -> None:
        """Count a fault, and say so when the tier goes down, not at every call. That it was not
        asked at all follows from what was told before.
        """
        self.counters["errors"] += 1
        if self._fault is None:
            self._fault = what
            self.down_since = time.time()
            logger.warning(
                "%s: %s failed, going on without it: %s: %s",
                self.name,
                what,
                type(error).__name__,
                error,
            )
        elif isinstance(error, NotAskedError):
            return
        self._tell_fault(what, error)

    def _tell_fault(self, what: str, error: Exception | None) -> None:
        """Remember a fault for ``get_stats`` and tell those who asked to be told."""
        text = "refused" if error is None else f"{type(error).__name__}: {error}"
        self.last_fault = Fault(self.name, what, text, time.time())
        for hook in self.fault_hooks:
            try:
                hook(self.last_fault)
            except Exception:
                if not self._hook_failed:
                    logger.exception("%s: a hook for faults failed itself", self.name)
                self._hook_failed = True

    def note_written(self, reason: str | None) -> None:
        """Say when a tier begins to refuse every write for a fault of its own (``read-only``,
        ``io-error``), and when it takes one again; not at every call.
        """
        if reason in ("read-only", "io-error") and self._refusing is None:
            self._refusing = reason
            logger.warning("%s: keeps nothing for now: %s", self.name, reason)
        elif reason is None and self._refusing is not None:
            self._refusing = None
            logger.warning("%s: keeps values again", self.name)

    def note_works(self, what: str) -> None:
        """Say that a tier is back, once that works again which brought it down."""
        if self._fault == what:
            self._fault = None
            self.down_since = None
            logger.warning("%s: works again", self.name)

    # --- shared by the tiers ----------------------------------------------------------------------

    def _why_dead(self, entry: _core.Entry) -> str | None:
        if entry.is_expired(self.now_ms()):
            return "expired"
        for name, version in entry.meta.get(META_TAGS) or ():
            if version < self.tag_version(name):
                return "tag-invalidated"
        return None

    async def value_failed(self, entry: _core.Entry, error: Exception) -> str:
        """A value could not be decoded: count it, forget it if it is damaged, and give the reason
        word.
        """
        if isinstance(error, _core.UnsupportedError):
            return str(error.args[0]) if error.args else "unsupported"
        self.counters["damaged"] += 1
        logger.warning("%s: set aside a damaged entry: %s", self.name, error)
        await self._forget_damaged(entry.key)
        return "damaged"

    async def _forget_damaged(self, key: bytes) -> None:
        try:
            await self.discard(key)
        except OSError as error:
            logger.warning("%s: cannot remove a damaged entry: %s", self.name, error)


class ContainerSink(Protocol):
    """What takes a container in pieces, in any order and from several threads, such as
    ``_core.Incoming``.
    """

    @property
    def written(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) that it has, in order."""
        ...

    def write_at(self, offset: int, data: Any, /) -> str | None:
        """Take bytes; ``None``, or one word for why not."""
        ...


async def write_piece(sink: ContainerSink, offset: int, data: bytes) -> str | None:
    """``sink.write_at`` beside the loop, which a disk would hold up."""
    if isinstance(sink, _core.Incoming):
        word: str | None = await _bridge.run(sink, "write_at", offset, data)
        return word
    return await beside(lambda beat: sink.write_at(offset, data))


def missing_ranges(
    written: Iterable[tuple[int, int]], length: int, most: int
) -> Iterator[tuple[int, int]]:
    """What ``written`` lacks of the bytes 0 to ``length``, in ranges of at most ``most`` bytes."""
    at = 0
    for start, stop in [*written, (length, length)]:
        for begin in range(at, min(start, length), most):
            yield begin, min(begin + most, start, length)
        at = max(at, stop)


class KeyPattern:
    """Which printed keys a ``clear`` or a listing means; compared segment by segment between the
    colons.
    """

    def __init__(self, pattern: str | None) -> None:
        if pattern is not None and not isinstance(pattern, str):
            raise TypeError(f"pattern must be a string or None, not {type(pattern).__name__}")
        if pattern == "":
            raise ValueError("pattern must not be empty; use None or '*' for everything")
        self.exact: str | None = None
        self.everything = pattern is None or pattern == "*"
        self._open_end = self._more = False
        self._segments: list[str] = []
        if pattern is None or self.everything:
            return
        if "*" not in pattern:
            self.exact = pattern
            return
        body = pattern[:-1] if pattern.endswith("*") else pattern
        self._open_end = pattern.endswith("*")
        self._more = pattern.endswith(":*")  # what lies under the segments, not they themselves
        self._segments = body.removesuffix(":").split(":")
        if body.endswith("*") or any("*" in s and s != "*" for s in self._segments):
            raise ValueError(
                f"pattern {pattern!r}: '*' stands for whole segments between colons, "
                f"as in 'a:*' or 'a:*:c'; "
                "write %2A for a literal star"
            )

    def fixed_segments(self) -> list[str]:
        """The segments that every meant key begins with: those before the first star."""
        if self.exact is not None:
            return self.exact.split(":")
        stars = [at for at, segment in enumerate(self._segments) if segment == "*"]
        return self._segments[: stars[0]] if stars else list(self._segments)

    def judge_start(self, known: Sequence[str]) -> bool | None:
        """Whether keys are meant that begin with these whole segments and go on unknown: ``None``
        where it depends on how.
        """
        if self.everything:
            return True
        wanted = self.exact.split(":") if self.exact is not None else self._segments
        if any(want not in ("*", got) for want, got in zip(wanted, known, strict=False)):
            return False
        return True if self._open_end and len(wanted) + self._more <= len(known) else None

    def matches(self, text: str) -> bool:
        """Whether a printed key is meant."""
        if self.everything:
            return True
        if self.exact is not None:
            return text == self.exact
        segments = text.split(":")
        least = len(self._segments) + self._more
        if len(segments) < least or (not self._open_end and len(segments) > least):
            return False
        return all(want in ("*", got) for want, got in zip(self._segments, segments, strict=False))


def tags_of(entry: _core.Entry) -> list[str]:
    """The names of the tags of an entry, those of the cache's own among them."""
    return [name for name, _ in entry.meta.get(META_TAGS) or ()]


def describe_entry(entry: _core.Entry) -> dict[str, Any]:
    """What an entry says of itself, as plain data.

    ``key``, ``created_at`` and ``expires_at`` (Unix seconds, ``None`` = never), ``ttl`` (seconds),
    ``size_bytes`` (as stored), ``raw_bytes``, ``format``, ``tags``, ``parts``, the known fields
    that were set, and under ``extra`` every field that a newer version may have written.
    """
    meta = entry.meta
    parts = entry.parts()
    described: dict[str, Any] = {
        "key": str(Key.from_encoded(entry.key)),
        "created_at": entry.created_ms / 1000,
        "expires_at": None if entry.expires_ms is None else entry.expires_ms / 1000,
        "ttl": None if entry.ttl_ms is None else entry.ttl_ms / 1000,
        "size_bytes": entry.length,
        "raw_bytes": sum(part.raw_size for part in parts),
        "format": "cogcache",
        "tags": tags_of(entry),
        "parts": len(parts),
    }
    for number, name in _META_NAMES.items():
        if number in meta:
            described[name] = meta[number]
    extra = {
        k: v for k, v in meta.items() if k not in _META_NAMES and k not in (META_CREATED, META_TAGS)
    }
    if extra:
        described["extra"] = extra
    return described
