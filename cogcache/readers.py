"""Values read in part or as a stream: which tier a reader is opened on, and on which one next."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Literal

from cogcache import _core
from cogcache.backends.base import META_CONTENT_DIGEST, CacheBackend
from cogcache.calls import Calls
from cogcache.config import ChunkingConfig
from cogcache.exceptions import IncompleteError, NotFoundError
from cogcache.keys import Key
from cogcache.lookups import is_meant
from cogcache.reader import Reader, Reading
from cogcache.tiering import Tiers

__all__ = ["Readers"]


class Readers:
    """Readers of one manager.

    Args:
        tiers: Of the manager.
        calls: Of the manager; hits and misses are counted here.
        chunking: How values are read.

    Attributes:
        reading: What the readers share.
    """

    def __init__(self, tiers: Tiers, calls: Calls, chunking: ChunkingConfig) -> None:
        self._tiers = tiers
        self._calls = calls
        self.reading = Reading(
            chunking=chunking, again=self._same_elsewhere, runs_inline=tiers.runs_inline
        )

    async def stream(
        self, key: str | Key, *, on_missing: Literal["raise", "zero"]
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a value in order; see ``CacheManager.get_stream``."""
        encoded = self._calls.encoded(key)
        unreadable: list[CacheBackend] = []
        begun = False
        while True:
            since = self._tiers.promotions.changes.number
            reader = await self._open(key, encoded, None, unreadable)
            if reader is None:
                self._calls.count("misses")
                raise NotFoundError(f"no tier has {str(key)!r}; open(key) gives None then")
            try:
                async with contextlib.aclosing(reader.stream(on_missing=on_missing)) as pieces:
                    async for piece in pieces:
                        if not begun:
                            begun = True
                            self._calls.count("hits")
                        yield piece
                break
            except IncompleteError:
                if begun:
                    raise
                unreadable += reader.unreadable  # nothing was handed out: any generation will do
        self._calls.count("hits", not begun)  # of an empty value
        copy = reader.promotion(self._tiers, since)
        if copy is not None:
            await copy()

    async def read(self, key: str | Key, start: int, stop: int | None) -> bytes | None:
        """A range of a value that is bytes; see ``CacheManager.read_range``."""
        encoded = self._calls.encoded(key)
        unreadable: list[CacheBackend] = []
        while (reader := await self._open(key, encoded, None, unreadable)) is not None:
            try:
                data = await reader.read_by_key(start, stop)
            except IncompleteError:
                unreadable += reader.unreadable  # counted where it happened
            else:
                self._calls.count("hits")
                return data
        self._calls.count("misses")
        return None

    @contextlib.asynccontextmanager
    async def open(self, key: str | Key, part: str | None) -> AsyncIterator[Reader | None]:
        """Meanwhile a reader is open, if any tier has the entry; see ``CacheManager.open``."""
        encoded = self._calls.encoded(key)
        reader = await self._open(key, encoded, part)
        self._calls.count("misses" if reader is None else "hits")
        try:
            yield reader
        finally:
            if reader is not None:
                reader.close()

    async def _open(
        self,
        key: str | Key,
        encoded: bytes | None,
        part: str | None,
        unreadable: Sequence[CacheBackend] = (),
    ) -> Reader | None:
        """A reader over the first tier that has the entry and is not known to be unreadable."""
        for tier in self._tiers.backends if encoded is not None else ():
            if tier in unreadable:
                continue
            assert encoded is not None
            entry = await self._tiers.fetch(tier, encoded, parts=True)
            if isinstance(entry, str):
                tier.counters["misses"] += entry != "unavailable"
                continue
            if isinstance(key, Key) and not is_meant(key, entry):
                continue
            try:
                reader = await Reader.open(tier, entry, part, self.reading)
            except (_core.DamagedError, _core.UnsupportedError) as error:
                await self._tiers.value_failed(tier, entry, error)
            except OSError as error:
                self._tiers.failed(tier, "read", error)
            else:
                tier.counters["hits"] += 1
                return reader
        return None

    async def _same_elsewhere(
        self, entry: _core.Entry, failed: list[CacheBackend]
    ) -> tuple[CacheBackend, _core.Entry] | None:
        """The same generation, or the same bytes of another, in a tier that has not failed yet."""
        digest = entry.meta.get(META_CONTENT_DIGEST)
        for tier in self._tiers.backends:
            if tier in failed:
                continue
            other = await self._tiers.fetch(tier, entry.key, parts=True)
            if not isinstance(other, str) and (
                other.token == entry.token
                or (digest is not None and other.meta.get(META_CONTENT_DIGEST) == digest)
            ):
                return tier, other
        return None
