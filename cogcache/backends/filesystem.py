"""The tier of files under one directory: the C store, awaited.

A warm hit is answered in the awaiting task, without a thread and without ever blocking. Whatever
might block (a page that is not in memory, a large value, every write) becomes a job of the C pool,
which works without the GIL.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from cogcache import _bridge, _core
from cogcache._inline import is_inline
from cogcache._offload import beside, offload
from cogcache.backends._missing import MissingStore
from cogcache.backends.base import CacheBackend, KeyPattern
from cogcache.backends.pins import Pins
from cogcache.backends.places import Place
from cogcache.backends.receiving import Receiver
from cogcache.backends.sifting import FileSieve
from cogcache.config import FilesystemCacheConfig, StructuredFilesystemConfig
from cogcache.exceptions import ClosedError, ConfigError
from cogcache.hostlock import HostLocks
from cogcache.keys import Key

logger = logging.getLogger("cogcache")

SWEEP_SECONDS: Final = 60.0  # between two sweeps that this process starts
CLOSE_SECONDS: Final = 10.0  # how long aclose() waits for what is under way
_SHARDS: Final = 256
_BATCH: Final = 64  # entries that a listing opens at once: each may hold a descriptor
_PEEK: Final = _core.GET_INDEX_ONLY | _core.GET_ANY_AGE | _core.GET_NO_TOUCH
_WATCH: Final = _PEEK | _core.GET_NO_MAP | _core.GET_LEAVE

_MISNAMED: Final = "it lies under the name of another key, where nothing finds it"


class FilesystemCacheBackend(CacheBackend):
    """Entries as files of one directory, which any number of processes share.

    Usable from several event loops and threads, safe across ``fork``, and pickled by its
    configuration. The size limit is hard, evictions happen in the puts that need room, and lost or
    damaged bookkeeping never costs a value.

    Raises:
        ConfigError: The directory cannot be used as configured; says why and what would help.
        OSError: The system refused to open it.
    """

    CONFIG_CLASS: ClassVar[type[Any] | None] = FilesystemCacheConfig
    runs_inline: ClassVar[bool] = True
    remembers_tags: ClassVar[bool] = True
    fetch_at_once: ClassVar[int] = 16  # by one thread of the pool: each may wait for the disk

    def __init__(self, config: FilesystemCacheConfig) -> None:
        super().__init__(config)
        self._store: _core.Store | MissingStore = open_store(config)
        self.keeps_lives = config.enable_ttl
        self._next_sweep = 0.0 if config.cleanup_on_startup else time.monotonic() + SWEEP_SECONDS
        self._unavailable = False
        if config.single_flight == "host":
            folder = os.path.join(self._store.root, "locks")
            self.host_locks = HostLocks(folder, group=config.shared == "group")
        self._adopt(self._store)

    @property
    def store(self) -> _core.Store | MissingStore:
        """The C store behind it, or what stands in for one while the directory is not there."""
        return self._store

    @property
    def root(self) -> str:
        """The directory that holds everything: ``<base_path>/v1``, absolute."""
        return self._store.root

    def _adopt(self, store: _core.Store | MissingStore) -> None:
        self._store = store
        if self.keeps_lives:
            self.get_inline = store.get_value  # type: ignore[assignment, method-assign]

    async def _look_again(self, missing: MissingStore) -> None:
        """Is the directory there by now? Asked every few seconds by whoever comes along."""
        if missing.closed or not missing.is_due():
            return
        missing.put_off()
        found = (
            find_store(self.config)
            if is_inline()
            else await asyncio.to_thread(find_store, self.config)
        )
        if found is None:
            return
        if missing.closed or self._store is not missing:  # somebody was faster
            found.close()
            return
        self._adopt(found)
        logger.info("%s: %s: is there now", self.name, self.root)

    # --- reading ----------------------------------------------------------------------------------

    def get_inline(self, key: bytes, miss: object, slow: object) -> Any:
        value = self._store.get_value(key, miss, slow)
        return slow if value is miss and not self.keeps_lives else value

    def get_many_inline(
        self, keys: Sequence[bytes], miss: object, slow: object, start: int = 0
    ) -> list[Any]:
        """See ``CacheBackend``: as many as about 200 us allow."""
        values = self._store.get_values(keys, miss, slow, start)
        return values if self.keeps_lives else [slow if v is miss else v for v in values]

    def frame_now(self, key: bytes, token: int, name: str, slow: object) -> Any:
        return self._store.get_frame(key, token, name, slow) if self.keeps_lives else slow

    def fetch_now(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str | None:
        if not self.keeps_lives or isinstance(self._store, MissingStore):
            return None
        found = self._store.fetch_now(key, _core.GET_INDEX_ONLY if index_only else 0)
        return None if found is None else self._noted(found)

    async def fetch(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str:
        return await self._fetch_live(key, _core.GET_INDEX_ONLY if index_only else 0)

    async def fetch_parts(self, key: bytes) -> _core.Entry | str:
        return await self._fetch_live(key, _core.GET_INDEX_ONLY | _core.GET_NO_MAP)

    async def fetch_many(self, keys: Sequence[bytes]) -> list[_core.Entry | str]:
        if isinstance(self._store, MissingStore):
            await self._look_again(self._store)
        flags = 0 if self.keeps_lives else _core.GET_ANY_AGE
        try:
            found = await _bridge.run(self._store, "fetch_many", keys, flags)
        except OSError as error:
            return [self._note_unavailable(error) for _ in keys]
        return [_if_live(self._noted(one)) for one in found]

    async def _fetch_live(self, key: bytes, flags: int) -> _core.Entry | str:
        if not self.keeps_lives:
            flags |= _core.GET_ANY_AGE
        return _if_live(await self._fetch(key, flags))

    async def _fetch(self, key: bytes, flags: int) -> _core.Entry | str:
        if isinstance(self._store, MissingStore):
            await self._look_again(self._store)
        found = self._store.fetch_now(key, flags)
        if found is None:
            try:
                found = await _bridge.run(self._store, "fetch", key, flags)
            except OSError as error:  # no descriptor or no thread to ask with
                return self._note_unavailable(error)
        assert found is not None
        return self._noted(found)

    def _noted(self, found: _core.Entry | str) -> _core.Entry | str:
        """What the store answered, with what it says of the tier's health counted and logged."""
        if found == "unavailable":
            return self._note_unavailable(None)
        if found == "damaged":
            self.counters["damaged"] += 1
        if self._unavailable:
            self._unavailable = False
            self.down_since = None
            logger.warning("%s: %s: works again", self.name, self.root)
        return found

    async def read(self, key: bytes) -> _core.Entry | None:
        found = await self._fetch(key, _core.GET_ANY_AGE)
        if found == "unavailable":
            raise OSError(f"{self.root} cannot be read now")
        return None if isinstance(found, str) else found

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        async for batch in self._batches(source):
            for entry in batch:
                yield entry

    async def _batches(self, source: int = 0) -> AsyncIterator[list[_core.Entry]]:
        """Every entry, opened a few at a time; those of one shard as the directory had them."""
        for shard in range(_SHARDS):
            listed = await _bridge.run(self._store, "list_shard", shard, source)
            for start in range(0, len(listed), _BATCH):
                found = await _bridge.run(
                    self._store,
                    "fetch_digests",
                    [name.digest for name in listed[start : start + _BATCH]],
                    _PEEK,
                )
                yield [entry for entry in found if not isinstance(entry, str)]

    # --- looking for damage -----------------------------------------------------------------------

    def sieve(
        self, source: int, is_meant: Callable[[_core.Entry], bool] | None
    ) -> FileSieve | None:
        return FileSieve(self._store, self._look_at, source, is_meant)

    async def place_again(self, place: Place) -> Place | None:
        now = await self._look_at([place.mark])
        was_whole = place.entry is not None
        return None if not now or (was_whole and _is_other(now[0], place)) else now[0]

    async def remove_place(self, place: Place) -> bool:
        """Have the store read all of it once more, and set it aside."""
        try:
            await _bridge.run(self._store, "remove_damaged", place.mark)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        now = await self._look_at([place.mark])
        return not now or _is_other(now[0], place)

    async def _look_at(self, digests: list[bytes]) -> list[Place]:
        """What is there under these digests, read through descriptors; nothing of what is gone or
        not ours.
        """
        found = await _bridge.run(self._store, "fetch_digests", digests, _WATCH)
        return [
            _place_of(digest, one)
            for digest, one in zip(digests, found, strict=True)
            if not isinstance(one, str) or one in ("damaged", "unavailable")
        ]

    # --- writing ----------------------------------------------------------------------------------

    async def receive(
        self, key: bytes, token: int, *, source: int = 0, kind: int = 0
    ) -> Receiver | str:
        """A file that nobody sees before it is whole; every byte is counted in the limit before it
        is written.
        """
        try:
            begun = await _bridge.run(self._store, "incoming", key, source=source, kind=kind)
        except OSError as error:
            self._note_unavailable(error)
            return "busy"
        return begun if isinstance(begun, str) else _FileReceiver(begun, self._sweep_now_and_then)

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        if isinstance(self._store, MissingStore):
            await self._look_again(self._store)
        try:
            reason: str | None
            if is_inline():
                reason = self._store.put(what, source=source, kind=kind)
            else:
                reason = await _bridge.run(self._store, "put", what, source=source, kind=kind)
                self._sweep_now_and_then()
        except OSError as error:
            self._note_unavailable(error)
            return "busy"
        if reason is not None or self._refusing is not None:
            self._note_written([reason])
        return reason

    async def write_many(self, whats: Sequence[_core.Draft | _core.Image]) -> list[str | None]:
        if isinstance(self._store, MissingStore):
            await self._look_again(self._store)
        try:
            reasons: list[str | None] = await _bridge.run(self._store, "put_many", whats)
        except OSError as error:
            self._note_unavailable(error)
            return ["busy"] * len(whats)
        self._note_written(reasons)
        self._sweep_now_and_then()
        return reasons

    def _note_written(self, reasons: Iterable[str | None]) -> None:
        said = self._unavailable or isinstance(self._store, MissingStore)
        if self.config.read_only is not True and not said:  # else it is no news
            for reason in reasons:
                self.note_written(reason)

    async def discard(self, key: bytes) -> bool:
        removed: bool = await _bridge.run(self._store, "delete", key)
        return removed

    async def discard_entry(self, entry: _core.Entry) -> bool:
        removed: int = await _bridge.run(self._store, "delete_entries", [entry])
        return removed > 0

    async def discard_write(self, key: bytes, token: int) -> bool:
        found = await _bridge.run(self._store, "fetch_digests", [_core.hash128(key)], _PEEK)
        entry = found[0] if found else None
        if not isinstance(entry, _core.Entry) or (entry.key, entry.token) != (key, token):
            return False
        return await self.discard_entry(entry)

    async def clear(self, pattern: str | None = None) -> int:
        matcher = KeyPattern(pattern)
        if matcher.exact is not None:
            return int(await self.delete(matcher.exact))
        removed = 0
        async for batch in self._batches():
            meant = [e for e in batch if matcher.matches(str(Key.from_encoded(e.key)))]
            if meant:
                removed += await _bridge.run(self._store, "delete_entries", meant)
        self.counters["deletes"] += removed
        return removed

    async def cleanup_expired(self) -> int:
        removed: int | None = await _bridge.run(self._store, "sweep")
        return await super().cleanup_expired() if removed is None else removed

    async def refresh(self, key: bytes, ttl_ms: int | None) -> bool:
        lengthened: bool = await _bridge.run(self._store, "refresh", key, ttl_ms)
        return lengthened

    async def invalidate_tags(self, tags: Iterable[str], above: int = 0) -> None:
        await _bridge.run(self._store, "invalidate_tags", list(tags), above=above)

    def tag_version(self, tag: str) -> int:
        return self._store.tag_version(tag)

    @property
    def _pins(self) -> Pins:
        limit = self.config.limit_bytes
        if self.config.max_size_mb == "keep":
            limit = self._store.stats()["limit_bytes"] or None
        return Pins(self.root, limit, group=self.config.shared == "group")

    async def pin(self, key: bytes) -> bool:
        if isinstance(self._store, MissingStore):
            return False
        return await beside(lambda beat: self._pins.pin(_core.hash128(key)))

    async def unpin(self, key: bytes) -> bool:
        return await beside(lambda beat: self._pins.unpin(_core.hash128(key)))

    async def pinned(self) -> list[bytes]:
        digests = await beside(lambda beat: self._pins.digests())
        found: list[_core.Entry | str] = []
        for start in range(0, len(digests), _BATCH):
            some = digests[start : start + _BATCH]
            found += await _bridge.run(self._store, "fetch_digests", some, _PEEK)
        return [one.key for one in found if isinstance(one, _core.Entry) and one.miss is None]

    def _sweep_now_and_then(self) -> None:
        """Reclaim what is expired, in the background of a process that writes; nobody waits for
        it.
        """
        now = time.monotonic()
        if now < self._next_sweep or is_inline():
            return
        self._next_sweep = now + SWEEP_SECONDS
        with contextlib.suppress(OSError, ClosedError):  # then the next write tries again
            _bridge.start(self._store, "sweep")

    # --- the tier itself --------------------------------------------------------------------------

    async def last_uses(self, source: int = 0) -> Mapping[bytes, int]:
        """See ``CacheBackend``. Nothing where the directory was opened to be read only."""
        found: dict[bytes, int] = {}
        for shard in range(_SHARDS):
            listed = await _bridge.run(self._store, "list_shard", shard, source)
            found |= {one.digest: one.used_ms for one in listed if one.used_ms}
        return found

    async def usage(self) -> dict[str, Any]:
        """``size_bytes`` is what the entries occupy, their share of directories and tables
        included; ``used_bytes`` is what the limit counts: that and the ``fixed_bytes`` which are
        set aside for tables, quarantine and the log of tags. ``pinned`` entries take
        ``pinned_bytes`` of it.
        """
        stats = await _bridge.run(self._store, "stats")
        return {
            **stats,
            **await beside(lambda beat: self._pins.usage()),
            "size_bytes": stats["used_bytes"] - stats["fixed_bytes"],
            "total_files": stats["entries"],
        }

    async def get_stats(self) -> dict[str, Any]:
        stats = await super().get_stats()
        stats["hits"] = self.counters["hits"] + stats["value_hits"]
        stats["misses"] = self.counters["misses"] + stats["value_misses"]
        stats["evictions"] = stats["evicted_policy"] + stats["evicted_expired"]
        return stats

    def now_ms(self) -> int:
        return self._store.now_ms()

    def set_clock_offset(self, offset_ms: int) -> None:
        self._store.set_clock_offset(offset_ms)

    async def aclose(self) -> None:
        """Let everything that is under way end, of whatever loop, in at most ten seconds. Then no
        thread works for this tier any more.
        """
        self._store.close()
        if is_inline():
            self._store.wait(CLOSE_SECONDS)
            return
        if not self._store.wait(0):
            await offload(
                lambda beat: self._store.wait(CLOSE_SECONDS), timeout_seconds=2 * CLOSE_SECONDS
            )
        await _bridge.deliver()

    def _note_unavailable(self, error: OSError | None) -> str:
        self.counters["errors"] += 1
        if not self._unavailable:
            self._unavailable = True
            self.down_since = time.time()
            logger.warning(
                "%s: %s: cannot be read now: %s", self.name, self.root, error or "refused"
            )
        self._tell_fault("read", error)
        return "unavailable"

    def __reduce__(self) -> Any:
        """Only the configuration travels; the other process opens the directory itself."""
        kept = {
            "name": self.name,
            "enable_compression": self.enable_compression,
            "beside_remote": self.beside_remote,
        }
        return type(self), (self.config,), kept

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.root}>"


