"""Promotion: what was found in a lower tier is copied into those above it, in the background.

An upper tier keeps what is used often, and a scan over many values that are used once must not push
that out. So not every hit below is worth a copy (``Admission``):

* a value that was found below *before*, among the last 16,384 that were, is copied: it is in use;
* a value that is found there for the first time is copied as long as such copies make up no more
  than an eighth of the upper tier's limit an hour (1 GiB where it has none).

So a fresh process warms up at once, and a scan costs a tier an eighth of what it holds, whatever is
least in use.

A copy must never bring back what was replaced or forgotten since it was read (``Changes``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from cogcache import _bridge, _core
from cogcache._fork import renew_after_fork
from cogcache._inline import is_inline
from cogcache.backends.base import CacheBackend
from cogcache.background import Background

__all__ = ["Admission", "Changes", "Promotions"]

logger = logging.getLogger("cogcache")

# Entries on their way into higher tiers and their bytes; beyond that a promotion is dropped, since
# the next hit can try again.
LIMIT_ITEMS: Final = 64
LIMIT_BYTES: Final = 256 << 20
REMEMBERED: Final = 16_384  # keys, about 2 MB
FIRST_SHARE: Final = 8
FIRST_BYTES: Final = 1 << 30
WINDOW_SECONDS: Final = 3600.0
CHANGES: Final = 4096  # of single keys that are remembered


class Admission:
    """Which values found below one tier are copied into it; see the module.

    Args:
        limit_bytes: Of the tier; ``None`` if it has none.
        clock: Monotonic seconds.
    """

    def __init__(
        self, limit_bytes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = FIRST_BYTES if limit_bytes is None else int(limit_bytes / FIRST_SHARE)
        self._clock = clock
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._window = clock()
        self._first_bytes = 0

    def admits(self, key: bytes, size: int) -> bool:
        """Whether to copy an entry of ``size`` bytes that was just found below."""
        digest = _core.hash128(key)
        if digest in self._seen:
            self._seen.move_to_end(digest)
            return True
        self._seen[digest] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        now = self._clock()
        if now - self._window >= WINDOW_SECONDS:
            self._window, self._first_bytes = now, 0
        if self._first_bytes + size > self._share:
            return False
        self._first_bytes += size
        return True


class Changes:
    """Which keys were put or forgotten, so that what was read before is not copied after.

    A reader takes ``number`` before it asks any tier; its copy is allowed if ``unchanged`` then. Of
    the keys that were changed the last 4,096 are known; a reader who began before the oldest of
    these goes without a copy. Usable from any thread.

    Attributes:
        number: Grows with every change.
    """

    def __init__(self) -> None:
        self.number = 0
        self._ended: OrderedDict[bytes, int] = OrderedDict()  # the number of its last change
        self._forgotten = 0  # the last number of those that are not in there
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The changes under way are the parent's."""
        self._lock = threading.Lock()
        self._begun: dict[bytes, int] = {}
        self._all_begun = 0

    def begin(self, keys: Collection[bytes]) -> None:
        """These keys are being changed, until ``end`` is called with them."""
        begun = self._begun
        with self._lock:
            for key in keys:
                begun[key] = begun.get(key, 0) + 1

    def end(self, keys: Collection[bytes]) -> None:
        """These keys have been changed, or were to be."""
        begun, ended = self._begun, self._ended
        with self._lock:
            self.number += 1
            for key in keys:
                others = begun.pop(key, 1) - 1  # none of ours in the child of a fork
                if others > 0:
                    begun[key] = others
                if key in ended:
                    ended.move_to_end(key)
                ended[key] = self.number
            while len(ended) > CHANGES:
                _, self._forgotten = ended.popitem(last=False)

    @contextlib.contextmanager
    def of(self, keys: Iterable[bytes]) -> Iterator[None]:
        """``begin`` and ``end``."""
        known = list(keys)
        self.begin(known)
        try:
            yield
        finally:
            self.end(known)

    @contextlib.contextmanager
    def of_many(self) -> Iterator[None]:
        """Any number of keys, nobody knows which, are being changed."""
        with self._lock:
            self._all_begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._all_begun -= 1
                self.number += 1
                self._ended.clear()
                self._forgotten = self.number

    def unchanged(self, key: bytes, since: int) -> bool:
        """Whether a key is surely as it was when ``number`` was ``since``."""
        with self._lock:
            if self._all_begun or key in self._begun or since < self._forgotten:
                return False
            return self._ended.get(key, 0) <= since

    def is_alone(self, key: bytes, since: int) -> bool:
        """``unchanged`` for who is changing the key, which does not count."""
        with self._lock:
            if self._all_begun or self._begun.get(key, 0) > 1 or since < self._forgotten:
                return False
            return self._ended.get(key, 0) <= since