def _if_live(found: _core.Entry | str) -> _core.Entry | str:
    """What was found, unless it was invalidated: asked with ``GET_ANY_AGE``, the store answers
    that as well.
    """
    if not isinstance(found, str) and found.miss not in (None, "expired"):
        return found.miss
    return found


def _place_of(digest: bytes, found: _core.Entry | str) -> Place:
    name = f"objects/{digest.hex()[:2]}/{digest.hex()[2:]}"
    if not isinstance(found, str):
        error = "" if found.digest == digest else _MISNAMED
        return Place(name, found, digest, error, is_damaged=bool(error))
    if found == "damaged":
        return Place(name, None, digest, "its index or its end is damaged", is_damaged=True)
    return Place(name, None, digest, "the system does not let it be read")


def _is_other(now: Place, place: Place) -> bool:
    """Whether an entry that can be opened is there, and not the one which was there."""
    token = None if place.entry is None else place.entry.token
    return now.entry is not None and now.entry.token != token


class _FileReceiver:
    """An entry that is written to its file as it comes."""

    def __init__(self, incoming: _core.Incoming, finished: Callable[[], None]) -> None:
        self._incoming = incoming
        self._finished = finished

    async def feed(self, data: bytes, /) -> str | None:
        word: str | None = await _bridge.run(self._incoming, "append", data)
        if word is not None:
            await self.abort()
        return word

    async def finish(self) -> str | None:
        # The chunks were made in this process a moment ago: reading them back would prove nothing.
        word: str | None = await _bridge.run(self._incoming, "commit", True)
        self._finished()
        return word

    async def abort(self) -> None:
        if not self._incoming.ended:
            with contextlib.suppress(ClosedError):
                await _bridge.run(self._incoming, "abort")


class StructuredFilesystemBackend(FilesystemCacheBackend):
    """The upstream name of ``FilesystemCacheBackend``."""

    CONFIG_CLASS: ClassVar[type[Any] | None] = StructuredFilesystemConfig


_UNUSABLE: Final = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)
# What no waiting changes: a name that cannot be, something else in the place of a file, no room.
_NO_PLACE: Final = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def open_store(config: FilesystemCacheConfig) -> _core.Store | MissingStore:
    """Open the directory that ``config`` names, or stand in for it with ``read_only="auto"``.

    Raises:
        ConfigError: It cannot be used by this user as configured.
    """
    try:
        return _open_store(config)
    except OSError as error:
        if error.errno in _NO_PLACE or error.errno in _NO_ROOM:
            raise ConfigError(
                f"base_path {config.expanded_path}: {error.strerror} "
                f"({os.strerror(error.errno)}); mend this directory or choose another one"
            ) from error
        if error.errno not in _UNUSABLE:
            raise
        reason = os.strerror(error.errno)
        cause = error
    path = config.expanded_path
    if config.read_only == "auto":
        logger.warning("%s can be neither read nor made (%s): every read is a miss", path, reason)
        return MissingStore(os.path.join(os.path.abspath(path), "v1"))
    remedy = (
        "only an existing cache can be read; let something write there first"
        if config.read_only
        else "choose another directory or change its owner or mode"
    )
    raise ConfigError(
        f'base_path {path}: {reason}: {remedy}, or start without one by read_only="auto"'
    ) from cause


def find_store(config: FilesystemCacheConfig) -> _core.Store | None:
    """Open the directory if it can be used by now."""
    try:
        return _open_store(config)
    except (OSError, ConfigError):
        return None


def _open_store(config: FilesystemCacheConfig) -> _core.Store:
    access: dict[object, Any] = {True: "ro", False: "rw", "auto": "auto"}
    return _core.Store(
        os.path.abspath(config.expanded_path),
        max_bytes=config.limit_bytes or 0,
        keep_bounds=config.max_size_mb == "keep",
        min_free_bytes=(
            None if config.min_free_mb is None else int(config.min_free_mb * 1_000_000)
        ),
        max_files=config.max_files or 0,
        policy=config.eviction_policy,
        durability=config.durability,
        access=access[config.read_only],
        group_shared=config.shared == "group",
        touch_seconds=None if config.touch_seconds is None else int(config.touch_seconds),
    )