class Promotions:
    """Copies under way into the upper tiers: at most 64 of them and 256 MiB in memory.

    Args:
        counters: Where ``promotions``, ``promotions_dropped`` (no room for another copy) and
            ``promotions_deferred`` (not admitted yet) are counted.

    Attributes:
        changes: What puts and deletes tell.
        background: The copies under way.
    """

    def __init__(self, counters: dict[str, int]) -> None:
        self.counters = counters
        self.changes = Changes()
        self._write: Callable[[CacheBackend, _core.Image], Awaitable[str | None]] | None = None
        self._admission: dict[int, Admission] = {}
        self._closed = False
        self.background = Background()

    @property
    def tasks(self) -> dict[asyncio.Task[None], bytes]:
        """Those under way, with the key that each is about."""
        return self.background.tasks

    def use(self, write: Callable[[CacheBackend, _core.Image], Awaitable[str | None]]) -> None:
        """Put images into tiers with ``write``: ``None`` or the word for why not, never a fault."""
        self._write = write

    def wanted(self, entry: _core.Entry, above: Sequence[CacheBackend]) -> list[CacheBackend]:
        """The tiers that an entry found below them is to be copied into, the lowest first."""
        admitted = [
            tier for tier in reversed(above) if self._of(tier).admits(entry.key, entry.length)
        ]
        self.counters["promotions_deferred"] += len(above) - len(admitted)
        if not admitted or entry.key in list(self.tasks.values()):
            return []
        return admitted

    def _of(self, tier: CacheBackend) -> Admission:
        known = self._admission.get(id(tier))
        if known is None:
            most = getattr(tier.config, "max_size_mb", None)
            limit = most * 1e6 if isinstance(most, int | float) and most > 0 else None
            known = self._admission[id(tier)] = Admission(limit)
        return known

    async def start(self, image: _core.Image, into: Sequence[CacheBackend], since: int) -> None:
        """Copy an entry with its remaining life, version and tags; inline, at once.

        Args:
            image: The entry.
            into: See ``wanted``.
            since: ``changes.number`` before any tier was asked for it.
        """

        async def copy() -> None:
            for tier in into:
                if not self._closed and self._write is not None:
                    self.counters["promotions"] += await self._write(tier, image) is None

        await self._begin(image.key, len(image), copy, since)

    async def start_large(
        self, entry: _core.Entry, below: CacheBackend, into: Sequence[CacheBackend], since: int
    ) -> None:
        """Copy an entry that is too large for memory, piece by piece, into the tiers that take it
        so.
        """

        async def copy() -> None:
            for tier in into:
                store = getattr(tier, "store", None)
                if isinstance(store, _core.Store) and not self._closed:
                    word = await copy_pieces(entry, below, store)
                    self.counters["promotions"] += word is None

        await self._begin(entry.key, 0, copy, since)

    async def _begin(
        self, key: bytes, size: int, copy: Callable[[], Awaitable[None]], since: int
    ) -> None:
        if not self.changes.unchanged(key, since):
            self.counters["promotions_dropped"] += 1  # it may be an older value by now
            return
        if is_inline():
            await copy()
            return
        under_way = self.background
        if len(under_way.tasks) >= LIMIT_ITEMS or (
            under_way.tasks and under_way.size + size > LIMIT_BYTES
        ):
            self.counters["promotions_dropped"] += 1
            return

        async def work() -> None:
            try:
                await copy()
            except Exception as error:
                # The hit has been handed out; the next one can try again.
                logger.warning("a promotion failed: %s: %s", type(error).__name__, error)

        under_way.add(asyncio.create_task(work(), name="cogcache-promote"), key, size)

    async def aclose(self, timeout: float) -> None:
        """Let the copies of this loop end, for at most ``timeout`` seconds."""
        try:
            await self.background.aclose(timeout)
        finally:
            self._closed = True


async def copy_pieces(entry: _core.Entry, below: CacheBackend, store: _core.Store) -> str | None:
    """Bring an entry of any size into a local store in bounded memory; ``None`` or the word for why
    not.
    """
    sink = await _bridge.run(store, "incoming", entry.key, length=entry.length)
    if isinstance(sink, str):
        return sink
    try:
        word = await below.copy_to(entry, sink)
        return word if word is not None else await _bridge.run(sink, "commit")
    finally:
        if not sink.ended:
            await _bridge.run(sink, "abort")
